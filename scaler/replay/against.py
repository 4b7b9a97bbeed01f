"""The same recorded time under two settings, A and B: where their answers part, beside the accounts of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from scaler.decision import Decision, FleetPlan, PoolState, Reason, Verdict
from scaler.policy import ServiceKey
from scaler.replay.flow import NO_FLOWS, Flow
from scaler.replay.summary import Replay

MOST_PARTINGS = 1000  # each is one line of a table


class Answer(NamedTuple):
    """What of a decision makes a difference."""

    demand: int | None
    granted: int | None
    verdict: Verdict
    reason: Reason | None


class Parting(NamedTuple):
    """A moment from which A and B answer a service otherwise than each other, and otherwise than before; a and b are
    equal where they agree again. Without a service it is a pool's veto: a and b are whether it stands."""

    time_s: float
    pool: str
    service: ServiceKey | None
    a: Answer | bool | None
    b: Answer | bool | None


@dataclass(slots=True)
class Comparison:
    """Both accounts, and the first MOST_PARTINGS partings.

    Attributes:
        differ_steps: moments at which A and B granted a service different replicas, or only one of them answered.
        first_s: the first of them. pool_steps: moments at which only one of them had a veto on the pool.
    """

    a: Replay
    b: Replay
    differ_steps: dict[ServiceKey, int] = field(default_factory=dict)
    first_s: dict[ServiceKey, float] = field(default_factory=dict)
    pool_steps: dict[str, int] = field(default_factory=dict)
    partings: list[Parting] = field(default_factory=list)
    partings_left_out: int = 0
    _were: dict[object, tuple[object, object]] = field(default_factory=dict)

    def add(
        self, a: FleetPlan, b: FleetPlan, flows_a: Mapping[str, Flow] = NO_FLOWS, flows_b: Mapping[str, Flow] = NO_FLOWS
    ) -> None:
        """The plans of one moment, and the flows of each side's pools; moments come in the order of time."""
        self.a.add(a, flows_a)
        self.b.add(b, flows_b)
        for name in dict.fromkeys((*a.pools, *b.pools)):
            of_a, of_b = _vetoed(a.pools.get(name)), _vetoed(b.pools.get(name))
            if of_a != of_b:
                self.pool_steps[name] = self.pool_steps.get(name, 0) + 1
            self._compare(Parting(a.time_s, name, None, of_a, of_b))
        for key in dict.fromkeys((*a.decisions, *b.decisions)):
            of_a_, of_b_ = a.decisions.get(key), b.decisions.get(key)
            if (of_a_.granted if of_a_ else None) != (of_b_.granted if of_b_ else None):
                self.differ_steps[key] = self.differ_steps.get(key, 0) + 1
                self.first_s.setdefault(key, a.time_s)
            either = of_a_ or of_b_
            assert either is not None
            self._compare(Parting(a.time_s, either.pool, key, answer(of_a_), answer(of_b_)))

    def _compare(self, now: Parting) -> None:
        """Keeps the moment where it differs now or did just before, and is not what it was."""
        subject: object = now.service or now.pool
        before = self._were.get(subject)
        self._were[subject] = (now.a, now.b)
        differed = before is not None and before[0] != before[1]
        if before == (now.a, now.b) or not (now.a != now.b or differed):
            return
        if len(self.partings) < MOST_PARTINGS:
            self.partings.append(now)
        else:
            self.partings_left_out += 1


def answer(decision: Decision | None) -> Answer | None:
    """None: that side does not know the service."""
    if decision is None:
        return None
    reason = decision.reasons[0] if decision.reasons else None
    return Answer(decision.demand, decision.granted, decision.verdict, reason)


def beside(a: Decision, b: Decision | None) -> dict[str, Any]:
    """A's decision in the contract's JSON, B's answer to the same moment under the key `against`: one line a decision
    still, and whoever does not know the key reads A's."""
    of_b = None
    if b is not None:
        of_b = {name: value for name, value in b.as_json().items() if name in AGAINST_KEYS}
    return {**a.as_json(), "against": of_b}


AGAINST_KEYS = ("pool", "demand", "granted", "active", "verdict", "reasons")


def _vetoed(state: PoolState | None) -> bool | None:
    return None if state is None else state.vetoed
