"""A day of 100 services on 200 cards, recorded from a real Prometheus and replayed: time, size, memory.

promtool writes the day as the exporters would have shown it: three pods a service, two places a card, a day's curve on
every rate. Generating it takes some minutes and 1 GB of disk; recording it as long as Prometheus takes to answer.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from scaler.policy import Timing
from scaler.quantity import MIB
from scaler.sources.prometheus import PrometheusSettings, PrometheusSource
from scaler.sources.recording import RecordingSource
from tests.metric_fleet import labels
from tests.prometheus_server import fill, running_prometheus

SERVICES, CARDS, PODS_EACH, SLOTS = 100, 200, 3, 2
START_S, STEP_S, HOURS = 1_750_204_800, 15, 24
BLOCK_H = 2  # promtool writes a block at a time, and would read one long file anew for each
MOST_MIB, MOST_REPLAY_S = 500, 60
NAMESPACE = "models"
TOTAL_MIB, RESERVED_MIB = 14_687, 284
SAMPLED_INSTANTS = 60
Value = Callable[[int], float]


def measure() -> list[tuple[str, str]]:
    """Rows of a table: what, and the figure."""
    with TemporaryDirectory(prefix="recording-") as folder:
        return list(_measured(Path(folder)))


def _measured(folder: Path) -> Iterator[tuple[str, str]]:
    begun_s = time.monotonic()
    samples = _fill(folder / "prometheus")
    yield f"{HOURS} h of {SERVICES} services on {CARDS} cards every {STEP_S} s", f"{samples / 1e6:.0f} million samples"
    yield "  written by promtool in", f"{time.monotonic() - begun_s:.0f} s"
    recording, manifests = folder / "day.jsonl.gz", folder / "scaledobjects.yaml"
    manifests.write_text("---\n".join(_scaled_object(index) for index in range(SERVICES)))
    end_s = START_S + HOURS * 3600
    with running_prometheus(folder / "prometheus") as server:
        yield from _instant_by_instant(server.url, end_s)
        window = ("--start", str(START_S), "--end", str(end_s))
        took_s, peak_mib = _run("record", "--prometheus", server.url, *window, "-o", str(recording))
    steps = HOURS * 3600 // STEP_S + 1
    yield "record", f"{took_s:.0f} s, {1000 * took_s / steps:.0f} ms an instant"
    yield f"  peak memory (below {MOST_MIB} MiB)", f"{peak_mib:.0f} MiB"
    size = recording.stat().st_size
    yield "  file", f"{size / MIB:.1f} MiB, {size / steps / 1024:.1f} KiB an instant"
    took_s, peak_mib = _run("replay", "--recording", str(recording), "-f", str(manifests))
    yield f"replay, {SERVICES} ScaledObjects (below {MOST_REPLAY_S} s)", f"{took_s:.0f} s"
    yield f"  peak memory (below {MOST_MIB} MiB)", f"{peak_mib:.0f} MiB"
    begun_s = time.process_time()
    source = RecordingSource(recording)
    count = sum(1 for _ in source.snapshots(START_S, end_s, STEP_S))
    read_s = time.process_time() - begun_s
    yield "  of it reading the file", f"{read_s:.0f} s, {1000 * read_s / count:.1f} ms a snapshot"


def _instant_by_instant(url: str, end_s: float) -> Iterator[tuple[str, str]]:
    """The same instants as one range, and each by itself."""
    source = PrometheusSource(PrometheusSettings(url=url), Timing())
    start_s = end_s - SAMPLED_INSTANTS * STEP_S
    begun_s = time.monotonic()
    for _ in source.snapshots(start_s, end_s - STEP_S, STEP_S):
        pass
    range_ms = 1000 * (time.monotonic() - begun_s) / SAMPLED_INSTANTS
    begun_s = time.monotonic()
    for number in range(0, SAMPLED_INSTANTS, 4):
        source.snapshot_at(start_s + number * STEP_S)
    instant_ms = 1000 * (time.monotonic() - begun_s) / (SAMPLED_INSTANTS / 4)
    source.close()
    yield f"an instant, {SAMPLED_INSTANTS} in a range query; by itself", f"{range_ms:.0f} ms; {instant_ms:.0f} ms"


def _run(*arguments: str) -> tuple[float, float]:
    """Seconds and peak MiB of a command; what it says on the way goes where ours goes, the tables nowhere."""
    begun_s = time.monotonic()
    with NamedTemporaryFile("r") as told:
        command = [sys.executable, "-c", _TELLS_ITS_PEAK, told.name, *arguments]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{arguments[0]} ended with status {done.returncode}")
        return time.monotonic() - begun_s, int(told.read()) / 1024


# ru_maxrss would be this process' own where that is more: it outlasts the exec. VmHWM is the child's, in KiB.
_TELLS_ITS_PEAK = """
import atexit, pathlib, re, sys
told = pathlib.Path(sys.argv.pop(1))
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: told.write_text(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]))
from scaler.cli import main
main()
"""


# -- the day ----------------------------------------------------------------------------------------------------------


def _fill(folder: Path) -> int:
    """Writes the day's blocks; returns the number of samples."""
    folder.mkdir(parents=True)
    series = list(_series())
    steps = HOURS * 3600 // STEP_S
    for first in range(-8, steps + 1, BLOCK_H * 3600 // STEP_S):  # two minutes before the first instant
        numbers = range(first, min(first + BLOCK_H * 3600 // STEP_S, steps + 1))
        times = [f"{START_S + number * STEP_S - 5}" for number in numbers]
        lines = [
            f"{name} {value(number):.9g} {at}\n"
            for name, value in series
            for number, at in zip(numbers, times, strict=True)
        ]
        fill(folder / "data", "".join(lines) + "# EOF\n")
    return len(series) * (steps + 9)


# A day's load, 0.5 to 1.5 of the mean, and its sum up to a step, for counters.
_LOAD = [1 - 0.5 * math.cos(2 * math.pi * number / 5760) for number in range(-8, 5761)]
_SUM = [0.0]
for _load in _LOAD:
    _SUM.append(_SUM[-1] + STEP_S * _load)


def _counter(per_s: float) -> Value:
    return lambda number: per_s * _SUM[number + 9]


def _wave(middle: float, swing: float, phase: int) -> Value:
    return lambda number: middle + round(swing * math.sin((number + phase) / 40))


def _constant(value: float) -> Value:
    return lambda _: value


def _series() -> Iterator[tuple[str, Value]]:
    """Every series, those of a metric together."""
    families: dict[str, list[tuple[str, Value]]] = {}
    for name, value in [*_services(), *_cards()]:
        families.setdefault(name.partition("{")[0], []).append((name, value))
    for family in families.values():
        yield from family


def _services() -> Iterator[tuple[str, Value]]:
    for index in range(SERVICES):
        of = labels(namespace=NAMESPACE, deployment=_name(index))
        for metric in ("spec_replicas", "status_replicas", "status_replicas_ready"):
            yield f"kube_deployment_{metric}{of}", _constant(PODS_EACH)
        revision = labels(namespace=NAMESPACE, replicaset=f"{_name(index)}-6d5c7f9b8")
        yield f"kube_replicaset_created{revision}", _constant(START_S - 9 * 86_400)
        for pod in range(PODS_EACH):
            yield from _pod(index, pod)


def _pod(index: int, pod: int) -> Iterator[tuple[str, Value]]:
    name, per_s = f"{_name(index)}-6d5c7f9b8-{pod:05d}", 20.0 + index % 7
    owner = {"owner_kind": "ReplicaSet", "owner_name": f"{_name(index)}-6d5c7f9b8"}
    yield f"kube_pod_owner{labels(namespace=NAMESPACE, pod=name, **owner)}", _constant(1)
    target = {"namespace": NAMESPACE, "pod": name, "model": "m", "version": "1"}
    yield f"nv_inference_pending_request_count{labels(**target)}", _constant(0)
    of = labels(**target, gpu_uuid=_uuid((index * PODS_EACH + pod) % CARDS))
    for metric, rate in (
        ("request_success", per_s),
        ("count", per_s),
        ("exec_count", per_s),
        ("request_duration_us", per_s * 65_000.0),
        ("compute_input_duration_us", per_s * 1_000.0),
        ("compute_infer_duration_us", per_s * 55_000.0),
        ("compute_output_duration_us", per_s * 1_000.0),
    ):
        yield f"nv_inference_{metric}{of}", _counter(rate)
    failure = labels(**target, gpu_uuid=_uuid((index * PODS_EACH + pod) % CARDS), reason="BACKEND")
    yield f"nv_inference_request_failure{failure}", _constant(0)


def _cards() -> Iterator[tuple[str, Value]]:
    for number in range(CARDS):
        of = labels(UUID=_uuid(number), gpu="0", modelName="Tesla T4", Hostname=f"node-{number // 8:03d}")
        used = _wave(6_000 + number % 50, 1_200, 7 * number)
        yield f"DCGM_FI_DEV_FB_FREE{of}", _rest_of(used)
        yield f"DCGM_FI_DEV_FB_USED{of}", used
        yield f"DCGM_FI_DEV_FB_RESERVED{of}", _constant(RESERVED_MIB)
        yield f"DCGM_FI_DEV_GPU_UTIL{of}", _wave(45, 20, 11 * number)
    for node in range((CARDS + 7) // 8):
        of = labels(node=f"node-{node:03d}", resource="nvidia_com_gpu", unit="integer")
        yield f"kube_node_status_allocatable{of}", _constant(8 * SLOTS)


def _rest_of(used: Value) -> Value:
    return lambda number: TOTAL_MIB - RESERVED_MIB - used(number)


def _name(index: int) -> str:
    return f"service-{index:03d}"


def _uuid(number: int) -> str:
    return f"GPU-{number:08x}-31f6-4150-bd48-e58d6b88d8ad"


def _scaled_object(index: int) -> str:
    return f"""\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {{name: {_name(index)}, namespace: {NAMESPACE}}}
spec:
  scaleTargetRef: {{name: {_name(index)}}}
  minReplicaCount: 1
  maxReplicaCount: 8
  triggers:
    - type: external
      metadata: {{scalerAddress: "vram-scaler.keda:6000", targetConcurrency: "1"}}
"""
