"""A dry run of one or two settings over recorded time: the plans of each moment, and all that is kept of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from scaler.decision import FleetPlan
from scaler.planning.memory import Memory
from scaler.planning.replicas import LONGEST_GAP_S
from scaler.policy import FleetPolicy, OperatorPolicy, ServiceKey
from scaler.replay.against import Comparison, beside
from scaler.replay.asked import Asked
from scaler.replay.drawing import Drawing
from scaler.replay.flow import flows
from scaler.replay.rerun import Rerun
from scaler.replay.summary import Replay, WarmUp
from scaler.snapshot import Snapshot


class Moment(NamedTuple):
    """What each of the settings decided at one moment, A first, and what the triggers of today asked for."""

    plans: list[FleetPlan]
    asked: Mapping[ServiceKey, int]

    def as_json(self) -> Iterator[dict[str, Any]]:
        """A's decisions in the contract's JSON, with B's answers under `against` and what was `asked`."""
        a = self.plans[0]
        for key, decision in a.decisions.items():
            is_alone = len(self.plans) == 1
            record = decision.as_json() if is_alone else beside(decision, self.plans[1].decisions.get(key))
            yield record | ({"asked": self.asked[key]} if key in self.asked else {})


class DryRun:
    """Feeds every account of a replay. `policies` are A's and, where two are compared, B's.

    Attributes:
        replay: A's account, with the first `most_changes` changes (None: all). comparison: with B's, if there is one.
        asked: what the present triggers asked for. drawing: what a report draws of `steps` moments, if one is wanted.
    """

    def __init__(self, policies: list[FleetPolicy], steps: int, most_changes: int | None, is_drawn: bool) -> None:
        self._runs = [Rerun(policy) for policy in policies]
        self.replay = Replay(most_changes)
        self.comparison = Comparison(self.replay, Replay(0)) if len(policies) > 1 else None
        self.asked = Asked()
        self.drawing = Drawing(policies, steps) if is_drawn else None

    def begin(self, start_s: float, memories: Sequence[Memory]) -> None:
        """Before the first moment, at `start_s`: what is remembered under each of the settings by then."""
        accounts = [self.replay] if self.comparison is None else [self.comparison.a, self.comparison.b]
        for run, memory, account in zip(self._runs, memories, accounts, strict=True):
            run.memory = memory
            account.warm_up = warm_up(run.policy.operator, memory, start_s)

    def at(self, snapshot: Snapshot) -> Moment:
        """One more moment; they come in the order of time."""
        a, plans = self._runs[0], [run.at(snapshot) for run in self._runs]
        if self.comparison is None:
            self.replay.add(plans[0], flows(snapshot, a.policy))
        else:
            self.comparison.add(plans[0], plans[1], *(flows(snapshot, run.policy) for run in self._runs))
        if self.drawing is not None:
            self.drawing.add(snapshot, plans, a.memory)
        return Moment(plans, self.asked.add(snapshot, plans[0], a.policy))


def warm_up(operator: OperatorPolicy, memory: Memory, start_s: float) -> WarmUp | None:
    """None where all of the longest scaleDownWindow before the start is known, without a gap, of any workload."""
    known_s = start_s
    for past in memory.workloads.values():
        since_s = start_s
        for moment in reversed(past.moments):
            if since_s - moment.time_s > LONGEST_GAP_S:
                break
            since_s = moment.time_s
        known_s = min(known_s, since_s)
    until_s = known_s + max(pool.scale_down_window_s for pool in operator.pools)
    return WarmUp(known_s, until_s) if until_s > start_s else None
