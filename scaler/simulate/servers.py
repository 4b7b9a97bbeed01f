"""What an inference server shows of itself, and what Prometheus makes of it: gauges, counters, and their windows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(slots=True)
class Counters:
    """A server's counters, since its start: requests, and seconds summed over requests."""

    success: float = 0.0
    failure: float = 0.0
    oom: float = 0.0
    compute_s: float = 0.0
    duration_s: float = 0.0
    gpu_wall_s: float = 0.0
    gpu_own_s: float = 0.0  # no server shows it: the model's truth


class Scrape(NamedTuple):
    time_s: float
    counters: Counters
    waiting: float
    running: float


@dataclass(slots=True)
class Scrapes:
    """One pod's inference server: what it shows now, and what Prometheus has of the last window.

    `waiting` and `running` are means of the current step; a scrape sees whole clumps of requests around them. Triton
    counts its executions for each of `cards`; vLLM's engine runs or does not.
    """

    phase_s: float
    cards: int = 1
    counters: Counters = field(default_factory=Counters)
    waiting: float = 0.0
    running: float = 0.0
    clump: float = 1.0
    samples: deque[Scrape] = field(default_factory=lambda: deque(maxlen=8))


class Rates(NamedTuple):
    """A window's means and rates, summed over pods; None where no pod has the two samples that a rate takes."""

    waiting: float | None
    executing: float | None
    growth_per_s: float | None
    success: float | None
    failure: float | None
    oom: float | None
    duration_s: float | None
    gpu_wall: float | None


def rates(servers: Iterable[Scrapes], after_s: float, is_vllm: bool) -> Rates:
    waiting = executing = growth = success = failure = oom = duration = gpu_wall = 0.0
    rated = 0
    for server in servers:
        window = [sample for sample in server.samples if sample.time_s > after_s]
        if not window:
            continue
        waiting += sum(sample.waiting for sample in window) / len(window)
        if is_vllm:
            executing += sum(sample.running for sample in window) / len(window)
        if len(window) < 2:
            continue
        rated += 1
        first, last = window[0], window[-1]
        span_s = last.time_s - first.time_s
        old, new = first.counters, last.counters
        success += (new.success - old.success) / span_s
        failure += (new.failure - old.failure) / span_s
        oom += (new.oom - old.oom) / span_s
        duration += (new.duration_s - old.duration_s) / span_s
        if is_vllm:
            gpu_wall += sum(sample.running > 0 for sample in window) / len(window)
            growth += _slope([(sample.time_s, sample.waiting + sample.running) for sample in window])
        else:
            executing += (new.compute_s - old.compute_s) / span_s
            gpu_wall += server.cards * min(1.0, (new.gpu_wall_s - old.gpu_wall_s) / span_s)
            growth += _slope([(sample.time_s, sample.waiting) for sample in window])
    if not rated:
        return Rates(waiting, executing if is_vllm else None, None, None, None, None, None, None)
    return Rates(waiting, executing, growth, success, failure, oom, duration, gpu_wall)


def _slope(points: list[tuple[float, float]]) -> float:
    """Least squares, per second."""
    middle_s = sum(time_s for time_s, _ in points) / len(points)
    mean = sum(value for _, value in points) / len(points)
    spread = sum((time_s - middle_s) ** 2 for time_s, _ in points)
    return sum((time_s - middle_s) * (value - mean) for time_s, value in points) / spread if spread else 0.0
