"""What the plan looks back on: readings, never decisions. So every instance that saw the same history remembers the
same, whenever it started, and a ScaledObject that registers late finds its past already there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from scaler.planning.cards import Hosts, PoolCards, placeable_cards, short_cards, unshared_workloads
from scaler.planning.forecast import POINT_S, TREND_S, Points, noted, soonest
from scaler.planning.promises import Promises, kept
from scaler.planning.storm import failing, storm_cards
from scaler.planning.supply import STARTING_S, Count, counted, supply
from scaler.planning.watermark import LOST_CARD_S, PoolMoment, observe
from scaler.policy import OperatorPolicy
from scaler.signals.carried import NO_FLOWS, Carried, Flows
from scaler.signals.derive import OOM_EVIDENCE_S, Derivation, Moment, derive, lesson
from scaler.signals.footprint import Footprints
from scaler.signals.retries import oom_candidates_per_s
from scaler.signals.vram_lessons import Marked, vram_lessons
from scaler.snapshot import CardKey, Problem, Snapshot, WorkloadKey

NO_LESSONS = Carried()
NO_FOOTPRINTS = Footprints()


class WorkloadMemory(Struct, frozen=True):
    """One Deployment's past: moments over twice the longest scale-down window, arrivals over QUEUE_WINDOW_S, lessons
    over the learning window, its replicas over STARTING_S. `seen_s` is when it was seen last."""

    seen_s: float
    moments: tuple[Moment, ...] = ()
    carried: Carried = NO_LESSONS
    footprints: Footprints = NO_FOOTPRINTS
    counts: tuple[Count, ...] = ()
    flows: Flows = NO_FLOWS


NOTHING = WorkloadMemory(0.0)


@dataclass(frozen=True, slots=True)
class Memory:
    """Everything that a plan remembers. Equal histories give equal memories; nothing in it outlives its window.

    Attributes:
        oom_seen_s: when each workload's attempts last failed for lack of VRAM, within OOM_EVIDENCE_S.
        marked: the cards at the last moment that taught. trends: free VRAM per card, a point a minute.
        leaks: the cards that were suspected of a leak at the newest of these points.
        promises: what services may have been told within PROMISE_S. They alone depend on which
            ScaledObjects were asked about, and on nothing older than that.
    """

    time_s: float | None = None
    workloads: Mapping[WorkloadKey, WorkloadMemory] = field(default_factory=dict)
    pools: Mapping[str, tuple[PoolMoment, ...]] = field(default_factory=dict)
    oom_seen_s: Mapping[WorkloadKey, float] = field(default_factory=dict)
    marked: Marked | None = None
    trends: Mapping[CardKey, Points] = field(default_factory=dict)
    promises: Promises = field(default_factory=dict)
    leaks: tuple[Problem, ...] = ()


def moments_window_s(operator: OperatorPolicy) -> float:
    """How far moments are kept: a scale-down window as seen from any answer that may still be in force."""
    longest = max(pool.scale_down_window_s for pool in operator.pools)
    return max(2 * longest, OOM_EVIDENCE_S, STARTING_S) + max(120.0, 2 * operator.timing.stale_after_s)


def horizon_s(operator: OperatorPolicy) -> float:
    """The history at full resolution after which a fresh start decides like an instance that never stopped.

    Lessons reach further back (timing.learnWindow), at the coarser steps of timing.learnEvery.
    """
    longest_s = max(moments_window_s(operator), operator.timing.watermark_window_s, LOST_CARD_S, TREND_S + POINT_S)
    return longest_s + operator.timing.tick_s


def remember(
    snapshot: Snapshot, operator: OperatorPolicy, memory: Memory, cards: PoolCards, hosts: Hosts
) -> tuple[Memory, dict[WorkloadKey, Derivation]]:
    """The memory with this snapshot in it, and what was derived from it for each workload that can be seen, asked
    about by KEDA or not. What has left its window is forgotten."""
    time_s, timing, stale_after_s = snapshot.taken_at_s, operator.timing, operator.timing.stale_after_s
    last_s = memory.time_s if memory.time_s is not None else time_s
    is_lesson_due = _is_due(time_s, last_s, timing.learn_every_s)
    oldest_moment_s, oldest_lesson_s = time_s - moments_window_s(operator), time_s - timing.learn_window_s
    short, unshared = short_cards(cards), unshared_workloads(cards)
    marked, vram_taught = memory.marked, {}
    if is_lesson_due:
        before = marked if marked is not None and time_s - marked.time_s < 1.5 * timing.learn_every_s else None
        in_oom = {w for w, seen in snapshot.workloads.items() if oom_candidates_per_s(seen) > 0.0 and short.host(w)}

        def lately(workload: WorkloadKey) -> int:
            past, reading = memory.workloads.get(workload, NOTHING), snapshot.workloads.get(workload)
            return supply(counted(past.counts, time_s, reading, stale_after_s), time_s).lately

        readings_by_pool = {pool: {card.key: card.reading for card in own} for pool, own in cards.items()}
        vram_taught = vram_lessons(snapshot, readings_by_pool, before, in_oom, lately, stale_after_s)
        marked = Marked(time_s, snapshot.cards)

    workloads: dict[WorkloadKey, WorkloadMemory] = {}
    derived: dict[WorkloadKey, Derivation] = {}
    oom_seen_s = {key: at_s for key, at_s in memory.oom_seen_s.items() if at_s > time_s - OOM_EVIDENCE_S}
    pasts, readings = memory.workloads, snapshot.workloads
    for key in pasts.keys() | readings.keys() | vram_taught.keys():
        past, reading = pasts.get(key, NOTHING), readings.get(key)
        carried, footprints, flows = past.carried, past.footprints, past.flows
        moments = past.moments[_expired(past.moments, oldest_moment_s) :]
        created_s, taught = 0.0, None
        seen_s = time_s if reading is not None else past.seen_s
        counts = counted(past.counts, time_s, reading, stale_after_s) if seen_s > time_s - STARTING_S else ()
        if reading is not None:
            # A new revision may need more of everything: what was learnt of the old one is void.
            created_s = reading.revision_created_s or 0.0
            created_s = created_s if created_s <= time_s else 0.0  # a clock in the future voids nothing
            carried = carried.since(created_s)
            sits_on, is_shared = hosts.get(key, ()), key not in unshared
            derivation = derive(time_s, reading, short.host(key), operator, moments, flows, carried, sits_on, is_shared)
            if derivation is not None:
                derived[key] = derivation
                moments = (*moments, derivation.moment)
                flows = derivation.flows
                if derivation.moment.oom_confirmed:
                    oom_seen_s[key] = time_s
                if is_lesson_due:
                    taught = lesson(time_s, reading, derivation.inflight_stable, operator)
        if is_lesson_due:
            carried = carried.and_learnt(taught, oldest_lesson_s)
            footprints = footprints.and_learnt(vram_taught.get(key, ()), created_s, oldest_lesson_s)
        if moments or carried.loads or footprints.seen or counts:
            workloads[key] = WorkloadMemory(seen_s, moments, carried, footprints, counts, flows)

    trends = memory.trends
    if _is_due(time_s, last_s, POINT_S):
        trends = noted(trends, time_s, snapshot.cards, stale_after_s)
    failed = failing(derived)
    pools: dict[str, tuple[PoolMoment, ...]] = {}
    for pool in operator.pools:
        past_moments = memory.pools.get(pool.name, ())
        recent = tuple(m for m in past_moments if m.time_s > time_s - timing.watermark_window_s)
        own_cards = cards[pool.name]
        placeable, before_now = placeable_cards(own_cards, pool), past_moments[-1] if past_moments else None
        now = observe(time_s, own_cards, placeable, pool, before_now)
        falling = soonest(time_s, placeable, trends, pool.startup_s)
        now = now._replace(
            storm=storm_cards(now, recent, own_cards, failed, short.named) if failed else (),
            falling=falling[0] if falling else None,
        )
        pools[pool.name] = (*recent, now)
    return Memory(time_s, workloads, pools, oom_seen_s, marked, trends, kept(memory.promises, time_s)), derived


def _is_due(time_s: float, last_s: float, every_s: float) -> bool:
    """The first moment in each interval of the wall clock: instances agree on it without talking."""
    return time_s % every_s == 0 or time_s // every_s > last_s // every_s


def _expired(moments: Sequence[Moment], oldest_s: float) -> int:
    """How many of the moments, oldest first, have left the window: one a tick, as a rule."""
    for index, moment in enumerate(moments):
        if moment.time_s >= oldest_s:
            return index
    return len(moments)
