"""Which cards a pool covers, where a replica may land, and whose pods sit where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from scaler.policy import OperatorPolicy, PoolPolicy
from scaler.signals.freshness import free_bytes
from scaler.snapshot import CardKey, CardReading, WorkloadKey

PoolCards = Mapping[str, list[tuple[CardKey, CardReading]]]


def cards_by_pool(cards: Mapping[CardKey, CardReading], operator: OperatorPolicy) -> PoolCards:
    """Each card goes to the first pool whose patterns match its node and its model."""
    found: dict[str, list[tuple[CardKey, CardReading]]] = {pool.name: [] for pool in operator.pools}
    for key, card in cards.items():
        for pool in operator.pools:
            if _matches(pool.nodes, card.node) and _matches(pool.models, card.model):
                found[pool.name].append((key, card))
                break
    return found


def _matches(pattern: str, name: str) -> bool:
    return pattern == ".*" or re.fullmatch(pattern, name) is not None


def is_placeable(card: CardReading, pool: PoolPolicy) -> bool:
    """Whether a replica may land on the card: it has a free slot, or its slots are not known."""
    slots = pool.slots_per_card if pool.slots_per_card is not None else card.slots
    return slots is None or sum(card.pods.values()) < slots


def hosts(cards: Mapping[CardKey, CardReading]) -> dict[WorkloadKey, list[CardReading]]:
    """The cards that each workload's pods sit on, as far as an exporter names them."""
    found: dict[WorkloadKey, list[CardReading]] = {}
    for card in cards.values():
        for workload in card.pods:
            found.setdefault(workload, []).append(card)
    return found


def _is_short(card: CardReading, pool: PoolPolicy, stale_after_s: float) -> bool:
    free = free_bytes(card, stale_after_s)
    return free is not None and free < pool.low_watermark.of(card.total_bytes or 0.0)


class ShortCards(NamedTuple):
    """Who sits on a card below its pool's low watermark: half of the evidence for out-of-memory. Where no card names
    its pods, anybody may."""

    workloads: set[WorkloadKey]
    anybody: bool

    def host(self, workload: WorkloadKey) -> bool:
        return self.anybody or workload in self.workloads


def short_cards(cards: PoolCards, operator: OperatorPolicy) -> ShortCards:
    """The short cards of all pools, as far as their free VRAM can be seen."""
    short = [
        card
        for pool in operator.pools
        for _, card in cards[pool.name]
        if _is_short(card, pool, operator.timing.stale_after_s)
    ]
    named = any(card.pods for pool in operator.pools for _, card in cards[pool.name])
    return ShortCards({workload for card in short for workload in card.pods}, bool(short) and not named)
