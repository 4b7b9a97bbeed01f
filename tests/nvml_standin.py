"""A node's cards as a stand-in for libnvidia-ml.so.1 tells of them, and its /proc.

The library is compiled from nvml_standin.c and loaded by pynvml's own ctypes code. It is not NVIDIA's driver.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_standin.c")
GIB = 1024**3
MIB = 1024**2


@cache
def library(*, old_driver: bool = False) -> Path:
    """The path of the compiled libnvidia-ml.so.1; `old_driver` lacks the newer functions."""
    target = Path(tempfile.mkdtemp(prefix="nvml-standin-")) / "libnvidia-ml.so.1"
    options = ["-DOLD_DRIVER"] if old_driver else []
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", *options]
    subprocess.run([*command, f"-Wl,-soname,{target.name}", "-o", str(target), str(SOURCE)], check=True)
    return target


def pod_uid(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-{number:012x}"


@dataclass
class Node:
    """What the stand-in tells; `write()` makes a change known. Cards are told of by their index, in bytes."""

    directory: Path
    lines: list[str] = field(default_factory=list)
    cards: int = 0

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def proc(self) -> Path:
        path = self.directory / "proc"
        path.mkdir(exist_ok=True)
        return path

    def card(
        self,
        uuid: str,
        *,
        total: int = 24 * GIB,
        free: int = 8 * GIB,
        reserved: int = GIB,
        utilization: int = 50,
        mig: int = -1,
    ) -> int:
        self.lines.append(f"card {uuid} NVIDIA_L4 {total} {free} {reserved} {utilization} {mig}")
        self.cards += 1
        return self.cards - 1

    def instance(self, card: int, gpu_instance: int, *, total: int, free: int, reserved: int = 0) -> None:
        self.lines.append(f"instance {card} {gpu_instance} {total} {free} {reserved}")

    def process(
        self,
        card: int,
        pid: int,
        used: int | None,
        *,
        pod: str | None = "",
        sm: int | None = None,
        at_us: int = -100_000,
        mps: bool = False,
        position: int = -1,
    ) -> None:
        """`pod`: its UID; "" is none, None is a PID that /proc does not show. `sm`: percent in a sample of `at_us`."""
        kind, told = "m" if mps else "c", -1 if used is None else used
        self.lines.append(f"process {card} {position} {kind} {pid} {told}")
        if sm is not None:
            self.lines.append(f"sample {card} {pid} {at_us} {sm}")
        if pod is not None:
            of_pod = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod.replace('-', '_')}.slice"
            path = f"{of_pod}/cri-containerd-{'ab' * 32}.scope" if pod else "/system.slice/nvidia-persistenced.service"
            self.cgroup(pid, f"0::{path}\n".encode())

    def cgroup(self, pid: int, text: bytes) -> None:
        (self.proc / str(pid)).mkdir(exist_ok=True)
        (self.proc / str(pid) / "cgroup").write_bytes(text)

    def fail(self, call: str, code: int, card: int = -1) -> None:
        self.lines.append(f"fail {call} {card} {code}")

    def write(self, *, without: str | None = None) -> None:
        """All at once, by a rename; `without`: drops the lines that begin so first."""
        self.lines = [line for line in self.lines if without is None or not line.startswith(without)]
        (self.directory / "state.new").write_text("\n".join([*self.lines, ""]), encoding="utf-8")
        (self.directory / "state.new").replace(self.state)

    def environment(self) -> dict[str, str]:
        """For a process of its own: where the loader finds the library, and the library its state."""
        return {**os.environ, "LD_LIBRARY_PATH": str(library().parent), "NVML_STANDIN": str(self.state)}


@contextmanager
def loaded(node: Node, *, old_driver: bool = False) -> Iterator[Node]:
    """pynvml in this process talks to that node's stand-in."""
    import ctypes

    import pynvml

    before, named = pynvml.nvmlLib, os.environ.get("NVML_STANDIN")
    pynvml.nvmlLib = ctypes.CDLL(str(library(old_driver=old_driver)))
    pynvml._nvmlGetFunctionPointer_cache.clear()
    os.environ["NVML_STANDIN"] = str(node.state)
    try:
        yield node
    finally:
        pynvml.nvmlLib.nvmlShutdown()
        pynvml.nvmlLib = before
        pynvml._nvmlGetFunctionPointer_cache.clear()
        os.environ.pop("NVML_STANDIN")
        if named is not None:
            os.environ["NVML_STANDIN"] = named
