"""Recorded snapshots through the same plan() that serves, one at a time: it takes no more memory than serving."""

from __future__ import annotations

from scaler.decision import FleetPlan
from scaler.planning.memory import Memory
from scaler.planning.plan import plan
from scaler.policy import FleetPolicy
from scaler.snapshot import Snapshot


class Rerun:
    """One policy over recorded time. `memory` is what is remembered after the last moment: before the first nothing,
    or what was learnt from the time before.

    The replicas are the recorded ones: what another autoscaler did, not what our answers would have made of them.
    """

    def __init__(self, policy: FleetPolicy) -> None:
        self.policy = policy
        self.memory = Memory()

    def at(self, snapshot: Snapshot) -> FleetPlan:
        """The plan that would have been in force; snapshots come in the order of time."""
        fleet, self.memory = plan(snapshot, self.policy, self.memory)
        return fleet
