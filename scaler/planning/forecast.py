"""Where free VRAM is going: a card that will be short before a new replica holds its VRAM is short already."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from statistics import median
from typing import NamedTuple

from scaler.planning.cards import PoolCard
from scaler.signals.freshness import free_bytes
from scaler.snapshot import CardKey, CardReading

# One point a minute over ten: DCGM samples memory every 30 s, and each point should be a new sample.
POINT_S = 60.0
TREND_S = 600.0
LEAST_POINTS = 8

Points = tuple[tuple[float, float], ...]


class Falling(NamedTuple):
    """A card whose free VRAM falls by `per_s` bytes a second and crosses the low watermark in `crosses_in_s`."""

    card: CardKey
    free_bytes: float
    per_s: float
    crosses_in_s: float


def noted(
    trends: Mapping[CardKey, Points], time_s: float, cards: Mapping[CardKey, CardReading], stale_after_s: float
) -> dict[CardKey, Points]:
    """The free VRAM of each card with this minute's point; a card that cannot be seen is forgotten with its window."""
    oldest_s = time_s - TREND_S
    kept = {}
    for key in trends.keys() | cards.keys():
        points = trends.get(key, ())
        while points and points[0][0] < oldest_s:
            points = points[1:]
        free = free_bytes(cards[key], stale_after_s) if key in cards else None
        if free is not None:
            points = (*points, (time_s, free))
        if points:
            kept[key] = points
    return kept


def falls_per_s(points: Points, time_s: float, free: float) -> float:
    """How fast free VRAM falls, steadily; 0 if it does not.

    The slower of two: the fall over the whole window, and the median fall from minute to minute. A step, as when a
    replica loads its model or an arena doubles, moves only the first, and noise only the second.
    """
    if len(points) < LEAST_POINTS or time_s <= points[0][0]:
        return 0.0
    overall_per_s = (points[0][1] - free) / (time_s - points[0][0])
    if overall_per_s <= 0.0:
        return 0.0
    # A missing point makes one longer step.
    steps = [
        (before - after) / (until_s - since_s) for (since_s, before), (until_s, after) in itertools.pairwise(points)
    ]
    return max(0.0, min(overall_per_s, median(steps)))


def soonest(
    time_s: float, cards: Iterable[PoolCard], trends: Mapping[CardKey, Points], within_s: float
) -> list[Falling]:
    """The cards that cross the low watermark within that time, the soonest first."""
    found = []
    for card in cards:
        points, free, low_bytes = trends.get(card.key, ()), card.free_bytes, card.low_bytes
        if free is None or not points or free >= points[0][1] or low_bytes is None or free < low_bytes:
            continue
        # The fall of the whole window bounds the trend: most cards need no closer look.
        if free - (points[0][1] - free) * within_s / max(1.0, time_s - points[0][0]) >= low_bytes:
            continue
        per_s = falls_per_s(points, time_s, free)
        if per_s > 0.0 and free - per_s * within_s < low_bytes:
            found.append(Falling(card.key, free, per_s, (free - low_bytes) / per_s))
    return sorted(found, key=lambda each: (each.crosses_in_s, each.card))
