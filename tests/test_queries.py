"""The built-in queries against a real Prometheus; each figure can be redone from tests/metric_fleet.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import promql_parser
import pytest

from scaler.policy import Timing
from scaler.snapshot import CardKey, CardReading, HeldVram, Snapshot, WorkloadKey, WorkloadReading
from scaler.sources import prometheus
from scaler.sources.prometheus import PrometheusSettings, PrometheusSource
from scaler.sources.queries import QueryOverrides, build_queries
from tests.broken_queries import break_a_query
from tests.metric_fleet import AT_S, END_S, NAMESPACE, START_S, fleet
from tests.prometheus_server import PrometheusServer, openmetrics, running_prometheus

MIB = 1024**2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), openmetrics(fleet(), START_S, END_S)) as running:
        yield running


@pytest.fixture(scope="module")
def source(server: PrometheusServer) -> PrometheusSource:
    return PrometheusSource(PrometheusSettings(url=server.url), Timing())


@pytest.fixture(scope="module")
def snapshot(source: PrometheusSource) -> Snapshot:
    return source.snapshot_at(AT_S)


def workload(snapshot: Snapshot, name: str) -> WorkloadReading:
    return snapshot.workloads[WorkloadKey(NAMESPACE, name)]


def in_mib(held: Mapping[WorkloadKey, HeldVram]) -> dict[str, tuple[float, float]]:
    return {key.deployment: (vram.total_bytes / MIB, vram.largest_bytes / MIB) for key, vram in held.items()}


@pytest.mark.parametrize(
    "timing", [Timing(), Timing(stable_window_s="1500ms", burst_window_s="1s")], ids=["60s", "1.5s"]
)
def test_every_query_is_promql_and_there_are_eleven(timing: Timing) -> None:
    queries = build_queries(timing)
    assert len(queries) == 11
    for query in queries:
        promql_parser.parse(query.promql)
        assert len(query.promql) < 7000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(
            "resnet",
            {
                "spec_replicas": 2,  # two collectors say 2 and 3
                "ready_replicas": 2,
                "status_replicas": 3,  # of 2 and 3 here the most
                "replicas_age_s": 5.0,
                "revision_created_s": START_S - 500,
                "scraped_pods": 2,
                "signals_age_s": 5.0,
                "queued": 57.75 + 3,  # 0.1 t over samples at 555 .. 600 s; and 3
                "queued_burst": 59.25 + 3,  # over those at 585 and 600 s
                "executing": 0.8 + 0.4 + 2 * 0.06,
                "executing_burst": 0.8 + 0.4 + 2 * 0.06,
                "inflight_growth_per_s": 0.1,
                "success_per_s": 15.0,
                "failure_per_s": 1.5,
                "oom_failure_per_s": 1.0,
                "success_time_s": 0.06,
                "gpu_busy": 0.21 + 0.40,
                "gpu_busy_source": "exporter-per-process",
                "gpu_memory_utilization": None,
            },
            id="Triton, per-process exporter, doubled kube-state-metrics",
        ),
        pytest.param(
            "old",
            {
                "queued": 7.0,
                "inflight_growth_per_s": None,
                "failure_per_s": 2.0,
                "oom_failure_per_s": 2.0,
                "gpu_busy": 0.4 * 5 / 10,  # batches of two
                "gpu_busy_source": "triton-wall-time",
            },
            id="Triton before 23.09 and 24.08: no pending gauge, no reason; exporter's zeros without pod UIDs",
        ),
        pytest.param(
            "llama",
            {
                "scraped_pods": 1,
                "queued": 0.02 * 577.5,
                "executing": 8.0,
                "inflight_growth_per_s": 0.02,
                "success_per_s": 4.0,
                "failure_per_s": 0.75,
                "oom_failure_per_s": 0.25,
                "success_time_s": 2.0,
                "gpu_busy": 1.0,
                "gpu_busy_source": "vllm-running",
                "gpu_memory_utilization": 0.45,
            },
            id="vLLM",
        ),
        pytest.param(
            "mistral",
            {
                "executing": 0.0,
                "failure_per_s": 0.0,
                "oom_failure_per_s": None,
                "success_time_s": None,
                "gpu_busy": 0.0,
                "gpu_memory_utilization": 0.65,  # of its other pod 0.4
            },
            id="vLLM 0.10, idle: it knows no finished_reason error",
        ),
        pytest.param(
            "idle",
            {"success_per_s": 0.0, "success_time_s": None, "gpu_busy": 0.0, "gpu_busy_source": "triton-wall-time"},
            id="idle Triton beside a busy neighbour; exporter's copies of the device's 90 %",
        ),
        pytest.param("reset", {"success_per_s": pytest.approx(350 / 45)}, id="counter reset: 150 + 50 + 150 in 45 s"),
        pytest.param(
            "partial",
            {"ready_replicas": 3, "scraped_pods": 1, "gpu_busy": 1.0},
            id="of three pods one lacks signals and one all of them",
        ),
        pytest.param(
            "mixed",
            {"scraped_pods": 2, "gpu_busy": 0.5, "gpu_busy_source": "triton-wall-time"},
            id="the exporter sees one of two pods",
        ),
        pytest.param(
            "late", {"signals_age_s": 35.0, "replicas_age_s": 5.0}, id="one pod's samples end 30 s before the other's"
        ),
        pytest.param(
            "hidden",
            {"scraped_pods": None, "queued": None, "gpu_busy": 0.25, "gpu_busy_source": "exporter-per-process"},
            id="per process under honorLabels: false, and no inference metrics",
        ),
        pytest.param("bert", {"gpu_busy": None}, id="zeros of an exporter with pod UIDs and without hostPID"),
        pytest.param("empty", {"spec_replicas": 0, "ready_replicas": 0, "queued": None}, id="scaled to zero"),
    ],
)
def test_a_service_by_itself(snapshot: Snapshot, name: str, expected: dict[str, Any]) -> None:
    seen = asdict(workload(snapshot, name))
    assert {field: seen[field] for field in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        pytest.param(
            CardKey("GPU-process"),
            {
                "free_bytes": 2210 * MIB,
                "total_bytes": (2210 + 20356 + 468) * MIB,
                "utilization_ratio": 0.84,
                "age_s": 5.0,
                "node": "node-1",
                "model": "NVIDIA L4",
                "slots": 4,
                "pods": {"resnet": 2, "mixed": 1},
                "held": {"resnet": (5980 + 10000, 10000), "mixed": (4020, 4020)},
            },
            id="virtual, per process",
        ),
        pytest.param(
            CardKey("GPU-zeros"),
            {
                "free_bytes": 4555 * MIB,
                "total_bytes": (4555 + 18011 + 468) * MIB,
                "utilization_ratio": 0.55,
                "node": "node-2",
                "slots": 3,
                "pods": {"old": 1, "llama": 1},
                "held": {},
            },
            id="virtual, zeros; hostname",
        ),
        pytest.param(
            CardKey("GPU-half"),
            {"total_bytes": 23000 * MIB, "slots": 3, "pods": {"bert": 1}, "held": {}},
            id="no FB_RESERVED; zeros with pod UIDs",
        ),
        pytest.param(
            CardKey("GPU-partly"), {"pods": {"late": 1, "idle": 1}, "held": {}}, id="one of two pods without UID"
        ),
        pytest.param(
            CardKey("GPU-copies"),
            {"utilization_ratio": 0.9, "slots": None, "pods": {"idle": 1, "hidden": 1}, "held": {}},
            id="copies",
        ),
        pytest.param(
            CardKey("GPU-default"),
            {
                "free_bytes": 3000 * MIB,
                "total_bytes": 23468 * MIB,
                "age_s": 5.0,
                "pods": {"reset": 1, "partial": 1},
                "held": {},
            },
            id="one pod label that moved; Triton names the other pod",
        ),
        pytest.param(
            CardKey("GPU-exported"),
            {"free_bytes": 12000 * MIB, "pods": {"hidden": 1}, "held": {"hidden": (11000, 11000)}, "slots": None},
            id="honorLabels false",
        ),
        pytest.param(
            CardKey("GPU-free"), {"free_bytes": 22566 * MIB, "pods": {"mixed": 1, "late": 2}}, id="no exported_pod"
        ),
        pytest.param(
            CardKey("GPU-mig", "1"),
            {
                "free_bytes": 30112 * MIB,
                "utilization_ratio": 0.31,
                "slots": None,
                "pods": {"bert": 1},
                "held": {"bert": (8960, 8960)},
            },
            id="MIG instance 1",
        ),
        pytest.param(
            CardKey("GPU-mig", "2"),
            {"free_bytes": 40310 * MIB, "utilization_ratio": 0.0, "pods": {}},
            id="MIG instance 2",
        ),
        pytest.param(
            CardKey("GPU-gone"), {"free_bytes": 777 * MIB, "age_s": 155.0}, id="hanging target: its age tells"
        ),
    ],
)
def test_a_card_by_itself(snapshot: Snapshot, key: CardKey, expected: dict[str, Any]) -> None:
    seen: dict[str, Any] = {field: getattr(snapshot.cards[key], field) for field in CardReading.__slots__}
    seen["pods"] = {workload.deployment: count for workload, count in seen["pods"].items()}
    seen["held"] = in_mib(seen["held"])
    placed = {name: expected.pop(name, seen[name]) for name in ("pods", "held")}
    assert {name: seen[name] for name in placed} == placed
    assert {field: seen[field] for field in expected} == pytest.approx(expected)


def test_only_what_exists_is_seen_and_doubts_are_told(snapshot: Snapshot) -> None:
    assert len(snapshot.cards) == 11
    assert {key.namespace for key in snapshot.workloads} == {NAMESPACE}  # not the exporter's own
    assert WorkloadKey(NAMESPACE, "lonely") not in snapshot.workloads  # a ReplicaSet without a Deployment
    assert [problem.text for problem in snapshot.problems] == [
        "not a whole number: 2 series, e.g. GPU-copies 1.5; read as unknown"  # 3 allotted for the two cards of node-4
    ]


def test_a_card_whose_target_is_gone_vanishes(source: PrometheusSource) -> None:
    assert CardKey("GPU-gone") in source.snapshot_at(END_S - 150 + 299).cards
    assert CardKey("GPU-gone") not in source.snapshot_at(END_S - 150 + 301).cards


def test_a_range_gives_what_each_instant_gives(source: PrometheusSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "CHUNK_INSTANTS", 4)
    start_s, step_s = START_S - 10, 47.5  # before the first sample, to after the last; off the scrapes' grid
    instants = [start_s + step_s * index for index in range(21)]
    by_range = list(source.snapshots(start_s, instants[-1] + 40, step_s))
    assert [snapshot.taken_at_s for snapshot in by_range] == instants
    assert len(by_range[10].workloads) == 12
    for at_s, snapshot in zip(instants, by_range, strict=True):
        assert snapshot == source.snapshot_at(at_s)


def held_on(card: str) -> Callable[[Snapshot], object]:
    return lambda snapshot: in_mib(snapshot.cards[CardKey(card)].held)


@pytest.mark.parametrize(
    ("right", "wrong", "seen", "misread"),
    [
        pytest.param(
            "max by (namespace, deployment) (label_replace(kube_deployment_status_replicas,",
            "min by (namespace, deployment) (label_replace(kube_deployment_status_replicas,",
            lambda snapshot: workload(snapshot, "resnet").status_replicas,
            2,
            id="status_replicas: the collector that lags behind",
        ),
        pytest.param(
            "group by (namespace, deployment, gpu_memory_utilization)",
            "group by (namespace, deployment)",
            lambda snapshot: workload(snapshot, "llama").gpu_memory_utilization,
            1.0,
            id="gpu_memory_utilization: the series' 1 for the label",
        ),
        pytest.param(
            "max by (namespace, pod, UUID, GPU_I_ID)",
            "sum by (namespace, pod, UUID, GPU_I_ID)",
            held_on("GPU-process"),
            {},  # 5980 + 2 x 10000 + 4020 MiB are more than the card has
            id="held: a pod with two places counts twice",
        ),
        pytest.param(
            'timestamp(DCGM_FI_DEV_FB_USED{pod_uid!=""}) ==',
            'timestamp(DCGM_FI_DEV_FB_USED{pod_uid!=""}) <=',
            held_on("GPU-process"),
            {"late": (512, 512), "mixed": (4020, 4020), "resnet": (15980, 10000)},
            id="held: a pod that has gone",
        ),
        pytest.param(
            'unless on (UUID, GPU_I_ID) DCGM_FI_DEV_FB_USED{vgpu!="",pod_uid=""}',
            "",
            held_on("GPU-partly"),
            {"late": (3000, 3000)},
            id="held: one of two pods is not seen",
        ),
        pytest.param(" > 0)", " >= 0)", held_on("GPU-half"), {"bert": (0, 0)}, id="held: zeros without hostPID"),
        pytest.param(
            'timestamp(DCGM_FI_DEV_FB_USED{vgpu="",pod_uid=""})',
            "timestamp(DCGM_FI_DEV_FB_USED)",
            lambda snapshot: [problem.text for problem in snapshot.problems if problem.signal == "held"],
            [f"together above total_bytes: 1 series, e.g. GPU-copies {30000 * MIB:g}; read as unknown"],
            id="held: the device's value for each pod",
        ),
        pytest.param(
            "max by (namespace, deployment, UUID, GPU_I_ID, source)",
            "avg by (namespace, deployment, UUID, GPU_I_ID, source)",
            held_on("GPU-process"),
            {"mixed": (4020, 4020), "resnet": (15980, 15980 / 2)},
            id="held: the mean for the largest",
        ),
    ],
)
def test_a_bug_in_a_query_would_be_seen(
    server: PrometheusServer,
    snapshot: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    right: str,
    wrong: str,
    seen: Callable[[Snapshot], object],
    misread: object,
) -> None:
    break_a_query(monkeypatch, right, wrong)
    assert seen(PrometheusSource(PrometheusSettings(url=server.url), Timing()).snapshot_at(AT_S)) == misread
    assert seen(snapshot) != misread


def test_an_override_takes_one_signals_place(server: PrometheusServer) -> None:
    named = 'label_replace(label_replace(vector(4.5), "namespace", "models", "", ""), "deployment", "old", "", "")'
    overrides = {
        "queued": f"{named} # not Triton's",
        "gpuBusy": "0 * kube_deployment_spec_replicas / 0",
        "freeBytes": 'min by (UUID, GPU_I_ID) (DCGM_FI_DEV_FB_FREE{UUID="GPU-process"}) - 3000',
        "pods": 'label_replace(kube_deployment_spec_replicas{deployment="old"}, "UUID", "GPU-process", "", "")',
        "heldLargestBytes": 'label_replace(kube_deployment_spec_replicas * 7, "UUID", "GPU-process", "", "")',
        "statusReplicas": "kube_deployment_spec_replicas + 5",
        "gpuMemoryUtilization": 'kube_deployment_spec_replicas{deployment=~"old|empty"} / 2',
    }
    settings = PrometheusSettings(url=server.url, queries=QueryOverrides.model_validate(overrides))
    assert len(build_queries(Timing(), settings.queries)) == 11
    snapshot = PrometheusSource(settings, Timing()).snapshot_at(AT_S)
    assert (workload(snapshot, "old").queued, workload(snapshot, "resnet").queued) == (4.5, None)
    assert workload(snapshot, "old").executing == pytest.approx(0.46)  # the signal beside it stays
    assert workload(snapshot, "old").gpu_busy is None
    assert (workload(snapshot, "old").status_replicas, workload(snapshot, "old").spec_replicas) == (6, 1)
    assert workload(snapshot, "old").gpu_memory_utilization == 0.5
    assert workload(snapshot, "llama").gpu_memory_utilization is None
    card = snapshot.cards[CardKey("GPU-process")]
    assert card.held[WorkloadKey(NAMESPACE, "resnet")] == HeldVram(15980 * MIB, 3 * 7)
    assert card.free_bytes is None
    assert card.pods == {WorkloadKey(NAMESPACE, "old"): 1}
    assert [problem.text for problem in snapshot.problems if problem.signal in ("gpu_busy", "free_bytes")] == [
        "negative: 1 series, e.g. GPU-process -790; read as unknown",
        "not finite: 12 series, e.g. models/bert nan; read as unknown",
    ]


def test_every_override_fits_into_its_query() -> None:
    every = dict.fromkeys(QueryOverrides.model_fields, "sum by (namespace, deployment) (x)")
    for query in build_queries(Timing(), QueryOverrides.model_validate(every)):
        promql_parser.parse(query.promql)
        assert "nv_" not in query.promql
        assert "DCGM" not in query.promql


def test_every_number_of_the_readings_can_be_overridden() -> None:
    labels = {"gpu_busy_source", "node", "model"}
    numbers = {*WorkloadReading.__slots__, *CardReading.__slots__} - labels - {"held", "held_source", "placed_by"}
    assert set(QueryOverrides.model_fields) == numbers | {f"held_{part}" for part in HeldVram._fields}
