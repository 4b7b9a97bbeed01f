"""What bars a pool or a service from more: failures for lack of VRAM, cards about to be short, work that replicas do
not help, vetoes that stand. Cards have 15 GiB: the low watermark is 1.5, the high one 2.25."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaler.decision import Decision, FleetPlan
from scaler.planning.cards import pool_card
from scaler.planning.forecast import falls_per_s, noted, soonest
from scaler.policy import OperatorPolicy
from scaler.quantity import GIB
from scaler.snapshot import CardKey, CardReading, Snapshot, WorkloadReading
from tests.fleet import (
    START_S,
    TICK_S,
    asking,
    card,
    decide,
    key,
    policy,
    pool_with,
    reading,
    run,
    snapshot,
    steady,
    workload,
)

SHORT = card(2.0, pods={"a": 1})
POOL = pool_with(defaultFootprint="64Mi")


def plans(history: list[Snapshot], operator: OperatorPolicy = POOL) -> list[FleetPlan]:
    return run(history, policy(operator, a={}, b={}))[0]


def step(decision: Decision, name: str) -> str:
    return next(each.text for each in decision.steps if each.name == name)


# --- storm breaker ----------------------------------------------------------------------------------------------------


def failing(percent: float) -> WorkloadReading:
    return asking(1, 1, failure_per_s=percent / 100)


@pytest.mark.parametrize(
    ("percent", "cards", "barred"),
    [
        pytest.param(1.0, [SHORT], True, id="1 in 100 attempts, on a card below the high watermark"),
        pytest.param(0.99, [SHORT], False, id="fewer are everyday failures"),
        pytest.param(50.0, [card(8, pods={"a": 1})], False, id="half of them, but no card is short: no evidence"),
        pytest.param(50.0, [card(8, pods={"a": 1}), card(2, pods={"b": 1})], False, id="short is another's card"),
        pytest.param(
            50.0, [card(8), card(2, pods={"b": 1})], True, id="nobody names a's card: it may be the short one"
        ),
    ],
)
def test_what_is_a_storm(percent: float, cards: list[CardReading], barred: bool) -> None:
    """Service b asks for one more on the same pool, and none of its own requests fail."""
    result = plans([snapshot(START_S + TICK_S, {"a": failing(percent), "b": asking(1, 2)}, *cards)])[-1]
    decision = result.decisions[key("b")]
    assert decision.reasons[0] == ("oom-storm" if barred else "demand")
    assert decision.granted == (1 if barred else 2)


def test_a_storm_names_its_cards_and_not_its_services() -> None:
    """The failing service sits on both cards; one of them is short."""
    cards = card(8, pods={"a": 1, "b": 1}), card(2, pods={"a": 1, "b": 1})
    history = [snapshot(START_S + TICK_S, {"a": failing(50), "b": asking(1, 2)}, *cards)]
    text = step(plans(history)[-1].decisions[key("b")], "oom-storm")
    assert text == "requests fail for lack of VRAM on GPU-1, seen 0 s ago: no scale-up until it is quiet"


def test_a_storm_tells_mig_instances_apart() -> None:
    cards = {CardKey("GPU-0", instance): SHORT for instance in ("1", "2")}
    readings = {workload("a"): failing(50), workload("b"): asking(1, 2)}
    result = plans([Snapshot(START_S + TICK_S, readings, cards)])[-1]
    assert "GPU-0, GPU-0" not in step(result.decisions[key("b")], "oom-storm")


@pytest.mark.parametrize(("after_s", "granted"), [(105.0, 1), (120.0, 2)])
def test_a_storm_is_over_after_the_quiet_time(after_s: float, granted: int) -> None:
    """releaseAfter is 2 minutes; the card stays between the watermarks."""
    history = [snapshot(START_S + TICK_S, {"a": failing(50), "b": asking(1, 1)}, SHORT)]
    history += [
        snapshot(START_S + TICK_S * (2 + i), {"a": asking(1, 1), "b": asking(1, 2)}, SHORT)
        for i in range(int(after_s // TICK_S))
    ]
    assert plans(history)[-1].decisions[key("b")].granted == granted


def test_a_storm_lets_everybody_scale_down() -> None:
    history = steady({"a": failing(50), "b": asking(3, 1)}, SHORT)
    assert plans(history)[-1].decisions[key("b")].granted == 1


def test_another_pool_has_no_storm() -> None:
    operator = OperatorPolicy.model_validate(
        {"pools": [{"name": "l4", "models": "NVIDIA L4"}, {"name": "default"}], "settle": "0s"}
    )
    l4 = replace(card(20, pods={"b": 1}), model="NVIDIA L4", total_bytes=24.0 * GIB)
    fleet = policy(operator, a={}, b={"pool": "l4", "vramPerReplica": "1Gi"})
    history = [snapshot(START_S + TICK_S, {"a": failing(50), "b": asking(1, 2)}, SHORT, l4)]
    assert decide(history, fleet, "b").granted == 2


# --- forecast ---------------------------------------------------------------------------------------------------------


def minutes(*free_gib: float) -> tuple[tuple[float, float], ...]:
    return tuple((60.0 * index, free * GIB) for index, free in enumerate(free_gib))


@pytest.mark.parametrize(
    ("free_gib", "per_minute_gib"),
    [
        pytest.param([10, 9, 8, 7, 6, 5, 4, 3], 1.0, id="steady: 1 a minute"),
        pytest.param([10, 9, 8, 7, 6, 5, 4], 0.0, id="seven points: too few"),
        pytest.param([10, 10, 10, 10, 4, 4, 4, 4], 0.0, id="one step of 6: a replica that loads"),
        pytest.param([10, 9, 10, 9, 10, 9, 10, 9], 1 / 7, id="noise: the fall from end to end"),
        pytest.param([9, 10, 9, 10, 9, 10, 9, 9], 0.0, id="noise: ends as it began"),
        pytest.param([3, 4, 5, 6, 7, 8, 9, 10], 0.0, id="it rises"),
        pytest.param([10, 9, 8, 7, 6, 5, 4, 10], 0.0, id="it fell, and is back"),
    ],
)
def test_how_fast_it_falls(free_gib: list[float], per_minute_gib: float) -> None:
    points = minutes(*free_gib)
    assert falls_per_s(points, points[-1][0], points[-1][1]) == pytest.approx(per_minute_gib * GIB / 60)


def falling_to(free_gib: float, per_minute_gib: float, more_ticks: int = 0) -> list[Snapshot]:
    """Twelve minutes of a steady fall that ends at `free_gib`; then it stays. Service a asks for one more all along."""
    history = []
    for tick in range(48 + more_ticks):
        free = free_gib + per_minute_gib * max(0, 47 - tick) * TICK_S / 60
        history.append(snapshot(START_S + TICK_S * tick, {"a": asking(1, 2)}, card(free, pods={"a": 1}, slots=4)))
    return history


def at_minutes(free_gib: float, per_minute_gib: float) -> list[Snapshot]:
    """The same, a snapshot a minute."""
    return [
        snapshot(
            START_S + 60 * i, {"a": asking(1, 2)}, card(free_gib + per_minute_gib * (11 - i), pods={"a": 1}, slots=4)
        )
        for i in range(12)
    ]


@pytest.mark.parametrize(
    ("free_gib", "startup", "barred"),
    [
        pytest.param(2.0, "180s", True, id="0.5 above, 0.25 a minute: crosses in 120 s of 180"),
        pytest.param(2.25, "180s", False, id="0.75 above: crosses in 180 s, when the replica is resident"),
        pytest.param(2.25, "181s", True, id="and in the same 180 s of 181"),
        pytest.param(4.0, "180s", False, id="2.5 above: crosses in 600 s"),
        pytest.param(4.0, "15m", True, id="a replica that takes 15 minutes is too late"),
        pytest.param(2.0, "0s", False, id="startupTime 0: no forecast"),
    ],
)
def test_a_card_that_will_be_short_is_short(free_gib: float, startup: str, barred: bool) -> None:
    decision = plans(at_minutes(free_gib, 0.25), pool_with(startupTime=startup, defaultFootprint="64Mi"))[-1]
    assert decision.decisions[key("a")].reasons[0] == ("exhaustion-forecast" if barred else "demand")


def test_a_card_that_takes_nobody_is_no_forecast() -> None:
    falling = (card(2.0 + 0.25 * (11 - i), pods={"x": 2}, slots=2) for i in range(12))
    history = [snapshot(START_S + 60 * i, {"a": asking(1, 2)}, each, card(10)) for i, each in enumerate(falling)]
    assert plans(history)[-1].decisions[key("a")].granted == 2


@pytest.mark.parametrize(("quiet_ticks", "barred"), [(1, True), (32, False)])
def test_the_forecast_has_hysteresis(quiet_ticks: int, barred: bool) -> None:
    """The fall ends: after two minutes (8 ticks) without a crossing ahead, scale-ups pass again. The trend over ten
    minutes forgets it within five more, when half of the steps are flat."""
    decision = plans(falling_to(2.4, 0.5, quiet_ticks))[-1].decisions[key("a")]
    assert (decision.granted == 1) == barred


def test_the_forecast_stands_for_the_quiet_time() -> None:
    """Its card is roomy at once, as when a neighbour goes: barred for 2 minutes more."""
    history = falling_to(2.4, 0.5)
    roomy = [
        snapshot(history[-1].taken_at_s + TICK_S * i, {"a": asking(1, 2)}, card(12.0, pods={"a": 1}, slots=4))
        for i in range(1, 9)
    ]
    results = plans([*history, *roomy])
    assert [each.decisions[key("a")].granted for each in results[-9:]] == [1] * 8 + [2]
    assert "105 s ago" in step(results[-2].decisions[key("a")], "forecast")


def test_a_point_a_minute_that_cannot_be_seen_is_no_point() -> None:
    trends = noted({}, 0.0, {CardKey("GPU-0"): card(9)}, 45.0)
    assert noted(trends, 60.0, {CardKey("GPU-0"): card(1, age_s=60)}, 45.0) == trends
    assert noted(trends, 661.0, {}, 45.0) == {}


def test_the_soonest_is_first() -> None:
    free_gib = {CardKey("GPU-0"): 3.0, CardKey("GPU-1"): 2.0}
    cards = [pool_card(key, card(free), POOL.pools[0], 45.0) for key, free in free_gib.items()]
    trends = {key: minutes(*(free + 7 - i for i in range(8))) for key, free in free_gib.items()}
    found = soonest(420.0, cards, trends, 180.0)
    assert [(each.card.uuid, round(each.crosses_in_s)) for each in found] == [("GPU-1", 30), ("GPU-0", 90)]


@pytest.mark.parametrize(("within_s", "found"), [(90.0, 0), (91.0, 1)])
def test_a_card_crosses_within_that_time_or_not(within_s: float, found: int) -> None:
    """1 GiB a minute and one step of 2 more: 3 GiB are 1.5 above the watermark, for 90 s."""
    trends = {CardKey("GPU-0"): minutes(12, 11, 10, 9, 8, 5, 4, 3)}
    seen = pool_card(CardKey("GPU-0"), card(3.0), POOL.pools[0], 45.0)
    assert len(soonest(420.0, [seen], trends, within_s)) == found


# --- warming ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "ready", "were_ready", "carrying"),
    [
        pytest.param(4, 4, 4, 4, id="all ready"),
        pytest.param(4, 2, 2, 2, id="two have yet to start: they carry nothing"),
        pytest.param(4, 2, 4, 4, id="two became unready: no reason for more"),
        pytest.param(3, 2, 4, 3, id="one of those is asked for no longer"),
        pytest.param(2, 4, 4, 4, id="going down: those that are ready carry"),
        pytest.param(2, 0, 0, 2, id="none was ever ready: those that are asked for"),
    ],
)
def test_who_carries_the_arrivals(asked: int, ready: int, were_ready: int, carrying: int) -> None:
    history = [
        snapshot(START_S, {"a": asking(were_ready, 1)}, card(9)),
        snapshot(START_S + TICK_S, {"a": asking(asked, 1, ready=ready)}, card(9)),
    ]
    flows = run(history, policy(POOL, a={}))[1].workloads[workload("a")].flows
    assert flows.replicas[-1] == carrying


def test_half_of_the_replicas_pending_do_not_lower_the_demand() -> None:
    """2 replicas carry 50/s each with 6 in flight. At 200/s four are asked for; while two of these start, the other two
    have 16 in flight: four are needed, and neither the pending pods nor the neighbours are credited for them."""
    history = steady({"a": reading(2, 6.0)}, card(9, pods={"a": 2}), ticks=240)
    history += [
        snapshot(START_S + TICK_S * i, {"a": reading(4, 16.0, 200.0, ready=2)}, card(9, pods={"a": 2}))
        for i in range(4)
    ]
    decision = decide(history, policy(POOL, a={}), "a")
    assert (decision.demand, decision.granted) == (4, 4)


def test_what_starts_is_no_reason_for_more() -> None:
    """Four are asked for and needed, two of them start: hold, tick after tick."""
    history = steady({"a": asking(4, 4, ready=2)}, card(9))
    assert {each.decisions[key("a")].granted for each in plans(history)} == {4}
