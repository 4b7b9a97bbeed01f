"""`vram-scaler agent` as a process of its own: how pynvml finds the library, HTTP, a driver that hangs, the end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.nvml_standin import GIB, Node, pod_uid

COMMAND = Path(sys.executable).with_name("vram-scaler")


@contextmanager
def agent(node: Node) -> Iterator[str]:
    """Its address; SIGTERM ends it with status 0."""
    process = subprocess.Popen(
        [str(COMMAND), "agent", "--http", "127.0.0.1:0", "--every", "1s", "--proc", str(node.proc)],
        env=node.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[2].removesuffix("/metrics,").removesuffix("/metrics")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        process.stdout.close()


def status(url: str) -> tuple[int, str]:
    answer = requests.get(url, timeout=5)
    return answer.status_code, answer.text


def until(url: str, code: int) -> str:
    """The text of that answer, once its status is `code`."""
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        seen, text = status(url)
        if seen == code:
            return text
        time.sleep(0.05)
    raise AssertionError(f"{url} never answered {code}: {text}")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path)
    node.card("GPU-a")
    node.process(0, 4001, 3 * GIB, pod=pod_uid(1), sm=40)
    node.write()
    return node


HELD = f'vram_agent_pod_memory_held_bytes{{GPU_I_ID="",UUID="GPU-a",pod_uid="{pod_uid(1)}"}} 3.221225472e+09'


def test_a_driver_that_hangs_does_not_hang_the_exposition(node: Node) -> None:
    with agent(node) as url:
        until(f"{url}/readyz", 200)
        assert HELD in status(f"{url}/metrics")[1].splitlines()
        node.lines.append("hang nvmlDeviceGetMemoryInfo_v2")
        node.write()
        assert until(f"{url}/readyz", 503).startswith("the driver has not answered for ")
        _, text = status(f"{url}/metrics")
        assert "vram_agent_driver_up 0.0" in text.splitlines()
        assert "vram_agent_last_success_timestamp_seconds " in text
        assert "vram_agent_pod_memory_held_bytes{" not in text
        assert "vram_agent_card_memory_free_bytes{" not in text
        assert status(f"{url}/livez") == (200, "ok\n")  # a restart would hang as well
        node.write(without="hang")
        until(f"{url}/readyz", 200)
        assert HELD in status(f"{url}/metrics")[1].splitlines()


def test_it_ends_at_once_while_the_driver_hangs(node: Node) -> None:
    node.lines.append("hang nvmlInitWithFlags")
    node.write()
    with agent(node) as url:
        assert status(f"{url}/readyz")[0] == 503


def test_paths_and_faults(node: Node) -> None:
    with agent(node) as url:
        assert status(f"{url}/")[1].startswith("keda-vram-scaler node agent")
        assert status(f"{url}/x") == (404, "/ lists what there is\n")
        assert requests.post(f"{url}/metrics", timeout=5).status_code == 405
        port = url.rpartition(":")[2]
        taken = subprocess.run(
            [str(COMMAND), "agent", "--http", f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=20
        )
        assert (taken.returncode, taken.stderr) == (2, f"--http 127.0.0.1:{port}: Address already in use\n")


def test_without_a_driver_it_waits_for_one_and_says_so() -> None:
    process = subprocess.Popen(
        [str(COMMAND), "agent", "--http", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    event = json.loads(process.stderr.readline())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert (event["level"], event["event"]) == ("warning", "driver unusable: nvmlInit: library_not_found")


@pytest.mark.parametrize("every", ["5", "0s", "61s", "nan", ""])
def test_every_takes_a_duration_in_its_range(every: str) -> None:
    done = subprocess.run([str(COMMAND), "agent", "--every", every], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert done.stderr.endswith("it takes a duration such as 5s, 1s to 1m\n")
    assert done.stderr.count("\n") == 1


def test_it_loads_none_of_the_service() -> None:
    """Imports on demand keep it at some 30 MB; the service has 73."""
    code = """
import sys
from scaler.cli.commands import cli
from scaler.agent import exposition, http, nvml, sampler
cli.get_command(None, "agent")
print(*{name.partition(".")[0] for name in sys.modules} & set(sys.argv[1:]))
"""
    heavy = ["pydantic", "grpc", "aiohttp", "yaml", "structlog", "rich", "requests", "prometheus_api_client"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
