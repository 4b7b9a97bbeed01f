"""What others do: the incident's three triggers, VRAM percent, own concurrency only, queue and KV cache."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scaler.policy import Timing
from scaler.simulate.autoscaler import Estimate, Truth
from scaler.simulate.hpa import EXAMPLE_BEHAVIOR, HOLD, Answer, Behavior
from scaler.simulate.metric_path import Seen, Spot
from scaler.simulate.scenario import NAMESPACE, ScenarioService
from scaler.snapshot import WorkloadKey, WorkloadReading


class _Watcher:
    """Keeps the newest of what was seen; a value a service, from its instant readings."""

    behavior: Behavior | None = EXAMPLE_BEHAVIOR
    reads_spots = True

    def __init__(self) -> None:
        self._seen: Seen | None = None

    def look(self, seen: Seen, truth: Truth) -> None:
        self._seen = seen

    def answer(self, service: ScenarioService) -> Answer:
        key = WorkloadKey(NAMESPACE, service.name)
        spot = self._seen.spots.get(key) if self._seen is not None else None
        value = self.value(service, spot) if spot is not None else None
        return HOLD if value is None else Answer(value, value > 0)

    def value(self, service: ScenarioService, spot: Spot) -> float | None:
        raise NotImplementedError

    def estimates(self) -> Mapping[WorkloadKey, Estimate]:
        return {}

    def withheld(self) -> Mapping[WorkloadKey, str]:
        return {}

    def restart(self, back_at_s: float) -> None:
        """KEDA's own triggers keep no memory."""


class Naive(_Watcher):
    """The incident's: the highest of three prometheus triggers, each over a threshold a replica. A query without a
    series is 0 (ignoreNullValues), and the HPA has no behavior, so it takes the highest of five minutes upward too."""

    behavior = None

    def value(self, service: ScenarioService, spot: Spot) -> float | None:
        limits = service.naive
        return max(
            (spot.inflight or 0.0) / limits.concurrency,
            (spot.pending or 0.0) / limits.pending,
            (spot.gpu_percent or 0.0) / limits.gpu,
        )


class VramPercent(_Watcher):
    """keda-gpu-scaler's way: the VRAM in use on the service's cards, in percent, with 80 as its target (type Value)."""

    TARGET_RATIO = 0.80

    def value(self, service: ScenarioService, spot: Spot) -> float | None:
        return None if spot.vram_ratio is None else spot.ready * spot.vram_ratio / self.TARGET_RATIO


class QueueAndKv(_Watcher):
    """keda-inference-scaler's way: max(queue / threshold, KV use / threshold) x 100 against 100 (AverageValue). An
    empty answer is 0, without an error."""

    QUEUE, KV_RATIO = 5.0, 0.7

    def value(self, service: ScenarioService, spot: Spot) -> float | None:
        kv = (spot.kv_ratio or 0.0) if service.server == "vllm" else 0.0
        return max((spot.pending or 0.0) / self.QUEUE, kv / self.KV_RATIO)


class Concurrency(_Watcher):
    """Knative's: all requests in flight over the target, stable and panic window; in panic never down. The panic
    window is two scrapes, 30 s: the 6 s of Knative cannot be seen through a scrape every 15 s."""

    PANIC_THRESHOLD, STABLE_S = 2.0, Timing().stable_window_s

    def __init__(self) -> None:
        super().__init__()
        self._panic_until_s: dict[str, float] = {}
        self._most: dict[str, int] = {}

    def answer(self, service: ScenarioService) -> Answer:
        if self._seen is None:
            return HOLD
        reading = self._seen.snapshot.workloads.get(WorkloadKey(NAMESPACE, service.name))
        loads = _inflight(reading) if reading is not None else None
        if reading is None or loads is None:
            return HOLD
        target, now_s, name = service.target_concurrency, self._seen.snapshot.taken_at_s, service.name
        stable, panic = (math.ceil(load / target) for load in loads)
        if panic / max(1, reading.ready_replicas or 0) >= self.PANIC_THRESHOLD:
            self._panic_until_s[name] = now_s + self.STABLE_S
        if now_s < self._panic_until_s.get(name, 0.0):
            self._most[name] = max(self._most.get(name, 0), stable, panic, reading.spec_replicas or 0)
            return Answer(float(self._most[name]), True)
        self._most.pop(name, None)
        return Answer(float(stable), stable > 0)


def _inflight(reading: WorkloadReading) -> tuple[float, float] | None:
    if reading.queued is None or reading.executing is None:
        return None
    stable = reading.queued + reading.executing
    if reading.queued_burst is None or reading.executing_burst is None:
        return stable, stable
    return stable, reading.queued_burst + reading.executing_burst
