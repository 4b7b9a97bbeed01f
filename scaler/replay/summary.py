"""What a replay comes to: one running account per service and per pool, and the moments at which something changed.

Constant memory, save for the lists of such moments. `Replay.add` takes the plans in the order of time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from scaler.decision import Decision, FleetPlan, PoolState, Verdict
from scaler.policy import ServiceKey
from scaler.snapshot import Problem

MOST_PROBLEMS = 100  # a text may carry a changing number; so many different ones tell enough


class Veto(NamedTuple):
    """The first moment with a pool's veto and the first without it; `end_s` is None while it stands."""

    start_s: float
    end_s: float | None


class Jump(NamedTuple):
    """Replicas that were taken from `before` to `after`; `free_bytes` is the pool's free VRAM at that moment."""

    time_s: float
    before: int
    after: int
    free_bytes: float | None


class Change(NamedTuple):
    """A line of the change log: a service whose demand, verdict, first reason or grant against replicas became another,
    or (without a decision) a pool whose veto began or ended."""

    time_s: float
    pool: PoolState | None
    decision: Decision | None = None


@dataclass(slots=True)
class ServiceAccount:
    """One service over the replay. Real is what the recorded autoscaler had, granted what KEDA would have been told.

    Attributes:
        real_hours / granted_hours: replica-hours over the moments with an answer.
        vetoed_steps: moments with the verdict veto or limited. unknown_steps: moments without an answer.
        withheld: scale-ups of the recorded autoscaler to more than was granted then.
        owed: the first moments at which more was granted than was there.
    """

    key: ServiceKey
    real_max: int = 0
    granted_max: int = 0
    real_hours: float = 0.0
    granted_hours: float = 0.0
    vetoed_steps: int = 0
    first_veto_s: float | None = None
    unknown_steps: int = 0
    withheld: list[Jump] = field(default_factory=list)
    owed: list[Jump] = field(default_factory=list)
    last: Decision | None = None
    _replicas: int | None = None
    _granted: int | None = None

    def add(self, decision: Decision, gap_h: float, free_bytes: float | None) -> None:
        """One more decision, `gap_h` hours after the last one."""
        was, was_granted = self._replicas, self._granted
        if self.last is not None and self.last.granted is not None:
            self.real_hours += gap_h * (was or 0)
            self.granted_hours += gap_h * (was_granted or 0)
        self.last = decision
        replicas, granted = decision.replicas, decision.granted
        if replicas is None or granted is None:
            self.unknown_steps += 1
            return
        self._replicas, self._granted = replicas, granted
        self.real_max, self.granted_max = max(self.real_max, replicas), max(self.granted_max, granted)
        if decision.verdict in (Verdict.VETO, Verdict.LIMITED):
            self.vetoed_steps += 1
            if self.first_veto_s is None:
                self.first_veto_s = decision.time_s
        if was is not None and replicas > max(was, granted):
            self.withheld.append(Jump(decision.time_s, was, replicas, free_bytes))
        was_owed = was is not None and was_granted is not None and was_granted > was
        if granted > replicas and not was_owed:
            self.owed.append(Jump(decision.time_s, replicas, granted, free_bytes))


@dataclass(slots=True)
class PoolAccount:
    """One pool over the replay: the tightest moment, the time below the low watermark, and the vetoes."""

    name: str
    cards: int = 0
    least_free_bytes: float | None = None
    least_at_s: float | None = None
    below_hours: float = 0.0
    blind_steps: int = 0
    vetoes: list[Veto] = field(default_factory=list)
    last: PoolState | None = None

    def add(self, state: PoolState, time_s: float, gap_h: float) -> bool:
        """One more state, `gap_h` hours after the last one; True if a veto began or ended."""
        if self.last is not None and _is_below(self.last):
            self.below_hours += gap_h
        stood = self.last is not None and self.last.vetoed
        self.last = state
        self.cards = max(self.cards, state.cards)
        if state.free_bytes is None:
            self.blind_steps += 1
        elif self.least_free_bytes is None or state.free_bytes < self.least_free_bytes:
            self.least_free_bytes, self.least_at_s = state.free_bytes, time_s
        if state.vetoed and not stood:
            self.vetoes.append(Veto(time_s, None))
        elif stood and not state.vetoed:
            self.vetoes[-1] = Veto(self.vetoes[-1].start_s, time_s)
        return state.vetoed != stood


@dataclass(slots=True)
class ProblemAccount:
    """How often the source had that problem, and when first."""

    first_s: float
    steps: int = 0


@dataclass(slots=True)
class Replay:
    """The accounts of all services, pools and problems, and the first `max_changes` changes (None: all of them)."""

    max_changes: int | None
    services: dict[ServiceKey, ServiceAccount] = field(default_factory=dict)
    pools: dict[str, PoolAccount] = field(default_factory=dict)
    problems: dict[Problem, ProblemAccount] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    changes_left_out: int = 0
    steps: int = 0
    start_s: float | None = None
    end_s: float | None = None

    def add(self, plan: FleetPlan) -> None:
        """One more plan; plans come in the order of time."""
        gap_h = 0.0 if self.end_s is None else max(0.0, plan.time_s - self.end_s) / 3600
        self.steps += 1
        self.start_s = plan.time_s if self.start_s is None else self.start_s
        self.end_s = plan.time_s
        for name, state in plan.pools.items():
            if self.pools.setdefault(name, PoolAccount(name)).add(state, plan.time_s, gap_h):
                self._log(Change(plan.time_s, state))
        for problem in plan.problems:
            if problem in self.problems or len(self.problems) < MOST_PROBLEMS:
                self.problems.setdefault(problem, ProblemAccount(plan.time_s)).steps += 1
        for key, decision in plan.decisions.items():
            account = self.services.setdefault(key, ServiceAccount(key))
            pool, before = plan.pools.get(decision.pool), account.last
            account.add(decision, gap_h, pool.free_bytes if pool else None)
            if before is None or _outline(before) != _outline(decision):
                self._log(Change(plan.time_s, pool, decision))

    def _log(self, change: Change) -> None:
        if self.max_changes is None or len(self.changes) < self.max_changes:
            self.changes.append(change)
        else:
            self.changes_left_out += 1


def _outline(decision: Decision) -> tuple[object, ...]:
    """What of a decision makes a line of the change log when it becomes another."""
    ahead = (decision.granted or 0) - (decision.replicas or 0)
    return decision.demand, decision.verdict, (ahead > 0) - (ahead < 0), decision.reasons[:1]


def _is_below(state: PoolState) -> bool:
    return state.free_bytes is not None and state.low_bytes is not None and state.free_bytes < state.low_bytes
