"""From what is to what is seen: the exporters' samples, Prometheus' scrapes and rate windows, with their real delays.

The DCGM exporter collects every 30 s and is scraped every 15 s; servers and kube-state-metrics are scraped every 15 s,
each at a moment of its own; windows hold the samples of 60 s and 30 s. What comes out is a Snapshot as
`sources.prometheus` would build it, and the plain instant readings that other triggers query.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal, NamedTuple

from scaler.policy import Timing
from scaler.simulate.fleet import Card, Pod
from scaler.simulate.node_agent import NodeAgent, spot
from scaler.simulate.scenario import Attribution
from scaler.simulate.servers import Rates, Scrape, gauges, rates
from scaler.snapshot import (
    CardKey,
    CardReading,
    GpuBusySource,
    HeldVram,
    Problem,
    Snapshot,
    WorkloadKey,
    WorkloadReading,
)

SCRAPE_S = 15.0
COLLECT_S = 30.0
UTILIZATION_WINDOW_S = 120.0


class CardScrape(NamedTuple):
    """The exporter's answer for one card: the last collected sample, by pod as far as the exporter can tell."""

    time_s: float
    free_bytes: float
    utilization_ratio: float
    pods: tuple[tuple[Pod, float, float], ...]  # pod, held bytes, utilisation
    places: Mapping[WorkloadKey, int]
    held: Mapping[WorkloadKey, HeldVram]


class Replicas(NamedTuple):
    """kube-state-metrics on one Deployment."""

    spec: int
    ready: int
    exists: int
    revision_created_s: float


class Spot(NamedTuple):
    """What an instant query shows of one service; None where it has no series."""

    pending: float | None
    inflight: float | None
    gpu_percent: float | None
    vram_ratio: float | None
    kv_ratio: float | None
    ready: int


class Seen(NamedTuple):
    """All that a policy may look at; `spots` where it reads them."""

    snapshot: Snapshot
    spots: Mapping[WorkloadKey, Spot]


class MetricPath:
    """Call `scrape` once for every step, in order; `seen` at any moment of it."""

    def __init__(self, attribution: Attribution, timing: Timing, noise: random.Random) -> None:
        self._attribution, self._timing, self._random = attribution, timing, noise
        self._cards: dict[CardKey, deque[CardScrape]] = {}
        self._collected: dict[CardKey, CardScrape] = {}
        self._replicas: dict[WorkloadKey, Replicas] = {}
        self._replicas_at_s: float | None = None
        self._phase_s: dict[Card, float] = {}
        self._node_phase_s: dict[str, float] = {}
        self._agent = NodeAgent(noise) if attribution == "agent" else None
        self.lost: Literal["all", "cards", "servers"] | None = None

    def scrape(
        self, at_s: float, cards: Iterable[Card], deployments: Callable[[], dict[WorkloadKey, Replicas]]
    ) -> None:
        """All targets whose turn it is."""
        phase_now_s, collect_now_s = at_s % SCRAPE_S, at_s % COLLECT_S
        if phase_now_s == 5.0:
            self._replicas, self._replicas_at_s = deployments(), at_s
        for card in cards:
            phase_s = self._phase_s.get(card)
            is_new = phase_s is None
            if phase_s is None:
                phase_s = self._phase_s[card] = self._phase_of(card.node)
            if collect_now_s == phase_s or is_new:
                self._collected[card.key] = self._collect(at_s, card)
            if (phase_now_s == phase_s or phase_now_s == phase_s - SCRAPE_S) and self.lost != "cards":
                history = self._cards.setdefault(card.key, deque(maxlen=8))
                history.append(CardScrape(at_s, *self._collected[card.key][1:]))
            if self._agent is not None and self.lost != "cards":
                self._agent.round(at_s, card)
            if self.lost != "servers":
                for pod in card.pods:
                    if (
                        pod.scrapes.phase_s == phase_now_s
                        and pod.ready_s is not None
                        and pod.leaves_s is None
                        and pod.cards[0] is card
                    ):
                        self._scrape_pod(at_s, pod)

    def _phase_of(self, node: str) -> float:
        """When in its 30 s the exporter of that node collects."""
        if node not in self._node_phase_s:
            self._node_phase_s[node] = 5.0 * self._random.randrange(6)
        return self._node_phase_s[node]

    def keep_only(self, present: Iterable[CardKey]) -> None:
        """Cards that failed answer no more; their series end with the next scrape."""
        kept = set(present)
        self._cards = {key: scrapes for key, scrapes in self._cards.items() if key in kept}
        if self._agent is not None:
            self._agent.keep_only(kept)

    def lose(self, what: Literal["all", "cards", "servers"], pods: Iterable[Pod]) -> None:
        """Scrapes fail from now on: a failed scrape ends the series at once."""
        self.lost = what
        if what == "cards":
            self.keep_only(())
        if what == "servers":
            for pod in pods:
                pod.scrapes.samples.clear()

    def _collect(self, at_s: float, card: Card) -> CardScrape:
        seen = spot(min(card.busy, 1.0), self._random)
        scale = seen / card.busy if card.busy > 0.0 else 0.0
        pods = tuple((pod, pod.held_bytes, pod.gpu_busy * scale) for pod in card.pods)
        if self._attribution != "exporter":
            pods = pods[-1:]  # without virtual GPUs the card's series names one of its pods
        places, held = _by_workload((pod, held_bytes, held_bytes) for pod, held_bytes, _ in pods)
        if self._attribution != "exporter":
            held = {}
        return CardScrape(at_s, max(0.0, card.free_bytes), seen, pods, places, held)

    def _scrape_pod(self, at_s: float, pod: Pod) -> None:
        scrapes = pod.scrapes
        waiting = self._whole(scrapes.waiting / scrapes.clump) * scrapes.clump
        running = self._whole(scrapes.running)
        scrapes.samples.append(Scrape(at_s, scrapes.counters.copy(), waiting, running))

    def _whole(self, mean: float) -> float:
        """A gauge at one instant is a whole number; its mean over time need not be."""
        if mean >= 20.0:
            return max(0.0, float(round(self._random.gauss(mean, math.sqrt(mean)))))
        limit, product, count = math.exp(-mean), self._random.random(), 0
        while product > limit:
            product *= self._random.random()
            count += 1
        return float(count)

    def seen(self, at_s: float, pods: Mapping[WorkloadKey, list[Pod]], with_spots: bool) -> Seen:
        """The fleet as Prometheus' queries at this instant tell it; `pods` are those that exist, by Deployment."""
        if self.lost == "all":
            return Seen(Snapshot(at_s, problems=(Problem("replicas", "Prometheus cannot be reached"),)), {})
        exporter = self._by_exporter()
        workloads, spots = {}, {}
        for key, replicas in self._replicas.items():
            readers = [
                pod
                for pod in pods.get(key, ())
                if pod.scrapes.samples and pod.ready_s is not None and pod.leaves_s is None and self.lost != "servers"
            ]
            workloads[key] = self._workload(at_s, replicas, readers, exporter.get(key, 0.0))
            if with_spots:
                spots[key] = self._spot(replicas, readers)
        cards = {}
        if self.lost != "cards":
            cards = {key: self._card(at_s, key, scrapes) for key, scrapes in self._cards.items()}
        problems = (Problem("vram", "no series"),) if not cards else ()
        return Seen(Snapshot(at_s, workloads, cards, problems), spots)

    def _workload(self, at_s: float, replicas: Replicas, readers: list[Pod], exporter_busy: float) -> WorkloadReading:
        age_s = at_s - self._replicas_at_s if self._replicas_at_s is not None else None
        reading = partial(
            WorkloadReading,
            spec_replicas=replicas.spec,
            ready_replicas=replicas.ready,
            status_replicas=replicas.exists,
            replicas_age_s=age_s,
            revision_created_s=replicas.revision_created_s,
        )
        if not readers:
            return reading()
        is_vllm = readers[0].service.server == "vllm"
        servers = [pod.scrapes for pod in readers]
        stable = rates(servers, at_s - self._timing.stable_window_s, is_vllm)
        queued_burst, executing_burst = gauges(servers, at_s - self._timing.burst_window_s, is_vllm)
        busy, source = self._busy(at_s, readers, stable, exporter_busy, is_vllm)
        duration = stable.duration_s / stable.success if stable.success and stable.duration_s is not None else None
        fixed = readers[0].service.arena
        return reading(
            scraped_pods=len(readers),
            signals_age_s=at_s - min([server.samples[-1].time_s for server in servers]),
            queued=stable.waiting,
            queued_burst=queued_burst,
            executing=stable.executing,
            executing_burst=executing_burst,
            inflight_growth_per_s=stable.growth_per_s,
            success_per_s=stable.success,
            failure_per_s=stable.failure,
            oom_failure_per_s=stable.oom,
            success_time_s=duration,
            gpu_busy=busy,
            gpu_busy_source=source,
            gpu_memory_utilization=fixed.share if is_vllm and fixed.kind == "fixed" else None,
        )

    def _busy(
        self, at_s: float, readers: list[Pod], stable: Rates, exporter_busy: float, is_vllm: bool
    ) -> tuple[float | None, GpuBusySource | None]:
        if self._attribution == "exporter":
            return exporter_busy, "exporter-per-process"
        if self._agent is not None:
            busy = self._agent.busy(at_s - self._timing.stable_window_s, readers)
            if busy is not None:
                return busy, "agent"
        if self._attribution == "none" or stable.gpu_wall is None:
            return None, None
        return stable.gpu_wall, "vllm-running" if is_vllm else "triton-wall-time"

    def _by_exporter(self) -> dict[WorkloadKey, float]:
        """Own GPU time by process, averaged over two minutes of the exporter's samples."""
        busy: dict[WorkloadKey, float] = defaultdict(float)
        for scrapes in self._cards.values() if self._attribution == "exporter" else ():
            sums: dict[Pod, list[float]] = {}  # each of a pod's cards has a series of its own
            for scrape in scrapes:
                for pod, _, ratio in scrape.pods:
                    if pod in sums:
                        sums[pod].append(ratio)
                    else:
                        sums[pod] = [ratio]
            for pod, ratios in sums.items():
                if pod.leaves_s is None:
                    busy[pod.workload] += sum(ratios) / len(ratios)
        return busy

    def _card(self, at_s: float, key: CardKey, scrapes: deque[CardScrape]) -> CardReading:
        last, about = scrapes[-1], self._about[key]
        places, held, utilization = last.places, last.held, None
        agent_told = self._agent.pods(key) if self._agent is not None else None
        if agent_told is not None:
            places, held = _by_workload((pod, use.held_bytes, use.peak_bytes) for pod, use in agent_told.items())
        elif self._attribution in ("triton", "agent") and last.pods:  # each server names its own cards
            servers = defaultdict[WorkloadKey, int](int)
            for pod in about.pods:
                if pod.scrapes.samples or pod is last.pods[-1][0]:
                    servers[pod.workload] += 1
            places = dict(servers)
        if self._agent is not None:
            utilization = self._agent.utilization_ratio(key, at_s - self._timing.stable_window_s)
        if utilization is None:
            utilization = sum([scrape.utilization_ratio for scrape in scrapes]) / len(scrapes)
        return CardReading(
            free_bytes=last.free_bytes,
            total_bytes=about.total_bytes,
            utilization_ratio=utilization,
            age_s=at_s - last.time_s,
            node=about.node,
            model="Tesla T4",
            slots=about.slots,
            pods=places,
            held=held,
        )

    def know(self, cards: Iterable[Card]) -> None:
        """The cards that there are: their size, node and slots do not change."""
        self._about = {card.key: card for card in cards}

    def _spot(self, replicas: Replicas, readers: list[Pod]) -> Spot:
        """Instant queries; without a series they answer nothing, and KEDA's prometheus trigger reads that as 0."""
        if not readers:
            return Spot(None, None, None, None, None, replicas.ready)
        newest = [pod.scrapes.samples[-1] for pod in readers]
        pending = sum([sample.waiting for sample in newest])
        running = sum([sample.running for sample in newest])
        series = [self._cards.get(card.key) for pod in readers for card in pod.cards] if self.lost != "cards" else []
        cards = [scrapes[-1] for scrapes in series if scrapes]
        gpu_percent, vram_ratio = None, None
        if cards:
            total_bytes = readers[0].cards[0].total_bytes
            gpu_percent = 100.0 * sum([card.utilization_ratio for card in cards])
            vram_ratio = max([1.0 - card.free_bytes / total_bytes for card in cards])
        kv_ratio = max([pod.kv_ratio for pod in readers])
        return Spot(pending, pending + running, gpu_percent, vram_ratio, kv_ratio, replicas.ready)


def _by_workload(
    told: Iterable[tuple[Pod, float, float]],
) -> tuple[dict[WorkloadKey, int], dict[WorkloadKey, HeldVram]]:
    """A card's pods by Deployment: how many, and what they hold, by (pod, held bytes, highest held bytes)."""
    places: dict[WorkloadKey, int] = {}
    held: dict[WorkloadKey, HeldVram] = {}
    for pod, held_bytes, highest_bytes in told:
        before = held.get(pod.workload, HeldVram(0.0, 0.0))
        places[pod.workload] = places.get(pod.workload, 0) + 1
        held[pod.workload] = HeldVram(before.total_bytes + held_bytes, max(before.largest_bytes, highest_bytes))
    return places, held
