"""Out-of-memory retries: how many of the arrivals are fresh.

A client that retries up to R times turns fresh arrivals f into f x A(p, R) attempts, where p is the chance that an
attempt fails and A(p, R) = 1 + p + ... + p^R. With p = 0.4 and R = 2 that is 1.56: a card without VRAM looks like
56 % more demand, and a replica added for it takes more VRAM from the same cards.
"""

from __future__ import annotations

from msgspec import Struct

from scaler.snapshot import WorkloadReading


class Arrivals(Struct, frozen=True, gc=False):
    """Arrivals per second: all attempts, and those of them that are fresh; the ratio of attempts that failed."""

    all_per_s: float
    fresh_per_s: float
    failed_ratio: float
    corrected: bool


def oom_candidates_per_s(reading: WorkloadReading) -> float:
    """Failures per second that may be for lack of VRAM; all failures where the server does not tell them apart."""
    failure = reading.failure_per_s
    if not failure or failure < 0.0:  # none, mostly
        return 0.0
    if reading.oom_failure_per_s is None:
        return failure
    return min(failure, max(0.0, reading.oom_failure_per_s))


def arrivals(reading: WorkloadReading, oom_per_s: float, oom_confirmed: bool, client_retries: int) -> Arrivals | None:
    """Arrivals of a service, with so many out-of-memory candidates; None where a part of its request counters cannot be
    seen.

    Counters move when a request completes, so what still waits is added: arrivals = completions + growth of the
    requests in flight. Only confirmed out-of-memory failures are discounted: no evidence, no discount.
    The result lies between the successes and all arrivals.
    """
    success, failure = reading.success_per_s, reading.failure_per_s
    if success is None or failure is None or min(success, failure) < 0.0:
        return None
    seen = max(0.0, success + failure + (reading.inflight_growth_per_s or 0.0))
    attempts = success + oom_per_s
    failed_ratio = oom_per_s / attempts if attempts else 0.0
    if not oom_confirmed or oom_per_s == 0.0 or client_retries == 0:
        return Arrivals(seen, seen, failed_ratio, False)
    inflation = sum(failed_ratio**k for k in range(client_retries + 1))
    fresh = min(max(seen / inflation, success), max(seen, success))
    return Arrivals(seen, fresh, failed_ratio, corrected=True)


def fresh_inflight(inflight: float, flow: Arrivals, reading: WorkloadReading) -> float:
    """Requests in flight that fresh arrivals account for.

    The smaller of two readings wins: the same share of the requests in flight as of the arrivals, or fresh arrivals
    times the time that a success takes (retries fail fast and hold the queue differently). Never below what the
    successes alone need, never above what is in flight.
    """
    if not flow.corrected or flow.all_per_s <= 0.0:
        return inflight
    by_share = inflight * flow.fresh_per_s / max(flow.all_per_s, flow.fresh_per_s)
    if reading.success_time_s is None or reading.success_time_s < 0:
        return by_share
    by_time = flow.fresh_per_s * reading.success_time_s
    successes_need = (reading.success_per_s or 0.0) * reading.success_time_s
    return min(inflight, max(min(by_share, by_time), successes_need))
