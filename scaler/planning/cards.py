"""Which cards a pool covers, where a replica may land, and whose pods sit where."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scaler.policy import OperatorPolicy, PoolPolicy
from scaler.quantity import Level
from scaler.signals.freshness import free_bytes
from scaler.snapshot import CardKey, CardReading, WorkloadKey

PoolCards = Mapping[str, list[tuple[CardKey, CardReading]]]
Hosts = Mapping[WorkloadKey, list[CardReading]]


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
    slots = slots_of(card, pool)
    return slots is None or sum(card.pods.values()) < slots


def placeable_cards(
    cards: Sequence[tuple[CardKey, CardReading]], pool: PoolPolicy
) -> Sequence[tuple[CardKey, CardReading]]:
    """Those where a replica may land; all of them where the policy's `watermarkOf` counts all."""
    if pool.watermark_of == "tightest":
        return cards
    return [each for each in cards if is_placeable(each[1], pool)]


def slots_of(card: CardReading, pool: PoolPolicy) -> int | None:
    """The card's time-slice places; None where nobody tells."""
    return pool.slots_per_card if pool.slots_per_card is not None else card.slots


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


def short_cards(cards: PoolCards, operator: OperatorPolicy) -> ShortCards:
    """The cards below their pool's high watermark, where a veto that stands ends; as far as they can be seen."""
    found = ShortCards(set(), set(), set())
    for pool in operator.pools:
        for key, card in cards[pool.name]:
            found.named.update(card.pods)
            if is_short(card, pool, operator.timing.stale_after_s):
                found.cards.add(key)
                found.workloads.update(card.pods)
    return found


def is_short(card: CardReading, pool: PoolPolicy, stale_after_s: float) -> bool:
    """Seen to be below the high watermark. Not the low one: so a service's own, tighter low one is mostly covered.

    Never so a card with one place: vLLM fills it at its start, and a further replica takes nothing from it.
    """
    if slots_of(card, pool) == 1:
        return False
    free, high = free_bytes(card, stale_after_s), level_bytes(pool.high_watermark, card)
    return free is not None and high is not None and free < high


def level_bytes(level: Level, card: CardReading) -> float | None:
    """The level in bytes on this card; None for a percent of a total that cannot be seen."""
    if level.bytes is not None:
        return float(level.bytes)
    return level.of(card.total_bytes) if card.total_bytes else None


def unshared_workloads(cards: PoolCards, operator: OperatorPolicy) -> set[WorkloadKey]:
    """The workloads that have their cards to themselves for certain: each of them has one place only."""
    alone, shared = set[WorkloadKey](), list[CardReading]()
    for pool in operator.pools:
        for _, card in cards[pool.name]:
            if slots_of(card, pool) == 1:
                alone.update(card.pods)
            else:
                shared.append(card)
    return alone.difference(*(card.pods for card in shared)) if alone else alone
