"""Cards and pods: who sits where, what each holds, and the scheduler, which sees slots and never VRAM."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from uuid import UUID

from scaler.quantity import GIB, MIB
from scaler.simulate.arena import Arena
from scaler.simulate.scenario import STEP_S, ScenarioPool, ScenarioService
from scaler.simulate.servers import Scrapes
from scaler.snapshot import CardKey, WorkloadKey

CONTEXT_BYTES = 150.0 * MIB  # a CUDA context, from the moment the server starts
TERMINATION_S = 30.0
CRASH_BACK_OFF_S = (10.0, 300.0)  # a load that finds no room is tried again after 10 s, then twice as long, to 5 min


@dataclass(eq=False, slots=True)
class Card:
    """One VRAM space: a card, or on MIG one instance of it. `busy` is the GPU time that its pods used in the last step,
    as a ratio."""

    key: CardKey
    node: str
    slots: int
    total_bytes: float
    usable_bytes: float
    pods: list[Pod] = field(default_factory=list)
    busy: float = 0.0

    def is_below(self, low_bytes: float) -> bool:
        """Below the watermark; with one place there is no neighbour whom it could protect, so never."""
        return self.slots > 1 and self.free_bytes < low_bytes

    @property
    def free_bytes(self) -> float:
        free = self.usable_bytes
        for pod in self.pods:  # asked for at every step of every card
            free -= pod.resident_bytes + pod.arena.held_bytes
        return free


@dataclass(eq=False, slots=True)
class Pod:
    """One replica. It is loading until `ready_s`, and holds its VRAM until it is gone.

    On several cards its ranks run in step: each holds as much as the others, and the tightest card decides for all.

    Attributes:
        cards: one, or so many of one node. What is held, and how busy it is, is on each of them.
        resident_bytes: context and weights so far; the arena comes on top.
        load_left_s: of the load time; None once it has loaded.
        retry_at_s: after a load that found no room, the next attempt.
        queue: requests that wait here. gpu_busy: own GPU time in the last step, as a ratio of each card.
        kv_ratio: part of what it may execute at once that it executes: vLLM's use of its KV cache.
        was_granted: an autoscaler's scale-up made it. was_unsafe: it has been counted as an unsafe grant.
    """

    service: ScenarioService
    workload: WorkloadKey
    cards: tuple[Card, ...]
    created_s: float
    arena: Arena
    scrapes: Scrapes
    load_left_s: float | None
    revision: int = 0
    resident_bytes: float = CONTEXT_BYTES
    ready_s: float | None = None
    leaves_s: float | None = None
    retry_at_s: float | None = None
    crashes: int = 0
    queue: float = 0.0
    gpu_busy: float = 0.0
    kv_ratio: float = 0.0
    was_granted: bool = False
    was_unsafe: bool = False
    settling_s: float = 0.0

    @property
    def is_ready(self) -> bool:
        return self.ready_s is not None and self.leaves_s is None

    @property
    def held_bytes(self) -> float:
        return self.resident_bytes + self.arena.held_bytes

    @property
    def free_bytes(self) -> float:
        """Of the tightest of its cards."""
        if len(self.cards) == 1:
            return self.cards[0].free_bytes
        return min(card.free_bytes for card in self.cards)

    @property
    def full_bytes(self) -> float:
        """What it holds once loaded, as far as it is settled before the first execution."""
        service = self.service
        fixed = service.arena.share * self.cards[0].total_bytes if service.arena.kind == "fixed" else 0.0
        return max(CONTEXT_BYTES + service.weights / service.cards, fixed)

    def load(self, at_s: float) -> None:
        """One step of loading: weights come evenly; where the card has no room the server dies and starts again."""
        if self.retry_at_s is not None:
            if at_s < self.retry_at_s:
                return
            self.retry_at_s = None
        if self.load_left_s is None:
            return
        whole_s = max(self.service.load_time_s, STEP_S)
        free = self.free_bytes
        if self.service.arena.kind == "fixed" and self.resident_bytes <= CONTEXT_BYTES:
            wanted = self.full_bytes  # vLLM looks for the whole of its share first, and takes it
        else:
            self.load_left_s = max(0.0, self.load_left_s - STEP_S)
            loaded = 1.0 - self.load_left_s / whole_s
            wanted = max(self.resident_bytes, CONTEXT_BYTES + (self.full_bytes - CONTEXT_BYTES) * loaded)
        if wanted - self.resident_bytes > free:
            first_s, most_s = CRASH_BACK_OFF_S
            self.retry_at_s = at_s + min(most_s, first_s * 2**self.crashes)
            self.crashes += 1
            self.resident_bytes, self.load_left_s = 0.0, whole_s
            return
        self.resident_bytes = max(wanted, CONTEXT_BYTES)
        if self.load_left_s <= 0.0:
            self.load_left_s, self.ready_s = None, at_s

    def leak(self) -> None:
        leak_bytes = self.service.leak_per_hour * STEP_S / 3600 / self.service.cards
        self.resident_bytes += min(leak_bytes, max(0.0, self.free_bytes))


class Fleet:
    """All cards and pods; creates and removes pods as a ReplicaSet and the scheduler would."""

    def __init__(self, pool: ScenarioPool, noise: random.Random) -> None:
        self._random = noise
        self.cards = [
            Card(
                CardKey(uuid, str(instance) if pool.instances > 1 else ""),
                f"gpu-node-{number // pool.cards_per_node + 1}",
                pool.slots,
                float(pool.total),
                float(pool.total - pool.reserved),
            )
            for number in range(pool.cards)
            for uuid in [f"GPU-{UUID(int=noise.getrandbits(128), version=4)}"]
            for instance in range(1, pool.instances + 1)
        ]

    def pods(self) -> Iterator[Pod]:
        for card in self.cards:
            for pod in card.pods:
                if pod.cards[0] is card:
                    yield pod

    def next_cards(self, count: int = 1, taken: Mapping[Card, int] = MappingProxyType({})) -> tuple[Card, ...]:
        """Where the scheduler puts the next pod: the node with the fewest places taken, of those with a free one on so
        many cards, and there the cards with the fewest pods. It is blind to VRAM. `taken` are places spoken for on top.
        Empty while no node has that many: the pod stays pending."""
        sits = {card: len(card.pods) + taken.get(card, 0) for card in self.cards}
        load: dict[str, int] = {}
        free: dict[str, list[tuple[int, CardKey, Card]]] = {}
        for card, pods in sits.items():
            load[card.node] = load.get(card.node, 0) + pods
            if pods < card.slots:
                free.setdefault(card.node, []).append((pods, card.key, card))
        emptiest = [(load[node], sorted(cards)[:count]) for node, cards in free.items() if len(cards) >= count]
        return tuple(card for _, _, card in min(emptiest)[1]) if emptiest else ()

    def create(
        self, service: ScenarioService, workload: WorkloadKey, at_s: float, kind_arena: Arena, revision: int
    ) -> Pod | None:
        """A new pod, or None while it finds no free slots."""
        cards = self.next_cards(service.cards)
        if not cards:
            return None
        scrapes = Scrapes(STEP_S * self._random.randrange(3), service.cards)
        pod = Pod(service, workload, cards, at_s, kind_arena, scrapes, max(service.load_time_s, STEP_S), revision)
        for card in cards:
            card.pods.append(pod)
        return pod

    def remove(self, pod: Pod) -> None:
        """It is gone, from all of its cards."""
        for card in pod.cards:
            card.pods.remove(pod)

    def lose(self, count: int) -> list[Pod]:
        """So many cards fail; returns the pods that were on them. The fullest first: that is the worst loss."""
        lost: list[Pod] = []
        for _ in range(count):
            fullest = max(self.cards, key=lambda card: (len(card.pods), card.key)).key.uuid
            gone = [card for card in self.cards if card.key.uuid == fullest]
            if len(gone) == len(self.cards):
                break
            self.cards = [card for card in self.cards if card.key.uuid != fullest]
            pods = [pod for card in gone for pod in card.pods]
            for pod in pods:
                self.remove(pod)
            lost += pods
        return lost

    def used_gib(self) -> float:
        return sum(card.usable_bytes - card.free_bytes for card in self.cards) / GIB
