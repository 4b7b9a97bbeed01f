"""Vetoes that stand: room from idle neighbours where the operator lets it be taken, and an alarm in any case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest

from scaler.decision import FleetPlan
from scaler.policy import OperatorPolicy
from scaler.snapshot import CardReading, Snapshot, WorkloadReading
from tests.fleet import START_S, TICK_S, asking, card, key, policy, pool_with, reading, run, snapshot

RECLAIMING = pool_with(reclaimAfter="1m")
FULL = card(1.0, pods={"a": 1, "b": 3, "c": 2}, held_gib={"b": (1.0,) * 3, "c": (2.0,) * 2})


def quiet(running: int, existing: int | None = None) -> WorkloadReading:
    return reading(running, 0.0, 0.0, existing=existing)


def story(
    ticks_idle: int, *, b: WorkloadReading | None = None, c: WorkloadReading | None = None, cards: CardReading = FULL
) -> list[Snapshot]:
    """Twelve minutes in which all have work; then b and c have none for so many ticks, and in the last a starves."""
    busy = {"a": asking(1, 1), "b": asking(3, 3), "c": asking(2, 2)}
    history = [snapshot(START_S + TICK_S * tick, busy, cards) for tick in range(48)]
    for tick in range(48, 48 + ticks_idle):
        is_last = tick == 47 + ticks_idle
        load = {"a": asking(1, 2 if is_last else 1), "b": b or quiet(3), "c": c or quiet(2)}
        history.append(snapshot(START_S + TICK_S * tick, load, cards))
    return history


def granted(
    history: Sequence[Snapshot], operator: OperatorPolicy = RECLAIMING, **metadata: dict[str, str]
) -> tuple[int | None, ...]:
    fleet = policy(operator, **{"a": {}, "b": {}, "c": {}, **metadata})
    decisions = run(history, fleet)[0][-1].decisions
    return tuple(decisions[key(name)].granted for name in ("a", "b", "c"))


@pytest.mark.parametrize(
    ("history", "operator", "metadata", "expected"),
    [
        pytest.param(story(5), pool_with(), {}, (1, 3, 2), id="off by default"),
        pytest.param(story(5), RECLAIMING, {}, (1, 3, 0), id="c holds 2 GiB a replica, b 1: c alone, in one go"),
        pytest.param(story(5, c=asking(2, 2)), RECLAIMING, {}, (1, 0, 2), id="c has work: b"),
        pytest.param(story(4), RECLAIMING, {}, (1, 3, 2), id="idle for 45 s of 60"),
        pytest.param(story(5), RECLAIMING, {"c": {"minReplicas": "1"}}, (1, 3, 1), id="never below minReplicas"),
        pytest.param(story(5), RECLAIMING, {"c": {"minReplicas": "2"}}, (1, 0, 2), id="c is at its floor: b"),
        pytest.param(story(5, c=quiet(1)), RECLAIMING, {}, (1, 3, 1), id="one of c is going already: wait for that"),
        pytest.param(story(5, cards=card(9.0)), RECLAIMING, {}, (2, 3, 2), id="there is room: nobody starves"),
        pytest.param(story(5)[:-1], RECLAIMING, {}, (1, 3, 2), id="nobody asks for more"),
    ],
)  # fmt: skip
def test_reclaim(
    history: list[Snapshot],
    operator: OperatorPolicy,
    metadata: dict[str, dict[str, str]],
    expected: tuple[int, ...],
) -> None:
    """Without it, all idle replicas would stay for scaleDownWindow: 5 minutes."""
    assert granted(history, operator, **metadata) == expected


def test_also_where_it_is_the_room_that_starves() -> None:
    """No veto: 3 GiB are free, and 2 more do not fit into 1.5."""
    roomy = replace(FULL, free_bytes=3.0 * 2**30)
    assert granted(story(5, cards=roomy), a={"vramPerReplica": "2Gi"}) == (1, 3, 0)


def test_who_gives_way_is_told_why() -> None:
    fleet = policy(RECLAIMING, a={}, b={}, c={})
    decision = run(story(5), fleet)[0][-1].decisions[key("c")]
    assert (decision.verdict, decision.reasons[0]) == ("scale-down", "reclaimed")
    step = next(step for step in decision.steps if step.name == "reclaimed")
    assert step.value == 2
    assert "models/a wants for VRAM" in step.text


def test_the_next_one_gives_way_when_the_first_has_gone() -> None:
    """c goes; as long as its pods may still end (2 minutes) b stays. Then b, since a starves still."""
    history, results = story(5), []
    for tick in range(53, 63):
        load = {"a": asking(1, 2), "b": quiet(3), "c": quiet(0)}
        history.append(snapshot(START_S + TICK_S * tick, load, card(1.0, pods={"a": 1, "b": 3})))
        results.append(granted(history)[1])
    assert results == [3] * 8 + [0] * 2


def test_a_vllm_neighbour_counts_with_its_share() -> None:
    """b holds 1 GiB a replica by its pods; nobody shows c's, whose share is half of 15 GiB."""
    cards = card(1.0, pods={"a": 1, "b": 3, "c": 2}, held_gib={"b": (1.0,) * 3})
    assert granted(story(5, c=replace(quiet(2), gpu_memory_utilization=0.5), cards=cards)) == (1, 3, 0)


def test_what_was_reclaimed_is_not_given_back_under_the_veto() -> None:
    """c was told 0, then a's demand ends. c's two replicas were read 5 s ago, before the HPA can have acted: telling 2
    may start again what has gone, on a full card."""
    history = story(5)
    calm = {"a": asking(1, 1), "b": quiet(3), "c": quiet(2)}
    assert granted([*history, snapshot(START_S + TICK_S * 53, calm, FULL)])[2] in (0, None)


# --- alarms -----------------------------------------------------------------------------------------------------------


def after(minutes: float, *cards: CardReading, load: WorkloadReading | None = None, **pool: object) -> FleetPlan:
    """The plan after so long of the same."""
    history = [
        snapshot(START_S + TICK_S * tick, {"a": load or asking(1, 2)}, *cards) for tick in range(int(minutes * 4) + 1)
    ]
    return run(history, policy(pool_with(**pool), a={}))[0][-1]


@pytest.mark.parametrize(
    ("story", "words"),
    [
        pytest.param(partial(after, 29.75, card(1.0)), None, id="a veto of 29 min 45 s"),
        pytest.param(partial(after, 30, card(1.0)), "short", id="of 30 minutes"),
        pytest.param(partial(after, 5, card(1.0), alarmAfter="5m"), "short", id="of 5, where the operator says so"),
        pytest.param(partial(after, 90, card(1.0), alarmAfter="24h"), "short", id="no more is remembered"),
        pytest.param(partial(after, 30), "cannot be seen", id="blind for 30 minutes: no card"),
        pytest.param(partial(after, 30, card(9.0, age_s=300)), "cannot be seen", id="blind for 30 minutes: stale"),
        pytest.param(partial(after, 30, card(9.0, age_s=300), blind="allow"), None, id="blind, and allowed: no veto"),
        pytest.param(partial(after, 60, card(9.0)), None, id="room"),
    ],
)  # fmt: skip
def test_a_veto_that_stands_is_an_alarm(story: Callable[[], FleetPlan], words: str | None) -> None:
    plan = story()
    assert plan.pools["default"].alarm == (words is not None)
    found = [each.text for each in plan.problems if each.signal == "veto"]
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_a_storm_that_stands_is_an_alarm() -> None:
    """2 GiB are free, between the watermarks, and a third of the attempts fail for lack of VRAM."""
    plan = after(45, card(2.0, pods={"a": 1}), load=asking(1, 2, failure_per_s=0.3))
    assert plan.pools["default"].alarm


def test_no_alarm_without_a_veto() -> None:
    timing = {"tick": "1m", "staleAfter": "1m", "watermarkWindow": "1m"}
    operator = OperatorPolicy.model_validate({"timing": timing})
    plan = run([snapshot(START_S, {"a": asking(1, 1)}, card(9.0))], policy(operator, a={}))[0][-1]
    assert (plan.pools["default"].vetoed, plan.pools["default"].alarm) == (False, False)


def test_an_alarm_says_no_more_than_was_seen() -> None:
    plan = after(60, card(1.0), alarmAfter="24h")
    assert "1440" not in plan.problems[0].text
