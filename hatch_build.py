"""Generates the typed gRPC stubs of protos/ into scaler/_pb/, at build time and by `make proto`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def generate_stubs(root: Path) -> None:
    """Writes NAME_pb2{,_grpc}.{py,pyi} of each; raises RuntimeError with protoc's exit status where it fails."""
    from grpc_tools import protoc

    # Under build isolation protoc-gen-mypy lies beside the interpreter, which is not on PATH there.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # The virtual path puts the files into the package AND makes them import each other by their full name.
    target = root / "scaler" / "_pb"
    target.mkdir(exist_ok=True)
    (target / "__init__.py").touch()
    arguments = [f"-Iscaler/_pb={root / 'protos'}"]
    arguments += [f"--{plugin}_out={root}" for plugin in ("python", "grpc_python", "mypy", "mypy_grpc")]
    names = sorted(path.name for path in (root / "protos").glob("*.proto"))
    status = protoc.main(["protoc", *arguments, *(f"scaler/_pb/{name}" for name in names)])
    if status != 0:
        raise RuntimeError(f"protoc failed on protos/ ({', '.join(names)}) with exit status {status}")


class StubsHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate_stubs(Path(self.root))


if __name__ == "__main__":
    generate_stubs(Path(__file__).parent)
