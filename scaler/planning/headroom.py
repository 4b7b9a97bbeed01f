"""How many more replicas fit, wherever they land: the scheduler counts slots and does not see VRAM."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from scaler.policy import Placement
from scaler.signals.footprint import CardClass
from scaler.snapshot import CardKey

UNLIMITED = 1 << 40  # slots that nobody told of


class Room(NamedTuple):
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


class Pods(NamedTuple):
    """What a scheduler that counts pods sees of a node, or of a card: those that are there, those of them that are sure
    to stay, and how many more it has slots for."""

    there: int
    staying: int
    open_slots: int


class Node(NamedTuple):
    """A node's pods, and those of each of its cards."""

    pods: Pods
    cards: Mapping[CardKey, Pods]


class Need(NamedTuple):
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


def headroom(
    placement: Placement, rooms: Iterable[Room], pending: int, nodes: Mapping[str, Node], unseen: int
) -> Headroom:
    """The rooms of a pool without anything outstanding; `pending` replicas may wait for slots that do not exist yet.
    `nodes` by name and `unseen`, the pods that run and that no card names, count with placement spread."""
    if placement == "roomiest":
        return Roomiest.of(rooms, pending)
    if placement == "spread":
        return Spread.of(rooms, pending, nodes, unseen)
    return Worst.of(rooms, pending)


@dataclass(slots=True)
class _Alike:
    """Cards of one class with equally many free slots, by the tightest of them. The largest outstanding footprints, as
    many as there are slots, may all land on it; `taken` is the heap of these, smallest first."""

    room_bytes: float
    slots: int
    taken: list[float] = field(default_factory=list)
    taken_bytes: float = 0.0

    def with_more(self, held_bytes: float, units: int) -> float:
        """What the largest would take together with so many more of that size."""
        free = min(units, self.slots - len(self.taken))
        more = free * held_bytes
        if units > free and self.taken:
            smallest = self.taken[:1] if units - free == 1 else heapq.nsmallest(units - free, self.taken)
            more += sum(held_bytes - each for each in smallest if each < held_bytes)
        return self.taken_bytes + more

    def add(self, held_bytes: float, units: int) -> None:
        self.taken_bytes = self.with_more(held_bytes, units)
        if self.slots == UNLIMITED:  # all of them count: no need to tell them apart
            return
        for _ in range(min(units, self.slots)):
            if len(self.taken) < self.slots:
                heapq.heappush(self.taken, held_bytes)
            elif self.taken[0] < held_bytes:
                heapq.heapreplace(self.taken, held_bytes)
            else:
                break


@dataclass(slots=True)
class Worst:
    """Any card may get as many of the outstanding replicas as it has free slots, and the largest of them."""

    alike: dict[tuple[CardClass, bool, int], _Alike]
    slots: int
    pending: int

    @classmethod
    def of(cls, rooms: Iterable[Room], pending: int) -> Worst:
        alike: dict[tuple[CardClass, bool, int], _Alike] = {}
        slots = 0
        for room in rooms:
            slots += room.open_slots
            if room.slots > 0:
                key = (room.card, room.is_watched, room.slots)
                place = alike.setdefault(key, _Alike(room.room_bytes, room.slots))
                place.room_bytes = min(place.room_bytes, room.room_bytes)
        return cls(alike, slots, pending)

    def fits(self, need: Need, replicas: int = 1) -> bool:
        units = replicas * need.cards
        return self._waiting(need, replicas) <= self.pending and all(
            cards.with_more(need.held_bytes[card], units)
            <= cards.room_bytes - need.extra_bytes.get((card, is_watched), 0.0)
            for (card, is_watched, _), cards in self.alike.items()
        )

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
        for (card, _, _), cards in self.alike.items():
            cards.add(need.held_bytes[card], replicas * need.cards)

    def _waiting(self, need: Need, replicas: int) -> int:
        """How many of so many more find no slots, and wait for a node."""
        return max(0, replicas - self.slots // need.cards)

    def copy(self) -> Worst:
        alike = {place: _Alike(c.room_bytes, c.slots, [*c.taken], c.taken_bytes) for place, c in self.alike.items()}
        return Worst(alike, self.slots, self.pending)


class _Reach(NamedTuple):
    """From so many outstanding replicas on, so many of them may sit on one card of that class with that room."""

    outstanding: int
    place: tuple[CardClass, bool, int]
    room_bytes: float


@dataclass(slots=True)
class Spread:
    """Each replica lands on one of the nodes with the fewest pods, of those with a free slot, and there on one of the
    open cards with the fewest; one replica takes one card.

    So a node gets its k-th one only when every other node has as many pods as it had before that one, or is full: the
    outstanding replicas have to fill these first. Its cards among themselves likewise. As many as a card can get by
    that, it gets, and the largest of all.
    """

    reached: Worst
    reaches: Sequence[_Reach]
    next: int = 0
    outstanding: list[tuple[Need, int]] = field(default_factory=list)
    count: int = 0

    @classmethod
    def of(cls, rooms: Iterable[Room], pending: int, nodes: Mapping[str, Node], unseen: int) -> Spread:
        tightest_of: dict[tuple[str, Pods | None, CardClass, bool, int], float] = {}
        slots = 0
        for room in rooms:
            slots += room.open_slots
            if room.slots > 0:
                pods = nodes[room.node].cards[room.key] if room.node in nodes and room.key is not None else None
                alike = (room.node, pods, room.card, room.is_watched, room.slots)
                tightest_of[alike] = min(tightest_of.get(alike, math.inf), room.room_bytes)
        among_nodes = _Fill(node.pods for node in nodes.values())
        among_cards = {name: _Fill(node.cards.values()) for name, node in nodes.items()}
        found = []
        for (name, pods, card, is_watched, slots_there), room_bytes in tightest_of.items():
            for k, at_most in _landings(slots_there):
                least = k
                if pods is not None:  # of a card on no known node: as if it were the next one each time
                    on_node = among_cards[name].outstanding(pods, k)
                    least = max(k, among_nodes.outstanding(nodes[name].pods, on_node) - unseen)
                found.append(_Reach(least, (card, is_watched, at_most), room_bytes))
        found.sort()
        tightest: dict[tuple[CardClass, bool, int], float] = {}
        reaches: list[_Reach] = []
        for reach in found:
            if reach.room_bytes < tightest.get(reach.place, math.inf):
                tightest[reach.place] = reach.room_bytes
                reaches.append(reach)
        return cls(Worst({}, slots, pending), reaches)

    def fits(self, need: Need, replicas: int = 1) -> bool:
        after = self
        if self._reaches_more(replicas):
            after = self.copy()
            after._reach(replicas)
        return after.reached.fits(need, replicas)

    def is_whole(self) -> bool:
        return self.reached.is_whole()

    def add(self, need: Need, replicas: int = 1) -> None:
        self._reach(replicas)
        self.reached.add(need, replicas)
        self.outstanding.append((need, replicas))

    def occupy(self, slots: int) -> None:
        self.reached.occupy(slots)

    def move(self, need: Need, replicas: int) -> None:
        self._reach(replicas)
        self.reached.move(need, replicas)
        self.outstanding.append((need, replicas))

    def _reaches_more(self, replicas: int) -> bool:
        return self.next < len(self.reaches) and self.reaches[self.next].outstanding <= self.count + replicas

    def _reach(self, replicas: int) -> None:
        """Counts so many more, whose needs are added next, and opens the places that may be landed on from now on."""
        while self._reaches_more(replicas):
            _, place, room_bytes = self.reaches[self.next]
            self.next += 1
            alike = self.reached.alike.get(place)
            if alike is None:
                alike = self.reached.alike[place] = _Alike(room_bytes, place[2])
                for need, count in self.outstanding:
                    alike.add(need.held_bytes[place[0]], count)
            alike.room_bytes = min(alike.room_bytes, room_bytes)
        self.count += replicas

    def copy(self) -> Spread:
        return Spread(self.reached.copy(), self.reaches, self.next, [*self.outstanding], self.count)


def _landings(slots: int) -> Iterable[tuple[int, int]]:
    """The k-th of a card's landings with how many the card has then: with unknown slots any number, from the first."""
    return [(1, UNLIMITED)] if slots == UNLIMITED else [(k, k) for k in range(1, slots + 1)]


class _Fill:
    """How many pods fill places up to a level, as far as these have slots."""

    def __init__(self, places: Iterable[Pods]) -> None:
        self._places = list(places)
        self._by_level: dict[int, int] = {}

    def outstanding(self, place: Pods, k: int) -> int:
        """The fewest that land in all of the places when this one gets k of them."""
        level = place.staying + k - 1
        if level not in self._by_level:
            self._by_level[level] = sum(_missing(each, level) for each in self._places)
        return self._by_level[level] - _missing(place, level) + k


def _missing(place: Pods, level: int) -> int:
    return max(0, min(level - place.there, place.open_slots))


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
