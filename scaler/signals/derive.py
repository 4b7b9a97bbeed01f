"""All corrections in their order: in flight -> fresh -> own. A Moment per workload and snapshot is all that is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from scaler.policy import OperatorPolicy
from scaler.signals.carried import LEAST_COMPLETIONS, Carried, Flow, Flows, Lesson, Needed, needed_inflight
from scaler.signals.freshness import covers_all_pods, signals_fault
from scaler.signals.futility import Futile, futility
from scaler.signals.retries import Arrivals, arrivals, fresh_inflight, oom_candidates_per_s
from scaler.snapshot import CardReading, WorkloadReading

# A burst of 30 s must stand 10 % above a target before it counts, or ordinary noise would add a replica for minutes.
BURST_TOLERANCE_RATIO = 0.1
# More failures than that, of whatever kind, and a moment teaches nothing about what a replica can carry.
CLEAN_FAILURE_RATIO = 0.01
# After a card has room again its servers may go on failing: an arena that could not grow is not whole at once. While
# failures go on, the evidence that the card was short holds so long.
OOM_EVIDENCE_S = 600.0
# A replica that was ready so long ago counts as carrying its part.
WERE_READY_S = 600.0
# GPU time from these sources is what the service's own processes ran.
BY_PROCESS = ("agent", "exporter-per-process")
# So far back arrivals above the highest load seen may explain what waits now; who waits longer has given up.
QUEUE_WINDOW_S = 300.0


class Load(Struct, frozen=True, gc=False):
    """What a service asks replicas for, at one moment.

    Attributes:
        inflight: requests in flight. queued: those of them that wait. gpu_busy: GPU time, in busy cards.
        present: all fresh requests in flight, whoever slows them down: while there are any, one replica is needed.
        carried_floor: replicas that arrivals above all that was carried take at the highest load that was; else 0.
        carried_by: the replicas that carry these arrivals now all the same, without a queue that grows; else 0.
    """

    inflight: float
    queued: float
    gpu_busy: float
    present: float
    carried_floor: float
    carried_by: int


class Moment(Struct, frozen=True, gc=False):
    """A workload at one moment, corrected: what later moments and the decision look back on.

    Attributes:
        crowded: all that is fresh, with what neighbours add: the larger of the stable and the (discounted) burst
            reading. own: the part of it that own arrivals need by what was seen. Time-slicing stretches waiting and
            execution alike, by 1 / `own_ratio`; GPU time has a ratio of its own, see own_gpu_ratio().
        fresh_per_s: fresh arrivals per second.
        spec_replicas / ready_replicas: as read then.
        is_whole: all ready pods were seen; if not, nothing less than the replicas was told.
        on_short_card: a pod sat on a card below its pool's high watermark, where a veto that stands ends.
        oom_confirmed: attempts failed for lack of VRAM, by evidence.
        is_held: more replicas would not help, nor fewer: the replicas were told.
    """

    time_s: float
    crowded: Load
    own: Load
    own_ratio: float
    fresh_per_s: float | None
    spec_replicas: int
    ready_replicas: int
    is_whole: bool
    on_short_card: bool
    oom_confirmed: bool
    is_held: bool


class Derivation(Struct, frozen=True):
    """A moment with the numbers that led to it, for the steps. `taught`: there were lessons to hold it against;
    `futile`: why more replicas would not help."""

    moment: Moment
    flows: Flows
    inflight_stable: float
    inflight_burst: float | None
    arrivals: Arrivals | None
    needed: Needed | None
    taught: bool
    futile: Futile | None


def derive(
    time_s: float,
    reading: WorkloadReading,
    on_short_card: bool,
    operator: OperatorPolicy,
    past: tuple[Moment, ...],
    flows: Flows,
    carried: Carried,
    cards: Sequence[CardReading],
    is_shared: bool,
) -> Derivation | None:
    """Corrects one workload's reading; None where it is not usable (freshness.signals_fault says why).

    Of `flows`, those before now, QUEUE_WINDOW_S count. Where no neighbour can be (not `is_shared`), everything in
    flight is the service's own. `cards` are those that its pods sit on.
    """
    if reading.spec_replicas is None or signals_fault(reading, operator.timing.stale_after_s) is not None:
        return None
    stable = (reading.queued or 0.0) + (reading.executing or 0.0)
    burst = None
    if reading.queued_burst is not None and reading.executing_burst is not None:
        burst = max(0.0, reading.queued_burst + reading.executing_burst)

    oom_per_s = oom_candidates_per_s(reading)
    oom_confirmed = oom_per_s > 0.0 and (
        on_short_card or any(m.on_short_card for m in past if m.time_s > time_s - OOM_EVIDENCE_S)
    )
    flow = arrivals(reading, oom_per_s, oom_confirmed, operator.client_retries)

    largest = max(stable, (burst or 0.0) / (1.0 + BURST_TOLERANCE_RATIO))
    fresh = fresh_inflight(largest, flow, reading) if flow is not None else largest
    flow_now = Flow(time_s, flow.fresh_per_s, _carrying(time_s, reading, past)) if flow is not None else None
    flows = flows.and_now(flow_now, time_s - QUEUE_WINDOW_S) if flow_now is not None else flows
    needed: Needed | None = None
    if is_shared and flow_now is not None and carried.loads and reading.inflight_growth_per_s is not None:
        needed = needed_inflight(carried, flows, flow_now, fresh, operator.timing.stable_window_s)
    own_ratio = min(1.0, needed.inflight / fresh) if needed is not None and fresh > 0.0 else 1.0

    queued, gpu_busy = min(reading.queued or 0.0, fresh), reading.gpu_busy or 0.0
    crowded = own = Load(fresh, queued, gpu_busy, fresh, 0.0, 0)
    if needed is not None:
        floor_replicas = needed.floor_replicas
        is_carried = floor_replicas > 0.0 and lesson(time_s, reading, stable, operator) is not None
        gpu_ratio = own_gpu_ratio(reading, flow, own_ratio)
        carried_by = (reading.ready_replicas or 0) if is_carried else 0
        own = Load(fresh * own_ratio, queued * own_ratio, gpu_busy * gpu_ratio, fresh, floor_replicas, carried_by)

    futile = futility(reading, flow_now, carried, cards, operator.timing.stale_after_s)
    # By position: there is one for each workload at every tick.
    moment = Moment(
        time_s,
        crowded,
        own,
        own_ratio,
        flow.fresh_per_s if flow is not None else None,
        reading.spec_replicas,
        reading.ready_replicas or 0,
        covers_all_pods(reading),  # is_whole
        on_short_card,
        oom_confirmed,
        futile is not None,  # is_held
    )
    return Derivation(moment, flows, stable, burst, flow, needed, is_shared and bool(carried.loads), futile)


def own_gpu_ratio(reading: WorkloadReading, flow: Arrivals | None, own_ratio: float) -> float:
    """Part of the service's GPU time that its arrivals need.

    Wall time stretches with the requests in flight, and so is taken down with them. Time by process is the service's
    own work: beside a busy neighbour less of it gets done, not more. More gets done than arrives while the queue that
    the neighbour left is worked off: of 0.9 cards at 30/s, while 20/s arrive, these take 0.6.
    """
    if reading.gpu_busy_source not in BY_PROCESS or flow is None:
        return own_ratio
    done_per_s = (reading.success_per_s or 0.0) + (reading.failure_per_s or 0.0)
    return max(own_ratio, min(1.0, flow.all_per_s / done_per_s)) if done_per_s > 0.0 else own_ratio


def _carrying(time_s: float, reading: WorkloadReading, past: tuple[Moment, ...]) -> int:
    """The replicas that take the arrivals: those that are ready, and those that were and are still asked for. A replica
    that a neighbour's load made unready is no reason for two more; one that has yet to start carries nothing."""
    ready, asked = reading.ready_replicas or 0, reading.spec_replicas or 0
    if ready >= asked:
        return ready
    were_ready = max((m.ready_replicas for m in past if m.time_s > time_s - WERE_READY_S), default=ready)
    return max(ready, min(asked, were_ready)) or asked


def _completions(reading: WorkloadReading, operator: OperatorPolicy) -> float:
    """Requests that completed within the stable window."""
    per_s = max(0.0, reading.success_per_s or 0.0) + max(0.0, reading.failure_per_s or 0.0)
    return per_s * operator.timing.stable_window_s


def lesson(time_s: float, reading: WorkloadReading, inflight: float, operator: OperatorPolicy) -> Lesson | None:
    """What this moment teaches of the load that its replicas carried, or None.

    Carried means: all replicas ready and seen, nearly nothing fails, no more waits than executes, and what waits does
    not grow beyond the error of the count. It follows from the reading alone, or a memory that was rebuilt in coarse
    steps would differ.
    """
    completions = _completions(reading, operator)
    if completions < LEAST_COMPLETIONS or not reading.ready_replicas or not covers_all_pods(reading):
        return None
    per_s = completions / operator.timing.stable_window_s
    if (
        reading.ready_replicas < (reading.spec_replicas or 0)
        or (reading.failure_per_s or 0.0) >= CLEAN_FAILURE_RATIO * per_s
        or (reading.queued or 0.0) > (reading.executing or 0.0)
        or reading.inflight_growth_per_s is None
        or reading.inflight_growth_per_s > 2 * per_s / math.sqrt(completions)
    ):
        return None
    return Lesson(time_s, per_s / reading.ready_replicas, inflight / per_s)
