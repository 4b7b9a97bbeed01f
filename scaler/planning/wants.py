"""What one service wants by itself: demand from its own load, the scale-down window, and what bars it from more."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from msgspec import Struct

from scaler.decision import Decision, Reason, Step, StepMaker, Verdict
from scaler.planning.barriers import Barrier
from scaler.planning.cards import Hosts
from scaler.planning.promises import ACTED_ON_S, PROMISE_S, Promise, told_less, told_more
from scaler.planning.replicas import (
    Window,
    least_told,
    load_of,
    replicas_for,
    scale_down_window,
)
from scaler.planning.steps import demand_steps, load_steps, watermark_steps
from scaler.planning.watermark import PoolMoment, Watch, tighter, watch
from scaler.policy import OperatorPolicy, PoolPolicy, ServiceKey, ServicePolicy, Terms
from scaler.signals.derive import Derivation, Moment
from scaler.signals.freshness import Fault, covers_all_pods, replicas_fault, signals_fault
from scaler.snapshot import Snapshot, WorkloadKey, WorkloadReading


class SeenPool(NamedTuple):
    """A pool at one moment: its policy, its past and now, its watermark's state, and what else bars it."""

    policy: PoolPolicy
    moments: tuple[PoolMoment, ...]
    watch: Watch
    barrier: Barrier | None


class Seen(Struct, frozen=True):
    """All that one service's wish looks at: its terms, the readings of all, what of its own was derived, its past, its
    pool, and the cards that pods sit on."""

    time_s: float
    terms: Terms
    snapshot: Snapshot
    workload: WorkloadKey
    derivation: Derivation | None
    moments: tuple[Moment, ...]
    promises: tuple[Promise, ...]
    pool: SeenPool
    hosts: Hosts


class Want(Struct):
    """A service that wants `unlimited` replicas of its Deployment (`workload`), and had `replicas` when they were read.

    Attributes:
        demand: what its own load needs, within floor and ceiling; `raw` before those, `crowded` with what neighbours
            add.
        barrier: why it gets no more than run, whatever room there is; None: the room decides.
        is_as_read: `unlimited` is the replicas as they were read, for want of knowing better.
        told_less: says in a step why fewer may run than were read, if so; an answer of "what runs" is then none.
        told_more: the replicas that KEDA may have been told lately, above those that were read; else those.
        least_now: the least that may run by now: those that were read, or fewer, where less was told lately.
        least_soon: the least that it may be told as long as anything granted now is on its way.
        is_idle: nothing of its own was in flight for the pool's reclaimAfter.
        steps / reasons: what led here; the answer adds to them.
    """

    key: ServiceKey
    workload: WorkloadKey
    service: ServicePolicy
    terms: Terms
    pool: PoolPolicy
    time_s: float
    replicas: int
    demand: int
    raw: int
    crowded: int
    unlimited: int
    barrier: Reason | None
    is_as_read: bool
    told_less: Callable[[], Step | None]
    told_more: int
    least_now: int
    least_soon: int
    is_idle: bool
    steps: list[StepMaker]
    reasons: list[Reason]


def unknown(
    key: ServiceKey,
    service: ServicePolicy,
    time_s: float,
    text: str,
    reason: Reason = Reason.MISSING,
    replicas: int | None = None,
) -> Decision:
    """No answer: KEDA gets UNAVAILABLE with this text, the HPA holds exactly what it has."""
    steps = (Step("unknown", None, "", text),)
    return Decision(time_s, key, service.pool, replicas, None, None, False, Verdict.UNKNOWN, (reason,), steps)


def want(key: ServiceKey, service: ServicePolicy, operator: OperatorPolicy, seen: Seen) -> Want | Decision:
    """What the service wants at this moment, or its decision where its readings leave no question; never raises for
    readings of whatever kind."""
    pool, stale_after_s, time_s = seen.pool.policy, operator.timing.stale_after_s, seen.time_s
    reading = seen.snapshot.workloads.get(seen.workload)
    fault = replicas_fault(reading, stale_after_s)
    if fault is not None or reading is None or reading.spec_replicas is None:
        reason, text = fault or Fault(Reason.MISSING, "no reading")
        return unknown(key, service, seen.time_s, text, reason)
    # What was derived was derived from signals without a fault.
    fault = signals_fault(reading, stale_after_s) if seen.derivation is None else None
    if fault is not None and fault.reason is not Reason.WARMING:
        return unknown(key, service, seen.time_s, fault.text, fault.reason, reading.spec_replicas)
    if fault is not None or seen.derivation is None:
        return _without_signals(key, service, pool, seen, reading, reading.spec_replicas, fault)

    replicas, derivation, terms = reading.spec_replicas, seen.derivation, seen.terms
    load = load_of(derivation.moment, terms)
    raw = replicas_for(load, terms)
    demand = terms.bounded(raw)
    steps: list[StepMaker] = [
        partial(load_steps, derivation, seen.workload, seen.snapshot.workloads, seen.hosts, load, terms),
        partial(demand_steps, raw, demand, terms),
    ]
    reasons: list[Reason] = []
    unlimited, is_as_read = demand, False
    futile = derivation.futile
    if futile is not None:
        unlimited, is_as_read = replicas, True
        reasons.append(futile.reason)
        steps.append(Step(futile.reason, None, "", f"{futile.text}: more replicas do not help, nor do fewer"))
    elif demand < replicas:
        window = scale_down_window(seen.moments, seen.time_s, terms)
        unlimited, is_as_read = _held_by_window(demand, replicas, window, reading, pool, steps, reasons)

    barrier = _barrier(service, pool, seen, reading, unlimited > replicas, steps)
    least_now = told_less(seen.promises, replicas, -math.inf)
    own_ratio = derivation.moment.own_ratio
    crowded = raw if own_ratio == 1.0 else replicas_for(derivation.moment.crowded, terms)
    # By position: there is one for each service at every tick.
    return Want(
        key,
        seen.workload,
        service,
        terms,
        pool,
        time_s,
        replicas,
        demand,
        raw,
        crowded,
        unlimited,
        barrier,
        is_as_read,
        partial(_told_less, reading, replicas, unlimited, seen),
        told_more(seen.promises, replicas, time_s),
        least_now,
        _least_soon(demand, least_now, seen),
        pool.reclaim_after_s is not None and _is_idle(seen, pool.reclaim_after_s),
        steps,
        reasons,
    )


def _without_signals(
    key: ServiceKey,
    service: ServicePolicy,
    pool: PoolPolicy,
    seen: Seen,
    reading: WorkloadReading,
    replicas: int,
    fault: Fault | None,
) -> Decision:
    """No replica is ready, so nothing of its own can be in flight: hold at what is asked for, zero included."""
    steps = [Step("replicas", replicas, "replicas", "spec.replicas")]
    told_less = _told_less(reading, replicas, replicas, seen)
    if told_less is not None:
        return unknown(key, service, seen.time_s, told_less.text, Reason.STALE, replicas)
    text = fault.text if fault is not None and replicas > 0 else "no replicas, and no signal from before the service"
    steps.append(Step("granted", replicas, "replicas", f"held: {text}"))
    return Decision(
        seen.time_s, key, service.pool, replicas, replicas, replicas, replicas > 0, Verdict.HOLD,
        (Reason.WARMING if replicas > 0 else Reason.MISSING,), tuple(steps),
    )  # fmt: skip


def _held_by_window(
    demand: int,
    replicas: int,
    window: Window,
    reading: WorkloadReading,
    pool: PoolPolicy,
    steps: list[StepMaker],
    reasons: list[Reason],
) -> tuple[int, bool]:
    """Demand below the replicas: down only when it was lower over the whole window and all pods are seen.

    True where the replicas are held as they were read, for want of knowing better.
    """
    if not covers_all_pods(reading):
        text = f"{reading.scraped_pods} of {reading.ready_replicas} ready pods scraped: a lower bound, no scale-down"
        steps.append(Step("coverage", reading.scraped_pods, "pods", text))
        reasons.append(Reason.MISSING)
        return replicas, True
    if not window.covered:
        text = f"less than {pool.scale_down_window_s:g} s seen so far: no scale-down yet"
        steps.append(Step("scale-down-window", replicas, "replicas", text))
        reasons.append(Reason.SCALE_DOWN_WINDOW)
        return replicas, True
    held = max(demand, min(replicas, window.replicas))
    if held > demand:
        text = f"demand was {window.replicas} within the last {pool.scale_down_window_s:g} s"
        steps.append(Step("scale-down-window", window.replicas, "replicas", text))
        reasons.append(Reason.SCALE_DOWN_WINDOW)
    return held, False


def _barrier(
    service: ServicePolicy,
    pool: PoolPolicy,
    seen: Seen,
    reading: WorkloadReading,
    wants_more: bool,
    steps: list[StepMaker],
) -> Reason | None:
    """Why the service gets no more than what runs: the watermark (its own where that is tighter), what bars the whole
    pool, or counters without which its load cannot be told from its neighbours'."""
    now, state = seen.pool.moments[-1], seen.pool.watch
    low, high = pool.low_watermark, pool.high_watermark
    if service.low_watermark is not None:
        low, high = tighter(pool, service.low_watermark, now.total_bytes)
    if low is not pool.low_watermark:
        state = watch(seen.pool.moments, low, high, pool)
    steps.append(partial(watermark_steps, now, state, low, high, pool))
    if state.vetoed:
        if now.free_bytes is not None:
            return Reason.LOW_VRAM
        return Reason.MISSING if now.cards == 0 else Reason.STALE
    if seen.pool.barrier is not None:
        steps.append(seen.pool.barrier.step)
        return seen.pool.barrier.reason
    derivation = seen.derivation
    if not wants_more or derivation is None or not derivation.taught:
        return None
    if derivation.arrivals is None or reading.inflight_growth_per_s is None:
        text = "request counters are gone: own load and neighbours' cannot be told apart, no scale-up"
        steps.append(Step("arrivals", None, "1/s", text))
        return Reason.MISSING
    return None


def _told_less(reading: WorkloadReading, replicas: int, answer: int, seen: Seen) -> Step | None:
    """Whether KEDA was told less than this answer since the replicas were read: then they may be fewer by now, and a
    number above them would be a scale-up."""
    age_s = reading.replicas_age_s or 0.0
    least = least_told(seen.moments, seen.time_s, replicas, seen.time_s - age_s, seen.terms)
    least = min(least, told_less(seen.promises, replicas, seen.time_s - age_s - ACTED_ON_S))
    if least >= min(replicas, answer):
        return None
    text = f"{replicas} were read {age_s:.0f} s ago, {least} told since: no answer until it is seen what runs"
    return Step("told-since", least, "replicas", text)


def _least_soon(demand: int, replicas: int, seen: Seen) -> int:
    """The least that the service can be told within PROMISE_S: with a window of 300 s, no demand of the last 210 s will
    have left it by then. Its pods may make place for what is granted now."""
    terms = seen.terms
    if terms.scale_down_window_s <= PROMISE_S:
        return min(replicas, terms.floor)
    if demand >= replicas:
        return replicas
    window = scale_down_window(seen.moments, seen.time_s, terms, terms.scale_down_window_s - PROMISE_S)
    return min(replicas, window.replicas) if window.covered else replicas


def _is_idle(seen: Seen, for_s: float) -> bool:
    """Whether nothing of its own was in flight for so long, all of it seen."""
    window = scale_down_window(seen.moments, seen.time_s, seen.terms, for_s)
    return window.covered and window.raw == 0
