"""What flowed through a pool's services at one moment, as their own counters told it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from scaler.policy import FleetPolicy
from scaler.signals.retries import oom_candidates_per_s
from scaler.snapshot import Snapshot, WorkloadKey


class Flow(NamedTuple):
    """Requests per second of all services of a pool: all that completed, those that succeeded, and those that failed
    for what may be a lack of VRAM (all failures where the server does not tell them apart)."""

    all_per_s: float
    served_per_s: float
    failed_per_s: float


NO_FLOWS: Mapping[str, Flow] = MappingProxyType({})


def workloads_by_pool(policy: FleetPolicy) -> dict[str, list[WorkloadKey]]:
    """The workloads whose requests make each pool's flow."""
    found: dict[str, list[WorkloadKey]] = {}
    for key, service in policy.services.items():
        found.setdefault(service.pool, []).append(policy.workloads[key])
    return found


def flows(snapshot: Snapshot, workloads: Mapping[str, Sequence[WorkloadKey]]) -> dict[str, Flow]:
    """The flow of each pool's workloads; those whose counters cannot be seen are left out, and a pool without any has
    none."""
    found: dict[str, Flow] = {}
    for pool, keys in workloads.items():
        all_per_s, served_per_s, failed_per_s, is_seen = 0.0, 0.0, 0.0, False
        for key in keys:
            reading = snapshot.workloads.get(key)
            if reading is None or reading.success_per_s is None:
                continue
            is_seen, served = True, max(0.0, reading.success_per_s)
            all_per_s += served
            served_per_s += served
            if reading.failure_per_s:
                all_per_s += max(0.0, reading.failure_per_s)
                failed_per_s += oom_candidates_per_s(reading)
        if is_seen:
            found[pool] = Flow(all_per_s, served_per_s, failed_per_s)
    return found
