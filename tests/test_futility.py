"""When more replicas would not help, and who is suspected of a leak. All cards are T4s of 15 GiB, watermark 1.5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from scaler.decision import Decision
from scaler.snapshot import CardReading, Problem, Snapshot, WorkloadReading
from tests.fleet import START_S, TICK_S, asking, card, decide, policy, pool_with, reading, run, snapshot

OPERATOR = pool_with(defaultFootprint="64Mi")


def idle(ratio: float | None = 0.0, age_s: float = 5.0) -> CardReading:
    return replace(card(9.0, pods={"a": 1}, held_gib={"a": (2.0,)}, slots=4, age_s=age_s), utilization_ratio=ratio)


# --- stalled ----------------------------------------------------------------------------------------------------------

# 16 of 20 wait, one more a second, nothing completes. By its load it would be 5 replicas.
STALLED = replace(reading(1, 20.0, 1.0, queued=16.0), success_per_s=0.0, inflight_growth_per_s=1.0, success_time_s=None)


@pytest.mark.parametrize(
    ("load", "cards", "is_stalled"),
    [
        pytest.param(STALLED, [idle()], True, id="it waits, grows, and the GPU idles"),
        pytest.param(STALLED, [idle(0.049)], True, id="4.9 % busy is idle"),
        pytest.param(STALLED, [idle(0.05)], False, id="5 % busy is not"),
        pytest.param(STALLED, [idle(), idle(0.5)], False, id="one of its cards works"),
        pytest.param(STALLED, [idle(), idle(None)], False, id="one of its cards cannot be seen"),
        pytest.param(STALLED, [card(9.0)], False, id="nobody says where it sits"),
        pytest.param(replace(STALLED, success_per_s=0.1), [idle()], False, id="something completes"),
        pytest.param(replace(STALLED, failure_per_s=0.1), [idle()], False, id="something fails: it is not stuck"),
        pytest.param(replace(STALLED, inflight_growth_per_s=0.0), [idle()], False, id="the queue does not grow"),
        pytest.param(replace(STALLED, queued=0.0), [idle()], False, id="nothing waits"),
    ],
)
def test_stalled(load: WorkloadReading, cards: list[CardReading], is_stalled: bool) -> None:
    decision = decide([snapshot(START_S + TICK_S, {"a": load}, *cards)], policy(OPERATOR, a={}), "a")
    assert ("stalled" in decision.reasons) == is_stalled
    assert ((decision.granted or 0) > 1) != is_stalled


@pytest.mark.parametrize(
    "minutes",
    [
        pytest.param(2, id="for 2 minutes"),
        pytest.param(
            12, id="for 12 minutes"
        ),
    ],
)  # fmt: skip
def test_a_stall_takes_no_replica_away_either(minutes: int) -> None:
    load = replace(STALLED, spec_replicas=9, ready_replicas=9, status_replicas=9, scraped_pods=9)
    history = [snapshot(START_S + TICK_S * tick, {"a": load}, idle()) for tick in range(1, 4 * minutes)]
    decision = decide(history, policy(OPERATOR, a={}), "a")
    assert (decision.granted, decision.verdict, decision.reasons[0]) == (9, "hold", "stalled")


def test_a_stale_card_is_not_seen_to_idle() -> None:
    operator = pool_with(blind="allow")
    history = [snapshot(START_S + TICK_S, {"a": STALLED}, idle(age_s=600))]
    assert "stalled" not in decide(history, policy(operator, a={}), "a").reasons


# --- degraded ---------------------------------------------------------------------------------------------------------


def slowed(factor: float, ratio: float, slots: int = 4, per_s: float = 20.0) -> Decision:
    """An hour at 100/s, each 0.04 s; then at `per_s` each takes `factor` times as long. Seven more would fit."""
    usual = replace(card(9.0, pods={"a": 1}, held_gib={"a": (2.0,)}, slots=slots), utilization_ratio=0.4)
    beside = card(14.0, slots=slots)
    history = [snapshot(START_S - TICK_S * tick, {"a": reading(1, 4.0)}, usual, beside) for tick in range(240, 0, -1)]
    slow = reading(1, per_s * 0.04 * factor, per_s)
    now = replace(usual, utilization_ratio=ratio)
    history += [snapshot(START_S + TICK_S * tick, {"a": slow}, now, beside) for tick in range(1, 8)]
    return decide(history, policy(OPERATOR, a={}), "a")


@pytest.mark.parametrize(
    ("factor", "ratio", "is_degraded"),
    [
        pytest.param(100.0, 0.0, True, id="100 times as long on an idle GPU: the CPU's pace"),
        pytest.param(5.0, 0.0, True, id="5 times"),
        pytest.param(4.9, 0.0, False, id="4.9 times"),
        pytest.param(100.0, 0.3, False, id="the GPU works: it is load, or a neighbour"),
    ],
)
def test_degraded(factor: float, ratio: float, is_degraded: bool) -> None:
    decision = slowed(factor, ratio)
    assert ("degraded" in decision.reasons) == is_degraded
    if is_degraded:
        assert (decision.reasons[0], decision.granted) == ("degraded", 1)


def test_degraded_on_a_card_of_its_own() -> None:
    assert slowed(100.0, 0.0, slots=1).reasons[0] == "degraded"


# --- leaks ------------------------------------------------------------------------------------------------------------


def leak(
    per_minute_gib: float, free_gib: float, arrivals: tuple[float, float] = (20.0, 20.0), slots: int = 4,
    pods_change: bool = False, minutes: int = 14,
) -> tuple[Problem, ...]:  # fmt: skip
    """Free VRAM falls by so much each minute to `free_gib` under one pod of a, whose arrivals go linearly from the one
    to the other over the last ten minutes."""
    history: list[Snapshot] = []
    for tick in range(minutes * 4 + 1):
        left = minutes - tick / 4
        rate = arrivals[1] + (arrivals[0] - arrivals[1]) * min(1.0, left / 10)
        free = card(free_gib + per_minute_gib * left, pods={"a": 1}, slots=slots)
        load = reading(2 if pods_change and left < 5 else 1, rate * 0.04, rate)
        history.append(snapshot(START_S + TICK_S * tick, {"a": load}, free))
    return run(history, policy(OPERATOR, a={}))[0][-1].problems


@pytest.mark.parametrize(
    ("story", "suspected"),
    [
        pytest.param(partial(leak, 0.1, 6.0), True, id="4.5 GiB left, 0.1 a minute: short in 45 minutes"),
        pytest.param(partial(leak, 0.1, 8.0), False, id="6.5 GiB left: short in 65 minutes, no line now"),
        pytest.param(partial(leak, 0.0, 3.0), False, id="it does not fall"),
        pytest.param(partial(leak, 0.1, 6.0, arrivals=(20.0, 40.0)), False, id="requests double: VRAM may well climb"),
        pytest.param(partial(leak, 0.1, 6.0, arrivals=(40.0, 20.0)), True, id="requests halve, and it climbs"),
        pytest.param(partial(leak, 0.1, 6.0, pods_change=True), False, id="a replica came five minutes ago"),
        pytest.param(partial(leak, 0.1, 6.0, minutes=9), False, id="seen for nine minutes: cannot be said yet"),
    ],
)
def test_leak_suspects(story: Callable[[], tuple[Problem, ...]], suspected: bool) -> None:
    found = [each.text for each in story() if each.signal == "leak-suspect"]
    assert len(found) == suspected
    assert not found or ("GPU-0" in found[0] and "requests of a do not rise" in found[0])


def test_a_full_card_leaks_too() -> None:
    assert leak(0.1, 6.0, slots=1)


def test_who_sits_on_a_leaking_card_and_cannot_be_seen_clears_it() -> None:
    history = [
        snapshot(START_S + TICK_S * tick, {"a": asking(1, 1)}, card(7.4 - 0.025 * tick, pods={"a": 1, "b": 1}))
        for tick in range(57)
    ]
    assert not run(history, policy(OPERATOR, a={}))[0][-1].problems


def test_a_suspect_is_looked_at_once_a_minute() -> None:
    """The trend has a point a minute. VRAM falls by 0.1 GiB a minute for 14 of them; from then on 8 GiB are free."""
    ticks = range(61)  # the last of them 15 minutes after the first
    free = [7.4 - 0.025 * tick if tick <= 56 else 8.0 for tick in ticks]
    history = [
        snapshot(START_S + TICK_S * tick, {"a": asking(1, 1)}, card(free[tick], pods={"a": 1})) for tick in ticks
    ]
    suspected = [bool(plan.problems) for plan in run(history, policy(OPERATOR, a={}))[0]]
    assert suspected[52:] == [True] * 8 + [False]  # from minute 13, with ten minutes and more of trend, to 14:45
