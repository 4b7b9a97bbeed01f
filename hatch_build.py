"""Generates the typed gRPC stubs of KEDA's protocol into scaler/_pb/, at build time and by `make proto`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def generate_stubs(root: Path) -> None:
    """Writes externalscaler_pb2{,_grpc}.{py,pyi}; raises RuntimeError with protoc's exit status where it fails."""
    from grpc_tools import protoc

    # Under build isolation protoc-gen-mypy lies beside the interpreter, which is not on PATH there.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # The virtual path puts the files into the package AND makes them import each other by their full name.
    target = root / "scaler" / "_pb"
    target.mkdir(exist_ok=True)
    (target / "__init__.py").touch()
    arguments = [f"-Iscaler/_pb={root / 'protos'}"]
    arguments += [f"--{plugin}_out={root}" for plugin in ("python", "grpc_python", "mypy", "mypy_grpc")]
    status = protoc.main(["protoc", *arguments, "scaler/_pb/externalscaler.proto"])
    if status != 0:
        raise RuntimeError(f"protoc failed on protos/externalscaler.proto with exit status {status}")


class StubsHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate_stubs(Path(self.root))


if __name__ == "__main__":
    generate_stubs(Path(__file__).parent)
