"""Whose work a shared card does: exact where it is told by process, split by wall times, an upper bound else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.signals.derive import own_gpu_ratio
from scaler.signals.gpu_share import GpuShare, gpu_share
from scaler.signals.retries import arrivals
from scaler.snapshot import CardReading, GpuBusySource, WorkloadReading
from tests.fleet import START_S, TICK_S, card, decide, policy, pool_with, reading, snapshot, steady, workload

TRITON: GpuBusySource = "triton-wall-time"


def ran(busy: float | None, pods: int | None = 1, source: GpuBusySource | None = TRITON) -> WorkloadReading:
    """`busy` cards by that source, from so many scraped pods."""
    return WorkloadReading(gpu_busy=busy, gpu_busy_source=source, scraped_pods=pods)


def on(utilization_ratio: float | None, **pods: int) -> CardReading:
    return CardReading(8e9, 16e9, utilization_ratio, pods={workload(name): count for name, count in pods.items()})


@pytest.mark.parametrize(
    ("readings", "cards", "own", "neighbours"),
    [
        pytest.param(
            {"a": ran(0.5, 1, "agent"), "b": ran(0.4)}, [on(0.8, a=1, b=1)], 0.5, 0.3, id="by process: as it is"
        ),
        pytest.param(
            {"a": ran(0.9, 1, "agent"), "b": ran(0.4)}, [on(0.8, a=1, b=1)], 0.8, 0.0, id="at most what the card did"
        ),
        pytest.param({"a": ran(0.6), "b": ran(0.6)}, [on(0.8, a=1, b=1)], 0.4, 0.4, id="equal wall times: halves"),
        pytest.param(
            {"a": ran(0.6, 2), "b": ran(0.6)}, [on(0.8, a=2, b=1)], 0.4, 0.4, id="0.8 x 2 x 0.3 / (2 x 0.3 + 0.6)"
        ),
        pytest.param(
            {"a": ran(0.6, 2), "b": ran(0.9)},
            [on(0.8, a=1, b=1), on(0.2, a=1)],
            0.2 + 0.2,
            0.6,
            id="two cards: 0.8 x 0.3 / 1.2, and 0.2 alone",
        ),
        pytest.param(
            {"a": ran(0.6), "v": ran(1.0, 1, "vllm-running")},
            [on(0.8, a=1, v=1)],
            0.3,
            0.5,
            id="Triton beside vLLM: 0.8 x 0.6 / 1.6",
        ),
        pytest.param({"a": ran(0.0), "b": ran(0.0)}, [on(0.1, a=1, b=1)], 0.0, 0.1, id="nobody of them ran"),
        pytest.param({"a": ran(0.0), "b": ran(0.4)}, [on(0.3, a=1, b=1)], 0.0, 0.3, id="idle beside a busy one"),
        pytest.param({"a": ran(0.4)}, [on(0.45, a=1)], 0.45, 0.0, id="alone; utilisation is a spot value"),
        pytest.param({"a": ran(0.1)}, [on(0.9, a=1)], 0.125, 0.775, id="somebody whom nobody names: 1.25 x 0.1"),
        pytest.param({"a": ran(0.6), "b": ran(None)}, [on(0.8, a=1, b=1)], 0.6, 0.2, id="b is not known: upper bound"),
        pytest.param({"a": ran(0.6)}, [on(0.8, a=1, b=1)], 0.6, 0.2, id="b is no workload: upper bound"),
        pytest.param(
            {"a": ran(0.6), "b": ran(0.3, 1, "agent")}, [on(0.8, a=1, b=1)], 0.6, 0.2, id="b by process: upper bound"
        ),
        pytest.param({"a": ran(0.9, None), "b": ran(0.6)}, [on(0.8, a=1, b=1)], 0.8, 0.0, id="its pods: not known"),
        pytest.param(
            {"a": ran(0.6, source=None), "b": ran(0.6)}, [on(0.8, a=1, b=1)], 0.6, 0.2, id="an operator's own query"
        ),
        pytest.param({"a": ran(0.6), "b": ran(0.6)}, [on(None, a=1, b=1)], 0.6, None, id="utilisation is not known"),
        pytest.param({"a": ran(0.6)}, [], 0.6, None, id="no card names it"),
        pytest.param({"a": ran(None)}, [on(0.8, a=1)], None, None, id="own time is not known: nothing is guessed"),
    ],
)  # fmt: skip
def test_own_and_neighbours(
    readings: dict[str, WorkloadReading], cards: list[CardReading], own: float | None, neighbours: float | None
) -> None:
    share = gpu_share(workload("a"), {workload(name): each for name, each in readings.items()}, cards)
    assert share.own == pytest.approx(own)
    assert share.neighbours == pytest.approx(neighbours)


def test_demand_does_not_follow_the_split() -> None:
    """Law 1: what b does moves the split, from 0.8 x 0.9 / 1.0 to 0.8 x 0.9 / 1.8, and not what a asks for."""
    mine = replace(reading(1, 3.0), gpu_busy=0.9, gpu_busy_source=TRITON, scraped_pods=1)
    shown = replace(card(9.0, pods={"a": 1, "b": 1}), utilization_ratio=0.8)
    told = []
    for wall in (0.1, 0.9):
        other = replace(reading(1, 1.0), gpu_busy=wall, gpu_busy_source=TRITON, scraped_pods=1)
        history = [snapshot(START_S + TICK_S, {"a": mine, "b": other}, shown)]
        decision = decide(history, policy(pool_with(), a={"targetGpuUtilization": "50"}, b={}), "a")
        [own] = [step for step in decision.steps if step.name == "own-gpu"]
        told.append((decision.demand, f"{own.value:.2f} {own.text}"))
    by = "of 1 cards, by triton-wall-time against its neighbours'"
    assert told == [(2, f"0.72 {by}; neighbours 0.08"), (2, f"0.40 {by}; neighbours 0.40")]


QUIET = replace(reading(1, 6.0, 20.0), gpu_busy=0.6, gpu_busy_source="agent")
# Beside a busy neighbour the same 20/s take three times as long, on the same GPU time of their own.
BESIDE = replace(reading(1, 18.0, 20.0), gpu_busy=0.6, gpu_busy_source="agent")
# It has stopped: 30/s are done, of which 10/s had been waiting.
WORKING_OFF = replace(reading(1, 18.0, 30.0), gpu_busy=0.9, gpu_busy_source="agent", inflight_growth_per_s=-10.0)


@pytest.mark.parametrize(
    ("now", "target", "demand"),
    [
        pytest.param(QUIET, "50", 2, id="alone: 0.6 / 0.5"),
        pytest.param(BESIDE, "50", 2, id="beside a neighbour: its own time is the same; 0.6 x 6 / 18 would be 1"),
        pytest.param(replace(BESIDE, gpu_busy=1.0, gpu_busy_source=TRITON), "50", 1, id="wall time: 1.0 x 6 / 18"),
        pytest.param(replace(BESIDE, gpu_busy_source=None), "50", 1, id="an operator's own query: 0.6 x 6 / 18"),
        pytest.param(QUIET, "60", 1, id="alone: 0.6 / 0.6"),
        pytest.param(WORKING_OFF, "60", 1, id="0.9 x 20 / 30 / 0.6: what a neighbour left waiting is no demand"),
        pytest.param(WORKING_OFF, "50", 2, id="0.9 x 20 / 30 / 0.5, as alone"),
        pytest.param(replace(WORKING_OFF, success_per_s=None), "50", 2, id="arrivals are not known"),
    ],
)
def test_gpu_time_by_process_is_not_taken_down_as_requests_in_flight_are(
    now: WorkloadReading, target: str, demand: int
) -> None:
    """By requests in flight it is 1: the replica that carries 20/s with 6 in flight, of a target of 12."""
    shown = card(9.0, pods={"a": 1, "b": 1})
    quiet = replace(QUIET, gpu_busy_source=now.gpu_busy_source)
    other = reading(1, 1.0)
    history = [*steady({"a": quiet, "b": other}, shown), snapshot(START_S, {"a": now, "b": other}, shown)]
    metadata = {"targetGpuUtilization": target, "targetConcurrency": "12"}
    assert decide(history, policy(pool_with(), a=metadata, b={}), "a").demand == demand


@given(st.floats(0.05, 2.0), st.floats(1.0, 100.0), st.floats(0.05, 1.0), st.floats(1.0, 3.0))
def test_law_1_holds_for_gpu_time_by_process(needs: float, per_s: float, squeezed: float, faster: float) -> None:
    """First fewer are done than arrive, with less GPU time, then more: never above what the arrivals need."""
    for done in (squeezed, 1.0, faster):
        mine = replace(
            reading(1, 50.0, per_s * done), gpu_busy=needs * done, gpu_busy_source="agent",
            inflight_growth_per_s=per_s * (1 - done),
        )  # fmt: skip
        flow = arrivals(mine, oom_confirmed=False, client_retries=0)
        assert needs * done * own_gpu_ratio(mine, flow, 0.1) <= needs * 1.000001
        assert needs * done * own_gpu_ratio(mine, flow, 0.1) >= needs * min(done, 1.0) * 0.999999


RAN = st.builds(ran, st.one_of(st.none(), st.floats(0, 8)), st.sampled_from([None, 0, 1, 2, 9]), st.sampled_from(
    ["agent", "exporter-per-process", TRITON, "vllm-running", None]
))  # fmt: skip
CARDS = st.lists(
    st.builds(
        lambda ratio, pods: on(ratio, **pods),
        st.one_of(st.none(), st.floats(0, 1)),
        st.dictionaries(st.sampled_from("abcd"), st.integers(1, 4), min_size=1).map(lambda pods: {"a": 1, **pods}),
    ),
    max_size=4,
)


@given(st.dictionaries(st.sampled_from("bcd"), RAN), RAN, CARDS)
def test_nothing_negative_and_nothing_above_the_cards(
    others: dict[str, WorkloadReading], own: WorkloadReading, cards: list[CardReading]
) -> None:
    share = gpu_share(workload("a"), {workload(name): each for name, each in {**others, "a": own}.items()}, cards)
    if share.neighbours is None:
        assert share == GpuShare(len(cards), share.busy, own.gpu_busy, None)
        return
    assert share.busy is not None
    assert share.own is not None
    assert 0.0 <= share.own <= share.busy
    assert share.own + share.neighbours == pytest.approx(share.busy)


@given(st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 1), min_size=1), st.floats(0, 1))
def test_the_parts_of_a_card_are_its_work(walls: dict[str, float], ratio: float) -> None:
    """As long as its pods' wall times hold it."""
    card, readings = on(ratio, **dict.fromkeys(walls, 1)), {workload(name): ran(each) for name, each in walls.items()}
    together = sum(gpu_share(key, readings, [card]).own or 0.0 for key in readings)
    assert together == pytest.approx(min(ratio, 1.25 * sum(walls.values())))
