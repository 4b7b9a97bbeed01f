"""What a replay comes to: one running account per service and per pool, and the moments at which something changed.

Constant memory, save for the lists of such moments. `Replay.add` takes the plans in the order of time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from scaler.decision import Decision, FleetPlan, PoolState
from scaler.policy import ServiceKey
from scaler.replay.clock import Clock
from scaler.replay.divergence import ServiceAccount
from scaler.replay.flow import NO_FLOWS, Flow
from scaler.snapshot import Problem

MOST_PROBLEMS = 100  # a text may carry a changing number; so many different ones tell enough
QUARTER_S = 900.0
OUT_RATIO = 0.05  # of the low watermark, 70 MiB of a T4's 1.4 GiB: an allocator that asks for more than that fails


class Veto(NamedTuple):
    """The first moment with a pool's veto and the first without it; `end_s` is None while it stands."""

    start_s: float
    end_s: float | None


class Growth(NamedTuple):
    """Successful requests per second when the last veto ended, at `since_s`, and in the busiest quarter after it."""

    since_s: float
    before_per_s: float
    after_per_s: float

    @property
    def ratio(self) -> float:
        """0.57: they grew by 57 %."""
        return self.after_per_s / self.before_per_s - 1.0


class Change(NamedTuple):
    """A line of the change log: a service whose demand, verdict, first reason or grant against replicas became another,
    or (without a decision) a pool whose veto began or ended."""

    time_s: float
    pool: PoolState | None
    decision: Decision | None = None


@dataclass(slots=True)
class PoolAccount:
    """One pool over the replay: the tightest moment, the time below the low watermark, the vetoes, and what failed.

    Attributes:
        least_free_bytes / least_at_s: the least free VRAM that counts, and when first. first_below_s: when it was first
            below the low watermark, first_out_s below OUT_RATIO of it. below_hours: how long below it altogether.
        blind_steps: moments at which it could not be seen.
        failed_requests / requests: of the pool's services, rates x time to the next moment. Failures are those that may
            be for lack of VRAM; all of them where the server does not tell. Clients' retries count as requests.
        flow_steps: moments at which the counters of any of them could be seen.
        first_failure_s: the first moment at which any request of the pool's services failed so.
        served_per_s: mean rate of successful requests in each quarter of an hour since the start; None: not seen.
    """

    name: str
    cards: int = 0
    least_free_bytes: float | None = None
    least_at_s: float | None = None
    first_below_s: float | None = None
    first_out_s: float | None = None
    below_hours: float = 0.0
    blind_steps: int = 0
    vetoes: list[Veto] = field(default_factory=list)
    failed_requests: float = 0.0
    requests: float = 0.0
    flow_steps: int = 0
    first_failure_s: float | None = None
    served_per_s: list[float | None] = field(default_factory=list)
    last: PoolState | None = None
    _flow: Flow | None = None
    _start_s: float | None = None
    _served: tuple[float, int] = (0.0, 0)

    def add(self, state: PoolState, flow: Flow | None, time_s: float, gap_h: float) -> bool:
        """One more state, `gap_h` hours after the last one; True if a veto began or ended."""
        self._add_flow(flow, time_s, gap_h)
        if self.last is not None and _is_below(self.last):
            self.below_hours += gap_h
        stood = self.last is not None and self.last.vetoed
        self.last = state
        self.cards = max(self.cards, state.cards)
        if state.free_bytes is None:
            self.blind_steps += 1
        elif self.least_free_bytes is None or state.free_bytes < self.least_free_bytes:
            self.least_free_bytes, self.least_at_s = state.free_bytes, time_s
        if self.first_below_s is None and _is_below(state):
            self.first_below_s = time_s
        if self.first_out_s is None and _is_below(state, OUT_RATIO):
            self.first_out_s = time_s
        if state.vetoed and not stood:
            self.vetoes.append(Veto(time_s, None))
        elif stood and not state.vetoed:
            self.vetoes[-1] = Veto(self.vetoes[-1].start_s, time_s)
        return state.vetoed != stood

    @property
    def warning_s(self) -> float | None:
        """From the first veto to the first failure, in seconds: below zero where requests failed before; None without
        the one or the other."""
        if not self.vetoes or self.first_failure_s is None:
            return None
        return self.first_failure_s - self.vetoes[0].start_s

    def growth(self) -> Growth | None:
        """How the successful requests grew after the last veto: the busiest quarter of an hour after its end against
        the one that was over when it ended; None without a veto that ended, or where nothing was served."""
        ended_s = next((veto.end_s for veto in reversed(self.vetoes) if veto.end_s is not None), None)
        if ended_s is None or self._start_s is None:
            return None
        quarter = int((ended_s - self._start_s) // QUARTER_S)
        before = next((served for served in reversed(self.served_per_s[:quarter]) if served is not None), None)
        after = [served for served in self.served_per_s[quarter + 1 :] if served is not None]
        return Growth(ended_s, before, max(after)) if before and after else None

    def _add_flow(self, flow: Flow | None, time_s: float, gap_h: float) -> None:
        if self._flow is not None:
            self.failed_requests += 3600 * gap_h * self._flow.failed_per_s
            self.requests += 3600 * gap_h * self._flow.all_per_s
        self._flow = flow
        self._start_s = time_s if self._start_s is None else self._start_s
        while len(self.served_per_s) < (time_s - self._start_s) // QUARTER_S:
            total, count = self._served
            self.served_per_s.append(total / count if count else None)
            self._served = (0.0, 0)
        if flow is None:
            return
        self.flow_steps += 1
        self._served = (self._served[0] + flow.served_per_s, self._served[1] + 1)
        if self.first_failure_s is None and flow.failed_per_s > 0:
            self.first_failure_s = time_s


@dataclass(slots=True)
class ProblemAccount:
    """How often the source had that problem, and when first."""

    first_s: float
    steps: int = 0


class WarmUp(NamedTuple):
    """Readings begin at `known_s`; the longest scaleDownWindow is over at `until_s`, and before that nothing is scaled
    down."""

    known_s: float
    until_s: float


@dataclass(slots=True)
class Replay:
    """The accounts of all services, pools and problems, and the first `max_changes` changes (None: all of them);
    `warm_up`, where the time before the start is not known for long enough."""

    max_changes: int | None
    services: dict[ServiceKey, ServiceAccount] = field(default_factory=dict)
    pools: dict[str, PoolAccount] = field(default_factory=dict)
    problems: dict[Problem, ProblemAccount] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    changes_left_out: int = 0
    steps: int = 0
    start_s: float | None = None
    end_s: float | None = None
    warm_up: WarmUp | None = None
    _outlines: dict[ServiceKey, tuple[object, ...]] = field(default_factory=dict)

    @property
    def clock(self) -> Clock:
        """How its moments are written."""
        return Clock(self.start_s or 0.0, self.end_s or 0.0)

    def add(self, plan: FleetPlan, flows: Mapping[str, Flow] = NO_FLOWS) -> None:
        """One more plan, and what flowed through each pool's services then; plans come in the order of time."""
        gap_h = 0.0 if self.end_s is None else max(0.0, plan.time_s - self.end_s) / 3600
        self.steps += 1
        self.start_s = plan.time_s if self.start_s is None else self.start_s
        self.end_s = plan.time_s
        for name, state in plan.pools.items():
            if name not in self.pools:
                self.pools[name] = PoolAccount(name)
            if self.pools[name].add(state, flows.get(name), plan.time_s, gap_h):
                self._log(Change(plan.time_s, state))
        for problem in plan.problems:
            if problem in self.problems or len(self.problems) < MOST_PROBLEMS:
                self.problems.setdefault(problem, ProblemAccount(plan.time_s)).steps += 1
        for key, decision in plan.decisions.items():
            account = self.services.get(key)
            if account is None:
                account = self.services[key] = ServiceAccount(key)
            pool, outline = plan.pools.get(decision.pool), _outline(decision)
            account.add(decision, gap_h, pool.free_bytes if pool else None)
            if outline != self._outlines.get(key):
                self._outlines[key] = outline
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


def _is_below(state: PoolState, ratio: float = 1.0) -> bool:
    return state.free_bytes is not None and state.low_bytes is not None and state.free_bytes < ratio * state.low_bytes
