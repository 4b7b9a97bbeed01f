"""What flowed through a pool's services at one moment, as their own counters told it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from scaler.policy import FleetPolicy
from scaler.signals.retries import oom_candidates_per_s
from scaler.snapshot import Snapshot


class Flow(NamedTuple):
    """Requests per second of all services of a pool: all that completed, those that succeeded, and those that failed
    for what may be a lack of VRAM (all failures where the server does not tell them apart)."""

    all_per_s: float
    served_per_s: float
    failed_per_s: float


NO_FLOWS: Mapping[str, Flow] = MappingProxyType({})


def flows(snapshot: Snapshot, policy: FleetPolicy) -> dict[str, Flow]:
    """The flow of each pool; services whose counters cannot be seen are left out, and a pool without any has none."""
    found: dict[str, Flow] = {}
    for pool in policy.operator.pools:
        all_per_s, served_per_s, failed_per_s, is_seen = 0.0, 0.0, 0.0, False
        for key in policy.in_pool(pool.name):
            reading = snapshot.workloads.get(policy.workloads[key])
            if reading is None or reading.success_per_s is None:
                continue
            is_seen, served = True, max(0.0, reading.success_per_s)
            all_per_s += served
            served_per_s += served
            if reading.failure_per_s:
                all_per_s += max(0.0, reading.failure_per_s)
                failed_per_s += oom_candidates_per_s(reading)
        if is_seen:
            found[pool.name] = Flow(all_per_s, served_per_s, failed_per_s)
    return found
