"""Builders for small fleets: a service's reading by its load, cards by their free VRAM, histories of equal steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from scaler.decision import Decision, FleetPlan
from scaler.planning.memory import Memory
from scaler.planning.plan import plan
from scaler.policy import FleetPolicy, OperatorPolicy, ServiceKey, service_policy
from scaler.quantity import GIB
from scaler.snapshot import CardKey, CardReading, HeldVram, Snapshot, WorkloadKey, WorkloadReading

NAMESPACE = "models"
START_S = 1_750_204_800.0  # 2025-06-18 00:00:00 UTC, a multiple of every step used here
TICK_S = 15.0
T4_BYTES = 15 * GIB
# Tests of demand need room: a replica of which nothing is known takes 64 MiB here, and a card has 40 places.
SMALL = {"defaultFootprint": "64Mi"}
OPERATOR = OperatorPolicy.model_validate({"pools": [SMALL], "settle": "0s"})


def key(name: str) -> ServiceKey:
    return ServiceKey(NAMESPACE, name)


def workload(name: str) -> WorkloadKey:
    return WorkloadKey(NAMESPACE, name)


def reading(
    replicas: int,
    inflight: float,
    arrivals_per_s: float = 100.0,
    *,
    queued: float = 0.0,
    ready: int | None = None,
    existing: int | None = None,
    failure_per_s: float = 0.0,
) -> WorkloadReading:
    """A service whose requests in flight (of them `queued` waiting) come from so many arrivals a second.

    All its replicas are ready and no others exist, unless `ready` and `existing` (surge pods included) say so.
    """
    ready = replicas if ready is None else ready
    success_per_s = arrivals_per_s - failure_per_s
    return WorkloadReading(
        spec_replicas=replicas,
        ready_replicas=ready,
        status_replicas=replicas if existing is None else existing,
        replicas_age_s=5.0,
        scraped_pods=ready,
        signals_age_s=5.0,
        queued=queued,
        queued_burst=queued,
        executing=inflight - queued,
        executing_burst=inflight - queued,
        inflight_growth_per_s=0.0,
        success_per_s=success_per_s,
        failure_per_s=failure_per_s,
        oom_failure_per_s=failure_per_s,
        success_time_s=inflight / arrivals_per_s if arrivals_per_s else None,
    )


def card(
    free_gib: float,
    *,
    pods: dict[str, int] | None = None,
    held_gib: dict[str, tuple[float, ...]] | None = None,
    slots: int | None = 40,
    age_s: float = 5.0,
) -> CardReading:
    """A T4; `held_gib`: what each pod of a service holds on it, by service."""
    return CardReading(
        free_bytes=free_gib * GIB,
        total_bytes=float(T4_BYTES),
        utilization_ratio=0.3,
        age_s=age_s,
        node="node-1",
        model="Tesla T4",
        slots=slots,
        pods={workload(name): count for name, count in (pods or {}).items()},
        held={workload(name): HeldVram(sum(each) * GIB, max(each) * GIB) for name, each in (held_gib or {}).items()},
    )


def snapshot(at_s: float, services: dict[str, WorkloadReading], *cards: CardReading) -> Snapshot:
    return Snapshot(
        taken_at_s=at_s,
        workloads={workload(name): service for name, service in services.items()},
        cards={CardKey(f"GPU-{index}"): each for index, each in enumerate(cards)},
    )


def policy(operator: OperatorPolicy | None = None, **services: dict[str, str]) -> FleetPolicy:
    """A fleet policy of ScaledObjects by name and metadata; the default target is 4 in flight a replica."""
    operator = operator or OPERATOR
    return FleetPolicy(
        operator, {key(name): service_policy(key(name), metadata, operator) for name, metadata in services.items()}
    )


def steady(
    services: dict[str, WorkloadReading], *cards: CardReading, ticks: int = 48, until_s: float = START_S
) -> list[Snapshot]:
    """The same readings at each of `ticks` ticks before `until_s` (48 ticks = 12 minutes: every window is covered)."""
    return [snapshot(until_s - TICK_S * (ticks - index), services, *cards) for index in range(ticks)]


def run(
    snapshots: Iterable[Snapshot], fleet: FleetPolicy, memory: Memory | None = None
) -> tuple[list[FleetPlan], Memory]:
    """All plans over a history, and the memory at its end."""
    memory, plans = memory or Memory(), []
    for each in snapshots:
        result, memory = plan(each, fleet, memory)
        plans.append(result)
    return plans, memory


def decide(history: list[Snapshot], fleet: FleetPolicy, name: str) -> Decision:
    """The decision of a service at the end of a history."""
    return run(history, fleet)[0][-1].decisions[key(name)]


def at(base: Snapshot, at_s: float) -> Snapshot:
    """The same readings at another moment."""
    return replace(base, taken_at_s=at_s)


def pool_with(**settings: object) -> OperatorPolicy:
    """An operator of one pool with these settings, by their camelCase names, where nobody has to settle."""
    return OperatorPolicy.model_validate({"pools": [settings], "settle": "0s"})


def asking(
    running: int, wanted: int, *, ready: int | None = None, existing: int | None = None, failure_per_s: float = 0.0
) -> WorkloadReading:
    """A service whose load asks for `wanted` replicas at the default target of 4, at one arrival a second: too few to
    be held against what was carried, so all in flight counts."""
    return reading(running, 4.0 * wanted, 1.0, ready=ready, existing=existing, failure_per_s=failure_per_s)
