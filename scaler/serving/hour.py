"""The last hour in a ring of fixed size, for the small lines of the status page: what was seen, wanted and granted.

Three 16-bit numbers a point and service, 240 points of 15 s: 1.5 kB a service. `loadtests page` measures it.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from scaler.decision import Decision, PoolState
from scaler.policy import ServiceKey

T = TypeVar("T")

HOUR_S = 3600.0
_LEAST_STEP_S = 15.0  # of several ticks within it the newest is kept: 240 points are more than a small line can show
_UNKNOWN = -1
_MOST = 2**15 - 1


class ServiceHour(NamedTuple):
    """A service's hour, oldest first, a point each `step_s` up to `end_s` (Unix seconds); None is unknown."""

    end_s: float
    step_s: float
    replicas: list[int | None]
    demand: list[int | None]
    granted: list[int | None]


class PoolHour(NamedTuple):
    """A pool's hour: the free VRAM that counts, and where no scale-up passed."""

    end_s: float
    step_s: float
    free_bytes: list[float | None]
    barred: list[bool]


class LastHour:
    """Written at each tick and read by whoever draws; both may be threads."""

    def __init__(self, tick_s: float) -> None:
        self.step_s = max(tick_s, _LEAST_STEP_S)
        self.points = math.ceil(HOUR_S / self.step_s)
        self._lock = threading.Lock()
        self._newest: int | None = None
        self._services: dict[ServiceKey, array[int]] = {}
        self._pools: dict[str, tuple[array[float], bytearray]] = {}

    def note(self, time_s: float, decisions: Mapping[ServiceKey, Decision], pools: Mapping[str, PoolState]) -> None:
        """One more tick. Who is not in it is unknown there, and forgotten after an hour of that."""
        slot = int(time_s // self.step_s)
        with self._lock:
            if self._newest is not None and slot < self._newest:  # the clock stepped back, or a recording begins anew
                self._services, self._pools, self._newest = {}, {}, None
            self._turn_to(slot)
            place = 3 * (slot % self.points)
            for key, decision in decisions.items():
                line = self._services.get(key)
                if line is None:
                    line = self._services[key] = array("h", [_UNKNOWN]) * (3 * self.points)
                for index, value in enumerate((decision.replicas, decision.demand, decision.granted)):
                    line[place + index] = _UNKNOWN if value is None else min(value, _MOST)
            for name, pool in pools.items():
                free, barred = self._pools.setdefault(
                    name, (array("d", [math.nan]) * self.points, bytearray(self.points))
                )
                free[slot % self.points] = math.nan if pool.free_bytes is None else pool.free_bytes
                barred[slot % self.points] = pool.vetoed or pool.barrier is not None

    def service(self, key: ServiceKey) -> ServiceHour | None:
        """The hour of a service; None where nothing was noted of it."""
        with self._lock:
            line = self._services.get(key)
            if line is None or self._newest is None:
                return None
            numbers = [None if value == _UNKNOWN else value for value in self._in_order(line.tolist(), 3)]
            return ServiceHour(self._end_s(), self.step_s, numbers[0::3], numbers[1::3], numbers[2::3])

    def pool(self, name: str) -> PoolHour | None:
        """The hour of a pool; None where nothing was noted of it."""
        with self._lock:
            lines = self._pools.get(name)
            if lines is None or self._newest is None:
                return None
            free = [None if math.isnan(value) else value for value in self._in_order(lines[0].tolist(), 1)]
            return PoolHour(
                self._end_s(), self.step_s, free, [bool(each) for each in self._in_order(list(lines[1]), 1)]
            )

    def _turn_to(self, slot: int) -> None:
        """Empties what lies between the newest point and this one, and forgets lines that are empty then."""
        if self._newest is None or slot == self._newest:
            self._newest = slot
            return
        passed = [number % self.points for number in range(max(self._newest, slot - self.points) + 1, slot + 1)]
        self._newest = slot
        for line in self._services.values():
            for place in passed:
                line[3 * place] = line[3 * place + 1] = line[3 * place + 2] = _UNKNOWN
        for free, barred in self._pools.values():
            for place in passed:
                free[place], barred[place] = math.nan, False
        if 0 in passed:  # once an hour is often enough
            nothing = array("h", [_UNKNOWN]) * (3 * self.points)
            self._services = {key: line for key, line in self._services.items() if line != nothing}

    def _in_order(self, line: list[T], width: int) -> list[T]:
        first = width * ((self._newest or 0) + 1) % len(line)
        return [*line[first:], *line[:first]]

    def _end_s(self) -> float:
        return (self._newest or 0) * self.step_s
