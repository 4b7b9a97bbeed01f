"""What an inference server shows of itself, and what Prometheus makes of it: gauges, counters, and their windows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
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

    def copy(self) -> Counters:
        """As they are now; dataclasses.replace would take five times as long, for each pod at each scrape."""
        return Counters(self.success, self.failure, self.oom, self.compute_s, self.duration_s, self.gpu_wall_s)


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
        waits, executes = _gauges(window, is_vllm)
        waiting, executing = waiting + waits, executing + (executes or 0.0)
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
            gpu_wall += sum([sample.running > 0 for sample in window]) / len(window)
            inflight = [sample.waiting + sample.running for sample in window]
            growth += _slope([sample.time_s for sample in window], inflight)
        else:
            gpu_wall += server.cards * min(1.0, (new.gpu_wall_s - old.gpu_wall_s) / span_s)
            growth += _slope([sample.time_s for sample in window], [sample.waiting for sample in window])
    if not rated:
        return Rates(waiting, executing if is_vllm else None, None, None, None, None, None, None)
    return Rates(waiting, executing, growth, success, failure, oom, duration, gpu_wall)


def gauges(servers: Iterable[Scrapes], after_s: float, is_vllm: bool) -> tuple[float, float | None]:
    """Waiting and executing alone, as `rates` has them."""
    waiting = executing = 0.0
    is_known = is_vllm
    for server in servers:
        window = [sample for sample in server.samples if sample.time_s > after_s]
        if not window:
            continue
        waits, executes = _gauges(window, is_vllm)
        waiting, executing = waiting + waits, executing + (executes or 0.0)
        is_known = is_known or executes is not None
    return waiting, executing if is_known else None


def _gauges(window: list[Scrape], is_vllm: bool) -> tuple[float, float | None]:
    """Mean requests waiting and executing over one server's samples; Triton's execution is a rate, so it takes two."""
    waiting = sum([sample.waiting for sample in window]) / len(window)
    if is_vllm:
        return waiting, sum([sample.running for sample in window]) / len(window)
    if len(window) < 2:
        return waiting, None
    first, last = window[0], window[-1]
    return waiting, (last.counters.compute_s - first.counters.compute_s) / (last.time_s - first.time_s)


def _slope(times_s: list[float], values: list[float]) -> float:
    """Least squares, per second."""
    from_middle_s, spread = _around_middle(tuple(times_s))
    if not spread:
        return 0.0
    mean = sum(values) / len(values)
    return sum([each_s * (value - mean) for each_s, value in zip(from_middle_s, values, strict=True)]) / spread


@lru_cache(maxsize=16)  # all pods of one phase were scraped at the same moments
def _around_middle(times_s: tuple[float, ...]) -> tuple[list[float], float]:
    middle_s = sum(times_s) / len(times_s)
    from_middle_s = [time_s - middle_s for time_s in times_s]
    return from_middle_s, sum([each_s**2 for each_s in from_middle_s])
