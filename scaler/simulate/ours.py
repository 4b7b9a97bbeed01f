"""The scaler itself: the same plan() that serves, its memory carried from tick to tick."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import partial

from scaler.decision import Decision, FleetPlan, Verdict
from scaler.planning.cards import Hosts, hosts
from scaler.planning.memory import Memory, horizon_s
from scaler.planning.plan import plan
from scaler.policy import FleetPolicy, ServiceKey
from scaler.signals.gpu_share import gpu_share
from scaler.simulate.autoscaler import Estimate, Truth
from scaler.simulate.hpa import EXAMPLE_BEHAVIOR, HOLD, Answer, Behavior
from scaler.simulate.metric_path import Seen
from scaler.simulate.scenario import NAMESPACE, Scenario, ScenarioService
from scaler.snapshot import Snapshot, WorkloadKey

_LESS = (Verdict.VETO, Verdict.LIMITED, Verdict.UNKNOWN)


class Ours:
    """`last` is the plan in force, None while the scaler is away. What Prometheus keeps is kept here, so that a restart
    rebuilds the memory from it as serving does: coarse steps for the lessons, every tick over the horizon."""

    behavior: Behavior | None = EXAMPLE_BEHAVIOR
    reads_spots = False

    def __init__(self, scenario: Scenario) -> None:
        self.policy = scenario.policy()
        self.last: FleetPlan | None = None
        self._memory = Memory()
        self._snapshot: Snapshot | None = None
        self._away_until_s = 0.0
        operator = self.policy.operator
        self._recent: deque[Snapshot] = deque(maxlen=round(horizon_s(operator) / operator.timing.tick_s) + 1)
        self._coarse: deque[Snapshot] = deque(
            maxlen=round(operator.timing.learn_window_s / operator.timing.learn_every_s)
        )

    def look(self, seen: Seen, truth: Truth) -> None:
        snapshot = seen.snapshot
        if snapshot.taken_at_s >= self._away_until_s:
            if self._away_until_s > 0.0:
                self._rebuild()
            self.last, self._memory = plan(snapshot, self.policy, self._memory)
            self._snapshot = snapshot
        self._recent.append(snapshot)
        if snapshot.taken_at_s % self.policy.operator.timing.learn_every_s == 0:
            self._coarse.append(snapshot)

    def answer(self, service: ScenarioService) -> Answer:
        decision = self._decision(service.name)
        if decision is None or decision.granted is None:
            return HOLD
        return Answer(float(decision.granted), decision.active)

    def estimates(self) -> Mapping[WorkloadKey, Estimate]:
        if self.last is None or self._snapshot is None:
            return {}
        on_cards, decisions = hosts(self._snapshot.cards), self.last.decisions
        return {
            workload: Estimate(partial(_fresh_per_s, decisions[key]), partial(self._own_share, workload, on_cards))
            for key, workload in self.policy.workloads.items()
        }

    def withheld(self) -> Mapping[WorkloadKey, str]:
        """With the reason that binds; `unknown` is no answer, whatever the load asks for."""
        if self.last is None:
            return {}
        decided = ((workload, self.last.decisions[key]) for key, workload in self.policy.workloads.items())
        return {workload: each.reasons[0] for workload, each in decided if each.verdict in _LESS}

    def restart(self, back_at_s: float) -> None:
        self.last, self._snapshot, self._away_until_s = None, None, back_at_s

    def _decision(self, name: str) -> Decision | None:
        return self.last.decisions.get(ServiceKey(NAMESPACE, name)) if self.last is not None else None

    def _own_share(self, workload: WorkloadKey, on_cards: Hosts) -> float | None:
        """Own part of what the service's cards did, as the signal tells it."""
        if self._snapshot is None or workload not in self._snapshot.workloads:
            return None
        share = gpu_share(workload, self._snapshot.workloads, on_cards.get(workload, ()))
        if share.own is None or not share.busy:
            return None
        return share.own / share.busy

    def _rebuild(self) -> None:
        self._away_until_s, memory = 0.0, Memory()
        fleet = FleetPolicy(self.policy.operator, {})
        earliest_s = self._recent[0].taken_at_s if self._recent else 0.0
        for snapshot in (*(each for each in self._coarse if each.taken_at_s < earliest_s), *self._recent):
            _, memory = plan(snapshot, fleet, memory)
        self._memory = memory


def _fresh_per_s(decision: Decision) -> float | None:
    return next((step.value for step in decision.steps if step.name == "fresh-arrivals"), None)
