"""The footprint of a replica: what of a card it will hold at its highest, where that is known from, and how surely."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import astuple

from scaler.planning.cards import PoolCard
from scaler.planning.memory import NOTHING, Memory, WorkloadMemory
from scaler.policy import FleetPolicy, PoolPolicy
from scaler.quantity import Level, format_bytes
from scaler.signals.footprint import OOM_RAISE, CardClass, Known, card_class
from scaler.signals.footprint import Footprints as Lessons
from scaler.signals.vram_lessons import names_all_pods
from scaler.snapshot import Snapshot, WorkloadKey, WorkloadReading

Source = Literal["measured", "gpu-memory-utilization", "learnt", "vramPerReplica", "default"]

_CONFIDENCE: Mapping[Source, str] = {
    "measured": "high-water of its pods",
    "gpu-memory-utilization": "vLLM's gpu_memory_utilization of the card, needed free at its start",
    "learnt": "high-water by the used memory of its cards, an estimate",
    "vramPerReplica": "declared, above what was seen",
    "default": "nothing is known of this service: the pool's defaultFootprint",
}


class Footprint(Struct, frozen=True, gc=False):
    """Bytes of one card that a replica takes at its highest, and where known from: seen at most `highest_bytes` at so
    many lessons, on other classes of cards only where `is_elsewhere`. `raised_for`: why it is more. `told_by`: the
    source of the highest; `now_by`: of what its pods hold now, None where nobody tells; "" where it is not known."""

    held_bytes: float
    source: Source
    highest_bytes: float = 0.0
    lessons: int = 0
    is_elsewhere: bool = False
    raised_for: str = ""
    told_by: str = ""
    now_by: str | None = None

    @property
    def text(self) -> str:
        """In words how surely."""
        if self.source not in ("measured", "learnt"):
            return _CONFIDENCE[self.source]
        text = f"{_CONFIDENCE[self.source]}{self._told}"
        if self.held_bytes > self.highest_bytes:
            text += f"; {format_bytes(self.highest_bytes)} raised {self.raised_for}"
        return text + ("; seen on other cards only" if self.is_elsewhere else "")

    @property
    def _told(self) -> str:
        """By whom, how often, and by whom now."""
        often = f"{self.lessons} times and now" if self.lessons else "now"
        if self.source == "learnt":
            return f", {often}"
        text = f" by {self.told_by}" if self.told_by else ""
        if self.now_by == self.told_by:
            return f"{text}, {often}"
        if self.now_by is None:
            return f"{text}, {self.lessons} times; none told of now"
        return f"{text}, {self.lessons} times; now{f' by {self.now_by}' if self.now_by else ''}"


class Present(NamedTuple):
    """What the largest pod holds now on a class of cards, and who tells."""

    held_bytes: float
    told_by: str | None


@dataclass(slots=True)
class Footprints:
    """The footprints of a pool's workloads at one moment, each looked up once.

    `totals` are the cards' bytes by class; `whole` is an empty card's VRAM above the low watermark, `default` the
    pool's defaultFootprint.
    `declared` is vramPerReplica by workload (the largest, where several ScaledObjects name one Deployment), 0 without.
    `present` is what the largest pod holds now where pods are told apart; `proven` is what a pod holds at least, by
    what is used of cards where they are not.
    `in_oom` are those that failed for lack of VRAM within 10 minutes.
    """

    totals: Mapping[CardClass, float]
    whole: Mapping[CardClass, float]
    default: Mapping[CardClass, float]
    declared: Mapping[WorkloadKey, int]
    present: Mapping[CardClass, Mapping[WorkloadKey, Present]]
    readings: Mapping[WorkloadKey, WorkloadReading]
    memories: Mapping[WorkloadKey, WorkloadMemory]
    in_oom: Collection[WorkloadKey]
    proven: dict[CardClass, dict[WorkloadKey, float]] = field(default_factory=dict)
    _found: dict[CardClass, dict[WorkloadKey, Footprint]] = field(default_factory=lambda: defaultdict(dict))

    def of(self, workload: WorkloadKey, card: CardClass) -> Footprint:
        """The footprint of one replica on one card of that class."""
        on_card = self._found[card]
        found = on_card.get(workload)
        if found is None:
            declared, found = self.declared.get(workload, 0), self._undeclared(workload, card)
            if declared and (found.source == "default" or declared > found.held_bytes):
                found = Footprint(declared, "vramPerReplica")
            on_card[workload] = found
        return found

    def expected(self, workload: WorkloadKey, card: CardClass) -> Footprint:
        """What is held against others for a replica that starts or may grow. A declaration that no empty card could
        hold binds only the service that made it."""
        footprint = self.of(workload, card)
        if footprint.source != "vramPerReplica" or footprint.held_bytes <= self.whole[card]:
            return footprint
        return self._undeclared(workload, card)

    def highest(self, workload: WorkloadKey) -> Footprint | None:
        """The largest footprint on any class of card of the pool; None without cards."""
        found = (self.of(workload, card) for card in self.totals)
        return max(found, key=lambda each: (*astuple(each)[:-1], each.now_by or ""), default=None)

    def _undeclared(self, workload: WorkloadKey, card: CardClass) -> Footprint:
        lessons = self.memories.get(workload, NOTHING).footprints
        best, reading = self._seen(workload, card, lessons), self.readings.get(workload)
        if reading is not None and reading.gpu_memory_utilization is not None:
            asked = reading.gpu_memory_utilization * self.totals[card]
            # vLLM asks for the same part of any card: what it held of another class says nothing.
            if best is None or card not in lessons.highest or asked >= best.held_bytes:
                best = Footprint(asked, "gpu-memory-utilization")
        return best or Footprint(self.default[card], "default")

    def _seen(self, workload: WorkloadKey, card: CardClass, lessons: Lessons) -> Footprint | None:
        """By what its pods held, at the lessons and now; raised while out-of-memory failures are fresh, and while an
        estimate was not made under such load."""
        known, (now, now_by) = lessons.known(card), self.present.get(card, _NOBODY).get(workload, _NOTHING)
        proven = self.proven.get(card, _UNPROVEN).get(workload, 0.0)
        if known is None:
            # Pods that have yet to load prove little.
            if not now and proven <= self.default[card]:
                return None
            known = Known(now, now, "measured" if now else "learnt", 0, now_by or "")
        kind: Source = "measured" if now else known.kind
        highest = max(now, known.highest_bytes, proven if kind == "learnt" else 0.0)
        held, raised_for = max(highest, known.held_bytes), _AFTER_OOM
        if workload in self.in_oom:  # the newest failures have not met a lesson yet
            held = max(held, highest * OOM_RAISE)
        elif kind == "learnt" and held < highest * FULL_RAISE and self._is_full(workload):
            held, raised_for = highest * FULL_RAISE, _WHILE_FULL
        # Raised beyond an empty card it could never start again anywhere. Nor by an estimate: an arena that had a card
        # to itself takes all of it.
        whole = self.whole[card]
        if held > whole:
            held = max(highest, whole) if kind == "measured" else whole
        is_elsewhere = not now and not proven and card not in lessons.highest
        told_by = (now_by or "") if now > known.highest_bytes else known.told_by
        return Footprint(held, kind, highest, known.lessons, is_elsewhere, raised_for, told_by, now_by)

    def _is_full(self, workload: WorkloadKey) -> bool:
        """Whether its batches may be fuller than at any lesson: more waits than executes, in the stable or in the burst
        window (a burst shows in the shorter one first, and in the longer one still when its queue has gone); or more
        arrives for each replica than was ever carried."""
        moments, reading = self.memories.get(workload, NOTHING).moments, self.readings.get(workload)
        if moments and moments[-1].own.carried_floor > 0.0:
            return True
        return reading is not None and (
            (reading.queued or 0.0) > (reading.executing or 0.0)
            or (reading.queued_burst or 0.0) > (reading.executing_burst or 0.0)
        )

    def prove(self, cards: Iterable[PoolCard]) -> None:
        """What a card's pods hold together, less the footprints of those that are known, the others hold, one of them
        at least an equal part; where one Deployment alone sits there, known or not, it holds all. For cards that do not
        tell their pods apart, and name them all."""
        proven: dict[CardClass, dict[WorkloadKey, float]] = {}
        for seen in cards:
            card, kind, free = seen.reading, seen.kind, seen.free_bytes
            if free is None or not card.total_bytes or card.held or not card.pods:
                continue
            left, unknown = card.total_bytes - free, card.pods
            if len(card.pods) > 1:
                unknown = {}
                for workload, pods in card.pods.items():
                    footprint = self.of(workload, kind)
                    if footprint.source in ("default", "vramPerReplica"):
                        unknown[workload] = pods
                    else:
                        left -= footprint.held_bytes * pods
            pods_unknown = sum(unknown.values())
            if not pods_unknown:
                continue
            on_card, each_bytes = proven.setdefault(kind, {}), left / pods_unknown
            for workload in unknown:
                if each_bytes > on_card.get(workload, 0.0):
                    on_card[workload] = each_bytes
        self.proven = proven
        for kind, on_card in proven.items():
            found = self._found.get(kind, {})
            for workload, held_bytes in on_card.items():
                before = found.get(workload)
                if before is not None and (held_bytes > before.highest_bytes or before.is_elsewhere):
                    del found[workload]


_NOTHING = Present(0.0, None)
_NOBODY: Mapping[WorkloadKey, Present] = {}
_UNPROVEN: Mapping[WorkloadKey, float] = {}
# An arena doubles when batches are full for the first time: a model's replica held 6.0 GiB, and 7.7 GiB 15 s later, in
# the burst that asked for more of them.
FULL_RAISE = 1.25
_AFTER_OOM, _WHILE_FULL = "after out-of-memory failures", "while batches may be fuller than at any lesson"


def footprints_of(
    pool: PoolPolicy,
    cards: Sequence[PoolCard],
    fleet: FleetPolicy,
    snapshot: Snapshot,
    memory: Memory,
) -> Footprints:
    """The footprints on a pool's cards."""
    totals = totals_by_class(cards) or {card_class("", None): 0.0}
    present: dict[CardClass, dict[WorkloadKey, Present]] = {}
    for seen in cards:
        card = seen.reading
        if not card.held:
            continue
        on_card = present.setdefault(seen.kind, {})
        for workload, vram in card.held.items():
            if vram.largest_bytes > on_card.get(workload, _NOTHING).held_bytes:
                on_card[workload] = Present(vram.largest_bytes, card.held_source or "")
    declared: dict[WorkloadKey, int] = {}
    for key, service in fleet.in_pool(pool.name).items():
        workload = fleet.workloads[key]
        declared[workload] = max(declared.get(workload, 0), service.vram_per_replica or 0)
    whole = {card: total - pool.low_watermark.of(total) for card, total in totals.items()}
    default = {card: pool.default_footprint.of(total) for card, total in totals.items()}
    found = Footprints(
        totals, whole, default, declared, present, snapshot.workloads, memory.workloads, memory.oom_seen_s.keys()
    )
    if names_all_pods(card.reading for card in cards):
        found.prove(cards)
    return found


def totals_by_class(cards: Iterable[PoolCard]) -> dict[CardClass, float]:
    """The classes of cards there are, each with the largest total that a card of it shows; of cards that show none,
    the largest of all cards, or what is free at least."""
    totals: dict[CardClass, float] = {}
    without: dict[CardClass, float] = {}
    for card in cards:
        kind, total_bytes = card.kind, card.reading.total_bytes
        if total_bytes:
            if total_bytes > totals.get(kind, 0.0):
                totals[kind] = total_bytes
        else:
            without[kind] = max(card.reading.free_bytes or 0.0, without.get(kind, 0.0))
    largest = max(totals.values(), default=0.0)
    return {**{kind: max(free, largest) for kind, free in without.items()}, **totals}


def extra_bytes(pool: PoolPolicy, low: Level, totals: Mapping[CardClass, float]) -> dict[tuple[CardClass, bool], float]:
    """What a service's own low watermark leaves free beyond the pool's, per class of card, with the pool's there (0
    where its own is lower) and without."""
    extra = {(card, True): max(0.0, low.of(total) - pool.low_watermark.of(total)) for card, total in totals.items()}
    return extra | {(card, False): low.of(total) for card, total in totals.items()}
