"""The footprint of a replica: what of a card it will hold at its highest, where that is known from, and how surely."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from scaler.planning.memory import NOTHING, WorkloadMemory
from scaler.policy import PoolPolicy
from scaler.quantity import Level, format_bytes
from scaler.signals.footprint import OOM_RAISE, CardClass, card_class
from scaler.snapshot import CardKey, CardReading, WorkloadKey, WorkloadReading

Source = Literal["measured", "gpu-memory-utilization", "learnt", "vramPerReplica", "default"]

_CONFIDENCE: Mapping[Source, str] = {
    "measured": "high-water of its pods, measured",
    "gpu-memory-utilization": "vLLM's gpu_memory_utilization of the card, needed free at its start",
    "learnt": "high-water by the used memory of its cards, an estimate",
    "vramPerReplica": "vramPerReplica, above what was seen",
    "default": "nothing is known of this service: the pool's defaultFootprint",
}


class Footprint(NamedTuple):
    """Bytes of one card that a replica takes at its highest, where known from, and in words how surely."""

    held_bytes: float
    source: Source
    text: str


@dataclass(slots=True)
class Footprints:
    """The footprints of a pool's workloads at one moment, each looked up once.

    `declared` is vramPerReplica by workload (the largest, where several ScaledObjects name one Deployment), 0 without.
    `in_oom` are those that failed for lack of VRAM within 10 minutes.
    """

    pool: PoolPolicy
    totals: Mapping[CardClass, float]
    declared: Mapping[WorkloadKey, int]
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

    def _look_up(self, workload: WorkloadKey, card: CardClass) -> Footprint:
        memory, reading, total = self.memories.get(workload, NOTHING), self.readings.get(workload), self.totals[card]
        known = memory.footprints.known(card)
        best: Footprint | None = None
        if known is not None:
            held = known.held_bytes
            # The newest failures have not met a lesson yet.
            if workload in self.in_oom:
                held = max(held, known.highest_bytes * OOM_RAISE)
            # Raised beyond an empty card it could never start again anywhere.
            held = max(known.highest_bytes, min(held, total - self.pool.low_watermark.of(total)))
            text = f"{_CONFIDENCE[known.kind]}, {known.lessons} times"
            if held > known.highest_bytes:
                text += f"; {format_bytes(known.highest_bytes)} raised after out-of-memory failures"
            if card not in memory.footprints.highest:
                text += "; seen on other cards only"
            best = Footprint(held, known.kind, text)
        if reading is not None and reading.gpu_memory_utilization is not None:
            asked = reading.gpu_memory_utilization * total
            if best is None or asked >= best.held_bytes:
                best = Footprint(asked, "gpu-memory-utilization", _CONFIDENCE["gpu-memory-utilization"])
        declared = self.declared.get(workload, 0)
        if declared and (best is None or declared > best.held_bytes):
            return Footprint(declared, "vramPerReplica", _CONFIDENCE["vramPerReplica"])
        return best or Footprint(self.pool.default_footprint.of(total), "default", _CONFIDENCE["default"])


def totals_by_class(cards: Iterable[tuple[CardKey, CardReading]]) -> dict[CardClass, float]:
    """The classes of cards there are, each with the largest total that a card of it shows."""
    totals: dict[CardClass, float] = {}
    for _, card in cards:
        if card.total_bytes is not None:
            kind = card_class(card.model, card.total_bytes)
            totals[kind] = max(card.total_bytes, totals.get(kind, 0.0))
    return totals


def extra_bytes(pool: PoolPolicy, low: Level | None, totals: Mapping[CardClass, float]) -> dict[CardClass, float]:
    """What a service's own low watermark leaves free beyond the pool's, per class of card; 0 where it is lower."""
    if low is None:
        return {}
    return {card: max(0.0, low.of(total) - pool.low_watermark.of(total)) for card, total in totals.items()}
