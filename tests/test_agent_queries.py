"""The agent's series through a real Prometheus: where they rank, what they leave to the next source, and their loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scaler.policy import Timing
from scaler.snapshot import CardKey, Snapshot, WorkloadKey
from scaler.sources import agent_promql
from scaler.sources.prometheus import PrometheusSettings, PrometheusSource
from scaler.sources.queries import build_queries
from tests.broken_queries import break_a_query
from tests.metric_fleet import (
    AT_S,
    END_S,
    EXPORTER,
    NAMESPACE,
    START_S,
    Copies,
    Series,
    dcgm,
    deployment,
    labels,
    on_card,
    triton,
)
from tests.prometheus_server import PrometheusServer, Value, openmetrics, running_prometheus

MIB = 1024**2
AGENT = {"namespace": "keda", "pod": "vram-agent-x2", "instance": "10.0.0.1:9410", "node": "node-1"}
LOST_S = END_S - 330  # the agent's last sample: AT_S is 335 s later, beyond Prometheus' 5 minutes
BEFORE_S = LOST_S + 5


def info(uids: dict[str, str], *, exported: bool = False) -> Series:
    """kube_pod_info of pods by UID, from two collectors."""
    series: Series = {}
    for collector in ("ksm-0", "ksm-1"):
        for uid, pod in uids.items():
            own = {"namespace": NAMESPACE, "pod": pod}
            if exported:
                own = {"namespace": "monitoring", "pod": "ksm", "exported_namespace": NAMESPACE, "exported_pod": pod}
            series[f"kube_pod_info{labels(**own, uid=uid, node='node-1', instance=collector)}"] = 1
    return series


def agent(
    uuid: str, pods: dict[str, tuple[int | None, Value | None]], *, held: int = 1, target: dict[str, str] = AGENT,
    peaks: dict[str, int] | None = None, ran: Value | None = None, **card: str,
) -> Series:  # fmt: skip
    """One card as the agent tells of it: by pod UID the MiB held and the busy ratio, by `peaks` the MiB held at most;
    `ran`: the card's utilisation. None is absent."""
    own = {"UUID": uuid, **card, **target}
    series: Series = {f"vram_agent_card_capability{labels(**own, capability='held')}": held}
    series[f"vram_agent_card_capability{labels(**own, capability='memory')}"] = 1
    for uid, (held_mib, busy) in pods.items():
        of = labels(**own, pod_uid=uid)
        series[f"vram_agent_pod_processes{of}"] = 1
        if held_mib is not None:
            series[f"vram_agent_pod_memory_held_bytes{of}"] = held_mib * MIB
        if busy is not None:
            series[f"vram_agent_pod_busy_ratio{of}"] = busy
    for uid, mib in (peaks or {}).items():
        series[f"vram_agent_pod_memory_peak_bytes{labels(**own, pod_uid=uid)}"] = mib * MIB
    if ran is not None:
        series[f"vram_agent_card_utilization_ratio{labels(**own)}"] = ran
    return series


def by_exporter(*pods: tuple[str, int, int]) -> dict[str, Any]:
    """Per process, trustworthy: (pod, percent, MiB)."""
    copies: Copies = [
        (on_card(pod, pod_uid=f"d-{pod}", vgpu=str(number)), percent, mib)
        for number, (pod, percent, mib) in enumerate(pods)
    ]
    return {"per_process": True, "copies": copies, "utilization": 50}


def until_lost(series: Series) -> Series:
    def ending(value: Value) -> Value:
        return lambda at_s: None if at_s > LOST_S else value(at_s) if callable(value) else value

    return {name: ending(value) for name, value in series.items()}


def fleet() -> Series:
    return {
        # Both sources see two services on one card; the exporter shows besides a pod that has gone.
        **deployment("alpha", ("alpha-0", "alpha-1"), 2),
        **deployment("beta", ("beta-0",), 1),
        **deployment("gone", ("gone-0",), 1),
        **info({"u-a0": "alpha-0", "u-a1": "alpha-1", "u-b0": "beta-0"}),
        **dcgm("GPU-both", "node-1", free=9000, used=13000,
               **by_exporter(("alpha-0", 22, 3001), ("alpha-1", 33, 5001), ("beta-0", 11, 2001), ("gone-0", 0, 7))),
        **agent("GPU-both", {"u-a0": (3000, 0.2), "u-a1": (5000, 0.3), "u-b0": (2000, 0.1)},
                peaks={"u-a0": 6500, "u-a1": 5000, "u-b0": 2000}, ran=0.62),
        # A second agent while the DaemonSet is replaced: the same card once more, by one that has seen less.
        **agent("GPU-both", {"u-a0": (3000, 0.2)}, peaks={"u-a0": 3000}, ran=0.61,
                target={**AGENT, "pod": "vram-agent-y3", "instance": "10.0.0.2:1"}),
        # The agent alone: one pod label of the exporter, on the wrong pod's card.
        **deployment("gamma", ("gamma-0",), 1),
        **triton("gamma-0", "GPU-elsewhere", infer=0.9),
        **info({"u-g0": "gamma-0"}, exported=True),
        **dcgm("GPU-plain", "node-1", free=9000, used=13000),
        **dcgm("GPU-elsewhere", "node-1", free=9000, used=13000),
        **agent("GPU-plain", {"u-g0": (4000, 0.25), "u-nobody": (9000, 0.5)}),
        # The memory of one pod is not told: the card is the exporter's; the ratios are not (MPS, MIG).
        **deployment("delta", ("delta-0",), 1),
        **triton("delta-0", "GPU-half", infer=0.7),
        **info({"u-d0": "delta-0", "u-e0": "eps-0"}),
        **deployment("eps", ("eps-0",), 1),
        **dcgm("GPU-half", "node-1", free=9000, used=13000, **by_exporter(("delta-0", 40, 6000), ("eps-0", 10, 700))),
        **agent("GPU-half", {"u-d0": (6001, None), "u-e0": (None, 0.12)}, held=0, peaks={"u-d0": 9000, "u-e0": 900}),
        # One pod on two cards; on one of them its ratio is not known.
        **deployment("wide", ("wide-0",), 1),
        **info({"u-w0": "wide-0"}),
        **triton("wide-0", "GPU-w1", infer=0.6),
        **dcgm("GPU-w1", "node-1", free=9000, used=13000),
        **dcgm("GPU-w2", "node-1", free=9000, used=13000),
        **agent("GPU-w1", {"u-w0": (8000, 0.4)}, ran=0),
        **agent("GPU-w2", {"u-w0": (8000, None)}),
        # One of two pods on a node without an agent.
        **deployment("split", ("split-0", "split-1"), 2),
        **info({"u-s0": "split-0", "u-s1": "split-1"}),
        **triton("split-0", "GPU-s1", infer=0.3),
        **triton("split-1", "GPU-s2", infer=0.2),
        **dcgm("GPU-s1", "node-1", free=9000, used=13000),
        **dcgm("GPU-s2", "node-2", free=9000, used=13000),
        **agent("GPU-s1", {"u-s0": (1000, 0.05)}),
        # The kubelet: one pod that is starting, one whose processes are on another card than it was allotted.
        **deployment("starting", ("starting-0",), 1),
        f"vram_agent_pod_places{labels(**AGENT, UUID='GPU-w2', pod_namespace=NAMESPACE, pod_name='starting-0')}": 2,
        f"vram_agent_pod_places{labels(**AGENT, UUID='GPU-elsewhere', pod_namespace=NAMESPACE, pod_name='gamma-0')}": 1,
        # MIG: held by instance.
        **deployment("mig", ("mig-0",), 1),
        **info({"u-m0": "mig-0"}),
        **dcgm("GPU-mig", "node-1", free=9000, used=13000, mig={"GPU_I_ID": "2", "GPU_I_PROFILE": "3g.40gb"}),
        **agent("GPU-mig", {"u-m0": (1234, None)}, GPU_I_ID="2"),
        # kube-state-metrics does not know the pod: the card is the exporter's.
        **deployment("fresh", ("fresh-0",), 1),
        **dcgm("GPU-fresh", "node-1", free=9000, used=13000, **by_exporter(("fresh-0", 15, 1500))),
        **agent("GPU-fresh", {"u-f0": (1400, 0.14)}),
        # An agent that is lost half-way; the exporter says the same.
        **deployment("steady", ("steady-0",), 1),
        **info({"u-l0": "steady-0"}),
        **dcgm("GPU-lost", "node-1", free=9000, used=13000, **by_exporter(("steady-0", 30, 2500))),
        **until_lost(agent("GPU-lost", {"u-l0": (2500, 0.3)}, peaks={"u-l0": 2500}, ran=0.5)),
        f"kube_pod_owner{labels(**EXPORTER, owner_kind='DaemonSet', owner_name='dcgm-exporter')}": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), openmetrics(fleet(), START_S, END_S)) as running:
        yield running


def seen_at(server: PrometheusServer, at_s: float) -> Snapshot:
    return PrometheusSource(PrometheusSettings(url=server.url), Timing()).snapshot_at(at_s)


@pytest.fixture(scope="module")
def snapshot(server: PrometheusServer) -> Snapshot:
    return seen_at(server, AT_S)


def busy(snapshot: Snapshot, name: str) -> tuple[object, str | None]:
    reading = snapshot.workloads[WorkloadKey(NAMESPACE, name)]
    return reading.gpu_busy and round(reading.gpu_busy, 9), reading.gpu_busy_source


def held_mib(snapshot: Snapshot, uuid: str, instance: str = "") -> dict[str, tuple[float, float]]:
    held = snapshot.cards[CardKey(uuid, instance)].held
    return {key.deployment: (vram.total_bytes / MIB, vram.largest_bytes / MIB) for key, vram in held.items()}


def pods(snapshot: Snapshot, uuid: str, instance: str = "") -> dict[str, int]:
    return {key.deployment: count for key, count in snapshot.cards[CardKey(uuid, instance)].pods.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("alpha", (0.5, "agent"), id="the agent before a good exporter; two agents count once"),
        pytest.param("gamma", (0.25, "agent"), id="the agent before Triton; names exported"),
        pytest.param("delta", (0.4, "exporter-per-process"), id="no ratio from the agent: the exporter"),
        pytest.param("eps", (0.12, "agent"), id="its neighbour on the same card has one"),
        pytest.param("wide", (0.6, "triton-wall-time"), id="not known on one of its two cards"),
        pytest.param("split", (0.5, "triton-wall-time"), id="the agent sees one of two pods"),
        pytest.param("mig", (None, None), id="MIG: nobody knows"),
        pytest.param("fresh", (0.15, "exporter-per-process"), id="a UID without a name"),
    ],
)
def test_gpu_busy(snapshot: Snapshot, name: str, expected: tuple[object, str | None]) -> None:
    assert busy(snapshot, name) == expected


@pytest.mark.parametrize(
    ("card", "held", "placed"),
    [
        pytest.param(
            ("GPU-both", ""),
            {"alpha": (8000, 6500), "beta": (2000, 2000)},  # alpha-0 has held 6500, by the agent that was there
            {"alpha": 2, "beta": 1, "gone": 1},  # the exporter knows which pod was allotted a place, the agent who came
            id="the agent's alone, without the exporter's leftovers",
        ),
        pytest.param(("GPU-plain", ""), {"gamma": (4000, 4000)}, {"gamma": 1}, id="the agent alone; a UID of nobody"),
        pytest.param(("GPU-elsewhere", ""), {}, {}, id="where Triton and the kubelet believed it to be"),
        pytest.param(
            ("GPU-half", ""),
            {"delta": (6000, 6000), "eps": (700, 700)},
            {"delta": 1, "eps": 1},
            id="one pod's memory is not told: all of the card from the exporter",
        ),
        pytest.param(
            ("GPU-w2", ""),
            {"wide": (8000, 8000)},
            {"wide": 1, "starting": 1},
            id="memory without a ratio; a pod without a process, by the kubelet",
        ),
        pytest.param(("GPU-mig", "2"), {"mig": (1234, 1234)}, {"mig": 1}, id="MIG instance"),
        pytest.param(("GPU-fresh", ""), {"fresh": (1500, 1500)}, {"fresh": 1}, id="a UID without a name"),
        pytest.param(("GPU-s2", ""), {}, {"split": 1}, id="a node without an agent"),
    ],
)
def test_a_card(
    snapshot: Snapshot, card: tuple[str, str], held: dict[str, tuple[float, float]], placed: dict[str, int]
) -> None:
    assert (held_mib(snapshot, *card), pods(snapshot, *card)) == (held, placed)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        pytest.param(("GPU-both", ""), 0.62, id="the agent before the exporter's 50 %; two agents count once"),
        pytest.param(("GPU-w1", ""), 0.0, id="idle by the agent"),
        pytest.param(("GPU-w2", ""), 0.5, id="absent at the agent: the exporter"),
        pytest.param(("GPU-lost", ""), 0.5, id="an agent that is gone: the exporter"),
        pytest.param(("GPU-mig", "2"), None, id="MIG without profiling: nobody knows, and it is not 0"),
    ],
)
def test_utilisation_of_a_card(snapshot: Snapshot, card: tuple[str, str], expected: float | None) -> None:
    assert snapshot.cards[CardKey(*card)].utilization_ratio == pytest.approx(expected)


def test_without_the_agent_the_next_source_speaks_and_nothing_jumps(server: PrometheusServer) -> None:
    before, after = seen_at(server, BEFORE_S), seen_at(server, AT_S)
    assert busy(before, "steady") == (0.3, "agent")
    assert busy(after, "steady") == (0.3, "exporter-per-process")
    for snapshot in (before, after):
        assert held_mib(snapshot, "GPU-lost") == {"steady": (2500, 2500)}
        assert pods(snapshot, "GPU-lost") == {"steady": 1}
        assert snapshot.cards[CardKey("GPU-lost")].utilization_ratio == pytest.approx(0.5)
        assert snapshot.problems == ()


def test_the_agent_costs_no_further_query() -> None:
    assert len(build_queries(Timing())) == 11


@pytest.mark.parametrize(
    ("right", "wrong", "seen", "misread"),
    [
        pytest.param(
            f"unless on (UUID, GPU_I_ID) {agent_promql.held_bytes()}",
            "",
            lambda snapshot: held_mib(snapshot, "GPU-both").get("gone"),
            (7, 7),
            id="held: the exporter's leftover beside the agent's",
        ),
        pytest.param(
            ' and on (UUID, GPU_I_ID) (vram_agent_card_capability{capability="held"} == 1)',
            "",
            lambda snapshot: held_mib(snapshot, "GPU-half"),
            {"delta": (6001, 9000)},
            id="held: a card of which the agent does not see all",
        ),
        pytest.param(
            "max by (namespace, pod, UUID, GPU_I_ID) ((vram_agent_pod_memory_peak_bytes",
            "min by (namespace, pod, UUID, GPU_I_ID) ((vram_agent_pod_memory_peak_bytes",
            lambda snapshot: held_mib(snapshot, "GPU-both")["alpha"],
            (8000, 5000),
            id="held at most: by the younger agent",
        ),
        pytest.param(
            "max by (UUID, GPU_I_ID) (avg_over_time(vram_agent_card_utilization_ratio",
            "sum by (UUID, GPU_I_ID) (avg_over_time(vram_agent_card_utilization_ratio",
            lambda snapshot: snapshot.cards[CardKey("GPU-both")].utilization_ratio,
            None,  # 1.23 busy cards are no reading of one
            id="utilisation: two agents count twice",
        ),
        pytest.param(
            f"unless on (namespace, pod) {agent_promql.placement()}",
            "",
            lambda snapshot: pods(snapshot, "GPU-elsewhere"),
            {"gamma": 1},
            id="pods: Triton's wrong card",
        ),
        pytest.param(
            " unless on (pod_uid) (vram_agent_pod_processes unless on (pod_uid, UUID, GPU_I_ID) "
            "vram_agent_pod_busy_ratio)",
            "",
            lambda snapshot: busy(snapshot, "wide"),
            (0.4, "agent"),
            id="gpu_busy: half of a pod's cards",
        ),
        pytest.param(
            "max by (namespace, pod, UUID, GPU_I_ID) ((avg_over_time(vram_agent",
            "sum by (namespace, pod, UUID, GPU_I_ID) ((avg_over_time(vram_agent",
            lambda snapshot: busy(snapshot, "alpha"),
            (0.7, "agent"),
            id="gpu_busy: two agents count twice",
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
    assert seen(seen_at(server, AT_S)) == misread
    assert seen(snapshot) != misread
