"""Curves that are recorded as time goes by, in bounded memory, without losing what a reader looks for in them.

A curve of counts keeps its changes, all of them. A measured one keeps the least and the highest of every so many steps
at their own moments, so that no dip and no peak is lost, only what lies between; where nothing was seen stays a gap.
"""

from __future__ import annotations

import math
from array import array

_UNSEEN = math.nan  # None within the arrays


class Points:
    """Steps with their values, as flat arrays: 16 bytes a point."""

    def __init__(self) -> None:
        self._at = array("q")
        self._values = array("d")

    def append(self, at: int, value: float | None) -> None:
        """One more point; a flat stretch is kept as its two ends."""
        number = _UNSEEN if value is None else value
        if len(self._at) >= 2 and _same(self._values[-1], number) and _same(self._values[-2], number):
            self._at[-1] = at
        else:
            self._at.append(at)
            self._values.append(number)

    def is_last(self, value: float | None) -> bool:
        """Whether the newest point has this value."""
        return len(self._at) > 0 and _same(self._values[-1], _UNSEEN if value is None else value)

    @property
    def at(self) -> list[int]:
        """The steps."""
        return self._at.tolist()

    @property
    def values(self) -> list[float | None]:
        """None where it could not be seen."""
        return [None if math.isnan(value) else value for value in self._values]

    def __len__(self) -> int:
        return len(self._at)


class Changes:
    """A curve of counts: each value from the step at which it began."""

    def __init__(self) -> None:
        self.points = Points()

    def add(self, at: int, value: float | None) -> None:
        """Steps come in order."""
        if not self.points.is_last(value):
            self.points.append(at, value)


class Spans:
    """When something was the case: pairs of the first step with it and the first without it."""

    def __init__(self) -> None:
        self.pairs: list[tuple[int, int]] = []
        self._since: int | None = None

    def add(self, at: int, is_so: bool) -> None:
        """Steps come in order."""
        if is_so and self._since is None:
            self._since = at
        elif not is_so and self._since is not None:
            self.pairs.append((self._since, at))
            self._since = None

    def until(self, end: int) -> list[tuple[int, int]]:
        """All of them; one that is not over ends there."""
        return self.pairs if self._since is None else [*self.pairs, (self._since, end)]


class Extremes:
    """A measured curve: of every `width` steps the least and the highest value, at the steps where they were."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._points = Points()
        self._last: int | None = None
        self._bucket: list[tuple[int, float]] = []
        self._gap: int | None = None
        self.least = math.inf
        self.highest = -math.inf

    def add(self, at: int, value: float | None) -> None:
        """Steps come in order; one that is left out was not seen."""
        if self._last is not None and at > self._last + 1:
            self._see(self._last + 1, None)
        self._last = at
        self._see(at, value)

    def points(self) -> Points:
        """What is kept so far, in the order of time."""
        self._flush()
        return self._points

    def _see(self, at: int, value: float | None) -> None:
        if (self._bucket and at // self._width != self._bucket[0][0] // self._width) or (
            self._gap is not None and at // self._width != self._gap // self._width
        ):
            self._flush()
        if value is None:
            self._gap = at if self._gap is None else self._gap
            return
        self.least, self.highest = min(self.least, value), max(self.highest, value)
        seen = self._bucket
        seen.append((at, value))
        if len(seen) > 2:  # the least and the highest of three, in the order of time
            low, high = min(seen, key=_value), max(seen, key=_value)
            self._bucket = sorted({low, high})

    def _flush(self) -> None:
        kept: list[tuple[int, float | None]] = [*self._bucket]
        if self._gap is not None:
            kept.append((self._gap, None))
        for at, value in sorted(kept, key=_at):
            self._points.append(at, value)
        self._bucket, self._gap = [], None


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _value(point: tuple[int, float]) -> float:
    return point[1]


def _at(point: tuple[int, float | None]) -> int:
    return point[0]
