"""A pool's cards as bars: what is used, what is promised, what is free, and where the watermarks are.

The plan's own figures, put together for people when somebody looks: nothing here decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from scaler.planning.cards import PoolCard, cards_by_pool
from scaler.planning.footprints import Footprints, footprints_of
from scaler.planning.promises import promised
from scaler.planning.supply import supply
from scaler.policy import PoolPolicy
from scaler.serving.board import Grounds
from scaler.signals.footprint import card_class
from scaler.snapshot import CardKey, CardReading, WorkloadKey


class CardBar(NamedTuple):
    """One card, in bytes; None is unknown.

    Attributes:
        promised_bytes: the most that replicas which are granted and not yet resident may take of it: those that start
            on it, and of those that may land anywhere the largest, as many as it has free slots.
        low_bytes / high_bytes: the pool's watermarks on this card; None also where a card has one place only, since
            there is nobody else on it whom they could protect.
    """

    key: CardKey
    card: CardReading
    free_bytes: float | None
    total_bytes: float | None
    promised_bytes: float
    low_bytes: float | None
    high_bytes: float | None
    slots: int | None
    open_slots: int | None

    @property
    def margin_bytes(self) -> float:
        """Free VRAM above the low watermark, less what is promised; minus infinity where it cannot be seen."""
        if self.free_bytes is None:
            return -math.inf
        return self.free_bytes - (self.low_bytes or 0.0) - self.promised_bytes


class Underway(NamedTuple):
    """Replicas on their way: pods that have started and are not resident yet, and those that KEDA was told of and that
    have not shown."""

    starting: Mapping[WorkloadKey, int]
    told: Mapping[WorkloadKey, int]


class PoolBars(NamedTuple):
    """A pool's cards, the tightest first and unseen ones before them; what is on its way to them."""

    bars: list[CardBar]
    underway: Underway


def pool_bars(grounds: Grounds) -> dict[str, PoolBars]:
    """The bars of every pool."""
    snapshot, fleet, memory = grounds.snapshot, grounds.fleet, grounds.memory
    cards = cards_by_pool(snapshot.cards, fleet.operator)
    found = {}
    for pool in fleet.operator.pools:
        own_cards = cards[pool.name]
        footprints = footprints_of(pool, own_cards, fleet, snapshot, memory)
        underway = _underway(grounds, pool, {workload for card in own_cards for workload in card.reading.pods})
        bars = [_bar(card, footprints, underway) for card in own_cards]
        found[pool.name] = PoolBars(sorted(bars, key=lambda bar: (bar.margin_bytes, bar.key)), underway)
    return found


def _underway(grounds: Grounds, pool: PoolPolicy, on_cards: set[WorkloadKey]) -> Underway:
    snapshot, memory = grounds.snapshot, grounds.memory
    services = grounds.fleet.in_pool(pool.name)
    ours = on_cards | {grounds.fleet.workloads[key] for key in services}
    starting: dict[WorkloadKey, int] = {}
    told: dict[WorkloadKey, int] = {}
    for workload in sorted(ours & memory.workloads.keys()):
        past = memory.workloads[workload]
        if count := supply(past.counts, snapshot.taken_at_s).starting:
            starting[workload] = count
    for key, made in memory.promises.items():
        if key not in services:
            continue
        workload = grounds.fleet.workloads[key]
        reading = snapshot.workloads.get(workload)
        if reading is None or reading.spec_replicas is None:
            continue
        if more := promised(made, reading.spec_replicas):
            told[workload] = more
    return Underway(starting, told)


def _bar(card: PoolCard, footprints: Footprints, underway: Underway) -> CardBar:
    is_alone = card.slots == 1
    return CardBar(
        key=card.key,
        card=card.reading,
        free_bytes=card.free_bytes,
        total_bytes=card.reading.total_bytes,
        promised_bytes=_promised_bytes(card.reading, footprints, underway, card.open_slots),
        low_bytes=None if is_alone else card.low_bytes,
        high_bytes=None if is_alone else card.high_bytes,
        slots=card.slots,
        open_slots=card.open_slots,
    )


def _promised_bytes(card: CardReading, footprints: Footprints, underway: Underway, open_slots: int | None) -> float:
    kind = card_class(card.model, card.total_bytes)
    here, anywhere = 0.0, list[float]()
    for workload, starting in underway.starting.items():
        each, pods = footprints.expected(workload, kind).held_bytes, min(starting, card.pods.get(workload, 0))
        held = card.held.get(workload)
        yet = each * pods
        if held is not None:  # what they hold already is used, and no longer promised
            yet = min(yet, max(0.0, each * card.pods.get(workload, 0) - held.total_bytes))
        here += yet
        anywhere += [each] * (starting - pods)
    for workload, told in underway.told.items():
        anywhere += [footprints.of(workload, kind).held_bytes] * told
    return here + sum(sorted(anywhere, reverse=True)[:open_slots])


def sits_on(bars: Mapping[str, PoolBars], workload: WorkloadKey) -> Iterator[CardBar]:
    """The cards that name a Deployment's pods."""
    for pool in bars.values():
        yield from (bar for bar in pool.bars if workload in bar.card.pods or workload in bar.card.held)
