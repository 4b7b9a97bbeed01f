"""What each card has for new replicas, once all that is on it or on its way to it has grown as far as it does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from msgspec import Struct

from scaler.planning.cards import PoolCard
from scaler.planning.footprints import Footprints
from scaler.planning.headroom import UNLIMITED, Room
from scaler.planning.spread import Node, Nodes, Pods
from scaler.planning.supply import Supply
from scaler.policy import PoolPolicy
from scaler.signals.footprint import CardClass, card_class
from scaler.snapshot import CardReading, HeldVram, WorkloadKey


def rooms(
    cards: Iterable[PoolCard],
    pool: PoolPolicy,
    footprints: Footprints,
    starting: Mapping[WorkloadKey, int],
    going: Mapping[WorkloadKey, int],
) -> list[Room]:
    """The room of every card that can be seen: free VRAM less the low watermark less what its pods have yet to take.
    `going` are replicas of each workload whose places may fall free while what is granted now is on its way.

    A card with one place has no neighbours whom the watermark could protect, so there all of it is room: vLLM asks for
    90 % of a card by default, and 10 % of watermark would leave it no card at all. With blind: allow, a card that
    cannot be seen is all room, and so is a pool without cards.
    """
    found = []
    for card in cards:
        reading, kind, free, low, slots = card.reading, card.kind, card.free_bytes, card.low_bytes, card.slots
        key, node, open_slots = card.key, reading.node, _open_slots(card)
        if free is None or low is None:
            if pool.blind == "allow":
                found.append(Room(kind, math.inf, open_slots, open_slots, True, key, node))
            continue
        if not open_slots and not any(going.get(workload, 0) > 0 for workload in reading.pods):
            found.append(Room(kind, 0.0, 0, 0, True, key, node))  # nothing can land here
            continue
        growth = _growth(reading, kind, free, footprints, starting)
        room = free - growth.all_bytes
        if slots == 1:
            found.append(Room(kind, room, open_slots, open_slots, False, key, node))
            continue
        found.append(Room(kind, room - low, open_slots, open_slots, True, key, node))
        if going and open_slots != UNLIMITED:
            freed = _freed_bytes(reading, kind, footprints.totals[kind] - free, growth, footprints, starting, going)
            for gone, freed_bytes in enumerate(freed, start=1):
                found.append(Room(kind, room - low + freed_bytes, open_slots + gone, 0, True, key, node))
    if not found and pool.blind == "allow":
        found.append(Room(card_class("", None), math.inf, UNLIMITED, UNLIMITED))
    return found


def nodes(cards: Iterable[PoolCard], going: Mapping[WorkloadKey, int], unseen: int) -> Nodes:
    """The nodes as a scheduler sees them that goes by pods: with the cards that cannot be seen, without those of no
    known node. Each node, and each card, may lose all of its pods that may go, and be the emptiest then."""
    found = dict[str, list[PoolCard]]()
    for card in cards:
        if card.reading.node:
            found.setdefault(card.reading.node, []).append(card)
    return Nodes(
        {
            name: Node(_pods(on_node, going), {card.key: _pods([card], going) for card in on_node})
            for name, on_node in found.items()
        },
        unseen,
    )


def _pods(cards: Iterable[PoolCard], going: Mapping[WorkloadKey, int]) -> Pods:
    there, open_slots = dict[WorkloadKey, int](), 0
    for card in cards:
        open_slots += _open_slots(card)
        for workload, count in card.reading.pods.items():
            there[workload] = there.get(workload, 0) + count
    pods = sum(there.values())
    leaving = sum(min(there[workload], going[workload]) for workload in there.keys() & going.keys())
    return Pods(pods, pods - leaving, open_slots)


def _open_slots(card: PoolCard) -> int:
    open_slots = card.open_slots
    return UNLIMITED if open_slots is None else open_slots


def _freed_bytes(
    card: CardReading,
    kind: CardClass,
    used: float,
    growth: _Growth,
    footprints: Footprints,
    starting: Mapping[WorkloadKey, int],
    going: Mapping[WorkloadKey, int],
) -> Iterator[float]:
    """What one, two, ... of a card's pods that may go leave to others, the smallest first: where pods are told apart,
    their footprints, since what they hold and have yet to take is off the room. Else an equal part each of what is
    used, no more than the footprint, and what all together had yet to take, up to their footprints."""
    each_bytes: list[float] = []
    whole_bytes: list[float] = []
    for workload, pods in card.pods.items():
        leaving = min(pods, going.get(workload, 0))
        if leaving > 0:
            vram = card.held.get(workload)
            if vram is not None:
                each = whole = _at_highest(workload, kind, vram, footprints, starting)
            else:
                whole = footprints.expected(workload, kind).held_bytes
                each = min(whole, used / sum(card.pods.values()))
            each_bytes += [each] * leaving
            whole_bytes += [whole] * leaving
    yet_to_take = 0.0 if card.held else growth.all_bytes - growth.loading_bytes
    for freed, whole in zip(accumulate(sorted(each_bytes)), accumulate(sorted(whole_bytes)), strict=True):
        yield min(freed + yet_to_take, whole)


def _at_highest(
    workload: WorkloadKey,
    kind: CardClass,
    vram: HeldVram,
    footprints: Footprints,
    starting: Mapping[WorkloadKey, int],
) -> float:
    """What one of the pods that hold that takes at its highest: its footprint, unless nothing is known of it."""
    known = footprints.expected(workload, kind)
    is_known = known.source != "default" or workload in starting
    return known.held_bytes if is_known and known.held_bytes > vram.largest_bytes else vram.largest_bytes


class _Growth(Struct, frozen=True, gc=False):
    """What the pods on a card take at their highest, less what they hold; `loading_bytes` of it by pods that have yet
    to load."""

    all_bytes: float
    loading_bytes: float


def _growth(
    card: CardReading, kind: CardClass, free: float, footprints: Footprints, starting: Mapping[WorkloadKey, int]
) -> _Growth:
    """Where the exporter does not tell pods apart, growth is known only if all their footprints are; those that have
    yet to load are counted in any case."""
    pods_by_workload, loading = card.pods, 0.0
    for workload in pods_by_workload.keys() & starting.keys() - card.held.keys() if starting else ():
        pods = min(pods_by_workload[workload], starting[workload])
        loading += pods * footprints.expected(workload, kind).held_bytes
    if card.held:
        growth = 0.0
        for workload, vram in card.held.items():
            each = _at_highest(workload, kind, vram, footprints, starting)
            growth += max(0.0, (pods_by_workload.get(workload) or 1) * each - vram.total_bytes)
        return _Growth(growth + loading, loading)
    total = 0.0
    for workload, pods in pods_by_workload.items():
        known = footprints.expected(workload, kind)
        if known.source == "default":
            return _Growth(loading, loading)
        total += known.held_bytes * pods
    used = footprints.totals[kind] - free
    return _Growth(max(loading, total - used), loading)


def unplaced(supply: Supply, seen_places: int, cards_per_replica: int) -> int:
    """How many of the starting replicas may still land anywhere: those that no card names yet."""
    return min(supply.starting, max(0, supply.lately - seen_places // cards_per_replica))
