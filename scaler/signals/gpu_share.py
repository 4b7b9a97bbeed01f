"""Whose work a shared card does. A card's utilisation contains the neighbours; a service's own part comes from what its
pods really ran. It corroborates demand and names contention; it never raises demand beyond own concurrency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from scaler.snapshot import CardReading, WorkloadKey, WorkloadReading

# While a neighbour has its slice, these go on counting.
_WALL_TIMES = ("triton-wall-time", "vllm-running")
# A card cannot have done more than its pods' wall times together. DCGM's mean of four spot values says so all the same,
# by up to a quarter; what is beyond that is the work of somebody whom nobody names.
_SPOT_ERROR = 1.25


class GpuShare(NamedTuple):
    """In busy cards: what the service's cards did, how much of it is its own, how much its neighbours'.

    None where it cannot be told apart: on a card shared with pods whose work is not known, nothing is guessed.
    `is_split`: own is a part of the cards' work by wall times.
    """

    cards: int
    busy: float | None
    own: float | None
    neighbours: float | None
    is_split: bool = False


def gpu_share(
    workload: WorkloadKey, readings: Mapping[WorkloadKey, WorkloadReading], cards: Iterable[CardReading]
) -> GpuShare:
    """Splits the utilisation of the cards that the service's pods sit on; `readings` are its own and its neighbours'.

    Own work by process, from the agent or an exporter, is exact up to sampling. Wall time contains the neighbours'
    slices and is an upper bound; but slices stretch all pods of a card alike, so where each has a wall time, the card's
    work is split in proportion to these. Nothing is above what the cards did in all.
    """
    reading, own_cards = readings[workload], list(cards)
    ratios = [card.utilization_ratio for card in own_cards if card.utilization_ratio is not None]
    busy = sum(ratios) if own_cards and len(ratios) == len(own_cards) else None
    own, is_split = reading.gpu_busy, False
    if busy is None or own is None:
        return GpuShare(len(own_cards), busy, own, None)
    if reading.gpu_busy_source in _WALL_TIMES:
        parts = [_part(workload, readings, card, ratio) for card, ratio in zip(own_cards, ratios, strict=True)]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            own, is_split = sum(known), True
    own = min(own, busy)
    return GpuShare(len(own_cards), busy, own, busy - own, is_split)


def _part(
    workload: WorkloadKey, readings: Mapping[WorkloadKey, WorkloadReading], card: CardReading, ratio: float
) -> float | None:
    """The service's part of one card's work; None where a pod there has no wall time.

    A card that is 80 % busy, two of my pods with 0.3 each and one neighbour's with 0.6: 0.8 x 0.6 / 1.2 are mine. A pod
    over several cards counts on each with the wall time of all.
    """
    own = together = 0.0
    for each, pods in card.pods.items():
        reading = readings.get(each)
        if (
            reading is None
            or reading.gpu_busy is None
            or not reading.scraped_pods
            or reading.gpu_busy_source not in _WALL_TIMES
        ):
            return None
        wall = pods * reading.gpu_busy / reading.scraped_pods
        together += wall
        if each == workload:
            own = wall
    return own * min(_SPOT_ERROR, ratio / together) if together > 0.0 else 0.0
