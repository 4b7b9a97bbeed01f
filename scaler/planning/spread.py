"""How many more replicas fit where a scheduler counts pods: it fills the emptiest nodes first, and there the emptiest
cards, so a card with little room is out of reach while others are emptier."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scaler.planning.headroom import UNLIMITED, Alike, Headroom, Need, Room, Roomiest, Worst
from scaler.policy import Placement
from scaler.signals.footprint import CardClass
from scaler.snapshot import CardKey


def headroom(placement: Placement, rooms: Iterable[Room], pending: int, nodes: Nodes) -> Headroom:
    """The rooms of a pool without anything outstanding; `pending` replicas may wait for slots that do not exist yet."""
    if placement == "roomiest":
        return Roomiest.of(rooms, pending)
    if placement == "spread":
        return Spread.of(rooms, pending, nodes)
    return Worst.of(rooms, pending)


class Pods(NamedTuple):
    """What such a scheduler sees of a node, or of a card: its pods, those of them that are sure to stay, and how many
    more it has slots for."""

    there: int
    staying: int
    open_slots: int


class Node(NamedTuple):
    """A node's pods, and those of each of its cards."""

    pods: Pods
    cards: Mapping[CardKey, Pods]


class Nodes:
    """The nodes of a pool by name. `unseen` pods run, too, but no card names them: on which nodes, nobody knows."""

    def __init__(self, nodes: Mapping[str, Node], unseen: int) -> None:
        self._nodes, self._unseen = nodes, unseen
        self._among_nodes = _Fill(node.pods for node in nodes.values())
        self._among_cards = {name: _Fill(node.cards.values()) for name, node in nodes.items()}

    def outstanding(self, room: Room, k: int) -> int:
        """The fewest outstanding replicas of which this card may get k.

        Its node gets one only when every other node has as many pods, or is full: so these are filled first, and the
        node's other cards likewise. Unseen pods may have filled some of it. On a node that is not known all k may land.
        """
        node = self._nodes.get(room.node)
        if node is None or room.key is None:
            return k
        on_node = self._among_cards[room.node].landing(node.cards[room.key], k)
        return max(k, self._among_nodes.landing(node.pods, on_node) - self._unseen)


class _Fill:
    """How many pods land in places until one of them has got so many, if each goes to the emptiest that is not full."""

    def __init__(self, places: Iterable[Pods]) -> None:
        self._places = list(places)
        self._by_level: dict[int, int] = {}

    def landing(self, place: Pods, k: int) -> int:
        """The fewest, in all places together, of which this one gets k: all that may go has gone from it, and nothing
        from the others."""
        level = place.staying + k - 1
        if level not in self._by_level:
            self._by_level[level] = sum(_missing(each, level) for each in self._places)
        return self._by_level[level] - _missing(place, level) + k


def _missing(place: Pods, level: int) -> int:
    return max(0, min(level - place.there, place.open_slots))


class Reach(NamedTuple):
    """From so many outstanding replicas on, one card with that room may get so many of them: the last of `place`."""

    outstanding: int
    place: tuple[CardClass, bool, int]
    room_bytes: float


@dataclass(slots=True)
class Spread:
    """Each replica lands on one of the nodes with the fewest pods, of those with a free slot, and there on one of the
    open cards with the fewest; one replica takes one card.

    A card may get as many of the outstanding replicas as can reach it by that, and the largest of them: cards that none
    can reach yet do not count, and the others as with Worst.
    """

    reached: Worst
    reaches: Sequence[Reach]
    next_reach: int = 0
    outstanding: list[tuple[Need, int]] = field(default_factory=list)
    count: int = 0

    @classmethod
    def of(cls, rooms: Iterable[Room], pending: int, nodes: Nodes) -> Spread:
        slots, found = 0, list[Reach]()
        for room in rooms:
            slots += room.open_slots
            # With unknown slots any number may follow the first.
            landings = [(1, UNLIMITED)] if room.slots == UNLIMITED else [(k, k) for k in range(1, room.slots + 1)]
            for k, at_most in landings:
                place = (room.card, room.is_watched, at_most)
                found.append(Reach(nodes.outstanding(room, k), place, room.room_bytes))
        tightest: dict[tuple[CardClass, bool, int], float] = {}
        reaches = []
        for reach in sorted(found):
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
        return (
            self.next_reach < len(self.reaches) and self.reaches[self.next_reach].outstanding <= self.count + replicas
        )

    def _reach(self, replicas: int) -> None:
        """Counts so many more, and opens the places that they may reach; their needs are added next."""
        while self._reaches_more(replicas):
            _, place, room_bytes = self.reaches[self.next_reach]
            self.next_reach += 1
            alike = self.reached.alike.get(place)
            if alike is None:
                alike = self.reached.alike[place] = Alike(room_bytes, place[2])
                for need, count in self.outstanding:
                    alike.add(need.held_bytes[place[0]], count)
            alike.room_bytes = min(alike.room_bytes, room_bytes)
        self.count += replicas

    def copy(self) -> Spread:
        return Spread(self.reached.copy(), self.reaches, self.next_reach, [*self.outstanding], self.count)
