"""Recorded snapshots through the same plan() that serves, one at a time: it takes no more memory than serving."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from scaler.decision import FleetPlan
from scaler.planning.memory import Memory
from scaler.planning.plan import plan
from scaler.policy import FleetPolicy
from scaler.snapshot import Snapshot


def rerun(snapshots: Iterable[Snapshot], policy: FleetPolicy) -> Iterator[FleetPlan]:
    """The plan that would have been in force at each snapshot, starting with no memory.

    The replicas are the recorded ones: what another autoscaler did, not what our answers would have made of them.
    """
    memory = Memory()
    for snapshot in snapshots:
        fleet, memory = plan(snapshot, policy, memory)
        yield fleet
