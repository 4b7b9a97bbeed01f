"""What VRAM one replica takes at its highest, by what was seen: the high-water of its pods, not their mean.

A model server's arena grows with the largest batch and gives nothing back, so what a young replica holds says little of
what it will hold. Seen per pod where an exporter tells processes apart; else from what a card's used memory is while
one service alone sits on it, or by how much it rose when one pod came.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import median_low
from typing import Literal, NamedTuple

from scaler.quantity import GIB

# A service that failed for lack of VRAM wanted more than the card had: its high-water is what fitted, not what it
# needs. krr raises the limit of a container that was killed for memory by the same quarter.
OOM_RAISE = 1.25
# A new revision may need less: the old one's high-water is void once the new one has been seen so often.
REVISION_LESSONS = 3

Kind = Literal["measured", "learnt"]


class CardClass(NamedTuple):
    """Cards that are alike to a replica: model and size in GiB (MIG instances of one model differ in size)."""

    model: str
    size_gib: int


@lru_cache(maxsize=1024)  # asked for every card at every tick; a fleet has a handful of classes
def card_class(model: str, total_bytes: float | None) -> CardClass:
    return CardClass(model, round((total_bytes or 0.0) / GIB))


class VramLesson(NamedTuple):
    """One pod of the service held `held_bytes` of a card of that class.

    `measured` is the pod's own series; `learnt` is from the card's used memory. `cards` is on how many cards a replica
    sits; None where it was not seen how many replicas there are. `in_oom`: the service failed for lack of VRAM then.
    `told_by` names the source of a `measured` one, "" where that is not known.
    """

    time_s: float
    pool: str
    card: CardClass
    held_bytes: float
    kind: Kind
    cards: int | None
    in_oom: bool
    told_by: str = ""


class Known(NamedTuple):
    """The highest that one pod took of a card of a class, as seen and as raised after out-of-memory failures; from so
    many lessons. `told_by`: the source of the highest."""

    held_bytes: float
    highest_bytes: float
    kind: Kind
    lessons: int
    told_by: str = ""


class Holdings(NamedTuple):
    """What pods were seen to hold, column by column, oldest first. Arrays: as objects a day of lessons would be in no
    cache when the next one comes."""

    times_s: array[float] = array("d")
    held_bytes: array[float] = array("d")
    told_by: tuple[str, ...] = ()

    def since(self, time_s: float) -> Holdings:
        """Without what was seen up to that time."""
        gone = bisect_right(self.times_s, time_s)
        return Holdings(self.times_s[gone:], self.held_bytes[gone:], self.told_by[gone:]) if gone else self

    def and_now(self, lessons: Sequence[VramLesson]) -> Holdings:
        """With the lessons of one more moment."""
        return Holdings(
            self.times_s + array("d", (lesson.time_s for lesson in lessons)),
            self.held_bytes + array("d", (lesson.held_bytes for lesson in lessons)),
            (*self.told_by, *(lesson.told_by for lesson in lessons)),
        )


class CardsEach(NamedTuple):
    """On how many cards a replica sat, by the times of the lessons that could tell, oldest first."""

    times_s: array[float] = array("d")
    cards: array[int] = array("l")


_NO_HOLDINGS, _NO_CARDS = Holdings(), CardsEach()
_ByClassAndKind = Mapping[tuple[CardClass, Kind], Holdings]


@dataclass(frozen=True, slots=True)
class Footprints:
    """The lessons of the learning window, and what follows from them.

    Attributes:
        seen: what pods held, by class of card and kind. cards_each: cards per replica.
        oom_s: the time of the newest lesson in which the service failed for lack of VRAM.
        pools: where its pods have been seen, and when last.
        highest: by class of card, the raised high-water.
        cards: cards per replica, the lower median of what was seen (a pod that ends sits on cards still).
    """

    seen: _ByClassAndKind = field(default_factory=dict)
    cards_each: CardsEach = _NO_CARDS
    oom_s: float | None = None
    pools: Mapping[str, float] = field(default_factory=dict)
    highest: Mapping[CardClass, Known] = field(default_factory=dict)
    cards: int = 1

    def since(self, time_s: float) -> Footprints:
        """Without the lessons up to that time."""
        if all(seen.times_s[0] > time_s for seen in self.seen.values()):
            return self
        return self._with((), time_s)

    def and_learnt(self, lessons: Sequence[VramLesson], created_s: float, since_s: float = -math.inf) -> Footprints:
        """With the lessons of one more moment, and without those up to `since_s`; `created_s` is when the revision that
        runs was created."""
        if not lessons:
            return self.since(since_s)
        if any(seen.times_s[0] <= created_s for seen in self.seen.values()):
            young_s = max(since_s, created_s)
            young = {at_s for seen in self.seen.values() for at_s in seen.since(young_s).times_s}
            if len(young.union(lesson.time_s for lesson in lessons)) >= REVISION_LESSONS:
                since_s = young_s
        return self._with(lessons, since_s)

    def _with(self, lessons: Sequence[VramLesson], since_s: float) -> Footprints:
        seen = {which: kept for which, each in self.seen.items() if (kept := each.since(since_s)).times_s}
        gone = bisect_right(self.cards_each.times_s, since_s)
        cards_each = CardsEach(self.cards_each.times_s[gone:], self.cards_each.cards[gone:])
        oom_s = self.oom_s if self.oom_s is not None and self.oom_s > since_s else None
        pools = {pool: last_s for pool, last_s in self.pools.items() if last_s > since_s}
        now: dict[tuple[CardClass, Kind], list[VramLesson]] = {}
        for lesson in lessons:
            now.setdefault((lesson.card, lesson.kind), []).append(lesson)
            pools[lesson.pool] = lesson.time_s
            if lesson.in_oom:
                oom_s = lesson.time_s
            if lesson.cards is not None:
                cards_each.times_s.append(lesson.time_s)
                cards_each.cards.append(lesson.cards)
        seen |= {which: seen.get(which, _NO_HOLDINGS).and_now(taught) for which, taught in now.items()}
        cards = median_low(cards_each.cards) if cards_each.cards else 1
        return Footprints(seen, cards_each, oom_s, pools, _highest(seen, oom_s), cards)

    def known(self, card: CardClass) -> Known | None:
        """The high-water on that class of card; where only others were seen, the highest on any of those."""
        known = self.highest.get(card)
        return max(self.highest.values()) if known is None and self.highest else known


def _highest(seen: _ByClassAndKind, oom_s: float | None) -> dict[CardClass, Known]:
    """What was measured speaks alone where there is any: used memory contains what is not a pod's."""
    return {
        card: _known(each, kind, oom_s)
        for (card, kind), each in seen.items()
        if kind == "measured" or (card, "measured") not in seen
    }


def _known(seen: Holdings, kind: Kind, oom_s: float | None) -> Known:
    highest = held = max(seen.held_bytes)
    if oom_s is not None:
        until_oom = max(seen.held_bytes[: bisect_right(seen.times_s, oom_s)], default=0.0)
        held = max(highest, until_oom * OOM_RAISE)
    told_by = seen.told_by[seen.held_bytes.index(highest)]
    return Known(held, highest, kind, len(set(seen.times_s)), told_by)
