"""Shadow mode: services that are decided for and shown, while nobody is told and nobody acts.

They are planned in a second plan, beside all services that KEDA asks about, from the same readings and the same memory;
what that plan remembers is thrown away. So a shadow is decided for as if KEDA asked about it from this tick on, and yet
takes no byte from anybody: the plan that KEDA is told of is made without it and does not know that it exists. Its pods
count in both with what they hold, as every Deployment's do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scaler.decision import Decision, met
from scaler.planning.memory import Memory
from scaler.policy import FleetPolicy, ServiceKey, ServicePolicy
from scaler.serving.history import Planner
from scaler.snapshot import Snapshot

Agreement = Literal["agrees", "more", "fewer", "unknown"]
ScaleUp = Literal["granted", "withheld", "unknown"]


def dry_run(
    planner: Planner,
    snapshot: Snapshot,
    fleet: FleetPolicy,
    shadow: Mapping[ServiceKey, ServicePolicy],
    memory: Memory,
) -> dict[ServiceKey, Decision]:
    """The shadows' decisions, each as it would be if KEDA asked about all services, theirs and the others'.

    Nobody has to settle: what is told to nobody promises nothing. For the same reason a shadow's answer is about the
    replicas that were read, whatever it was at the tick before.
    """
    everybody = FleetPolicy(fleet.operator, {**shadow, **fleet.services}, is_settled=True)
    planned, _ = planner(snapshot, everybody, memory)
    return {key: planned.decisions[key] for key in shadow if key not in fleet.services}


def agreement(decision: Decision) -> Agreement:
    """How what would be granted compares with spec.replicas: the same, more or fewer; unknown where either is."""
    if decision.granted is None or decision.replicas is None:
        return "unknown"
    if decision.granted == decision.replicas:
        return "agrees"
    return "more" if decision.granted > decision.replicas else "fewer"


@dataclass(slots=True)
class ShadowAccount:
    """One shadow since this instance started, a tick at a time.

    Attributes:
        ticks: by agreement with the replicas that ran.
        scale_ups: what the real autoscaler scaled up, by whether as many were granted when it did (`met`).
    """

    ticks: Counter[Agreement] = field(default_factory=Counter)
    scale_ups: Counter[ScaleUp] = field(default_factory=Counter)
    _replicas: int | None = None
    _last: Decision | None = None

    def add(self, decision: Decision) -> None:
        """One more tick."""
        self.ticks[agreement(decision)] += 1
        was, now = self._replicas, decision.replicas
        told, self._last = met(self._last, decision), decision
        if was is not None and now is not None and now > was:
            outcome: ScaleUp = "unknown"
            if told.granted is not None:
                outcome = "granted" if told.granted >= now else "withheld"
            self.scale_ups[outcome] += 1
        self._replicas = now if now is not None else was


class ShadowBook:
    """The accounts of all shadows; a service that KEDA begins to ask about, or that left the list, has none."""

    def __init__(self) -> None:
        self.accounts: dict[ServiceKey, ShadowAccount] = {}

    def add(self, shadow: Mapping[ServiceKey, Decision]) -> None:
        """One more tick of all of them."""
        self.accounts = {key: self.accounts.get(key) or ShadowAccount() for key in shadow}
        for key, decision in shadow.items():
            self.accounts[key].add(decision)
