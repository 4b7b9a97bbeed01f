"""The node agent in the model (docs/agent.md): NVML by process every 5 s, means of 15 s, scraped every 15 s.

A round has each process' newest sample of the driver: the part of a sixth of a second to a second in which it ran, so a
spot value that scatters around the mean. What is held is exact, and as old as the round.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from scaler.simulate.fleet import Card, Pod
from scaler.simulate.scenario import STEP_S
from scaler.snapshot import CardKey

MEAN_S = 15.0
SCRAPE_S = 15.0
_ROUNDS = round(MEAN_S / STEP_S)


class PodUse(NamedTuple):
    """One pod on one card, as the agent shows it."""

    held_bytes: float
    peak_bytes: float
    busy_ratio: float


class AgentScrape(NamedTuple):
    """What Prometheus has of one card from one scrape."""

    time_s: float
    utilization_ratio: float
    pods: Mapping[Pod, PodUse]


def spot(busy: float, noise: random.Random) -> float:
    """NVML's utilisation is of the last sixth of a second or so: it scatters around the mean."""
    return min(1.0, max(0.0, noise.gauss(busy, 0.4 * math.sqrt(busy * (1.0 - busy)))))


class NodeAgent:
    """All nodes' agents: call `round` for each card at every step."""

    def __init__(self, noise: random.Random) -> None:
        self._random = noise
        self._phase_s: dict[str, float] = {}
        self._rounds: dict[CardKey, dict[Pod, deque[float]]] = {}
        self._peak_bytes: dict[CardKey, dict[Pod, float]] = {}
        self._scrapes: dict[CardKey, deque[AgentScrape]] = {}

    def round(self, at_s: float, card: Card) -> None:
        """A round of 5 s, and the scrape where it is due."""
        rounds, peaks = self._rounds.setdefault(card.key, {}), self._peak_bytes.setdefault(card.key, {})
        for pod in card.pods:
            rounds.setdefault(pod, deque(maxlen=_ROUNDS)).append(spot(min(pod.gpu_busy, 1.0), self._random))
            peaks[pod] = max(pod.held_bytes, peaks.get(pod, 0.0))
        phase_s = self._phase_s.setdefault(card.node, STEP_S * self._random.randrange(3))
        if at_s % SCRAPE_S == phase_s:
            uses = {pod: PodUse(pod.held_bytes, peaks[pod], sum(rounds[pod]) / len(rounds[pod])) for pod in card.pods}
            # Contexts take turns, so the card ran for as long as its pods did together.
            ran = min(1.0, sum(use.busy_ratio for use in uses.values()))
            self._scrapes.setdefault(card.key, deque(maxlen=8)).append(AgentScrape(at_s, ran, uses))
            self._rounds[card.key] = {pod: rounds[pod] for pod in card.pods}
            self._peak_bytes[card.key] = {pod: peaks[pod] for pod in card.pods}

    def keep_only(self, present: Iterable[CardKey]) -> None:
        """The series of all other cards end."""
        cards = set(present)
        self._scrapes = {key: scrapes for key, scrapes in self._scrapes.items() if key in cards}

    def pods(self, card: CardKey) -> Mapping[Pod, PodUse] | None:
        """By the newest scrape; None before the first."""
        scrapes = self._scrapes.get(card)
        return scrapes[-1].pods if scrapes else None

    def utilization_ratio(self, card: CardKey, after_s: float) -> float | None:
        """Of the whole card since then; None without a scrape."""
        shown = [each.utilization_ratio for each in self._scrapes.get(card, ()) if each.time_s > after_s]
        return sum(shown) / len(shown) if shown else None

    def busy(self, after_s: float, scraped: Iterable[Pod]) -> float | None:
        """GPU time of these pods since then, in busy cards; None where one of them is not seen."""
        total = 0.0
        for pod in scraped:
            for card in pod.cards:
                scrapes = self._scrapes.get(card.key)
                if not scrapes or pod not in scrapes[-1].pods:
                    return None
                shown = [each.pods[pod].busy_ratio for each in scrapes if each.time_s > after_s and pod in each.pods]
                total += sum(shown) / len(shown) if shown else 0.0
        return total
