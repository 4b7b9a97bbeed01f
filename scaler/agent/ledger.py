"""Devices and owners -> what each pod holds, has held at most, and ran; and what of that can be believed.

A figure that contradicts its card (above its total) is as unknown as one that is not there.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from scaler.agent.nvml import Device, Memory, Process
from scaler.agent.owners import Owner
from scaler.snapshot import CardKey

MEAN_S = 15.0  # utilisation is averaged over that, a usual scrape interval: the driver's samples are of 1/6 to 1 s
FORGET_S = 3600.0  # a pod's high-water mark outlives its processes, so that a restart in the pod keeps it

CAPABILITIES: Mapping[str, str] = {
    "memory": "free and total VRAM",
    "utilization": "utilisation of the card",
    "placement": "which pods have processes there",
    "held": "VRAM of each of these pods",
    "busy": "what part of the time each of these pods ran",
}


class PodUse(NamedTuple):
    """One pod on one card; None is not known."""

    processes: int
    held_bytes: int | None
    peak_bytes: int | None
    busy_ratio: float | None


@dataclass(frozen=True, slots=True)
class CardUse:
    """One card and its pods by UID.

    Attributes:
        unattributed_bytes: VRAM in use that is no pod's as far as can be seen: processes outside of pods or not in
            /proc, and what the driver counts to nobody. None where not every process' VRAM is known.
        can: for each of CAPABILITIES, whether this round could read all of it.
    """

    card: CardKey
    index: int
    model: str
    memory: Memory | None
    utilization_ratio: float | None
    unattributed_bytes: int | None
    pods: Mapping[str, PodUse]
    can: Mapping[str, bool]


class _Mean:
    """The mean of the readings of the last MEAN_S."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, float]] = deque()

    def add(self, elapsed_s: float, value: float | None) -> float | None:
        if value is not None:
            self._readings.append((elapsed_s, value))
        while self._readings and self._readings[0][0] <= elapsed_s - MEAN_S:
            self._readings.popleft()
        known = [reading for _, reading in self._readings]
        return sum(known) / len(known) if known else None


@dataclass(slots=True)
class _Past:
    """What is remembered of a card, or of a pod on a card."""

    seen_s: float = 0.0
    mean: _Mean = field(default_factory=_Mean)
    peak_bytes: int | None = None


class Ledger:
    """Turns rounds into reports; remembers means and high-water marks between them."""

    def __init__(self) -> None:
        self._past: defaultdict[tuple[CardKey, str], _Past] = defaultdict(_Past)

    def enter(
        self, devices: Iterable[Device], owner_of: Callable[[int], Owner], elapsed_s: float
    ) -> tuple[CardUse, ...]:
        """One round at `elapsed_s` (monotonic); `owner_of` says whose a PID is."""
        uses = tuple(self._card(device, owner_of, elapsed_s) for device in devices)
        for key in [key for key, past in self._past.items() if elapsed_s - past.seen_s > FORGET_S]:
            del self._past[key]
        return uses

    def _card(self, device: Device, owner_of: Callable[[int], Owner], elapsed_s: float) -> CardUse:
        owners = {process.pid: owner_of(process.pid) for process in device.processes or ()}
        # Without hostPID /proc shows none of the driver's PIDs. One that is missing has just ended.
        placed = device.processes is not None and (not owners or any(owner is not None for owner in owners.values()))
        by_pod: defaultdict[str, list[Process]] = defaultdict(list)
        for process in device.processes or ():
            if uid := owners[process.pid]:
                by_pod[uid].append(process)
        held = {uid: _held(processes) for uid, processes in by_pod.items()}
        held = _within(held, device.memory)
        ran = {uid: _ran(processes, device.busy) for uid, processes in by_pod.items()}
        past = self._seen(device.card, "", elapsed_s)
        told = [process.used_bytes for process in device.processes or ()]
        return CardUse(
            device.card,
            device.index,
            device.model,
            device.memory,
            past.mean.add(elapsed_s, device.utilization_ratio),
            _unattributed(device, held) if None not in told else None,
            {uid: self._pod(device, uid, len(by_pod[uid]), held[uid], ran[uid], elapsed_s) for uid in by_pod},
            {
                "memory": device.memory is not None,
                "utilization": device.utilization_ratio is not None,
                "placement": placed,
                "held": placed and None not in held.values(),
                "busy": placed and device.busy is not None and None not in ran.values(),
            },
        )

    def _pod(
        self, device: Device, uid: str, processes: int, held: int | None, ran: float | None, elapsed_s: float
    ) -> PodUse:
        past = self._seen(device.card, uid, elapsed_s)
        if held is not None:
            past.peak_bytes = max(held, past.peak_bytes or 0)
        if device.memory is not None and (past.peak_bytes or 0) > device.memory.total:
            past.peak_bytes = held  # told in a round in which the card's total could not be read
        return PodUse(processes, held, past.peak_bytes, past.mean.add(elapsed_s, ran))

    def _seen(self, card: CardKey, uid: str, elapsed_s: float) -> _Past:
        past = self._past[card, uid]
        past.seen_s = elapsed_s
        return past


def _held(processes: Iterable[Process]) -> int | None:
    """One process whose VRAM is not told leaves its pod's unknown."""
    told = [process.used_bytes for process in processes]
    return None if None in told else sum(used for used in told if used is not None)


def _within(held: Mapping[str, int | None], memory: Memory | None) -> dict[str, int | None]:
    """None for all pods of a card that together hold more than there is: one of the figures is wrong, and which?"""
    together = sum(each for each in held.values() if each is not None)
    fits = memory is None or together <= memory.total
    return {uid: each if fits and (each or 0) >= 0 else None for uid, each in held.items()}


def _ran(processes: Iterable[Process], busy: Mapping[int, float] | None) -> float | None:
    """The pod's processes together, at most 1. MPS clients run at once; their figures are not documented."""
    processes = list(processes)
    if busy is None or any(process.is_mps for process in processes):
        return None
    together = sum(busy.get(process.pid, 0.0) for process in processes)
    return min(together, 1.0) if math.isfinite(together) else None


def _unattributed(device: Device, held: Mapping[str, int | None]) -> int | None:
    known = [each for each in held.values() if each is not None]
    if device.memory is None or device.memory.reserved is None or device.processes is None or len(known) < len(held):
        return None
    in_use = device.memory.total - device.memory.free - device.memory.reserved
    return max(0, in_use - sum(known))  # memory and processes are two calls, between which a process may grow
