"""The fleet's time, live or played from a recording. Only the tick loop and the age of a plan look at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol


class Clock(Protocol):
    """The time in which the fleet is seen. It may step in either direction; `elapsed_s` never steps back.

    Attributes:
        earliest_s: the first moment (Unix seconds) of which a source may know anything.
    """

    earliest_s: float

    def now_s(self) -> float:
        """Unix seconds."""

    def elapsed_s(self) -> float:
        """Seconds of the fleet's time since some moment in the past, whatever the wall clock does."""

    async def sleep_until(self, at_s: float) -> None:
        """Returns at that time, or earlier where the clock has stepped back: look again at `now_s`."""


class WallClock:
    """The machine's own time."""

    earliest_s = 0.0

    def now_s(self) -> float:
        return time.time()

    def elapsed_s(self) -> float:
        return time.monotonic()

    async def sleep_until(self, at_s: float) -> None:
        before_s = self.now_s()
        while (now_s := self.now_s()) < at_s and now_s >= before_s:
            before_s = now_s
            await asyncio.sleep(min(at_s - now_s, 1.0))  # at most 1 s, so that a step of the clock is seen


class Playback:
    """Recorded time, `speed` times as fast as real time, from `begin_s` to `end_s` and again from `begin_s`.

    It stands still while a tick is at work, so no tick is skipped however fast the recording plays. `earliest_s` is
    the recording's first moment: what lies before `begin_s` is learnt from, as live history is.
    """

    def __init__(
        self,
        begin_s: float,
        end_s: float,
        speed: float = 60.0,
        earliest_s: float | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not begin_s < end_s:
            raise ValueError(f"a playback from {begin_s:.0f} to {end_s:.0f}: the end must lie after the beginning")
        if not 0 < speed <= 100_000:
            raise ValueError(f"a playback at speed {speed:g}: it takes more than 0 and at most 100000")
        self.earliest_s = begin_s if earliest_s is None else earliest_s
        self._begin_s, self._end_s, self._speed, self._sleep = begin_s, end_s, speed, sleep
        self._now_s, self._elapsed_s = begin_s, 0.0
        self._reached_s = time.monotonic()

    def now_s(self) -> float:
        return self._now_s

    def elapsed_s(self) -> float:
        return self._elapsed_s

    async def sleep_until(self, at_s: float) -> None:
        forward_s = max(0.0, min(at_s, self._end_s) - self._now_s)
        await self._sleep(max(0.0, self._reached_s + forward_s / self._speed - time.monotonic()))
        self._now_s = at_s if at_s <= self._end_s else self._begin_s
        self._elapsed_s += forward_s
        self._reached_s = time.monotonic()
