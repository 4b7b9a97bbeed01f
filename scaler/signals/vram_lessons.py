"""What one moment's cards teach of the VRAM that a replica takes. It follows from readings at the lessons' own moments,
or a memory that was rebuilt from coarse steps would differ from one that saw every tick."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from scaler.signals.footprint import Kind, VramLesson, card_class
from scaler.signals.freshness import free_bytes
from scaler.snapshot import CardKey, CardReading, Snapshot, WorkloadKey

Cards = Mapping[CardKey, CardReading]
Taught = dict[WorkloadKey, list[VramLesson]]


class Marked(NamedTuple):
    """The cards at the last moment that taught (Unix seconds)."""

    time_s: float
    cards: Cards


def places(cards: Iterable[CardReading]) -> Counter[WorkloadKey]:
    """On how many places of the cards each workload's pods are seen."""
    found = Counter[WorkloadKey]()
    for card in cards:
        for workload, pods in card.pods.items():
            found[workload] = found.get(workload, 0) + pods
    return found


def names_all_pods(cards: Iterable[CardReading]) -> bool:
    """Whether a pool's exporter names all pods of a card: one that names one pod a card says nothing of who else is
    there."""
    return any(sum(card.pods.values()) > 1 for card in cards)


def vram_lessons(
    snapshot: Snapshot,
    pools: Mapping[str, Cards],
    before: Marked | None,
    in_oom: Collection[WorkloadKey],
    lately: Callable[[WorkloadKey], int],
    stale_after_s: float,
) -> Taught:
    """Per Deployment: what its largest pod holds on each card, or what can be told from the card's used memory.

    `lately` is how many of its replicas existed lately, none where they have not been seen: pods that end sit on cards
    still.
    """
    taught: Taught = {}
    on_cards = places(card for cards in pools.values() for card in cards.values())
    for pool, cards in pools.items():
        names_all = names_all_pods(cards.values())
        for key, card in cards.items():
            free = free_bytes(card, stale_after_s)
            if free is None:
                continue
            kind: Kind = "measured" if card.held else "learnt"
            held = {workload: vram.largest_bytes for workload, vram in card.held.items()}
            if not held and (names_all or card.slots == 1):
                held = _from_used(card, free, before.cards.get(key) if before is not None else None)
                if len(card.pods) > 1 and before is not None and _were_replaced(card, held, snapshot, before.time_s):
                    held = {}
            for workload, held_bytes in held.items():
                # No pod of a model server holds nothing: an exporter that sees no processes, or a pod that has yet to
                # load. What is told from used memory takes all pods for loaded.
                ready, missing = _ready(snapshot, workload)
                if held_bytes <= 0 or not ready or (kind == "learnt" and missing):
                    continue
                replicas = lately(workload)
                replicas_cards = max(1, on_cards[workload] // replicas) if replicas else None
                where = card_class(card.model, card.total_bytes)
                told_by = card.held_source or ""
                lesson = VramLesson(
                    snapshot.taken_at_s, pool, where, held_bytes, kind, replicas_cards, workload in in_oom, told_by
                )
                taught.setdefault(workload, []).append(lesson)
    return taught


def _from_used(card: CardReading, free: float, before: CardReading | None) -> dict[WorkloadKey, float]:
    """What a pod takes, by the card's used memory: where one Deployment alone sits, or by how much it rose since the
    last lesson when exactly one pod has come."""
    if card.total_bytes is not None and len(card.pods) == 1:
        return {workload: (card.total_bytes - free) / pods for workload, pods in card.pods.items() if pods}
    if before is None or before.free_bytes is None:
        return {}
    came = {w: pods - before.pods.get(w, 0) for w, pods in card.pods.items() if pods != before.pods.get(w, 0)}
    if list(came.values()) != [1] or before.pods.keys() - card.pods.keys():
        return {}
    return dict.fromkeys(came, before.free_bytes - free)


def _were_replaced(card: CardReading, came: Mapping[WorkloadKey, float], snapshot: Snapshot, since_s: float) -> bool:
    """Whether a Deployment beside the one that came was rolled out since: its new pods have young arenas, and what they
    hold less hides what the other took."""
    others = (snapshot.workloads.get(workload) for workload in card.pods if workload not in came)
    return any(other is not None and (other.revision_created_s or 0.0) > since_s for other in others)


def _ready(snapshot: Snapshot, workload: WorkloadKey) -> tuple[int, int]:
    """Replicas that are ready, and those that are missing; of a workload that nobody describes, one and none."""
    reading = snapshot.workloads.get(workload)
    if reading is None or reading.ready_replicas is None:
        return 1, 0
    existing = max(reading.spec_replicas or 0, reading.status_replicas or 0)
    return reading.ready_replicas, max(0, existing - reading.ready_replicas)
