"""Whose work a shared card does. A card's utilisation contains the neighbours; a service's own part comes from what its
pods really ran. It corroborates demand and names contention; it never raises demand beyond own concurrency."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from scaler.snapshot import CardReading, WorkloadReading


class GpuShare(NamedTuple):
    """In busy cards: what the service's cards did, how much of it is its own, how much its neighbours'.

    None where it cannot be told apart: on a card shared with pods whose work is not known, nothing is guessed.
    """

    cards: int
    busy: float | None
    own: float | None
    neighbours: float | None


def gpu_share(reading: WorkloadReading, cards: Iterable[CardReading]) -> GpuShare:
    """Splits the utilisation of the cards that the service's pods sit on.

    Own work by exporter per process is exact up to sampling; Triton's wall time contains neighbours' slices, so it
    is an upper bound and the neighbours' part a lower one. It is clipped to what the cards did in all.
    """
    own_cards = list(cards)
    ratios = [card.utilization_ratio for card in own_cards if card.utilization_ratio is not None]
    busy = sum(ratios) if own_cards and len(ratios) == len(own_cards) else None
    own = reading.gpu_busy
    if busy is None or own is None:
        return GpuShare(len(own_cards), busy, own, None)
    own = min(own, busy)
    return GpuShare(len(own_cards), busy, own, busy - own)
