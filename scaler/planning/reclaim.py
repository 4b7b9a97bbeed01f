"""Room from idle neighbours: where a service with real demand starves, those without any give up their waiting time.

Off by default. One neighbour at a time, the largest footprint first, never below minReplicas; the next one only when
what the last one gave up has been seen to go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from scaler.decision import Reason, Step
from scaler.planning.memory import NOTHING, Memory
from scaler.planning.shares import Allotment
from scaler.planning.supply import supply
from scaler.planning.wants import Want
from scaler.policy import PoolPolicy, ServiceKey
from scaler.snapshot import WorkloadKey


def reclaim(
    pool: PoolPolicy, wants: Mapping[ServiceKey, Want], allotments: Mapping[ServiceKey, Allotment], memory: Memory
) -> Want | None:
    """The idle neighbour that gives way now, with what it still wants; None where nobody starves or nobody is idle."""
    if pool.reclaim_after_s is None or memory.time_s is None:
        return None
    own = [each for each in wants.values() if each.pool is pool]
    starving = sorted(each.key for each in own if _starves(each, allotments.get(each.key)))
    idle = [each for each in own if each.is_idle and each.service.min_replicas < each.replicas <= each.unlimited]
    if not starving or not idle:
        return None
    for each in own:
        past = memory.workloads.get(_workload(each), NOTHING)
        now = supply(past.counts, memory.time_s)
        if now.lately > now.existing:  # pods are going already
            return None
    chosen = min(idle, key=lambda each: (-_footprint_bytes(each, memory), each.key))
    floor = chosen.service.min_replicas
    text = (
        f"no own request for {pool.reclaim_after_s:g} s, and {'/'.join(starving[0])} wants for VRAM: down to "
        "minReplicas before scaleDownWindow is over"
    )
    reasons: list[Reason] = [
        Reason.RECLAIMED,
        *(reason for reason in chosen.reasons if reason is not Reason.SCALE_DOWN_WINDOW),
    ]
    steps = [*chosen.steps, Step("reclaimed", chosen.replicas - floor, "replicas", text)]
    return replace(chosen, unlimited=floor, reasons=reasons, steps=steps)


def _starves(want: Want, allotment: Allotment | None) -> bool:
    if want.demand <= want.replicas:
        return False
    if allotment is not None:
        return allotment.share.granted < want.demand
    return want.barrier in (Reason.LOW_VRAM, Reason.OOM_STORM, Reason.EXHAUSTION_FORECAST)


def _footprint_bytes(want: Want, memory: Memory) -> float:
    known = memory.workloads.get(_workload(want), NOTHING).footprints.highest.values()
    return max((each.held_bytes for each in known), default=float(want.service.vram_per_replica or 0))


def _workload(want: Want) -> WorkloadKey:
    return WorkloadKey(want.key.namespace, want.service.deployment)
