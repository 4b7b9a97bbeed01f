"""How many more replicas fit, by what is known of the scheduler: nothing, or that it sees VRAM."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from scaler.signals.footprint import CardClass
from scaler.snapshot import CardKey

UNLIMITED = 1 << 40  # slots that nobody told of


class Room(Struct, frozen=True):
    """What a card has for new replicas: VRAM above the low watermark that nobody on it will take, and slots for them.

    `open_slots` of these are free now; the others are those of pods that may go, with `room_bytes` as they will be
    then: such a card has a Room for each number of pods that may go. A card with one place has no watermark of the
    pool's (`is_watched`).
    """

    card: CardClass
    room_bytes: float
    slots: int
    open_slots: int
    is_watched: bool = True
    key: CardKey | None = None
    node: str = ""


class Need(Struct, frozen=True):
    """What one replica takes of each of `cards` cards, by class, and what its own low watermark adds to the pool's, by
    class and whether the pool's is there (`is_watched`)."""

    held_bytes: Mapping[CardClass, float]
    cards: int
    extra_bytes: Mapping[tuple[CardClass, bool], float]


class Headroom(Protocol):
    """Rooms with outstanding replicas in them: those that are granted or started, and not yet in the free VRAM."""

    def fits(self, need: Need, replicas: int = 1) -> bool:
        """Whether so many more leave every watermark whole, by the pool's assumption of where they land."""
        ...

    def is_whole(self) -> bool:
        """Whether what is outstanding leaves every watermark whole."""
        ...

    def add(self, need: Need, replicas: int = 1) -> None:
        """Counts so many more as outstanding, whether they fit or not."""
        ...

    def occupy(self, slots: int) -> None:
        """Takes slots for pods that run on cards which do not name them."""
        ...

    def move(self, need: Need, replicas: int) -> None:
        """Counts replicas of a rolling update that may yet land anywhere, in the places that they leave."""
        ...

    def copy(self) -> Headroom: ...


@dataclass(slots=True)
class Alike:
    """Cards of one class with equally many free slots, by the tightest of them. The largest outstanding footprints, as
    many as there are slots, may all land on it; `taken` is the heap of these, smallest first."""

    room_bytes: float
    slots: int
    taken: list[float] = field(default_factory=list)
    taken_bytes: float = 0.0

    def with_more(self, held_bytes: float, units: int) -> float:
        """What the largest would take together with so many more of that size."""
        if units == 1:
            if len(self.taken) < self.slots:
                return self.taken_bytes + held_bytes
            return self.taken_bytes + max(0.0, held_bytes - self.taken[0])
        free = min(units, self.slots - len(self.taken))
        more = free * held_bytes
        if units > free and self.taken:
            smallest = heapq.nsmallest(units - free, self.taken)
            more += sum(held_bytes - each for each in smallest if each < held_bytes)
        return self.taken_bytes + more

    def add(self, held_bytes: float, units: int) -> None:
        taken, slots = self.taken, self.slots
        if len(taken) == slots and held_bytes <= taken[0]:
            return
        self.taken_bytes = self.with_more(held_bytes, units)
        if slots == UNLIMITED:  # all of them count: no need to tell them apart
            return
        for _ in range(min(units, slots)):
            if len(taken) < slots:
                heapq.heappush(taken, held_bytes)
            elif taken[0] < held_bytes:
                heapq.heapreplace(taken, held_bytes)
            else:
                break


@dataclass(slots=True)
class Worst:
    """Any card may get as many of the outstanding replicas as it has free slots, and the largest of them."""

    alike: dict[tuple[CardClass, bool, int], Alike]
    slots: int
    pending: int

    @classmethod
    def of(cls, rooms: Iterable[Room], pending: int) -> Worst:
        alike: dict[tuple[CardClass, bool, int], Alike] = {}
        slots = 0
        for room in rooms:
            slots += room.open_slots
            if room.slots > 0:
                key = (room.card, room.is_watched, room.slots)
                place = alike.get(key)
                if place is None:
                    alike[key] = Alike(room.room_bytes, room.slots)
                elif room.room_bytes < place.room_bytes:
                    place.room_bytes = room.room_bytes
        return cls(alike, slots, pending)

    def fits(self, need: Need, replicas: int = 1) -> bool:
        held_bytes, cards_each, extra_bytes = need.held_bytes, need.cards, need.extra_bytes
        if self._waiting(need, replicas) > self.pending:
            return False
        units = replicas * cards_each
        for (card, is_watched, _), cards in self.alike.items():
            room_bytes = cards.room_bytes
            if extra_bytes:  # few services have a watermark of their own
                room_bytes -= extra_bytes.get((card, is_watched), 0.0)
            if cards.with_more(held_bytes[card], units) > room_bytes:
                return False
        return True

    def is_whole(self) -> bool:
        return self.pending >= 0 and all(cards.taken_bytes <= cards.room_bytes for cards in self.alike.values())

    def add(self, need: Need, replicas: int = 1) -> None:
        waiting = self._waiting(need, replicas)
        self.pending -= waiting
        self.slots -= (replicas - waiting) * need.cards
        self.move(need, replicas)

    def occupy(self, slots: int) -> None:
        self.slots = max(0, self.slots - slots)

    def move(self, need: Need, replicas: int) -> None:
        held_bytes, cards_each = need.held_bytes, need.cards
        for (card, _, _), cards in self.alike.items():
            cards.add(held_bytes[card], replicas * cards_each)

    def _waiting(self, need: Need, replicas: int) -> int:
        """How many of so many more find no slots, and wait for a node."""
        return max(0, replicas - self.slots // need.cards)

    def copy(self) -> Worst:
        alike = {place: Alike(c.room_bytes, c.slots, [*c.taken], c.taken_bytes) for place, c in self.alike.items()}
        return Worst(alike, self.slots, self.pending)


_Open = list[tuple[float, int]]  # a heap of (-room, slots), the roomiest card first


@dataclass(slots=True)
class Roomiest:
    """Each replica lands where most VRAM is free, as with a scheduler that sees VRAM: one card after the other."""

    rooms: dict[tuple[CardClass, bool], _Open]
    pending: int
    missing_bytes: float = 0.0

    @classmethod
    def of(cls, rooms: Iterable[Room], pending: int) -> Roomiest:
        heaps: dict[tuple[CardClass, bool], _Open] = {}
        for room in rooms:
            if 0 < room.open_slots == room.slots:
                heaps.setdefault((room.card, room.is_watched), []).append((-room.room_bytes, room.slots))
        for heap in heaps.values():
            heapq.heapify(heap)
        return cls(heaps, pending)

    def fits(self, need: Need, replicas: int = 1) -> bool:
        if replicas * need.cards == 1:
            left = self._best(need)
            return self.is_whole() and (left[0] >= 0.0 if left is not None else self.pending > 0)
        tried = self.copy()
        for _ in range(replicas):
            tried._land(need, need.extra_bytes)
        return tried.is_whole()

    def is_whole(self) -> bool:
        return self.missing_bytes == 0.0 and self.pending >= 0

    def add(self, need: Need, replicas: int = 1) -> None:
        for _ in range(replicas):
            self._land(need, {})

    def occupy(self, slots: int) -> None:
        """Which cards' slots these are nobody tells: such a scheduler is taken to know."""

    def move(self, need: Need, replicas: int) -> None:
        """A scheduler that sees VRAM puts them back where they were."""

    def _land(self, need: Need, extra_bytes: Mapping[tuple[CardClass, bool], float]) -> None:
        """One replica more: on `cards` slots, or waiting for a node where there are not so many."""
        if sum(min(need.cards, slots) for heap in self.rooms.values() for _, slots in heap[: need.cards]) < need.cards:
            self.pending -= 1
            return
        for _ in range(need.cards):
            best = self._best(need)
            if best is None:
                return
            heap = self.rooms[best[1]]
            room, slots = heap[0]
            held, extra = need.held_bytes[best[1][0]], extra_bytes.get(best[1], 0.0)
            self.missing_bytes += max(0.0, room + held + extra)  # room is negated
            if slots > 1:
                heapq.heapreplace(heap, (room + held, slots - 1))
            else:
                heapq.heappop(heap)

    def _best(self, need: Need) -> tuple[float, tuple[CardClass, bool]] | None:
        """The class whose roomiest card has most left with one more on it; None where no slot is free."""
        return max(
            (
                (-heap[0][0] - need.held_bytes[kind[0]] - need.extra_bytes.get(kind, 0.0), kind)
                for kind, heap in self.rooms.items()
                if heap
            ),
            default=None,
        )

    def copy(self) -> Roomiest:
        return Roomiest({card: [*heap] for card, heap in self.rooms.items()}, self.pending, self.missing_bytes)
