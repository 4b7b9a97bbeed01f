"""VRAM that climbs while requests do not: a suspect to look at, and no reason to scale anything."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import attrgetter
from statistics import fmean

from scaler.planning.cards import PoolCard
from scaler.planning.forecast import TREND_S, soonest
from scaler.planning.memory import NOTHING, Memory
from scaler.planning.supply import STARTING_S
from scaler.signals.derive import Moment
from scaler.snapshot import Problem

# A card that lasts longer at this pace is worth no line now.
LEAK_S = 3600.0
# Requests per second are compared over so long at both ends of the trend.
ENDS_S = 180.0
MORE_RATIO = 1.1
_TIME_S = attrgetter("time_s")


def leaks(cards: Sequence[PoolCard], memory: Memory) -> Iterator[Problem]:
    """A problem for each card whose free VRAM falls steadily under the same pods, while none of their services gets
    more requests. A service that cannot be seen clears the card."""
    time_s = memory.time_s or 0.0
    falling = soonest(time_s, cards, memory.trends, LEAK_S)
    pods_of = {card.key: card.reading.pods for card in cards} if falling else {}
    for each in falling:
        pods = pods_of[each.card]
        pasts = [memory.workloads.get(workload, NOTHING) for workload in pods]
        if pasts and all(
            past.counts and past.counts[-1].time_s <= time_s - STARTING_S and not _climbs(past.moments, time_s)
            for past in pasts
        ):
            names = ", ".join(sorted(workload.deployment for workload in pods))
            text = f"card {each.card}: free VRAM falls steadily while the requests of {names} do not rise: a leak?"
            yield Problem("leak-suspect", text)


def _climbs(moments: Sequence[Moment], time_s: float) -> bool:
    """Whether more requests arrive than a while ago, or it cannot be said."""
    begin = bisect_left(moments, time_s - TREND_S, key=_TIME_S)
    early = _rates(moments[begin : bisect_left(moments, time_s - TREND_S + ENDS_S, key=_TIME_S)])
    late = _rates(moments[bisect_right(moments, time_s - ENDS_S, key=_TIME_S) :])
    return not early or not late or fmean(late) > MORE_RATIO * fmean(early)


def _rates(moments: Sequence[Moment]) -> list[float]:
    """Requests per second, where they could be seen."""
    return [moment.fresh_per_s for moment in moments if moment.fresh_per_s is not None]
