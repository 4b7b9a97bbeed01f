"""The plan in force. The tick loop writes it, everything that answers reads it: one plan, one epoch (law 8)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from scaler.decision import Decision, FleetPlan, PoolState
from scaler.planning.memory import Memory
from scaler.policy import FleetPolicy, ServiceKey, ServicePolicy
from scaler.serving.clock import Clock
from scaler.snapshot import Snapshot


class NoPlan(Exception):
    """There is no plan that may be answered from; the text says in one line why."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a plan was made from; the status page shows of it what no decision tells: each card, and what is promised.

    `shadows` are the services that nobody is told of, `asked_shadows` those of them that KEDA asks about none the less.
    """

    snapshot: Snapshot
    fleet: FleetPolicy
    memory: Memory
    shadows: Mapping[ServiceKey, ServicePolicy] = field(default_factory=dict)
    asked_shadows: Sequence[ServiceKey] = ()

    def policy(self, key: ServiceKey) -> ServicePolicy | None:
        """What a service asks for, a shadow included."""
        return self.fleet.services.get(key) or self.shadows.get(key)


@dataclass(frozen=True, slots=True)
class Epoch:
    """A plan, when (Clock.elapsed_s) the reading began that it was made from, and what KEDA is not told of: `shadow`,
    the decisions of the services that nobody acts on."""

    plan: FleetPlan
    begun_s: float
    grounds: Grounds | None = None
    shadow: Mapping[ServiceKey, Decision] = field(default_factory=dict)

    def decision(self, key: ServiceKey) -> Decision | None:
        """The decision of a service, a shadow's included."""
        return self.plan.decisions.get(key) or self.shadow.get(key)

    def decisions(self) -> dict[ServiceKey, Decision]:
        """All decisions by name, the shadows' included."""
        return dict(sorted({**self.shadow, **self.plan.decisions}.items()))


class Board:
    """Holds the newest plan and judges its age, by the wall clock and by the steady one: the older age counts.

    Attributes:
        next_change: set at the next plan, or when the board closes; a new one then takes its place.
        vetoed_since_s: since when each pool's veto has stood, as far as this instance has seen; a plan by itself looks
            back no further than watermarkWindow.
        vetoed_longer: the pools whose veto stood already at the first moment that this instance looked back to.
        trouble: why the newest tick brought no plan, in one line; "" while all is well.
    """

    def __init__(self, clock: Clock, stale_after_s: float) -> None:
        self._clock, self._stale_after_s = clock, stale_after_s
        self._epoch: Epoch | None = None
        self.next_change = asyncio.Event()
        self.vetoed_since_s: dict[str, float] = {}
        self.vetoed_longer: set[str] = set()
        self.trouble = "the first reading is under way"
        self.is_closing = False

    @property
    def newest(self) -> FleetPlan | None:
        """The newest plan, however old."""
        return self._epoch.plan if self._epoch is not None else None

    @property
    def newest_epoch(self) -> Epoch | None:
        """The newest plan with all that is known about it, however old."""
        return self._epoch

    def age_s(self) -> float | None:
        """Age of the newest plan's readings in seconds; None before the first plan."""
        if self._epoch is None:
            return None
        by_wall_s = self._clock.now_s() - self._epoch.plan.time_s
        return max(by_wall_s, self._clock.elapsed_s() - self._epoch.begun_s)

    def in_force(self) -> FleetPlan:
        """The plan to answer KEDA from; raises NoPlan, as `epoch_in_force` does."""
        return self.epoch_in_force().plan

    def epoch_in_force(self) -> Epoch:
        """The plan in force with all that is known about it, for people.

        Raises:
            NoPlan: before the first plan, and from the moment that the newest is `stale_after_s` old.
        """
        epoch, age_s = self._epoch, self.age_s()
        if epoch is None or age_s is None:
            raise NoPlan(f"no plan yet: {self.trouble}")
        if age_s >= self._stale_after_s:
            why = f": {self.trouble}" if self.trouble else ""
            raise NoPlan(f"stale: the newest plan is {age_s:.0f} s old, the limit is {self._stale_after_s:g} s{why}")
        return epoch

    def fault(self) -> str | None:
        """Why there is no answer now, in one line; None when ready."""
        if self.is_closing:
            return "shutting down"
        try:
            self.in_force()
        except NoPlan as fault:
            return str(fault)
        return None

    def publish(self, plan: FleetPlan, begun_s: float, grounds: Grounds | None = None) -> None:
        """Puts a plan in force and wakes the streams. The shadows' decisions stay as they were until `cast`."""
        shadow = self._epoch.shadow if self._epoch is not None else {}
        self._epoch = Epoch(plan, begun_s, grounds, shadow)
        self.vetoed_longer = {name for name, pool in plan.pools.items() if self._stood_before(pool, grounds)}
        self.vetoed_since_s = {
            name: min(pool.vetoed_since_s, self.vetoed_since_s.get(name, pool.vetoed_since_s))
            for name, pool in plan.pools.items()
            if pool.vetoed and pool.vetoed_since_s is not None
        }
        self.trouble = ""
        self._wake()

    def cast(self, shadow: Mapping[ServiceKey, Decision]) -> None:
        """Puts the shadows' decisions beside the plan in force. Nobody is woken: nobody acts on them."""
        if self._epoch is not None:
            self._epoch = replace(self._epoch, shadow=shadow)

    def close(self) -> None:
        """Ends the streams; the unary calls go on answering until the server stops."""
        self.is_closing = True
        self._wake()

    def _stood_before(self, pool: PoolState, grounds: Grounds | None) -> bool:
        """Whether a veto that stands was there at the first moment that is remembered, when it was first seen here."""
        if pool.name in self.vetoed_since_s:
            return pool.vetoed and pool.name in self.vetoed_longer
        past = grounds.memory.pools.get(pool.name, ()) if grounds is not None else ()
        return pool.vetoed and bool(past) and past[0].time_s == pool.vetoed_since_s

    def _wake(self) -> None:
        woken, self.next_change = self.next_change, asyncio.Event()
        woken.set()
