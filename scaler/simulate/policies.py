"""The policies that a run can have, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scaler.policy import BadPolicy
from scaler.simulate.autoscaler import Autoscaler
from scaler.simulate.baselines import Concurrency, Naive, QueueAndKv, VramPercent
from scaler.simulate.oracle import Oracle
from scaler.simulate.ours import Ours
from scaler.simulate.scenario import Scenario

OURS, ORACLE = "ours", "oracle"

POLICIES: Mapping[str, Callable[[Scenario], Autoscaler]] = {
    "naive": lambda scenario: Naive(),
    "vram-percent": lambda scenario: VramPercent(),
    "concurrency": lambda scenario: Concurrency(),
    "queue-kv": lambda scenario: QueueAndKv(),
    OURS: Ours,
    ORACLE: lambda scenario: Oracle(),
}


def named(policy: str) -> Callable[[Scenario], Autoscaler]:
    """Raises BadPolicy."""
    if policy not in POLICIES:
        raise BadPolicy(f"policy {policy!r}: it takes {', '.join(POLICIES)}")
    return POLICIES[policy]
