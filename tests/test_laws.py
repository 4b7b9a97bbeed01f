"""The laws of the core as properties over random fleets, named after their laws.

tests/test_planted_bugs.py breaks the core once per law and sees the law's property fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import grpc
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scaler.decision import Decision, Reason, Verdict
from scaler.planning.cards import pool_card
from scaler.planning.memory import Memory, horizon_s
from scaler.planning.watermark import observe
from scaler.policy import OperatorPolicy, PoolPolicy
from scaler.snapshot import CardKey, CardReading, Snapshot, WorkloadReading
from tests import serving
from tests.fleet import SMALL, START_S, TICK_S, card, decide, key, policy, reading, run, snapshot, steady

TARGET = 4.0
# A lesson a minute instead of every ten: short histories suffice.
OPERATOR = OperatorPolicy.model_validate({"timing": {"learnEvery": "1m"}, "pools": [SMALL]})
FLEET = policy(OPERATOR, e5={}, other={})
settings.register_profile("laws", max_examples=150, deadline=None)
settings.load_profile("laws")

replica_counts = st.integers(1, 12)
arrival_rates = st.floats(2.0, 300.0)  # 120 and more a minute: enough to learn from
service_times = st.floats(0.01, 0.1)  # at most 300 x 0.1 x 10 in flight: 75 replicas, below the ceiling of 100
stretches = st.floats(1.0, 30.0)
free_gib = st.one_of(st.floats(0.0, 15.0), st.floats(1.0, 3.0))  # the second: around both watermarks
cards = st.lists(st.builds(card, free_gib, slots=st.sampled_from([None, 2, 4])), min_size=1, max_size=4)
roomy = st.lists(st.builds(card, st.floats(9.0, 15.0), slots=st.none()), min_size=1, max_size=4)


@st.composite
def loads(draw: st.DrawFn) -> tuple[int, float, float]:
    """Replicas, arrivals per second, and requests in flight that these arrivals need (Little's law)."""
    arrivals_per_s, service_time_s = draw(arrival_rates), draw(service_times)
    return draw(replica_counts), arrivals_per_s, arrivals_per_s * service_time_s


@st.composite
def readings(draw: st.DrawFn) -> WorkloadReading:
    """A service in any state: queue, failures, pods not ready."""
    replicas, arrivals_per_s, inflight = draw(loads())
    return reading(
        replicas,
        inflight,
        arrivals_per_s,
        queued=inflight * draw(st.floats(0.0, 1.0)),
        ready=draw(st.integers(0, replicas)),
        failure_per_s=arrivals_per_s * draw(st.sampled_from([0.0, 0.0, 0.001, 0.2, 0.6])),
    )


def stretched(base: WorkloadReading, factor: float, queued_ratio: float) -> WorkloadReading:
    """The same arrivals while neighbours keep the card busy: everything takes `factor` times as long."""
    inflight = ((base.queued or 0.0) + (base.executing or 0.0)) * factor
    return replace(
        base,
        queued=inflight * queued_ratio,
        queued_burst=inflight * queued_ratio,
        executing=inflight * (1 - queued_ratio),
        executing_burst=inflight * (1 - queued_ratio),
        success_time_s=(base.success_time_s or 0.0) * factor,
        gpu_busy=(base.gpu_busy or 0.0) * factor,
    )


def last(history: list[Snapshot], *more: Snapshot, name: str = "e5") -> Decision:
    return decide([*history, *more], FLEET, name)


def granted(decision: Decision) -> int:
    assert decision.granted is not None
    return decision.granted


# --- 1. Neighbours do not move me -------------------------------------------------------------------------------


@given(loads(), stretches, st.floats(0.0, 1.0), readings(), readings(), st.floats(0.0, 1.0), cards)
def test_law_1_neighbours_do_not_move_me(
    load: tuple[int, float, float],
    factor: float,
    queued_ratio: float,
    quiet_neighbour: WorkloadReading,
    busy_neighbour: WorkloadReading,
    utilization_ratio: float,
    pool: list[CardReading],
) -> None:
    replicas, arrivals_per_s, inflight = load
    mine = reading(replicas, inflight, arrivals_per_s)
    history = steady({"e5": mine, "other": quiet_neighbour}, *pool, ticks=30)
    alone = last(history, snapshot(START_S, {"e5": mine, "other": quiet_neighbour}, *pool))
    busy = [replace(each, utilization_ratio=utilization_ratio) for each in pool]
    contended = stretched(mine, factor, queued_ratio)
    crowded = last(history, snapshot(START_S, {"e5": contended, "other": busy_neighbour}, *busy))
    assert crowded.demand == alone.demand


# --- 2. Retries do not move me ----------------------------------------------------------------------------------


def storm(
    replicas: int, fresh_per_s: float, time_s: float, failed_ratio: float, retries: int, wait: float
) -> WorkloadReading:
    """An out-of-memory storm as metrics.md 9.2 has it: attempts = fresh x (1 + p + ... + p^R); `wait` stretches the
    time in the server, since retries wait again."""
    attempts_per_s = fresh_per_s * sum(failed_ratio**k for k in range(retries + 1))
    return reading(
        replicas,
        attempts_per_s * time_s * wait,
        attempts_per_s,
        queued=attempts_per_s * time_s * (wait - 1.0),
        failure_per_s=attempts_per_s * failed_ratio,
    )


@given(
    loads(), st.floats(0.0, 0.95), st.floats(0.0, 0.95), st.integers(0, 2), st.floats(1.0, 10.0), st.floats(1.0, 10.0)
)
def test_law_2_retries_do_not_move_me(
    load: tuple[int, float, float], one: float, two: float, retries: int, wait_one: float, wait_two: float
) -> None:
    replicas, fresh_per_s, inflight = load
    time_s, (fewer, more), (short, long) = inflight / fresh_per_s, sorted([one, two]), sorted([wait_one, wait_two])
    full = card(0.1, pods={"e5": 1, "other": 1})
    history = steady({"e5": reading(replicas, inflight, fresh_per_s)}, full, ticks=30)
    quiet = last(history, snapshot(START_S, {"e5": reading(replicas, inflight, fresh_per_s)}, full))
    mild = storm(replicas, fresh_per_s, time_s, fewer, retries, short)
    wild = storm(replicas, fresh_per_s, time_s, more, retries, long)
    in_mild = last(history, snapshot(START_S, {"e5": mild}, full))
    in_wild = last(history, snapshot(START_S, {"e5": wild}, full))
    assert quiet.demand is not None
    assert in_mild.demand is not None
    assert in_wild.demand is not None
    assert in_wild.demand <= in_mild.demand <= quiet.demand
    successes_need = math.ceil((wild.success_per_s or 0.0) * time_s / TARGET - 0.06)
    assert in_wild.demand >= successes_need


@given(loads(), st.floats(0.05, 0.9), st.floats(2.0, 6.0))
def test_law_2_a_real_rise_in_a_storm_is_seen(
    load: tuple[int, float, float], failed_ratio: float, growth: float
) -> None:
    replicas, fresh_per_s, inflight = load
    time_s, full = inflight / fresh_per_s, card(0.1, pods={"e5": 1})
    before = storm(replicas, fresh_per_s, time_s, failed_ratio, 2, 1.0)
    history = steady({"e5": reading(replicas, inflight, fresh_per_s)}, full, ticks=24)
    history += [snapshot(START_S, {"e5": before}, full)]
    risen = storm(replicas, fresh_per_s * growth, time_s, failed_ratio, 2, 1.0)
    decision = last(history, snapshot(START_S + TICK_S, {"e5": risen}, full))
    assert decision.demand is not None
    assert decision.demand >= math.ceil((risen.success_per_s or 0.0) * time_s / TARGET - 0.06)
    fresh_need = math.ceil(fresh_per_s * growth * time_s / TARGET - 0.06)
    assert decision.demand >= math.floor(0.99 * fresh_need)


# --- 3. A veto freezes, never shrinks -----------------------------------------------------------------------------


@given(replica_counts, st.lists(st.floats(1.0, 20.0), min_size=1, max_size=6), st.floats(0.0, 1.49))
def test_law_3_a_veto_freezes_never_shrinks(replicas: int, excesses: list[float], free: float) -> None:
    """Demand at or above the replicas on a full card, for as long as it lasts: exactly the replicas, every time."""
    loads = [reading(replicas, TARGET * replicas * excess, 100.0 * replicas * excess) for excess in excesses]
    history = steady({"e5": loads[0]}, card(free), ticks=24)
    history += [snapshot(START_S + TICK_S * i, {"e5": each}, card(free)) for i, each in enumerate(loads)]
    plans, _ = run(history, FLEET)
    for each in plans:
        decision = each.decisions[key("e5")]
        assert decision.demand is not None
        assert decision.demand >= replicas
        assert granted(decision) == replicas


@given(st.lists(readings(), min_size=1, max_size=4), readings(), st.floats(0.0, 1.49))
def test_law_3_a_veto_never_raises(past: list[WorkloadReading], now: WorkloadReading, free: float) -> None:
    """On a full card, whatever came before: never above the replicas that were read, nor above demand and window."""
    history = steady({"e5": past[0]}, card(free), ticks=24)
    history += [snapshot(START_S + TICK_S * i, {"e5": each}, card(free)) for i, each in enumerate(past)]
    decision = last(history, snapshot(START_S + TICK_S * len(past), {"e5": now}, card(free)))
    assume(decision.granted is not None)
    assert decision.replicas is not None
    assert granted(decision) <= decision.replicas


@given(loads(), loads(), free_gib)
def test_law_3_scaling_down_always_passes(
    high: tuple[int, float, float], low: tuple[int, float, float], free: float
) -> None:
    replicas = high[0]
    quiet = reading(replicas, low[2], low[1])
    with_room = decide(steady({"e5": quiet}, card(15.0)), FLEET, "e5")
    without = decide(steady({"e5": quiet}, card(free)), FLEET, "e5")
    assume(with_room.demand is not None and with_room.demand <= replicas and without.granted is not None)
    assert without.granted == with_room.granted == with_room.demand


# --- 5. More room never means fewer, more demand never fewer, more failures never more --------------------------


@given(
    readings(),
    cards,
    st.lists(st.floats(0.0, 10.0), min_size=4, max_size=4),
    st.sampled_from([{}, {"vramPerReplica": "1Gi"}]),
)
def test_law_5_more_room_never_means_fewer(
    now: WorkloadReading, pool: list[CardReading], more: list[float], metadata: dict[str, str]
) -> None:
    roomier = [
        replace(each, free_bytes=min(each.total_bytes or 0.0, (each.free_bytes or 0.0) + extra * 2**30))
        for each, extra in zip(pool, more, strict=False)
    ]
    fleet = policy(e5=metadata)
    less, more_room = (decide(steady({"e5": now}, *present, ticks=24), fleet, "e5") for present in (pool, roomier))
    assume(less.granted is not None)
    assert granted(more_room) >= granted(less)


@given(st.lists(readings(), min_size=1, max_size=3), loads(), st.floats(1.0, 5.0), cards)
def test_law_5_more_demand_never_means_fewer(
    past: list[WorkloadReading], load: tuple[int, float, float], growth: float, pool: list[CardReading]
) -> None:
    replicas, arrivals_per_s, inflight = load
    history = steady({"e5": past[0]}, *pool, ticks=24)
    history += [snapshot(START_S + TICK_S * i, {"e5": each}, *pool) for i, each in enumerate(past)]
    end_s = START_S + TICK_S * len(past)
    less = last(history, snapshot(end_s, {"e5": reading(replicas, inflight, arrivals_per_s)}, *pool))
    more = last(history, snapshot(end_s, {"e5": reading(replicas, inflight * growth, arrivals_per_s * growth)}, *pool))
    assert less.demand is not None
    assert more.demand is not None
    assert more.demand >= less.demand
    if less.granted is not None and more.granted is not None:
        assert more.granted >= less.granted


@given(loads(), st.floats(0.0, 0.9), st.floats(0.0, 0.9), st.floats(0.0, 15.0))
def test_law_5_more_failures_never_mean_more(
    load: tuple[int, float, float], one: float, two: float, free: float
) -> None:
    """The same attempts and the same requests in flight; only more of them fail."""
    replicas, arrivals_per_s, inflight = load
    here = card(free, pods={"e5": 1})
    history = steady({"e5": reading(replicas, inflight, arrivals_per_s)}, here, ticks=24)
    fewer, more = (
        last(
            history,
            snapshot(
                START_S, {"e5": reading(replicas, inflight, arrivals_per_s, failure_per_s=p * arrivals_per_s)}, here
            ),
        )
        for p in sorted([one, two])
    )
    assert fewer.demand is not None
    assert more.demand is not None
    assert more.demand <= fewer.demand
    if fewer.granted is not None and more.granted is not None:
        assert more.granted <= fewer.granted


# --- 6. Unknown is not zero ---------------------------------------------------------------------------------------

OWN_FIELDS = [field.name for field in dataclasses.fields(WorkloadReading)]
AGES = ["replicas_age_s", "signals_age_s"]


@given(
    st.lists(readings(), min_size=1, max_size=3),
    readings(),
    cards,
    st.sets(st.sampled_from(OWN_FIELDS), max_size=4),
    st.sets(st.sampled_from(AGES)),
    st.sets(st.integers(0, 3)),
    st.sampled_from(["nothing", "workload", "cards", "stale cards"]),
)
def test_law_6_unknown_is_not_zero(
    past: list[WorkloadReading],
    now: WorkloadReading,
    pool: list[CardReading],
    lost: set[str],
    stale: set[str],
    lost_cards: set[int],
    gone: str,
) -> None:
    """Whatever cannot be seen: no answer, or one that neither goes to zero nor up by it."""
    history = steady({"e5": past[0]}, *pool, ticks=30)
    history += [snapshot(START_S + TICK_S * i, {"e5": each}, *pool) for i, each in enumerate(past)]
    end_s = START_S + TICK_S * len(past)
    whole = last(history, snapshot(end_s, {"e5": now}, *pool))
    blind = replace(now, **dict.fromkeys(lost), **dict.fromkeys(stale - lost, 3600.0))  # type: ignore[arg-type]
    seen_cards = [replace(each, free_bytes=None) if i in lost_cards else each for i, each in enumerate(pool)]
    if gone == "cards":
        seen_cards = []
    if gone == "stale cards":
        seen_cards = [replace(each, age_s=3600.0) for each in seen_cards]
    services = {} if gone == "workload" else {"e5": blind}
    decision = last(history, snapshot(end_s, services, *seen_cards))
    if decision.granted is None:
        assert decision.verdict is Verdict.UNKNOWN
        assert decision.reasons[0] in {Reason.MISSING, Reason.STALE}
        return
    replicas = now.spec_replicas or 0
    assert decision.granted >= 1 or not whole.granted
    assert decision.granted <= max(replicas, whole.granted or 0)


# --- 7. Same history, same plan -----------------------------------------------------------------------------------

FAST_OPERATOR = OperatorPolicy.model_validate(
    {
        "timing": {"tick": "15s", "learnEvery": "60s", "learnWindow": "10m", "watermarkWindow": "5m"},
        "pools": [{"scaleDownWindow": "60s", "releaseAfter": "30s"}],
    }
)
FAST = FAST_OPERATOR.timing


@given(
    st.lists(st.tuples(st.one_of(st.none(), readings()), readings(), free_gib), min_size=8, max_size=12),
    st.integers(0, 40),
)
def test_law_7_same_history_same_plan(
    states: list[tuple[WorkloadReading | None, WorkloadReading, float]], late_ticks: int
) -> None:
    """An instance that never stopped, and one that starts late and rebuilds: lessons in coarse steps over the learning
    window, everything else at full resolution over the horizon. In whatever order their sources list things."""
    fleet = policy(FAST_OPERATOR, e5={}, other={"lowWatermark": "3Gi"})
    total = 120
    history = []
    for index in range(total):
        mine, theirs, free = states[index * len(states) // total]
        services = {"other": theirs} if mine is None else {"e5": mine, "other": theirs}
        history.append(snapshot(START_S + TICK_S * index, services, card(free, pods={"e5": 1}), card(15 - free)))
    first = total - 1 - late_ticks
    fine = int(horizon_s(FAST_OPERATOR) / TICK_S) + 1
    fine_from = first - fine
    coarse_from = fine_from - int(FAST.learn_window_s / TICK_S)
    rebuilt = [s for i, s in enumerate(history[: max(0, fine_from)]) if i >= coarse_from and s.taken_at_s % 60 == 0]
    rebuilt += history[max(0, fine_from) : first]
    reordered = [
        replace(s, workloads=dict(reversed(list(s.workloads.items()))), cards=dict(reversed(list(s.cards.items()))))
        for s in rebuilt + history[first:]
    ]
    steady_plans, _ = run(history, fleet)
    late_plans, _ = run(reordered, fleet, Memory())
    live = late_plans[len(rebuilt) :]
    assert [p.decisions for p in live] == [p.decisions for p in steady_plans[first:]]
    assert [p.pools for p in live] == [p.pools for p in steady_plans[first:]]


# --- 8. One epoch -------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 50)), st.booleans()), min_size=1, max_size=8))
def test_law_8_one_epoch(plans: list[tuple[int | None, bool]]) -> None:
    """Whatever plans follow one another: GetMetrics, IsActive, the stream and the explanation are of the same one."""
    asyncio.run(_one_epoch(plans))


async def _one_epoch(plans: list[tuple[int | None, bool]]) -> None:
    bench = serving.Bench()
    was_active: bool | None = None
    async with bench.stub() as stub:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.GetMetrics(serving.metrics_request())  # from here on the ScaledObject is known
        stream = stub.StreamIsActive(serving.ref())
        for granted_now, is_active in plans:
            decided = (
                serving.unknown() if granted_now is None else serving.decision(granted=granted_now, active=is_active)
            )
            await serving.streams_have_seen(bench.board)
            bench.publish(decided)
            explained = bench.board.in_force().decisions[decided.key].as_json()
            told = [
                await _told(stub.GetMetrics(serving.metrics_request())),
                await _told(stub.IsActive(serving.ref())),
            ]
            if granted_now is None:
                assert (told, explained["granted"]) == (["UNAVAILABLE"] * 2, None)
                continue
            assert told == [explained["granted"], explained["active"]] == [granted_now, is_active]
            if is_active and was_active is False:
                assert await _told(stream.read()) is True
            was_active = is_active
        stream.cancel()


async def _told(call: Awaitable[Any]) -> object:
    """The number, the activity, or the code of the refusal."""
    try:
        reply = await asyncio.wait_for(call, 5)
    except grpc.aio.AioRpcError as refused:
        return refused.code().name
    return reply.metricValues[0].metricValueFloat if hasattr(reply, "metricValues") else reply.result


# --- 9. With room and real demand, it scales ----------------------------------------------------------------------


@given(loads(), st.floats(1.2, 10.0), roomy)
def test_law_9_with_room_and_real_demand_it_scales(
    load: tuple[int, float, float], growth: float, pool: list[CardReading]
) -> None:
    """Arrivals that a replica has never been seen to carry, and room: granted in this tick, all of it."""
    replicas, arrivals_per_s, inflight = load
    history = steady({"e5": reading(replicas, inflight, arrivals_per_s)}, *pool, ticks=30)
    grown = reading(replicas, inflight * growth, arrivals_per_s * growth)
    decision = last(history, snapshot(START_S, {"e5": grown}, *pool))
    needed = min(100, max(1, math.ceil(inflight * growth / TARGET - 0.05)))
    assert decision.demand == needed
    if needed > replicas:
        assert (decision.granted, decision.verdict) == (needed, Verdict.SCALE_UP)


# --- 10. Every number has its reasons -----------------------------------------------------------------------------


@given(
    st.lists(readings(), min_size=1, max_size=3), readings(), cards, st.sets(st.sampled_from(OWN_FIELDS), max_size=2)
)
def test_law_10_every_number_has_its_reasons(
    past: list[WorkloadReading], now: WorkloadReading, pool: list[CardReading], lost: set[str]
) -> None:
    history = steady({"e5": past[0]}, *pool, ticks=24)
    blind = replace(now, **dict.fromkeys(lost))
    decision = last(history, snapshot(START_S, {"e5": blind}, *pool))
    assert decision.reasons
    assert decision.steps
    for step in decision.steps:
        assert step.name
        assert step.text
        assert "\n" not in step.text
        assert step.value is None or math.isfinite(step.value)
    if decision.granted is None:
        return
    last_step = decision.steps[-1]
    assert (last_step.name, last_step.value) == ("granted", decision.granted)
    assert decision.demand is not None
    if decision.granted != decision.demand:
        assert decision.reasons[0] is not Reason.DEMAND
    if decision.granted < decision.demand:
        without = [step.value for step in decision.steps if step.name == "without-limit"]
        assert without
        assert (without[0] or 0) >= decision.demand
    assert json.loads(json.dumps(decision.as_json(), allow_nan=False)) == decision.as_json()


def test_law_7_a_sum_of_free_vram_goes_by_no_order_of_the_cards() -> None:
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floats; a source may name the cards in any order."""
    pool = PoolPolicy(watermark_of="sum")
    cards = [pool_card(CardKey(f"GPU-{n}"), card(free_gib), pool, 45.0) for n, free_gib in enumerate((0.1, 0.2, 0.3))]
    sums = {observe(0.0, each, each, pool, None).free_bytes for each in (cards, cards[::-1])}
    assert len(sums) == 1
