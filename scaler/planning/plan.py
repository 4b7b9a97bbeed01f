"""The whole decision on one page: what was seen, what each service wants, what the cards allow, who gets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar, TypeVarTuple

from scaler.decision import Decision, FleetPlan, PoolState
from scaler.planning.answers import answer, promise
from scaler.planning.barriers import pool_barrier
from scaler.planning.cards import cards_by_pool, hosts
from scaler.planning.leaks import leaks
from scaler.planning.memory import NOTHING, Memory, remember
from scaler.planning.pools import alarms, pool_state
from scaler.planning.promises import Promise, with_new
from scaler.planning.reclaim import reclaim
from scaler.planning.shares import allot
from scaler.planning.wants import Seen, SeenPool, Want, unknown, want
from scaler.planning.watermark import watch
from scaler.policy import FleetPolicy, ServiceKey, ServicePolicy
from scaler.snapshot import Snapshot

Args = TypeVarTuple("Args")
T = TypeVar("T")


def plan(snapshot: Snapshot, policy: FleetPolicy, memory: Memory) -> tuple[FleetPlan, Memory]:
    """Decides for all services of one moment. Same snapshot, policy and memory, same plan; time is the snapshot's."""
    operator, time_s = policy.operator, snapshot.taken_at_s
    if memory.time_s is not None and time_s <= memory.time_s:
        text = f"time stepped back from {memory.time_s:.0f} to {time_s:.0f}: nothing is decided on a past moment"
        refused = {key: unknown(key, service, time_s, text) for key, service in policy.services.items()}
        return FleetPlan(time_s, refused, {}, snapshot.problems), memory

    # What was seen, corrected: neighbours and retries taken out (signals/), kept for as long as it matters.
    cards, sits_on = cards_by_pool(snapshot.cards, operator), hosts(snapshot.cards)
    before = memory
    memory, derived = remember(snapshot, operator, before, cards, sits_on)

    # What the cards allow at all: each pool's watermark, and what else bars it from scaling up.
    seen_pools: dict[str, SeenPool] = {}
    pools: dict[str, PoolState] = {}
    problems = [*snapshot.problems]
    for pool in operator.pools:
        past = memory.pools[pool.name]
        watched, barrier = watch(past, pool.low_watermark, pool.high_watermark, pool), pool_barrier(past, pool)
        seen_pools[pool.name] = SeenPool(pool, past, watched, barrier)
        pools[pool.name] = state = pool_state(past[-1], watched, barrier, pool, operator.timing)
        problems += alarms(state)

    # What each service wants by itself: its own load, its own past.
    decisions: dict[ServiceKey, Decision] = {}
    wants: dict[str, dict[ServiceKey, Want]] = {pool.name: {} for pool in operator.pools}
    for key, service in policy.services.items():
        workload = policy.workloads[key]
        moments, promises = memory.workloads.get(workload, NOTHING).moments, memory.promises.get(key, ())
        pool_now = seen_pools[service.pool]
        seen = Seen(
            time_s, policy.terms[key], snapshot, workload, derived.get(workload), moments, promises, pool_now, sits_on
        )
        wanted = _safely(key, service, time_s, want, key, service, operator, seen)
        if isinstance(wanted, Want):
            wants[service.pool][key] = wanted
        else:
            decisions[key] = wanted

    # Who gets the room: all claims of a pool at once, in bytes, beside what is started or promised already.
    told: dict[ServiceKey, Promise] = {}
    for pool in operator.pools:
        claimants: Mapping[ServiceKey, Want] = wants[pool.name]
        own_cards = cards[pool.name]
        allotments = allot(snapshot, policy, memory, pool, own_cards, claimants)
        claimants = reclaim(snapshot, policy, memory, pool, own_cards, claimants, allotments)
        for key, final in claimants.items():
            service = policy.services[key]
            decisions[key] = _safely(key, service, time_s, answer, final, allotments.get(key), policy.is_settled)
            told[key] = promise(final, decisions[key], allotments.get(key))
    suspects = leaks(cards, memory, before)
    memory = replace(memory, promises=with_new(memory.promises, told), leaks=suspects)
    in_order = {key: decisions[key] for key in policy.services}
    return FleetPlan(time_s, in_order, pools, (*problems, *suspects)), memory


def _safely(
    key: ServiceKey, service: ServicePolicy, time_s: float, step: Callable[[*Args], T], *args: *Args
) -> T | Decision:
    """One service's fault is its own: it becomes unknown, and the others are decided as ever."""
    try:
        return step(*args)
    except Exception as fault:
        return unknown(key, service, time_s, f"internal fault: {type(fault).__name__}: {fault}")
