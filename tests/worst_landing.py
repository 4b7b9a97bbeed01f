"""Whether replicas fit wherever they land: a second reading of the recording, which shares nothing with planning."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence

from scaler.incident.cards import RESERVED_MIB
from scaler.incident.services import SERVICES
from scaler.incident.timeline import clock
from scaler.quantity import GIB, MIB
from scaler.snapshot import CardReading, Snapshot, WorkloadKey

LOW_RATIO = 0.10  # the default low watermark, of a card's total
TOLD_S = 90.0  # what was told may be acted on for so long
AFTER_THE_FIX = 0.6  # the record: -40 % VRAM per model, from 05:20 on


def held_bytes(workload: WorkloadKey, time_s: float) -> float:
    """What one loaded replica holds by the record: 6450 MiB of a bundle, 2250 of e5, 2050 of image-small."""
    (service,) = (each for each in SERVICES if each.workload == workload)
    return service.footprint_mib * MIB * (AFTER_THE_FIX if time_s >= clock("05:20") else 1.0)


def margin_bytes(card: CardReading, time_s: float) -> float:
    """Free above the low watermark, once every pod on the card holds what the record says of it.

    A pod that still loads is not in the free VRAM yet; one whose arena has grown beyond the record's figure is.
    """
    assert card.free_bytes is not None
    assert card.total_bytes is not None
    loaded = sum(pods * held_bytes(workload, time_s) for workload, pods in card.pods.items())
    free = min(card.free_bytes, card.total_bytes - RESERVED_MIB * MIB - loaded)
    return free - LOW_RATIO * card.total_bytes


def crossings(snapshot: Snapshot, more: Mapping[WorkloadKey, int]) -> list[str]:
    """A line for each card that so many more replicas can push below its low watermark, landing where slots allow.

    The largest of them, as many as a card has free slots, may all land on it: each card is held against those.
    """
    time_s = snapshot.taken_at_s
    sizes = [held_bytes(workload, time_s) for workload, replicas in more.items() for _ in range(replicas)]
    if not sizes:
        return []
    found, all_slots = [], 0
    for key, card in snapshot.cards.items():
        slots = (card.slots or 0) - sum(card.pods.values())
        all_slots += slots
        landing = sum(sorted(sizes, reverse=True)[:slots])
        if slots and landing > (margin := margin_bytes(card, time_s)):
            found.append(f"{key.uuid}: {landing / GIB:.2f} GiB may land on {margin / GIB:.2f} above the watermark")
    if len(sizes) > all_slots:
        found.append(f"{len(sizes)} replicas for {all_slots} free slots")
    return found


def crossings_by_step(
    incident: Sequence[Snapshot], granted: Sequence[Mapping[WorkloadKey, int]]
) -> dict[float, list[str]]:
    """The steps at which what all services had been told together did not fit, with the cards.

    Told is the most within TOLD_S that was above the replicas then; what of it is above those that run now, KEDA may
    have acted on and nobody have seen yet.
    """
    told: dict[WorkloadKey, list[tuple[float, int]]] = defaultdict(list)
    found = {}
    for snapshot, now in zip(incident, granted, strict=True):
        time_s, more = snapshot.taken_at_s, {}
        for workload, told_now in now.items():
            replicas = snapshot.workloads[workload].spec_replicas or 0
            recent = [(at_s, most) for at_s, most in told[workload] if at_s > time_s - TOLD_S]
            if told_now > replicas:
                recent.append((time_s, told_now))
            told[workload] = recent
            more[workload] = max(0, max((most for _, most in recent), default=0) - replicas)
        lines = crossings(snapshot, more)
        if lines:
            found[time_s] = lines
    return found


def asked_by_the_old_autoscaler(incident: Sequence[Snapshot]) -> list[dict[WorkloadKey, int]]:
    """What the recorded autoscaler's signals asked for: the replicas that each service had one step later."""
    asked = [
        {workload: each.spec_replicas or 0 for workload, each in later.workloads.items()}
        for _, later in itertools.pairwise(incident)
    ]
    return [*asked, asked[-1]]
