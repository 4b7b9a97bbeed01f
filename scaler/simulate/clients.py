"""Clients of one service: fresh requests, and what comes back of those that failed."""

from __future__ import annotations

import math
import random
from collections import deque

from scaler.simulate.curves import Curve, Demand
from scaler.simulate.scenario import STEP_S, Clients

LONGEST_BACK_OFF_S = 60.0


class Attempts:
    """Arrivals of one step, by how often each was tried before: [0] are fresh, [R] will not come again."""

    __slots__ = ("by_try", "total")

    def __init__(self, by_try: list[float]) -> None:
        self.by_try = by_try
        self.total = sum(by_try)


class ClientPool:
    """Fresh arrivals as a random process; failures of each step wait out their back-off and come again.

    Attributes:
        fresh / lost / attempts_failed: totals since the start of the scored time.
    """

    def __init__(self, demand: Demand, clients: Clients, noise: random.Random) -> None:
        self._demand, self._clients, self._random = demand, clients, noise
        steps = [
            max(1, math.ceil(min(clients.back_off_s * 2**k, LONGEST_BACK_OFF_S) / STEP_S))
            for k in range(clients.retries)
        ]
        self._wait_steps = steps
        self._clump = Curve(clients.clump)
        self._none = [0.0] * (clients.retries + 1)
        self._due: deque[list[float]] = deque([0.0] * (clients.retries + 1) for _ in range(max(steps, default=1) + 1))
        self.fresh = self.lost = self.attempts_failed = self.attempts = 0.0
        self.fresh_now, self.clump = 0.0, 1.0

    def arrive(self, at_s: float) -> Attempts:
        """The next step's attempts."""
        mean = self._demand.at(at_s) * STEP_S
        by_try = self._due.popleft()
        self._due.append(self._none.copy())
        self.clump = max(1.0, self._clump.at(at_s))
        self.fresh_now = self._count(mean / self.clump) * self.clump
        by_try[0] += self.fresh_now
        attempts = Attempts(by_try)
        self.fresh += self.fresh_now
        self.attempts += attempts.total
        return attempts

    def fail(self, attempts: Attempts, failed: float) -> None:
        """So many of the attempts failed; the tries of the step fail alike."""
        if failed <= 0.0 or attempts.total <= 0.0:
            # What an older queue gives up arrives without a try of its own: lost.
            self.lost += max(0.0, failed)
            self.attempts_failed += max(0.0, failed)
            return
        self.attempts_failed += failed
        ratio, share = failed / attempts.total, self._clients.share
        last = self._clients.retries
        for tried, count in enumerate(attempts.by_try):
            fails = count * ratio
            again = fails * share if tried < last else 0.0
            self.lost += fails - again
            if again > 0.0:
                self._due[self._wait_steps[tried] - 1][tried + 1] += again

    def forget(self) -> None:
        """Totals from zero: the scored time begins."""
        self.fresh = self.lost = self.attempts_failed = self.attempts = 0.0

    def _count(self, mean: float) -> float:
        if mean <= 0.0:
            return 0.0
        if mean < 20.0:
            return float(_poisson(self._random, mean))
        return max(0.0, float(round(self._random.gauss(mean, math.sqrt(mean)))))


def _poisson(noise: random.Random, mean: float) -> int:
    """Knuth's product of uniforms; `mean` is small."""
    limit, product, count = math.exp(-mean), noise.random(), 0
    while product > limit:
        product *= noise.random()
        count += 1
    return count
