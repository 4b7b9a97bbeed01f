"""The incident's clock, and values over it: curves that go straight between their points, and steps that do not."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime

START_S = datetime(2025, 6, 17, 23, 45, tzinfo=UTC).timestamp()
END_S = datetime(2025, 6, 18, 9, 0, tzinfo=UTC).timestamp()
STEP_S = 15.0


def clock(text: str) -> float:
    """Unix seconds of "HH:MM[:SS]" UTC: 23:xx is the evening of 17 June, all else 18 June."""
    hours, minutes, seconds = (int(part) for part in f"{text}:00".split(":")[:3])
    midnight = datetime(2025, 6, 17 if hours == 23 else 18, tzinfo=UTC).timestamp()
    return midnight + 3600 * hours + 60 * minutes + seconds


class Curve:
    """Straight lines between points such as "00:01 97"; flat before the first and after the last."""

    def __init__(self, *points: str) -> None:
        pairs = [point.split() for point in points]
        self._times = [clock(time) for time, _ in pairs]
        self._values = [float(value) for _, value in pairs]

    def at(self, at_s: float) -> float:
        after = bisect_right(self._times, at_s)
        if after in (0, len(self._times)):
            return self._values[max(after - 1, 0)]
        (start_s, end_s), (first, last) = self._times[after - 1 : after + 1], self._values[after - 1 : after + 1]
        return first + (last - first) * (at_s - start_s) / (end_s - start_s)


class Steps(Curve):
    """Holds each point's value until the next point."""

    def at(self, at_s: float) -> float:
        return self._values[max(bisect_right(self._times, at_s) - 1, 0)]
