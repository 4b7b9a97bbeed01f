"""The node agent on an 8-card node with 40 processes, at 5 s, scraped every 15 s: CPU time and resident memory.

The driver is the stand-in of the tests: its calls cost next to nothing, so this is the agent's own part alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from scaler._pb import podresources_pb2 as pb
from tests.nvml_standin import GIB, Node, pod_uid
from tests.test_agent_kubelet import pod, serving

CARDS, PROCESSES, PODS = 8, 40, 100
EVERY_S, SCRAPE_S, MEASURE_S = 5.0, 15.0, 60.0
MOST_SHARE, MOST_MIB = 0.01, 40.0


def measure() -> list[tuple[str, str]]:
    """CPU seconds over seconds, after the start; memory at the end."""
    with tempfile.TemporaryDirectory() as directory:
        node = _node(Path(directory))
        kubelet = Path(directory) / "kubelet.sock"
        with (
            serving(kubelet, lambda _: _allotted()),
            _agent(node) as (process, url),
            _agent(node, "--pod-resources", str(kubelet)) as (with_kubelet, _),
        ):
            series, scrape_ms = _scraped(url)
            before_s, began = _cpu_s(process.pid), time.monotonic()
            while (left_s := began + MEASURE_S - time.monotonic()) > 0:
                time.sleep(min(SCRAPE_S, left_s))
                series, scrape_ms = _scraped(url)
            share = (_cpu_s(process.pid) - before_s) / (time.monotonic() - began)
            resident_mib, with_kubelet_mib = _resident_mib(process.pid), _resident_mib(with_kubelet.pid)
    what = f"node agent, {CARDS} cards, {PROCESSES} processes, every {EVERY_S:g} s"
    return [
        (f"{what} (below {MOST_SHARE:.0%} of a core)", f"{share:.2%} over {MEASURE_S:.0f} s"),
        (f"its resident memory (below {MOST_MIB:.0f} MiB)", f"{resident_mib:.1f} MiB"),
        (f"the same with --pod-resources, {PODS} pods (below {MOST_MIB:.0f} MiB)", f"{with_kubelet_mib:.1f} MiB"),
        ("its exposition", f"{series} series in {scrape_ms:.0f} ms"),
    ]


@contextmanager
def _agent(node: Node, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address."""
    command = [str(Path(sys.executable).with_name("vram-scaler")), "agent", "--http", "127.0.0.1:0", *more]
    process = subprocess.Popen(
        [*command, "--every", f"{EVERY_S:g}s", "--proc", str(node.proc)],
        env=node.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[2]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _node(directory: Path) -> Node:
    node = Node(directory)
    for card in range(CARDS):
        node.card(f"GPU-{card}")
    for number in range(PROCESSES):
        node.process(number % CARDS, 40_000 + number, GIB, pod=pod_uid(number), sm=10)
    node.write()
    return node


def _allotted() -> pb.ListPodResourcesResponse:
    """What the node's kubelet says of its pods, one place each."""
    places = {f"pod-{number}": {"nvidia.com/gpu": [f"GPU-{number % CARDS}::{number}"]} for number in range(PODS)}
    return pb.ListPodResourcesResponse(pod_resources=[pod(name, each) for name, each in places.items()])


def _scraped(url: str) -> tuple[int, float]:
    began = time.monotonic()
    text = requests.get(url.rstrip(","), timeout=5).text
    return sum(not line.startswith("#") for line in text.splitlines()), 1000 * (time.monotonic() - began)


def _cpu_s(pid: int) -> float:
    """User and system time of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> float:
    [kib] = [line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line]
    return int(kib) / 1024
