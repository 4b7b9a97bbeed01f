"""A fleet whose replicas land where nobody looked: cards with slots, pods whose VRAM grows, a scheduler blind to VRAM.

It drives plan() with what an exporter and kube-state-metrics would show of it, lets an HPA follow the answers late,
and says after every tick which cards are below their low watermark because of a grant.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeVar

from scaler.decision import Decision, FleetPlan
from scaler.planning.memory import Memory
from scaler.policy import FleetPolicy, OperatorPolicy, Placement
from scaler.quantity import GIB
from scaler.snapshot import CardKey, CardReading, HeldVram, Snapshot, WorkloadKey, WorkloadReading
from tests.fleet import START_S, TICK_S, policy, reading, workload

T = TypeVar("T")
Planner = Callable[[Snapshot, FleetPolicy, Memory], tuple[FleetPlan, Memory]]
# How the scaler can know what a replica takes at its highest. shown: per-pod VRAM is exported, and the high-water was
# seen once. learnt: only cards' used memory tells, from when the service was alone on one. declared: only
# vramPerReplica does. share: vLLM's part of a card's total.
Knowledge = Literal["shown", "learnt", "declared", "share"]
GROWTH = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 1.0)  # of what a pod has yet to take, by tick
SETTLING_TICKS = 8  # 2 minutes: all pods count as ready and resident, and no promise stands


class Place(NamedTuple):
    """A card: its size, its time-slice places (None: not known), its model."""

    total_gib: float
    slots: int | None = 4
    model: str = "Tesla T4"


@dataclass(frozen=True)
class Service:
    """A service: what one replica holds at its highest, and of that, the part that it holds when it has just loaded.

    Attributes:
        high_gib: the same on every card; with knowledge `share` it is the part of the card's total, 0 to 1.
        start_ratio: only where VRAM per pod is shown may a replica grow after it is ready: else nobody could know.
        lag_ticks: as late as this an answer may reach spec.replicas: now later, now sooner, and never after a younger.
    """

    name: str
    high_gib: float
    knowledge: Knowledge = "shown"
    start_ratio: float = 1.0
    replicas: int = 1
    lag_ticks: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)

    def high_bytes(self, place: Place) -> float:
        return self.high_gib * (place.total_gib if self.knowledge == "share" else 1.0) * GIB

    def trigger(self) -> dict[str, str]:
        declared = {"vramPerReplica": str(int(self.high_gib * GIB))} if self.knowledge == "declared" else {}
        return {**declared, **self.metadata}


@dataclass(eq=False)
class Pod:
    """A replica.

    Attributes:
        decided: tick of the plan that granted it; None: nobody did (it ran before, or is a surge pod).
        seen: the first tick whose plan can know of it.
        card: None while it waits for a slot.
        leaving_ticks: None while it is to stay; else it holds slot and VRAM for so long.
        leaving_known: the first tick whose plan can know that it leaves.
    """

    service: Service
    decided: int | None
    seen: int
    loading_ticks: int
    warming_ticks: int
    card: int | None = None
    held_bytes: float = 0.0
    is_surge: bool = False
    leaving_ticks: int | None = None
    leaving_known: int = 0

    @property
    def is_ready(self) -> bool:
        return self.card is not None and self.loading_ticks == 0 and self.warming_ticks == 0


class Choices:
    """What is left to chance, as drawn numbers that are used in turn, and over again."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = itertools.cycle(numbers)

    def pick(self, options: Sequence[T]) -> T:
        return options[next(self._numbers) % len(options)]


class Seen(NamedTuple):
    """What the exporters would show at one tick, before its age is told."""

    workloads: Mapping[WorkloadKey, WorkloadReading]
    cards: Mapping[CardKey, CardReading]


class Landing:
    """The fleet, its clock in ticks, and the plans that it was given.

    Attributes:
        placement: which cards the scheduler may choose: any with a free slot, or with spread those with the fewest pods
            of the nodes with the fewest, among those with a free slot.
        is_worst: of these a replica lands on the card that will be the fullest; else on a drawn one.
        nodes: each place's node; default: one of its own.
        counts_leaving: a node's pods that are told to end count until they are gone.
        card_age_ticks / replicas_age_ticks: so old are the readings of cards and of replicas.
        names_starting: cards name a pod from its landing on; else only once it holds VRAM.
        crossings: one line for each card and tick below the watermark because of a grant.
        granted / withheld: replicas above spec.replicas that plans granted, and that demand asked for in vain.
    """

    def __init__(
        self,
        places: Sequence[Place],
        services: Sequence[Service],
        operator: OperatorPolicy,
        choices: Choices,
        planner: Planner,
        *,
        placement: Placement = "worst",
        is_worst: bool = True,
        nodes: Sequence[int] | None = None,
        counts_leaving: bool = True,
        card_age_ticks: int = 0,
        replicas_age_ticks: int = 0,
        names_starting: bool = True,
    ) -> None:
        self.places, self.services, self.choices, self._planner = places, services, choices, planner
        self.policy = policy(operator, **{each.name: each.trigger() for each in services})
        self.is_worst, self.names_starting = is_worst, names_starting
        self.placement, self.counts_leaving = placement, counts_leaving
        self.nodes = nodes if nodes is not None else range(len(places))
        self._card_age_ticks, self._replicas_age_ticks = card_age_ticks, replicas_age_ticks
        self.now = 0
        self.pods: list[Pod] = []
        self._gone: list[Pod] = []
        self.spec = dict.fromkeys((each.name for each in services), 0)
        self._to_replace: dict[str, list[Pod]] = {each.name: [] for each in services}
        self._seen: list[Seen] = []
        self._told: list[Mapping[str, Decision]] = []
        self._acted_on = dict.fromkeys(self.spec, -1)
        self._memory = Memory()
        self.crossings: list[str] = []
        self.granted = self.withheld = 0
        self._show_high_waters()
        self._begin()

    # --- the history before: every high-water has been seen -----------------------------------------------------------

    def _show_high_waters(self) -> None:
        """Earlier that day each service ran alone on a card of each model, at its highest, at a lesson's mark: with
        two replicas, since an exporter that names one pod a card may hide others."""
        every_s = self.policy.operator.timing.learn_every_s
        shown = {place.model: index for index, place in enumerate(self.places)}
        for number, service in enumerate(self.services):
            at_s = START_S - every_s * (len(self.services) - number + SETTLING_TICKS)
            self.pods = [
                Pod(service, None, 0, 0, 0, index, service.high_bytes(self.places[index]))
                for index in shown.values()
                for _ in range(2)
            ]
            self.spec[service.name] = len(self.pods)
            seen = self._look({service.name: 1.0})
            _, self._memory = self._planner(Snapshot(at_s, seen.workloads, seen.cards), self.policy, self._memory)
            self.spec[service.name] = 0
        self.pods = []

    def _begin(self) -> None:
        """The replicas that run at the beginning, where they fit at their highest, and time for them to settle."""
        for service in self.services:
            for _ in range(service.replicas):
                pod = Pod(service, None, -SETTLING_TICKS, 0, 0)
                room = [
                    index
                    for index in self._open_cards()
                    if self.final_free_bytes(index) - service.high_bytes(self.places[index]) >= 0
                ]
                if room:
                    pod.card = self.choices.pick(room)
                    pod.held_bytes = self._loaded_bytes(pod)
                    self.pods.append(pod)
                    self.spec[service.name] += 1
        self.now = -SETTLING_TICKS
        for _ in range(SETTLING_TICKS):
            self._plan({name: float(count) for name, count in self.spec.items()})
            self._grow()
            self.now += 1
        self._told.clear()
        self.granted = self.withheld = 0

    # --- one tick -----------------------------------------------------------------------------------------------------

    def tick(self, demands: Mapping[str, float], rolled: Iterable[str] = ()) -> FleetPlan:
        """A plan at this tick; then HPAs act, pods land, load, grow and go, until the next."""
        result = self._plan(demands)
        self._told.append({each.key.name: each for each in result.decisions.values()})
        for name in rolled:
            if not self._to_replace[name]:
                self._to_replace[name] = [pod for pod in self._live(name) if pod.is_ready][:2]
        waiting = list(self.services)
        while waiting:  # in a drawn order: who comes first takes the slot
            service = self.choices.pick(waiting)
            waiting.remove(service)
            self._scale(service)
            self._roll(service)
            self._schedule(service)
        self._check()
        self._load()
        self._grow()
        self._check()
        self.now += 1
        return result

    def _plan(self, demands: Mapping[str, float]) -> FleetPlan:
        self._seen.append(self._look(demands))
        newest = self._seen[-1]
        old_cards = self._seen[max(0, len(self._seen) - 1 - self._card_age_ticks)]
        old_replicas = self._seen[max(0, len(self._seen) - 1 - self._replicas_age_ticks)]
        workloads = {
            name: replace(
                each,
                spec_replicas=old_replicas.workloads[name].spec_replicas,
                ready_replicas=old_replicas.workloads[name].ready_replicas,
                status_replicas=old_replicas.workloads[name].status_replicas,
                scraped_pods=max(each.scraped_pods or 0, old_replicas.workloads[name].ready_replicas or 0),
                replicas_age_s=5.0 + TICK_S * self._replicas_age_ticks,
            )
            for name, each in newest.workloads.items()
        }
        cards = {
            name: replace(card, age_s=5.0 + TICK_S * self._card_age_ticks) for name, card in old_cards.cards.items()
        }
        snapshot = Snapshot(START_S + TICK_S * self.now, workloads, cards)
        result, self._memory = self._planner(snapshot, self.policy, self._memory)
        for decision in result.decisions.values():
            if decision.granted is not None and decision.demand is not None and decision.replicas is not None:
                self.granted += max(0, decision.granted - decision.replicas)
                self.withheld += max(0, decision.demand - max(decision.granted, decision.replicas))
        return result

    def _scale(self, service: Service) -> None:
        """KEDA from zero and the HPA above it, by an answer of up to `lag_ticks` ago; then the ReplicaSet's pods."""
        name, newest = service.name, len(self._told) - 1
        lag_ticks = self.choices.pick(range(service.lag_ticks + 1)) if service.lag_ticks else 0
        told = self._acted_on[name] = max(self._acted_on[name], newest - lag_ticks)
        answer = self._told[told][name] if told >= 0 else None
        decided = self.now - (newest - told)
        if answer is not None and answer.granted is not None:
            if self.spec[name] > 0:
                self.spec[name] = max(1, answer.granted)
            elif answer.active:
                self.spec[name] = 1
        live = self._live(name)
        settled = [pod for pod in live if not pod.is_surge]
        for _ in range(self.spec[name] - len(settled)):
            self.pods.append(self._new_pod(service, decided))
        # As a ReplicaSet does: those that wait for a slot go first, then those not ready, then any.
        for _ in range(len(settled) - self.spec[name]):
            ranks = sorted(settled, key=lambda pod: (pod.card is not None, pod.is_ready))
            rank = (ranks[0].card is not None, ranks[0].is_ready)
            going = self.choices.pick([pod for pod in ranks if (pod.card is not None, pod.is_ready) == rank])
            settled.remove(going)
            self._remove(going, decided)

    def _roll(self, service: Service) -> None:
        """A rolling update with maxSurge 1: a new pod beside the old ones, and when it is ready an old one goes."""
        old = [pod for pod in self._to_replace[service.name] if pod in self.pods and pod.leaving_ticks is None]
        surge = next((pod for pod in self._live(service.name) if pod.is_surge), None)
        if surge is not None and (surge.is_ready or not old):
            surge.is_surge = False
            self._remove(
                old.pop(0) if old else surge, self.now + 1 + max(self._card_age_ticks, self._replicas_age_ticks)
            )
            surge = None
        if surge is None and old:
            pod = self._new_pod(service, None)
            pod.is_surge = True
            self.pods.append(pod)
        self._to_replace[service.name] = old

    def _new_pod(self, service: Service, decided: int | None) -> Pod:
        seen = self.now + 1 + self._replicas_age_ticks
        return Pod(service, decided, seen, self.choices.pick((1, 2, 4, 6)), self.choices.pick((0, 1, 2)))

    def _remove(self, pod: Pod, known: int) -> None:
        if pod.card is None:
            self.pods.remove(pod)
        else:
            pod.leaving_ticks, pod.leaving_known = self.choices.pick((1, 2)), known

    def _schedule(self, service: Service) -> None:
        """Puts waiting pods on cards with a free slot, whatever VRAM is free there. Which slots there would be, the
        plan that granted a pod must have been able to know: one that fell free by a later answer is not for it."""
        for pod in self._live(service.name):
            open_cards = self._open_cards(pod.decided) if pod.card is None else []
            if self.placement == "spread":
                open_cards = self._spread(open_cards, pod.decided)
            if open_cards:
                if self.is_worst:
                    pod.card = min(open_cards, key=lambda index: self._final_margin_bytes(index, service))
                else:
                    pod.card = self.choices.pick(open_cards)

    def _spread(self, open_cards: list[int], decided: int | None) -> list[int]:
        """Of these the cards with the fewest pods of the nodes with the fewest."""
        fewest = self._emptiest(self.nodes, open_cards, range(len(self.places)), decided, self.counts_leaving)
        found = []
        for node in {self.nodes[index] for index in fewest}:
            on_node = [index for index, name in enumerate(self.nodes) if name == node]
            cards = [index for index in fewest if index in on_node]
            found += self._emptiest(range(len(self.places)), cards, on_node, decided, True)
        return sorted(found)

    def _emptiest(
        self, of: Sequence[int], cards: list[int], rivals: Iterable[int], decided: int | None, counts_leaving: bool
    ) -> list[int]:
        """Of the cards those of the nodes with the fewest pods, if `of` are each card's node. That they are these, the
        plan that granted a pod must have been able to know: with the pods that left by a later answer still there, and
        the other nodes without the surge pods that came later."""

        def sits(pods: Iterable[Pod]) -> Counter[int]:
            return Counter(of[pod.card] for pod in pods if pod.card is not None)

        known = self.now if decided is None else decided
        there = [pod for pod in self.pods if counts_leaving or pod.leaving_ticks is None]
        left = [pod for pod in (*self._gone, *self.pods) if pod not in there and pod.leaving_known > known]
        surged = [pod for pod in self.pods if pod.decided is None and pod.seen > known]
        if decided is None:
            left, surged = [], []
        now, most, least = sits(there), sits([*there, *left]), sits(pod for pod in there if pod not in surged)
        fewest = min((now[of[index]] for index in cards), default=0)
        open_rivals = {
            of[index] for index in rivals if self._has_slot(index, [p for p in self.pods if p not in surged])
        }
        return [
            index
            for index in cards
            if now[of[index]] == fewest
            and all(most[of[index]] <= least[rival] for rival in open_rivals if rival != of[index])
        ]

    def _load(self) -> None:
        for pod in list(self.pods):
            if pod.leaving_ticks is not None:
                pod.leaving_ticks -= 1
                if pod.leaving_ticks == 0:
                    self.pods.remove(pod)
                    self._gone.append(pod)
            elif pod.card is not None and pod.loading_ticks > 0:
                pod.loading_ticks -= 1
                pod.held_bytes = self._loaded_bytes(pod) if pod.loading_ticks == 0 else 0.0
            elif pod.card is not None and pod.warming_ticks > 0:
                pod.warming_ticks -= 1

    def _grow(self) -> None:
        for pod in self.pods:
            if pod.card is not None and pod.held_bytes > 0.0 and pod.leaving_ticks is None:
                missing = pod.service.high_bytes(self.places[pod.card]) - pod.held_bytes
                pod.held_bytes += self.choices.pick(GROWTH) * missing if missing > 0 else 0.0

    # --- what the law says --------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """A card below its low watermark, with a granted replica on it, is that grant's doing, but for what its plan
        could not know: surge pods that came later. Running pods' growth to the high-water shown before was known."""
        for index in range(len(self.places)):
            here = [pod for pod in self.pods if pod.card == index]
            for pod in here:
                if pod.decided is None:
                    continue
                unknown = [each for each in here if each.decided is None and each.seen > pod.decided]
                free_bytes = self._free_bytes(index) + sum(each.held_bytes for each in unknown)
                if free_bytes < self._low_bytes(index) - 1.0:
                    self.crossings.append(
                        f"tick {self.now}, card {index}: {free_bytes / GIB:.2f} GiB free of {self.places[index]}, "
                        f"low watermark {self._low_bytes(index) / GIB:.2f} GiB, with a replica of {pod.service.name} "
                        f"granted at tick {pod.decided}"
                    )

    # --- what is there, and what is shown of it -----------------------------------------------------------------------

    @staticmethod
    def card_key(index: int) -> CardKey:
        return CardKey(f"GPU-{index}")

    def _live(self, name: str) -> list[Pod]:
        return [pod for pod in self.pods if pod.service.name == name and pod.leaving_ticks is None]

    def _open_cards(self, decided: int | None = None) -> list[int]:
        left_later = [] if decided is None else [pod for pod in self._gone if pod.leaving_known > decided]
        pods = [*self.pods, *left_later]
        return [index for index in range(len(self.places)) if self._has_slot(index, pods)]

    def _has_slot(self, index: int, pods: Iterable[Pod]) -> bool:
        slots = self.places[index].slots
        return slots is None or sum(pod.card == index for pod in pods) < slots

    def _low_bytes(self, index: int) -> float:
        return self.policy.operator.pools[0].low_watermark.of(self.places[index].total_gib * GIB)

    def _free_bytes(self, index: int) -> float:
        held = sum(pod.held_bytes for pod in self.pods if pod.card == index)
        return self.places[index].total_gib * GIB - held

    def final_free_bytes(self, index: int) -> float:
        """Free once all that is on the card holds the most that it will."""
        place = self.places[index]
        return place.total_gib * GIB - sum(pod.service.high_bytes(place) for pod in self.pods if pod.card == index)

    def _final_margin_bytes(self, index: int, service: Service) -> float:
        return self.final_free_bytes(index) - self._low_bytes(index) - service.high_bytes(self.places[index])

    def _loaded_bytes(self, pod: Pod) -> float:
        assert pod.card is not None
        ratio = pod.service.start_ratio if pod.service.knowledge == "shown" else 1.0
        return ratio * pod.service.high_bytes(self.places[pod.card])

    def _look(self, demands: Mapping[str, float]) -> Seen:
        workloads = {}
        for service in self.services:
            live = self._live(service.name)
            ready = sum(pod.is_ready for pod in live)
            workloads[workload(service.name)] = self._reading(
                service, demands.get(service.name, 0.0), self.spec[service.name], ready, len(live)
            )
        cards = {
            self.card_key(index): self._card(index, [pod for pod in self.pods if pod.card == index])
            for index in range(len(self.places))
        }
        return Seen(workloads, cards)

    @staticmethod
    def _reading(service: Service, demand: float, spec: int, ready: int, existing: int) -> WorkloadReading:
        """Four in flight make one replica; one arrival a second is too few to be held against lessons."""
        share = service.high_gib if service.knowledge == "share" else None
        base = reading(spec, 4.0 * demand, 1.0, ready=ready, existing=existing)
        return replace(base, gpu_memory_utilization=share)

    def _card(self, index: int, pods: Sequence[Pod]) -> CardReading:
        place, held = self.places[index], [pod for pod in pods if pod.held_bytes > 0.0]
        named = [pod.service.name for pod in (pods if self.names_starting else held)]
        shown = {pod.service.name for pod in held if pod.service.knowledge == "shown"}
        vram = {name: [pod.held_bytes for pod in held if pod.service.name == name] for name in shown}
        return CardReading(
            free_bytes=max(0.0, place.total_gib * GIB - sum(pod.held_bytes for pod in held)),
            total_bytes=place.total_gib * GIB,
            utilization_ratio=0.3,
            age_s=5.0,
            node=f"node-{self.nodes[index]}",
            model=place.model,
            slots=place.slots,
            pods={workload(name): named.count(name) for name in named},
            held={workload(name): HeldVram(sum(each), max(each)) for name, each in vram.items()},
        )
