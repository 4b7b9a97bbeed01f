"""The footprint of a replica: what of a card it will hold at its highest, where that is known from, and how surely."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from scaler.planning.memory import NOTHING, Memory, WorkloadMemory
from scaler.policy import PoolPolicy, ServiceKey, ServicePolicy
from scaler.quantity import Level, format_bytes
from scaler.signals.footprint import OOM_RAISE, CardClass, Known, card_class
from scaler.signals.footprint import Footprints as Lessons
from scaler.snapshot import CardKey, CardReading, Snapshot, WorkloadKey, WorkloadReading

Source = Literal["measured", "gpu-memory-utilization", "learnt", "vramPerReplica", "default"]

_CONFIDENCE: Mapping[Source, str] = {
    "measured": "high-water of its pods, measured",
    "gpu-memory-utilization": "vLLM's gpu_memory_utilization of the card, needed free at its start",
    "learnt": "high-water by the used memory of its cards, an estimate",
    "vramPerReplica": "vramPerReplica, above what was seen",
    "default": "nothing is known of this service: the pool's defaultFootprint",
}


class Footprint(NamedTuple):
    """Bytes of one card that a replica takes at its highest, and where known from: seen at most `highest_bytes` at so
    many lessons, on other classes of cards only where `is_elsewhere`."""

    held_bytes: float
    source: Source
    highest_bytes: float = 0.0
    lessons: int = 0
    is_elsewhere: bool = False

    @property
    def text(self) -> str:
        """In words how surely."""
        if self.source not in ("measured", "learnt"):
            return _CONFIDENCE[self.source]
        text = f"{_CONFIDENCE[self.source]}, {self.lessons} times and now"
        if self.held_bytes > self.highest_bytes:
            text += f"; {format_bytes(self.highest_bytes)} raised after out-of-memory failures"
        return text + ("; seen on other cards only" if self.is_elsewhere else "")


@dataclass(slots=True)
class Footprints:
    """The footprints of a pool's workloads at one moment, each looked up once.

    `declared` is vramPerReplica by workload (the largest, where several ScaledObjects name one Deployment), 0 without.
    `present` is what the largest pod holds now, where that can be seen.
    `in_oom` are those that failed for lack of VRAM within 10 minutes.
    """

    pool: PoolPolicy
    totals: Mapping[CardClass, float]
    declared: Mapping[WorkloadKey, int]
    present: Mapping[tuple[WorkloadKey, CardClass], float]
    readings: Mapping[WorkloadKey, WorkloadReading]
    memories: Mapping[WorkloadKey, WorkloadMemory]
    in_oom: Collection[WorkloadKey]
    _found: dict[tuple[WorkloadKey, CardClass], Footprint] = field(default_factory=dict)

    def of(self, workload: WorkloadKey, card: CardClass) -> Footprint:
        """The footprint of one replica on one card of that class."""
        place = (workload, card)
        found = self._found.get(place)
        if found is None:
            found = self._found[place] = self._look_up(workload, card)
        return found

    def cards(self, workload: WorkloadKey) -> int:
        """On how many cards a replica sits, as far as it has been seen; else one."""
        return self.memories.get(workload, NOTHING).footprints.cards

    def expected(self, workload: WorkloadKey, card: CardClass) -> Footprint:
        """What is held against others for a replica that starts or may grow. A declaration that no empty card could
        hold binds only the service that made it."""
        footprint = self.of(workload, card)
        if footprint.source != "vramPerReplica" or footprint.held_bytes <= self._whole_bytes(card):
            return footprint
        return self._undeclared(workload, card)

    def highest(self, workload: WorkloadKey) -> Footprint | None:
        """The largest footprint on any class of card of the pool; None without cards."""
        return max((self.of(workload, card) for card in self.totals), default=None)

    def _whole_bytes(self, card: CardClass) -> float:
        """An empty card's VRAM above the low watermark."""
        return self.totals[card] - self.pool.low_watermark.of(self.totals[card])

    def _look_up(self, workload: WorkloadKey, card: CardClass) -> Footprint:
        declared, best = self.declared.get(workload, 0), self._undeclared(workload, card)
        if declared and (best.source == "default" or declared > best.held_bytes):
            return Footprint(declared, "vramPerReplica")
        return best

    def _undeclared(self, workload: WorkloadKey, card: CardClass) -> Footprint:
        lessons = self.memories.get(workload, NOTHING).footprints
        best, reading = self._seen(workload, card, lessons), self.readings.get(workload)
        if reading is not None and reading.gpu_memory_utilization is not None:
            asked = reading.gpu_memory_utilization * self.totals[card]
            # vLLM asks for the same part of any card: what it held of another class says nothing.
            if best is None or card not in lessons.highest or asked >= best.held_bytes:
                best = Footprint(asked, "gpu-memory-utilization")
        return best or Footprint(self.pool.default_footprint.of(self.totals[card]), "default")

    def _seen(self, workload: WorkloadKey, card: CardClass, lessons: Lessons) -> Footprint | None:
        """By what its pods held, at the lessons and now; raised while out-of-memory failures are fresh."""
        known, now = lessons.known(card), self.present.get((workload, card), 0.0)
        if known is None:
            if not now:
                return None
            known = Known(now, now, "measured", 0)
        highest = max(now, known.highest_bytes)
        held = max(highest, known.held_bytes)
        if workload in self.in_oom:  # the newest failures have not met a lesson yet
            held = max(held, highest * OOM_RAISE)
        kind: Source = "measured" if now else known.kind
        # Raised beyond an empty card it could never start again anywhere. Nor by an estimate: an arena that had a card
        # to itself takes all of it.
        whole = self._whole_bytes(card)
        if held > whole:
            held = max(highest, whole) if kind == "measured" else whole
        return Footprint(held, kind, highest, known.lessons, not now and card not in lessons.highest)


def footprints_of(
    pool: PoolPolicy,
    cards: Sequence[tuple[CardKey, CardReading]],
    services: Mapping[ServiceKey, ServicePolicy],
    snapshot: Snapshot,
    memory: Memory,
) -> Footprints:
    """The footprints on a pool's cards; `services` are those of the pool."""
    totals = totals_by_class(cards) or {card_class("", None): 0.0}
    present: dict[tuple[WorkloadKey, CardClass], float] = {}
    for _, card in cards:
        kind = card_class(card.model, card.total_bytes)
        for workload, vram in card.held.items():
            place = (workload, kind)
            present[place] = max(vram.largest_bytes, present.get(place, 0.0))
    declared: dict[WorkloadKey, int] = {}
    for key, service in services.items():
        workload = service.workload(key)
        declared[workload] = max(declared.get(workload, 0), service.vram_per_replica or 0)
    return Footprints(pool, totals, declared, present, snapshot.workloads, memory.workloads, memory.oom_seen_s.keys())


def totals_by_class(cards: Iterable[tuple[CardKey, CardReading]]) -> dict[CardClass, float]:
    """The classes of cards there are, each with the largest total that a card of it shows; of cards that show none,
    the largest of all cards, or what is free at least."""
    totals: dict[CardClass, float] = {}
    without: dict[CardClass, float] = {}
    for _, card in cards:
        kind = card_class(card.model, card.total_bytes)
        if card.total_bytes:
            totals[kind] = max(card.total_bytes, totals.get(kind, 0.0))
        else:
            without[kind] = max(card.free_bytes or 0.0, without.get(kind, 0.0))
    largest = max(totals.values(), default=0.0)
    return {**{kind: max(free, largest) for kind, free in without.items()}, **totals}


def extra_bytes(
    pool: PoolPolicy, low: Level | None, totals: Mapping[CardClass, float]
) -> dict[tuple[CardClass, bool], float]:
    """What a service's own low watermark leaves free beyond the pool's, per class of card, with the pool's there (0
    where its own is lower) and without."""
    if low is None:
        return {}
    extra = {(card, True): max(0.0, low.of(total) - pool.low_watermark.of(total)) for card, total in totals.items()}
    return extra | {(card, False): low.of(total) for card, total in totals.items()}
