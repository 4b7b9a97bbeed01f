"""What VRAM one replica takes at its highest, by what was seen: the high-water of its pods, not their mean.

A model server's arena grows with the largest batch and gives nothing back, so what a young replica holds says little of
what it will hold. Seen per pod where an exporter tells processes apart; else from what a card's used memory is while
one service alone sits on it, or by how much it rose when one pod came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
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


_TIME_S, _HELD_BYTES = attrgetter("time_s"), attrgetter("held_bytes")
_POOL = attrgetter("pool")


class Known(NamedTuple):
    """The highest that one pod took of a card of a class, as seen and as raised after out-of-memory failures; from so
    many lessons. `told_by`: the source of the highest."""

    held_bytes: float
    highest_bytes: float
    kind: Kind
    lessons: int
    told_by: str = ""


@dataclass(frozen=True, slots=True)
class Footprints:
    """The lessons of the learning window, oldest first, and what follows from them.

    Attributes:
        highest: by class of card, the raised high-water.
        cards: cards per replica, the lower median of what was seen (a pod that ends sits on cards still).
        pools: where its pods have been seen.
    """

    lessons: tuple[VramLesson, ...] = ()
    highest: Mapping[CardClass, Known] = field(default_factory=dict)
    cards: int = 1
    pools: frozenset[str] = frozenset()

    def since(self, time_s: float) -> Footprints:
        """Without the lessons up to that time."""
        if not self.lessons or self.lessons[0].time_s > time_s:
            return self
        return _footprints(tuple(lesson for lesson in self.lessons if lesson.time_s > time_s))

    def and_learnt(self, lessons: Sequence[VramLesson], created_s: float, since_s: float = -math.inf) -> Footprints:
        """With the lessons of one more moment, and without those up to `since_s`; `created_s` is when the revision that
        runs was created."""
        if not lessons:
            return self.since(since_s)
        kept = [lesson for lesson in self.lessons if lesson.time_s > since_s]
        if kept and kept[0].time_s <= created_s:
            young = [lesson for lesson in kept if lesson.time_s > created_s]
            if len({lesson.time_s for lesson in (*young, *lessons)}) >= REVISION_LESSONS:
                kept = young
        return _footprints((*kept, *lessons))

    def known(self, card: CardClass) -> Known | None:
        """The high-water on that class of card; where only others were seen, the highest on any of those."""
        known = self.highest.get(card)
        return max(self.highest.values()) if known is None and self.highest else known


def _footprints(lessons: tuple[VramLesson, ...]) -> Footprints:
    by_card: dict[CardClass, list[VramLesson]] = {}
    for lesson in lessons:
        by_card.setdefault(lesson.card, []).append(lesson)
    oom_s = max((lesson.time_s for lesson in lessons if lesson.in_oom), default=None)
    cards = [lesson.cards for lesson in lessons if lesson.cards is not None]
    return Footprints(
        lessons,
        {card: _known(each, oom_s) for card, each in by_card.items()},
        median_low(cards) if cards else 1,
        frozenset(map(_POOL, lessons)),
    )


def _known(lessons: Sequence[VramLesson], oom_s: float | None) -> Known:
    """What was measured speaks alone where there is any: used memory contains what is not a pod's."""
    measured = [lesson for lesson in lessons if lesson.kind == "measured"]
    chosen = measured or lessons
    at_most = max(chosen, key=_HELD_BYTES)
    highest = held = at_most.held_bytes
    if oom_s is not None:
        until_oom = max((lesson.held_bytes for lesson in chosen if lesson.time_s <= oom_s), default=0.0)
        held = max(highest, until_oom * OOM_RAISE)
    return Known(held, highest, chosen[0].kind, len(set(map(_TIME_S, chosen))), at_most.told_by)
