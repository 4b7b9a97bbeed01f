"""Which cards a pool covers, what each of them has for a replica, and whose pods sit where."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from scaler.policy import OperatorPolicy, PoolPolicy
from scaler.signals.footprint import CardClass, card_class
from scaler.signals.freshness import free_bytes
from scaler.snapshot import CardKey, CardReading, WorkloadKey


class PoolCard(Struct, frozen=True):
    """One card by its pool's policy: judged once a tick, for the ten that look at it.

    Attributes:
        free_bytes: free VRAM, None where it cannot be seen (freshness.free_bytes).
        low_bytes / high_bytes: the pool's watermarks on this card; None for a percent of a total that cannot be seen.
        is_short: seen to be below the high watermark. Not the low one: so a service's own, tighter low one is mostly
            covered. Never so a card with one place: vLLM fills it at its start, and a further replica takes nothing
            from it.
        slots: time-slice places, None where nobody tells. taken: those of them in which pods are seen.
    """

    key: CardKey
    reading: CardReading
    kind: CardClass
    free_bytes: float | None
    low_bytes: float | None
    high_bytes: float | None
    is_short: bool
    slots: int | None
    taken: int

    @property
    def open_slots(self) -> int | None:
        """Slots in which no pod is seen; None where nobody tells of slots."""
        return None if self.slots is None else max(0, self.slots - self.taken)

    @property
    def is_placeable(self) -> bool:
        """Whether a replica may land here: there is a free slot, or nobody tells of slots."""
        return self.open_slots != 0


PoolCards = Mapping[str, Sequence[PoolCard]]
Hosts = Mapping[WorkloadKey, list[CardReading]]


def cards_by_pool(cards: Mapping[CardKey, CardReading], operator: OperatorPolicy) -> PoolCards:
    """Each card goes to the first pool whose patterns match its node and its model."""
    found: dict[str, list[PoolCard]] = {pool.name: [] for pool in operator.pools}
    stale_after_s, takes = operator.timing.stale_after_s, [(pool, _pattern(pool)) for pool in operator.pools]
    for key, card in cards.items():
        for pool, pattern in takes:
            if pattern is None or pattern(card):
                found[pool.name].append(pool_card(key, card, pool, stale_after_s))
                break
    return found


def _pattern(pool: PoolPolicy) -> Callable[[CardReading], bool] | None:
    """Whether a card is the pool's, by its node and its model; None where all are."""
    if pool.nodes == pool.models == ".*":
        return None
    nodes, models = re.compile(pool.nodes), re.compile(pool.models)
    return lambda card: bool(nodes.fullmatch(card.node) and models.fullmatch(card.model))


def pool_card(key: CardKey, card: CardReading, pool: PoolPolicy, stale_after_s: float) -> PoolCard:
    """The card by the policy of the pool that it belongs to."""
    low, high, total_bytes = pool.low_watermark, pool.high_watermark, card.total_bytes
    low_bytes = low.of(total_bytes or 0.0) if total_bytes or low.ratio is None else None
    high_bytes = high.of(total_bytes or 0.0) if total_bytes or high.ratio is None else None
    slots = pool.slots_per_card if pool.slots_per_card is not None else card.slots
    free = free_bytes(card, stale_after_s)
    is_short = free is not None and high_bytes is not None and free < high_bytes and slots != 1
    kind, taken = card_class(card.model, total_bytes), sum(card.pods.values())
    # By position: there is one for each card at every tick.
    return PoolCard(key, card, kind, free, low_bytes, high_bytes, is_short, slots, taken)


def placeable_cards(cards: Sequence[PoolCard], pool: PoolPolicy) -> Sequence[PoolCard]:
    """Those where a replica may land; all of them where the policy's `watermarkOf` counts all."""
    if pool.watermark_of == "tightest":
        return cards
    return [card for card in cards if card.is_placeable]


def hosts(cards: Mapping[CardKey, CardReading]) -> Hosts:
    """The cards that each workload's pods sit on, as far as an exporter names them."""
    found: dict[WorkloadKey, list[CardReading]] = {}
    for card in cards.values():
        for workload in card.pods:
            found.setdefault(workload, []).append(card)
    return found


class ShortCards(NamedTuple):
    """The cards that are short of VRAM, and who sits on them: half of the evidence for out-of-memory. A workload that
    no card names, as where the exporter shows one pod a card, may sit on any of them."""

    cards: set[CardKey]
    workloads: set[WorkloadKey]
    named: set[WorkloadKey]

    def host(self, workload: WorkloadKey) -> bool:
        return bool(self.cards) and (workload in self.workloads or workload not in self.named)


def short_cards(cards: PoolCards) -> ShortCards:
    """The cards below their pool's high watermark, where a veto that stands ends; as far as they can be seen."""
    found = ShortCards(set(), set(), set())
    for own_cards in cards.values():
        for card in own_cards:
            found.named.update(card.reading.pods)
            if card.is_short:
                found.cards.add(card.key)
                found.workloads.update(card.reading.pods)
    return found


def unshared_workloads(cards: PoolCards) -> set[WorkloadKey]:
    """The workloads that have their cards to themselves for certain: each of them has one place only."""
    alone, shared = set[WorkloadKey](), list[CardReading]()
    for own_cards in cards.values():
        for card in own_cards:
            if card.slots == 1:
                alone.update(card.reading.pods)
            else:
                shared.append(card.reading)
    return alone.difference(*(card.pods for card in shared)) if alone else alone
