"""Room from idle neighbours: where a service with real demand starves, those without any give up their waiting time.

Off by default. One neighbour at a time, the largest footprint first, never below minReplicas; the next one only when
what the last one gave up has been seen to go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from scaler.decision import Reason, Step
from scaler.planning.cards import PoolCard
from scaler.planning.footprints import footprints_of
from scaler.planning.memory import NOTHING, Memory
from scaler.planning.shares import Allotment
from scaler.planning.supply import supply
from scaler.planning.wants import Want
from scaler.policy import FleetPolicy, PoolPolicy, ServiceKey
from scaler.snapshot import Snapshot


def reclaim(
    snapshot: Snapshot,
    fleet: FleetPolicy,
    memory: Memory,
    pool: PoolPolicy,
    cards: Sequence[PoolCard],
    wants: Mapping[ServiceKey, Want],
    allotments: Mapping[ServiceKey, Allotment],
) -> Mapping[ServiceKey, Want]:
    """The pool's wants, with that of the idle neighbour that gives way now; as they were where nobody starves or
    nobody is idle."""
    if pool.reclaim_after_s is None:
        return wants
    starving = sorted(each.key for each in wants.values() if _starves(each, allotments.get(each.key)))
    idle = [each for each in wants.values() if each.is_idle and each.terms.floor < each.replicas <= each.unlimited]
    if not starving or not idle:
        return wants
    supplies = (supply(memory.workloads.get(each.workload, NOTHING).counts, each.time_s) for each in wants.values())
    if any(now.lately > now.existing for now in supplies):  # pods are going already
        return wants
    footprints = footprints_of(pool, cards, fleet, snapshot, memory)

    def size_bytes(want: Want) -> float:
        largest = footprints.highest(want.workload)
        return largest.held_bytes if largest is not None else 0.0

    chosen = min(idle, key=lambda each: (-size_bytes(each), each.key))
    text = (
        f"no own request for {pool.reclaim_after_s:g} s, and {'/'.join(starving[0])} wants for VRAM: down to "
        "minReplicas before scaleDownWindow is over"
    )
    reasons: list[Reason] = [
        Reason.RECLAIMED, *(reason for reason in chosen.reasons if reason is not Reason.SCALE_DOWN_WINDOW)
    ]  # fmt: skip
    steps = [*chosen.steps, Step("reclaimed", chosen.replicas - chosen.terms.floor, "replicas", text)]
    # Less than was ever told is no answer of "what runs".
    gone = replace(chosen, unlimited=chosen.terms.floor, told_less=lambda: None, reasons=reasons, steps=steps)
    return {**wants, chosen.key: gone}


def _starves(want: Want, allotment: Allotment | None) -> bool:
    if want.demand <= want.replicas:
        return False
    if allotment is not None:
        return allotment.share.granted < want.demand
    return want.barrier in (Reason.LOW_VRAM, Reason.OOM_STORM, Reason.EXHAUSTION_FORECAST)
