"""One service's decision: demand from its own load, then window, watermark and room, each step with its numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from scaler.decision import Decision, Reason, Step, Verdict
from scaler.planning.headroom import fitting_replicas
from scaler.planning.replicas import (
    Window,
    bounded,
    least_told,
    own_load,
    replicas_for,
    scale_down_window,
    starting_replicas,
    undiscounted,
)
from scaler.planning.steps import load_steps, room_step, watermark_step
from scaler.planning.watermark import PoolMoment, Watch, tighter, watch
from scaler.policy import OperatorPolicy, PoolPolicy, ServiceKey, ServicePolicy
from scaler.signals.derive import Derivation, Moment
from scaler.signals.freshness import Fault, covers_all_pods, replicas_fault, signals_fault
from scaler.signals.gpu_share import gpu_share
from scaler.snapshot import CardReading, WorkloadReading


@dataclass(frozen=True, slots=True)
class Seen:
    """All that one service's decision looks at: its reading now, its past, its pool's past, its pods' cards."""

    time_s: float
    reading: WorkloadReading | None
    derivation: Derivation | None
    moments: tuple[Moment, ...]
    pool_moments: tuple[PoolMoment, ...]
    watch: Watch
    cards: list[CardReading]


class Room(NamedTuple):
    """The most replicas that the cards allow, and what binds where that is less than wanted.

    `replicas` is None where the answer would have to be the replicas that run, and it is not known how many do.
    """

    replicas: int | None
    reason: Reason | None


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


def decide(key: ServiceKey, service: ServicePolicy, operator: OperatorPolicy, seen: Seen) -> Decision:
    """The decision of one service at one moment; never raises for readings of whatever kind."""
    pool, stale_after_s, reading = operator.pool(service.pool), operator.timing.stale_after_s, seen.reading
    fault = replicas_fault(reading, stale_after_s)
    if fault is not None or reading is None or reading.spec_replicas is None:
        reason, text = fault or Fault(Reason.MISSING, "no reading")
        return unknown(key, service, seen.time_s, text, reason)
    fault = signals_fault(reading, stale_after_s)
    if fault is not None and fault.reason is not Reason.WARMING:
        return unknown(key, service, seen.time_s, fault.text, fault.reason, reading.spec_replicas)
    if fault is not None or seen.derivation is None:
        return _without_signals(key, service, pool, seen, reading.spec_replicas, fault)

    replicas, derivation = reading.spec_replicas, seen.derivation
    load = own_load(derivation.moment, pool)
    wanted = replicas_for(load, service, pool)
    demand = bounded(wanted, service, pool)
    share = gpu_share(reading, seen.cards)
    steps = [
        Step("replicas", replicas, "replicas", f"spec.replicas, read {reading.replicas_age_s:.0f} s ago"),
        *load_steps(derivation, reading, share, load, service, pool),
        Step("demand", demand, "replicas", _demand_text(wanted, demand, service, pool)),
    ]

    reasons: list[Reason] = []
    crowded = replicas_for(undiscounted(derivation.moment), service, pool)
    if demand >= replicas:
        unlimited, is_as_read = demand, False
    else:
        window = scale_down_window(seen.moments, seen.time_s, service, pool)
        unlimited, is_as_read = _held_by_window(demand, replicas, window, reading, pool, steps, reasons)
    room = _room(service, pool, seen, replicas, unlimited, is_as_read, steps)
    if room.replicas is None:
        return _in_doubt(key, service, seen, replicas, demand, steps)
    granted = min(unlimited, room.replicas)
    if room.reason is not None and granted < unlimited:
        reasons.insert(0, room.reason)
        text = f"without {room.reason} it would be {unlimited}"
        steps.append(Step("without-limit", unlimited, "replicas", text))

    if not reasons or granted > replicas:
        reasons.append(Reason.DEMAND)
    if wanted != demand:
        reasons.append(Reason.FLOOR if wanted < demand else Reason.CEILING)
    if crowded > wanted:
        reasons.append(Reason.CONTENDED)
        text = "what it would be if waiting that neighbours cause counted as own demand"
        steps.append(Step("with-contention", bounded(crowded, service, pool), "replicas", text))
    steps.append(Step("granted", granted, "replicas", "what KEDA is told"))
    has_demand = demand > 0 or (replicas > 0 and granted > 0)
    return Decision(
        time_s=seen.time_s,
        key=key,
        pool=pool.name,
        replicas=replicas,
        demand=demand,
        granted=granted,
        active=has_demand if replicas > 0 else granted > 0,
        verdict=_verdict(demand, replicas, granted),
        reasons=tuple(reasons),
        steps=tuple(steps),
    )


def _in_doubt(
    key: ServiceKey, service: ServicePolicy, seen: Seen, replicas: int, demand: int | None, steps: list[Step]
) -> Decision:
    """The answer would be what runs, and the last step says why that is not known. A number above it would be a
    scale-up; without an answer the HPA holds exactly what it has."""
    answer = unknown(key, service, seen.time_s, steps[-1].text, Reason.STALE, replicas)
    return replace(answer, demand=demand, steps=tuple(steps))


def _without_signals(
    key: ServiceKey, service: ServicePolicy, pool: PoolPolicy, seen: Seen, replicas: int, fault: Fault | None
) -> Decision:
    """No replica is ready, so nothing of its own can be in flight: hold at what is asked for, zero included."""
    steps = [Step("replicas", replicas, "replicas", "spec.replicas")]
    if _told_less(replicas, replicas, service, pool, seen, steps):
        return _in_doubt(key, service, seen, replicas, None, steps)
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
    steps: list[Step],
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


def _room(
    service: ServicePolicy,
    pool: PoolPolicy,
    seen: Seen,
    replicas: int,
    unlimited: int,
    is_as_read: bool,
    steps: list[Step],
) -> Room:
    """The most replicas that the pool's free VRAM allows the service, and the reason if that is less than wanted.

    Under a veto that is what runs, for an answer at or below the replicas too: they may be fewer by now.
    """
    now, state = seen.pool_moments[-1], seen.watch
    low, high = tighter(pool, service.low_watermark, now.total_bytes)
    if low != pool.low_watermark:
        state = watch(seen.pool_moments, low, high, pool)
    steps.append(watermark_step(now, state, low, high, pool))
    reading, derivation = seen.reading, seen.derivation
    if reading is None or derivation is None:
        return Room(replicas, Reason.MISSING)
    if (state.vetoed or is_as_read) and _told_less(replicas, unlimited, service, pool, seen, steps):
        return Room(None, Reason.STALE)
    if state.vetoed:
        if now.free_bytes is not None:
            return Room(replicas, Reason.LOW_VRAM)
        return Room(replicas, Reason.MISSING if now.cards == 0 else Reason.STALE)
    if unlimited <= replicas:
        return Room(unlimited, None)
    if (derivation.arrivals is None or reading.inflight_growth_per_s is None) and derivation.taught:
        text = "request counters are gone: own load and neighbours' cannot be told apart, no scale-up"
        steps.append(Step("arrivals", None, "1/s", text))
        return Room(replicas, Reason.MISSING)
    starting = starting_replicas(seen.moments, replicas, reading.ready_replicas or 0, seen.time_s)
    fitting = fitting_replicas(now, low, service, starting)
    if fitting is None:
        return Room(unlimited, None)
    steps.append(room_step(now, low, service, starting, fitting))
    # From zero KEDA brings up minReplicaCount at once, so the first replicas must fit together.
    if replicas == 0 and fitting < max(1, service.min_replicas):
        return Room(0, Reason.NO_FIT)
    return Room(replicas + fitting, Reason.NO_FIT)


def _told_less(
    replicas: int, answer: int, service: ServicePolicy, pool: PoolPolicy, seen: Seen, steps: list[Step]
) -> bool:
    """Whether KEDA was told less than this answer since the replicas were read: then they may be fewer by now."""
    age_s = (seen.reading.replicas_age_s if seen.reading is not None else None) or 0.0
    least = least_told(seen.moments, seen.time_s, replicas, seen.time_s - age_s, service, pool)
    if least >= min(replicas, answer):
        return False
    text = f"{replicas} were read {age_s:.0f} s ago, {least} told since: no answer until it is seen what runs"
    steps.append(Step("told-since", least, "replicas", text))
    return True


def _demand_text(wanted: int, demand: int, service: ServicePolicy, pool: PoolPolicy) -> str:
    target = service.target_concurrency or pool.target_concurrency
    text = f"own requests in flight / {target:g} a replica, rounded up"
    if wanted < demand:
        return f"{text}: {wanted}, raised to minReplicas"
    if wanted > demand:
        return f"{text}: {wanted}, cut to maxReplicas"
    return text


def _verdict(demand: int, replicas: int, granted: int) -> Verdict:
    if demand > replicas:
        if granted >= demand:
            return Verdict.SCALE_UP
        return Verdict.LIMITED if granted > replicas else Verdict.VETO
    return Verdict.SCALE_DOWN if granted < replicas else Verdict.HOLD
