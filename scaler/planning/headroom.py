"""How many more replicas of a service surely fit: on the tightest card, since the scheduler does not see VRAM."""

from __future__ import annotations

from scaler.planning.watermark import PoolMoment
from scaler.policy import ServicePolicy
from scaler.quantity import Level


def fitting_replicas(moment: PoolMoment, low: Level, service: ServicePolicy, starting: int) -> int | None:
    """Further replicas that leave the low watermark free even if all of them land on the tightest card.

    `starting` replicas are asked for but not ready: their VRAM is spoken for already. None where vramPerReplica is not
    given or the free VRAM is not known: then only the watermark speaks.
    """
    if service.vram_per_replica is None or moment.free_bytes is None:
        return None
    room = moment.free_bytes - low.of(moment.total_bytes)
    return max(0, int(room // service.vram_per_replica) - max(0, starting))
