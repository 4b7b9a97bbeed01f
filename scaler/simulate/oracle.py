"""The bound: it knows what the fresh load needs and where the scheduler will put the next pod."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from scaler.simulate.autoscaler import Estimate, Truth
from scaler.simulate.deployment import Deployment
from scaler.simulate.fleet import CONTEXT_BYTES, Card, Pod
from scaler.simulate.hpa import EXAMPLE_BEHAVIOR, HOLD, Answer, Behavior, Policy, Rules
from scaler.simulate.metric_path import Seen
from scaler.simulate.scenario import NAMESPACE, ScenarioService
from scaler.snapshot import WorkloadKey

WINDOW_S = 300.0  # down only when the need was lower so long, as the policies do that serve
# Up by as many as it says at once; down as the others do.
AT_ONCE = Behavior(up=Rules(0.0, (Policy("Pods", 10_000, 15.0),), tolerance=0.0), down=EXAMPLE_BEHAVIOR.down)


class Oracle:
    """Grants what the fresh load needs, for as long as the card on which the next pod will land keeps its watermark
    with everything on it grown as far as full batches make it grow. The next grant is for whom a replica has most work:
    beyond its capacity requests are lost, below it they only take longer. Among equals it is for the largest, since a
    small one finds a place later, too."""

    behavior: Behavior | None = AT_ONCE
    reads_spots = False

    def __init__(self) -> None:
        self._truth: Truth | None = None
        self._needs: dict[WorkloadKey, deque[tuple[float, int]]] = {}
        self._highest_needs: dict[WorkloadKey, int] = {}
        self._highest: dict[WorkloadKey, float] = {}
        self._size: dict[WorkloadKey, float] = {}

    def look(self, seen: Seen, truth: Truth) -> None:
        self._truth = truth
        for key, deployment in truth.deployments.items():
            self._highest[key] = _at_most(deployment)
            self._size[key] = deployment.service.weights + self._highest[key] * deployment.service.cards
        for key, deployment in truth.deployments.items():
            past = self._needs.setdefault(key, deque())
            past.append((truth.at_s, deployment.needed(truth.at_s)))
            while past[0][0] <= truth.at_s - WINDOW_S:
                past.popleft()
        self._highest_needs = {key: max(need for _, need in past) for key, past in self._needs.items()}

    def answer(self, service: ScenarioService) -> Answer:
        """As of this very moment: what was told to others a step ago has a pod by now, or is counted as landing."""
        if self._truth is None:
            return HOLD
        truth, asking = self._truth, WorkloadKey(NAMESPACE, service.name)
        needs = self._highest_needs
        granted = {key: min(needs[key], each.hpa.replicas) for key, each in truth.deployments.items()}
        landed: dict[Card, list[float]] = {}
        for deployment in truth.deployments.values():
            for _ in range(deployment.hpa.replicas - len(deployment.living())):
                self._land(truth, deployment, landed, must=True)
        short = {key for key in granted if granted[key] < needs[key]}
        work = {key: truth.deployments[key].work(truth.at_s) for key in short}
        while asking in short:
            key = min(short, key=lambda key: (-work[key] / max(granted[key], 0.1), -self._size[key], key))
            has_landed = self._land(truth, truth.deployments[key], landed)
            granted[key] += has_landed
            if not has_landed or granted[key] >= needs[key]:
                short.discard(key)
        return Answer(float(granted[asking]), granted[asking] > 0)

    def _land(self, truth: Truth, deployment: Deployment, landed: dict[Card, list[float]], must: bool = False) -> bool:
        """Whether the next pod may land where it will; if so, or if it must, it is counted on each card there."""
        taken = {each: len(pods) for each, pods in landed.items()}
        cards = truth.fleet.next_cards(deployment.service.cards, taken)
        if not cards:
            return False
        full = self._full(deployment, cards[0])
        for card in cards:
            grown = sum(self._grown(pod) for pod in card.pods) + sum(landed.get(card, []))
            low_bytes = truth.low_bytes if card.slots > 1 else 0.0
            if not must and card.usable_bytes - grown - full < low_bytes:
                return False
        for card in cards:
            landed.setdefault(card, []).append(full)
        return True

    def _full(self, deployment: Deployment, card: Card) -> float:
        """Of each of a replica's cards."""
        service, shape = deployment.service, deployment.service.arena
        weights = CONTEXT_BYTES + service.weights / service.cards
        if shape.kind == "fixed":
            return max(weights, shape.share * card.total_bytes)
        smallest = (shape.base + shape.per_row) / service.cards
        return weights + max(self._highest.get(deployment.workload, 0.0), smallest)

    def _grown(self, pod: Pod) -> float:
        return max(pod.full_bytes, pod.resident_bytes) + max(pod.arena.held_bytes, self._highest.get(pod.workload, 0.0))

    def estimates(self) -> Mapping[WorkloadKey, Estimate]:
        return {}

    def withheld(self) -> Mapping[WorkloadKey, str]:
        return {}

    def restart(self, back_at_s: float) -> None:
        """An oracle is never away."""


def _at_most(deployment: Deployment) -> float:
    """What the arena of one pod comes to with the largest batch, on each of its cards if they have room."""
    service, shape = deployment.service, deployment.service.arena
    arena = service.new_arena(deployment.arena_kind)
    arena.hold((shape.base + shape.per_row * service.max_batch) / service.cards, 1e15)
    return arena.held_bytes
