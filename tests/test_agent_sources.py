"""Which source told what a decision stands on, as sources are lost one by one: a real Prometheus, live and replayed.

Service `a` runs a pod on each of two nodes and wants more; its footprint decides how many get room. First both nodes
have their agent, then one, then none, then the exporter names no pods any more either. `b` is told apart by nobody.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler.decision import Decision
from scaler.policy import OperatorPolicy
from scaler.snapshot import CardKey, Snapshot
from scaler.sources.prometheus import PrometheusSettings, PrometheusSource
from scaler.sources.recording import RecordingSource
from scaler.sources.recording_format import RecordingHeader
from scaler.sources.recording_writer import write_recording
from tests.fleet import key, policy, run, workload
from tests.metric_fleet import START_S, Series, dcgm, deployment, labels, on_card, triton
from tests.prometheus_server import Value, openmetrics, running_prometheus
from tests.test_agent_queries import AGENT, agent, info

SEEN_S = 300.0  # without a staleness marker a series is seen so long after its last sample
FIRST_S, BOTH_S, ONE_S, NONE_S, NAMELESS_S, LAST_S = (START_S + at_s for at_s in (90, 180, 480, 780, 1080, 1380))
OPERATOR = OperatorPolicy.model_validate({"timing": {"learnEvery": "1m"}, "settle": "0s"})
FLEET = policy(OPERATOR, a={}, b={"vramPerReplica": "1Gi"})


def until(last_s: float, series: Series) -> Series:
    def ending(value: Value) -> Value:
        return lambda at_s: None if at_s > last_s else value(at_s) if callable(value) else value

    return {name: ending(value) for name, value in series.items()}


def card_of(number: int, agent_until_s: float) -> Series:
    """Pod a-N holds 4000 MiB by the agent and 4001 by the exporter; on the second node it has held 4500, which only the
    agent knows."""
    uuid, node, pod = f"GPU-{number}", f"node-{number}", f"a-{number}"
    copies = [(on_card(pod, pod_uid=f"d-{pod}", vgpu="0"), 31.0, 4001.0)]
    told = agent(
        uuid, {f"u-{pod}": (4000, 0.3)}, peaks={f"u-{pod}": 3500 + 500 * number}, ran=0.5,
        target={**AGENT, "instance": f"10.0.0.{number}:9410"},
    )  # fmt: skip
    return {
        # The card's other series go on, so the last scrape is known to name no pod any more.
        **until(NAMELESS_S - 15, dcgm(uuid, node, free=15_700, used=6300, copies=copies, per_process=True)),
        **dcgm(uuid, node, free=15_700, used=6300),
        **until(agent_until_s - SEEN_S, told),
        **triton(pod, uuid, success=100, infer=30, executions=1, failures={"BACKEND": 0}),
        f"kube_node_status_allocatable{labels(node=node, resource='nvidia_com_gpu')}": 8,
    }


def fleet() -> Series:
    return {
        **deployment("a", ("a-1", "a-2"), 2),
        **info({"u-a-1": "a-1", "u-a-2": "a-2"}),
        **card_of(1, NONE_S),
        **card_of(2, ONE_S),
        **deployment("b", ("b-0",), 1),
        **triton("b-0", "GPU-3", success=100, infer=30, executions=1, failures={"BACKEND": 0}),
        **dcgm("GPU-3", "node-3", free=19_000, used=3000),
        f"kube_node_status_allocatable{labels(node='node-3', resource='nvidia_com_gpu')}": 8,
    }


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Snapshot]]:
    directory = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(directory, openmetrics(fleet(), START_S, LAST_S)) as server:
        source = PrometheusSource(PrometheusSettings(url=server.url), OPERATOR.timing)
        yield list(source.whole_snapshots(FIRST_S, LAST_S, 15.0))


@pytest.fixture(scope="module")
def told(snapshots: list[Snapshot]) -> dict[float, dict[str, Decision]]:
    return {
        each.taken_at_s: {name: plan.decisions[key(name)] for name in "ab"}
        for each, plan in zip(snapshots, run(snapshots, FLEET)[0], strict=True)
    }


def text(decision: Decision, step: str) -> str:
    [found] = [each.text for each in decision.steps if each.name == step]
    return found


@pytest.mark.parametrize(
    ("at_s", "cards", "footprint", "own_gpu"),
    [
        pytest.param(BOTH_S, "by agent", "by agent, 2 times and now", "by agent", id="an agent on both nodes"),
        pytest.param(
            NONE_S - 15,
            "1 by agent, 1 by exporter",
            "by agent, 11 times; now by exporter-per-process",
            "by exporter-per-process",
            id="an agent on one of two nodes",
        ),
        pytest.param(
            NAMELESS_S - 15,
            "by exporter",
            "by agent, 16 times; now by exporter-per-process",
            "by exporter-per-process",
            id="an exporter on both",
        ),
        pytest.param(LAST_S, "by triton", "by agent, 16 times; none told of now", "by triton-wall-time", id="nobody"),
    ],
)
def test_a_decision_says_who_told(
    told: dict[float, dict[str, Decision]], at_s: float, cards: str, footprint: str, own_gpu: str
) -> None:
    decision = told[at_s]["a"]
    assert text(decision, "cards") == f"that its pods sit on, {cards}"
    assert text(decision, "footprint") == f"measured: high-water of its pods {footprint}"
    assert f", {own_gpu}" in text(decision, "own-gpu")


def test_a_first_look_counts_no_lessons(told: dict[float, dict[str, Decision]]) -> None:
    assert text(told[FIRST_S]["a"], "footprint") == "measured: high-water of its pods by agent, now"


def test_nothing_jumps_as_sources_are_lost(told: dict[float, dict[str, Decision]]) -> None:
    """Any card may be the one that each replica lands on. GPU-1 has 15,700 MiB free, less 2,247 (the watermark), 500
    (what a-1 may grow) and 1,024 (a replica of b's, told before): 11,929 are 2 replicas of 4,500, and would be 3 of the
    4,001 that the exporter knows of."""
    outcomes = {(each["a"].verdict, each["a"].demand, each["a"].granted, each["a"].reasons) for each in told.values()}
    [(verdict, demand, granted, _)] = outcomes
    footprints = {step.value for each in told.values() for step in each["a"].steps if step.name == "footprint"}
    assert footprints == {4500.0 * 1024**2}
    assert (verdict, demand, granted) == ("limited", 15, 4)


def test_where_nobody_tells_pods_apart_none_is_named(told: dict[float, dict[str, Decision]]) -> None:
    for each in told.values():
        assert text(each["b"], "cards") == "that its pods sit on, by triton"
        assert not any(name in text(each["b"], "footprint") for name in ("agent", "exporter"))


def test_a_recording_replays_with_the_same_reasons(snapshots: list[Snapshot], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    write_recording(path, RecordingHeader(FIRST_S, LAST_S, 15.0, OPERATOR.timing), snapshots)
    again = list(RecordingSource(path).snapshots(FIRST_S, LAST_S, 15.0))
    assert again == snapshots
    live, replayed = (
        [json.dumps([plan.decisions[key(name)].as_json() for name in "ab"]) for plan in run(history, FLEET)[0]]
        for history in (snapshots, again)
    )
    assert live == replayed
    assert "1 by agent, 1 by exporter" in "".join(replayed)


def test_what_each_card_is_told_by(snapshots: list[Snapshot]) -> None:
    by = {each.taken_at_s: each.cards for each in snapshots}
    for at_s, first, second in (
        (ONE_S - 15, ("agent", "agent"), ("agent", "agent")),
        (NONE_S - 15, ("agent", "agent"), ("exporter-per-process", "exporter")),
        (NAMELESS_S - 15, ("exporter-per-process", "exporter"), ("exporter-per-process", "exporter")),
        (LAST_S, (None, "triton"), (None, "triton")),
    ):
        cards = [by[at_s][CardKey(f"GPU-{number}")] for number in (1, 2)]
        assert [(card.held_source, card.placed_by[workload("a")]) for card in cards] == [first, second]
