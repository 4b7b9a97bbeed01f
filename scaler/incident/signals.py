"""One service's signals as Prometheus would give them: gauges and rates of each instant, then their windows."""

from __future__ import annotations

import random
from collections import deque
from typing import NamedTuple

from scaler.incident.services import E5, Service
from scaler.incident.timeline import STEP_S, clock
from scaler.snapshot import WorkloadReading

CLIENT_RETRIES = 2
_STABLE, _BURST = 4, 2  # samples in 60 s and in 30 s
_FIXED_AT_S = clock("05:20")
_DEPLOYED_AT_S = clock("23:45") - 9 * 86400


class _Instant(NamedTuple):
    success_per_s: float
    failure_per_s: float
    queued: float
    executing: float
    success_waiting: float  # of the queue, what successful requests wait in


class ServiceSignals:
    """Call `reading` once for every step, in order."""

    def __init__(self, service: Service, seed: int) -> None:
        self._service = service
        self._random = random.Random(f"{seed} {service.name}")
        self._window: deque[_Instant] = deque(maxlen=_STABLE)
        self._signals_age_s = self._random.randint(5, 15)
        self._replicas_age_s = self._random.randint(5, 15)

    def reading(self, at_s: float, spec: int, ready: int) -> WorkloadReading:
        self._window.append(self._instant(at_s))
        stable, burst = list(self._window), list(self._window)[-_BURST:]
        success = _mean([instant.success_per_s for instant in stable])
        failure = round(_mean([instant.failure_per_s for instant in stable]), 3)
        in_server = _mean([instant.executing + instant.success_waiting for instant in stable])
        return WorkloadReading(
            spec_replicas=spec,
            ready_replicas=ready,
            status_replicas=spec,  # the record tells of no surge pods
            replicas_age_s=float(self._replicas_age_s),
            scraped_pods=ready,
            signals_age_s=float(self._signals_age_s),
            queued=_mean([instant.queued for instant in stable]),
            queued_burst=_mean([instant.queued for instant in burst]),
            executing=round(_mean([instant.executing for instant in stable]), 3),
            executing_burst=round(_mean([instant.executing for instant in burst]), 3),
            inflight_growth_per_s=round(_slope([instant.queued + instant.executing for instant in stable]), 4),
            success_per_s=round(success, 2),
            failure_per_s=failure,
            oom_failure_per_s=failure,
            success_time_s=round(in_server / success, 4),
            gpu_busy=round(success * self._service.gpu_s, 2),
            gpu_busy_source="triton-wall-time",
            revision_created_s=_DEPLOYED_AT_S if at_s < _FIXED_AT_S else _FIXED_AT_S,
        )

    def _instant(self, at_s: float) -> _Instant:
        service = self._service
        quiet = service is E5  # its in-flight is what the record's u_conc pins down to two digits
        fresh_per_s = service.fresh_per_min.at(at_s) / 60 * self._noise(0.003 if quiet else 0.01)
        failed_per_s = service.failed_per_min.at(at_s) / 60
        failing = _failing_share(fresh_per_s, failed_per_s)
        success_per_s = fresh_per_s * (1 - failing ** (CLIENT_RETRIES + 1))
        # A gauge is a whole number at each scrape; its mean over the window need not be.
        waiting = int(service.queued.at(at_s) + self._random.random())
        return _Instant(
            success_per_s=success_per_s,
            failure_per_s=failed_per_s,
            queued=waiting + round(service.retry_queue.at(at_s)),
            executing=success_per_s * service.service_s.at(at_s) * self._noise(0.002 if quiet else 0.01),
            success_waiting=waiting,
        )

    def _noise(self, spread: float) -> float:
        return 1 + self._random.uniform(-spread, spread)


def _failing_share(fresh: float, failed: float) -> float:
    """p of one attempt, such that fresh x (p + p^2 + p^3) attempts fail: each failure is tried again, twice at most."""
    share = 0.0
    for _ in range(60):
        share = failed / fresh / sum(share**attempt for attempt in range(CLIENT_RETRIES + 1))
    return share


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _slope(values: list[float]) -> float:
    """Least squares, per second."""
    middle, mean = (len(values) - 1) / 2, _mean(values)
    spread = sum((index - middle) ** 2 for index in range(len(values)))
    return (
        sum((index - middle) * (value - mean) for index, value in enumerate(values)) / spread / STEP_S
        if spread
        else 0.0
    )
