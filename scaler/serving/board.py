"""The plan in force. The tick loop writes it, everything that answers reads it: one plan, one epoch (law 8)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from scaler.decision import FleetPlan
from scaler.serving.clock import Clock


class NoPlan(Exception):
    """There is no plan that may be answered from; the text says in one line why."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """A plan, and when (Clock.elapsed_s) the reading began that it was made from."""

    plan: FleetPlan
    begun_s: float


class Board:
    """Holds the newest plan and judges its age, by the wall clock and by the steady one: the older age counts.

    Attributes:
        next_change: set at the next plan, or when the board closes; a new one then takes its place.
        vetoed_since_s: since when each pool's veto has stood, as far as this instance has seen; a plan by itself looks
            back no further than watermarkWindow.
        trouble: why the newest tick brought no plan, in one line; "" while all is well.
    """

    def __init__(self, clock: Clock, stale_after_s: float) -> None:
        self._clock, self._stale_after_s = clock, stale_after_s
        self._epoch: Epoch | None = None
        self.next_change = asyncio.Event()
        self.vetoed_since_s: dict[str, float] = {}
        self.trouble = "the first reading is under way"
        self.is_closing = False

    @property
    def newest(self) -> FleetPlan | None:
        """The newest plan, however old."""
        return self._epoch.plan if self._epoch is not None else None

    def age_s(self) -> float | None:
        """Age of the newest plan's readings in seconds; None before the first plan."""
        if self._epoch is None:
            return None
        by_wall_s = self._clock.now_s() - self._epoch.plan.time_s
        return max(by_wall_s, self._clock.elapsed_s() - self._epoch.begun_s)

    def in_force(self) -> FleetPlan:
        """The plan to answer from.

        Raises:
            NoPlan: before the first plan, and from the moment that the newest is `stale_after_s` old.
        """
        epoch, age_s = self._epoch, self.age_s()
        if epoch is None or age_s is None:
            raise NoPlan(f"no plan yet: {self.trouble}")
        if age_s >= self._stale_after_s:
            why = f": {self.trouble}" if self.trouble else ""
            raise NoPlan(f"stale: the newest plan is {age_s:.0f} s old, the limit is {self._stale_after_s:g} s{why}")
        return epoch.plan

    def fault(self) -> str | None:
        """Why there is no answer now, in one line; None when ready."""
        if self.is_closing:
            return "shutting down"
        try:
            self.in_force()
        except NoPlan as fault:
            return str(fault)
        return None

    def publish(self, plan: FleetPlan, begun_s: float) -> None:
        """Puts a plan in force and wakes the streams."""
        self._epoch = Epoch(plan, begun_s)
        self.vetoed_since_s = {
            name: min(pool.vetoed_since_s, self.vetoed_since_s.get(name, pool.vetoed_since_s))
            for name, pool in plan.pools.items()
            if pool.vetoed and pool.vetoed_since_s is not None
        }
        self.trouble = ""
        self._wake()

    def close(self) -> None:
        """Ends the streams; the unary calls go on answering until the server stops."""
        self.is_closing = True
        self._wake()

    def _wake(self) -> None:
        woken, self.next_change = self.next_change, asyncio.Event()
        woken.set()
