"""The whole decision on one page: what was seen, what is a service's own, what it needs, what the cards allow."""

from __future__ import annotations

from scaler.decision import Decision, FleetPlan
from scaler.planning.cards import cards_by_pool, hosts
from scaler.planning.decide import Seen, decide, unknown
from scaler.planning.memory import NOTHING, Memory, remember
from scaler.planning.watermark import pool_state, watch
from scaler.policy import FleetPolicy, OperatorPolicy, ServiceKey, ServicePolicy
from scaler.snapshot import Snapshot, WorkloadKey


def plan(snapshot: Snapshot, policy: FleetPolicy, memory: Memory) -> tuple[FleetPlan, Memory]:
    """Decides for all services of one moment. Same snapshot, policy and memory, same plan; time is the snapshot's."""
    operator, time_s = policy.operator, snapshot.taken_at_s
    if memory.time_s is not None and time_s <= memory.time_s:
        text = f"time stepped back from {memory.time_s:.0f} to {time_s:.0f}: nothing is decided on a past moment"
        refused = {key: unknown(key, service, time_s, text) for key, service in policy.services.items()}
        return FleetPlan(time_s, refused, {}, snapshot.problems), memory

    # What was seen, corrected: neighbours and retries taken out (signals/), kept for as long as it matters.
    cards = cards_by_pool(snapshot.cards, operator)
    memory, derived = remember(snapshot, operator, memory, cards)

    # What the cards allow: one state of the watermark for the whole pool.
    watches = {
        pool.name: watch(memory.pools[pool.name], pool.low_watermark, pool.high_watermark, pool)
        for pool in operator.pools
    }
    pools = {pool.name: pool_state(memory.pools[pool.name][-1], watches[pool.name], pool) for pool in operator.pools}

    # What each service needs, and what it is granted.
    sits_on = hosts(snapshot.cards)
    decisions: dict[ServiceKey, Decision] = {}
    for key, service in policy.services.items():
        workload = WorkloadKey(key.namespace, service.deployment)
        seen = Seen(
            time_s=time_s,
            reading=snapshot.workloads.get(workload),
            derivation=derived.get(workload),
            moments=memory.workloads.get(workload, NOTHING).moments,
            pool_moments=memory.pools[service.pool],
            watch=watches[service.pool],
            cards=sits_on.get(workload, []),
        )
        decisions[key] = _decide_safely(key, service, operator, seen)
    return FleetPlan(time_s, decisions, pools, snapshot.problems), memory


def _decide_safely(key: ServiceKey, service: ServicePolicy, operator: OperatorPolicy, seen: Seen) -> Decision:
    """One service's fault is its own: it becomes unknown, and the others are decided as ever."""
    try:
        return decide(key, service, operator, seen)
    except Exception as fault:
        return unknown(key, service, seen.time_s, f"internal fault: {type(fault).__name__}: {fault}")
