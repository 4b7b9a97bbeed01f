"""Which replicas of a Deployment hold their VRAM, and which are still on their way to it."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from scaler.signals.freshness import replicas_fault
from scaler.snapshot import WorkloadReading

# A replica that is not ready for longer is no longer starting: its pod loops, or no node takes it.
STARTING_S = 600.0
# DCGM samples memory every 30 s and is scraped every 15 s: a replica that has been ready so long is in the free VRAM.
RESIDENT_S = 60.0
# A pod that is told to end holds its VRAM, and its place in the exporter's series, for some time.
ENDING_S = 120.0


class Count(NamedTuple):
    """Replicas from `time_s` on: asked for or existing (surge pods of a rolling update included), and ready; `surge`
    are those beyond what is asked for."""

    time_s: float
    existing: int
    ready: int
    surge: int = 0


class Supply(Struct, frozen=True, gc=False):
    """A Deployment's replicas at one moment.

    Attributes:
        existing: pods that exist or are asked for: each holds VRAM or will.
        starting: of those, not yet ready for RESIDENT_S; their VRAM may not be in the cards' readings.
        given_up: of those, missing through all of STARTING_S: nothing is reserved for them any more.
        is_rolling: there were surge pods within ENDING_S: a rolling update goes on, or has just ended.
        lately: those that exist, and those that were told to end within ENDING_S: these may still be seen on cards.
    """

    existing: int
    starting: int
    given_up: int
    lately: int
    is_rolling: bool = False


NO_SUPPLY = Supply(0, 0, 0, 0)


def counted(
    history: tuple[Count, ...], time_s: float, reading: WorkloadReading | None, stale_after_s: float
) -> tuple[Count, ...]:
    """The history with this reading in it, an entry for each change. What cannot be seen is taken not to change."""
    start = 0
    while start + 1 < len(history) and history[start + 1].time_s <= time_s - STARTING_S:
        start += 1
    history = history[start:] if start else history
    if reading is None or reading.spec_replicas is None or reading.ready_replicas is None:
        return history
    if replicas_fault(reading, stale_after_s) is not None:
        return history
    existing = max(reading.spec_replicas, reading.status_replicas or 0)
    now = (existing, reading.ready_replicas, existing - reading.spec_replicas)
    return history if history and history[-1][1:] == now else (*history, Count(time_s, *now))


def supply(history: tuple[Count, ...], time_s: float) -> Supply:
    """What the history says of this moment."""
    if not history:
        return NO_SUPPLY
    since_s, existing, resident, surge = history[-1]
    is_rolling = surge > 0
    if len(history) == 1:  # as ever: nothing has changed within STARTING_S
        given_up = max(0, existing - resident) if since_s <= time_s - STARTING_S else 0
        return Supply(existing, max(0, existing - resident - given_up), given_up, existing, is_rolling)
    missing, lately = existing - resident, existing
    until_s, then = time_s, existing  # each entry holds until the next one begins
    for count in reversed(history):
        if until_s > time_s - RESIDENT_S:
            resident = min(resident, count.ready)
        if until_s > time_s - ENDING_S:
            lately += max(0, count.existing - then)
            is_rolling = is_rolling or count.surge > 0
        then = count.existing
        missing = min(missing, count.existing - count.ready)
        until_s = count.time_s
    # Missing throughout: only where the whole of the time has been seen.
    given_up = max(0, missing) if until_s <= time_s - STARTING_S else 0
    starting = max(0, existing - resident - given_up)
    return Supply(existing, starting, given_up, lately, is_rolling)
