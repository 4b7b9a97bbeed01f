"""GetMetrics against a bare echo on the same kind of server: rounds take turns, so that a busy machine hits both."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import grpc

from loadtests.fleet import request
from loadtests.keda import until_known
from loadtests.servers import CLIENT_CORE, running
from scaler._pb.externalscaler_pb2_grpc import ExternalScalerStub

ROUNDS = 9
ROUND_S = 3
WARM_UP_S = 1
METHOD = "/externalscaler.ExternalScaler/GetMetrics"


class Load(NamedTuple):
    """Connections, and streams at once on each."""

    connections: int
    streams: int


SATURATED, SINGLE = Load(4, 16), Load(1, 1)


class Round(NamedTuple):
    """Answers per second, and the 99th percentile of their latency in ms."""

    per_s: float
    p99_ms: float


def measure() -> list[tuple[str, str]]:
    """Rows of a table: what, and the figure."""
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is missing: apt-get install nghttp2-client")
    with running("echo") as echo_port, running("scaler") as scaler_port:
        until_known(scaler_port, 1)
        _check(echo_port)
        saturated = _alternate(echo_port, scaler_port, SATURATED)
        single = _alternate(echo_port, scaler_port, SINGLE)
    rows = []
    for load, (echo, scaler) in (("saturated, 4 x 16 streams", saturated), ("single stream", single)):
        for who, rounds in (("echo", echo), ("scaler", scaler)):
            per_s, p99_ms = median(r.per_s for r in rounds), median(r.p99_ms for r in rounds)
            rows.append((f"{load}: {who}", f"{per_s:6.0f} answers/s, p99 {p99_ms:.2f} ms"))
    per_s_ratio = _ratio([(e.per_s, s.per_s) for e, s in zip(*saturated, strict=True)])
    p99_ratio = _ratio([(e.p99_ms, s.p99_ms) for e, s in zip(*single, strict=True)])
    rows.append(("throughput, scaler / echo (at least 0.80)", per_s_ratio))
    rows.append(("p99 of a single stream, scaler / echo (at most 1.50)", p99_ratio))
    return rows


def _ratio(pairs: list[tuple[float, float]]) -> str:
    ratios = sorted(scaler / echo for echo, scaler in pairs)
    return f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} rounds)"


def _check(port: int) -> None:
    """h2load does not look at grpc-status, so the answer is looked at once before."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        (value,) = ExternalScalerStub(channel).GetMetrics(request(0), timeout=5).metricValues
    assert value.metricValueFloat > 0


def _alternate(echo_port: int, scaler_port: int, load: Load) -> tuple[list[Round], list[Round]]:
    rounds = [(_h2load(echo_port, load), _h2load(scaler_port, load)) for _ in range(ROUNDS)]
    return [echo for echo, _ in rounds], [scaler for _, scaler in rounds]


def _h2load(port: int, load: Load) -> Round:
    message = request(0).SerializeToString()
    with tempfile.TemporaryDirectory() as directory:
        body, log = Path(directory, "body.bin"), Path(directory, "requests.tsv")
        body.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
        subprocess.run(
            [
                *(("taskset", "-c", str(CLIENT_CORE)) if shutil.which("taskset") else ()),
                *("h2load", "-D", str(ROUND_S), f"--warm-up-time={WARM_UP_S}", "-d", str(body)),
                *("-c", str(load.connections), "-m", str(load.streams), f"--log-file={log}"),
                *("-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}{METHOD}"),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        # Columns: start in us, HTTP status, duration in us.
        answers = [line.split("\t") for line in log.read_text().splitlines()]
    if not answers or any(status != "200" for _, status, _ in answers):
        raise SystemExit("h2load: not every request was answered with 200")
    durations_us = sorted(int(duration) for _, _, duration in answers)
    return Round(len(answers) / ROUND_S, durations_us[int(len(durations_us) * 0.99)] / 1000)
