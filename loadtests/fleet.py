"""The fleet that is asked about: services on shared cards, as snapshots and as Prometheus' replies."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from scaler._pb.externalscaler_pb2 import GetMetricsRequest, ScaledObjectRef
from scaler.policy import METRIC_NAME, OperatorPolicy, PoolPolicy, Timing
from scaler.quantity import GIB
from scaler.snapshot import Snapshot
from scaler.sources.queries import build_queries
from tests.fake_prometheus import Asked, Reply, success
from tests.fleet import NAMESPACE, card, reading, snapshot

# The defaults, but for short windows: a start should not have to read a day.
OPERATOR = OperatorPolicy(
    timing=Timing(learn_every_s="1m", learn_window_s="1m", watermark_window_s="1m"),
    pools=(PoolPolicy(scale_down_window_s="15s"),),
)
METADATA = {
    "scalerAddress": "vram-scaler.keda.svc.cluster.local:6000",
    "pool": "default",
    "targetConcurrency": "4",
    "targetQueue": "8",
    "targetGpuUtilization": "60",
    "activationConcurrency": "0",
    "vramPerReplica": "2200Mi",
    "lowWatermark": "2Gi",
    "priority": "1",
    "minReplicas": "1",
    "maxReplicas": "12",
}


def name(index: int) -> str:
    return f"service-{index:04}"


def ref(index: int) -> ScaledObjectRef:
    """A trigger with all 12 keys: 395 bytes, as KEDA would send them."""
    return ScaledObjectRef(
        name=name(index), namespace=NAMESPACE, scalerMetadata={**METADATA, "deployment": name(index)}
    )


def request(index: int) -> GetMetricsRequest:
    return GetMetricsRequest(scaledObjectRef=ref(index), metricName=METRIC_NAME)


class StaticSource:
    """100 services with 2 replicas and 6 requests in flight each, at every moment."""

    def snapshot_at(self, at_s: float) -> Snapshot:
        return snapshot(at_s, {name(index): reading(2, 6.0) for index in range(100)}, card(8.0))

    def snapshots(self, start_s: float, end_s: float, step_s: float) -> Iterator[Snapshot]:
        for index in range(round((end_s - start_s) / step_s) + 1):
            yield self.snapshot_at(start_s + index * step_s)


# By query name: the signals that it fills, with their values.
_OF_SERVICE: dict[str, dict[str, float]] = {
    "replicas": {"spec_replicas": 2, "ready_replicas": 2, "replicas_age_s": 5, "revision_created_s": 1.7e9},
    "scrape": {"signals_age_s": 5, "scraped_pods": 2},
    "stable": {"queued": 1, "executing": 5, "inflight_growth_per_s": 0},
    "burst": {"queued_burst": 1, "executing_burst": 5},
    "completions": {"success_per_s": 100, "failure_per_s": 0, "oom_failure_per_s": 0},
    "success-time": {"success_time_s": 0.06},
    "gpu-busy": {"gpu_busy": 0.3},
    "placement": {"pods": 1},
}
_OF_CARD: dict[str, dict[str, float]] = {
    "vram": {"free_bytes": 8 * GIB, "total_bytes": 15 * GIB, "age_s": 5},
    "utilization": {"utilization_ratio": 0.3},
    "slots": {"slots": 4},
}


class SlowPrometheus:
    """Answers the built-in queries for so many services, half as many cards, each after `delay_s`."""

    def __init__(self, services: int, timing: Timing, delay_s: float) -> None:
        self._delay_s = delay_s
        self._series = {query.promql: _series(query.name, services) for query in build_queries(timing)}

    def __call__(self, asked: Asked) -> Reply:
        time.sleep(self._delay_s)
        series, form = self._series[asked.query.strip()], asked.form
        if not asked.path.endswith("query_range"):
            at_s = float(form["time"])
            return success(_result("vector", [{"metric": labels, "value": [at_s, value]} for labels, value in series]))
        start_s, end_s, step_s = (float(form[field]) for field in ("start", "end", "step"))
        times = [start_s + index * step_s for index in range(round((end_s - start_s) / step_s) + 1)]
        points = [{"metric": labels, "values": [[at_s, value] for at_s in times]} for labels, value in series]
        return success(_result("matrix", points))


def _result(kind: str, result: Sequence[object]) -> dict[str, object]:
    return {"resultType": kind, "result": result}


def _series(query: str, services: int) -> list[tuple[dict[str, str], str]]:
    found: list[tuple[dict[str, str], str]] = []
    for index in range(services):
        place = {"UUID": f"GPU-{index // 2:04}"} if query == "placement" else {}
        of = {"namespace": NAMESPACE, "deployment": name(index), **place}
        found += (({**of, "signal": signal}, str(value)) for signal, value in _OF_SERVICE.get(query, {}).items())
    for index in range((services + 1) // 2):
        of = {"UUID": f"GPU-{index:04}", "node": f"node-{index}", "modelName": "Tesla T4"}
        found += (({**of, "signal": signal}, str(value)) for signal, value in _OF_CARD.get(query, {}).items())
    return found
