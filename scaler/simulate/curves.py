"""Values over a scenario's time: straight lines between points, bursts on top, or a recorded trace."""

from __future__ import annotations

import csv
import gzip
import math
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from scaler.duration import parse_duration
from scaler.policy import Section
from scaler.quantity import Number, Seconds, parse_number

AT_ONCE_S = 0.001  # a change that takes no time, between two points


class TraceMissing(Exception):
    """A scenario reads a recorded trace that is not there; the message names it."""


class Curve:
    """Straight lines between (seconds, value) points; flat before the first and after the last."""

    def __init__(self, points: Mapping[float, float]) -> None:
        self._times = sorted(points)
        self._values = [points[time_s] for time_s in self._times]
        self.constant = self._values[0] if len(self._values) == 1 else None

    def at(self, at_s: float) -> float:
        if self.constant is not None:
            return self.constant
        times, values = self._times, self._values
        after = bisect_right(times, at_s)
        if after == 0 or after == len(times):
            return values[max(after - 1, 0)]
        start_s, first = times[after - 1], values[after - 1]
        return first + (values[after] - first) * (at_s - start_s) / (times[after] - start_s)


def _points(value: Any) -> Any:
    """`12`, or `{0s: 12, 1h30m: 40}`."""
    if isinstance(value, dict):
        if not value:
            raise ValueError("no points; it takes at least one, such as 0s: 12")
        return {parse_duration(at): parse_number(number) for at, number in value.items()}
    return {0.0: parse_number(value)}


Points = Annotated[dict[float, float], BeforeValidator(_points)]


class Bursts(Section):
    """The load times `factor` for `lasting`, again and again."""

    every_s: Seconds = Field(alias="every", ge=10, le=86400, description="time between two beginnings, 10s to 24h")
    lasting_s: Seconds = Field(alias="lasting", ge=5, le=86400, description="how long one lasts, 5s to 24h")
    factor: Number = Field(ge=0, le=1000, description="times the load, 0 to 1000")
    first_s: Seconds = Field(0.0, alias="first", ge=0, le=7 * 86400, description="the first one's beginning, 0s to 7d")


class Lifetimes(Section):
    """Recorded pods as load: each is worth `perPod` while it lives, from `creation_time` to `deletion_time` (CSV, gzip;
    both in seconds from the trace's start). One that no card was found for was wanted all the same."""

    file: str = Field(min_length=1, description="a file name within the directory of --traces")
    where: dict[str, str] = Field(default_factory=dict, description="rows with these values only")
    from_s: Seconds = Field(alias="from", ge=0, le=400 * 86400, description="the start within the trace, 0s to 400d")
    per_pod: Number = Field(alias="perPod", ge=0, le=1e6, description="requests per second of a pod, 0 to 1000000")

    def curve(self, traces: Path | None) -> Curve:
        """Raises TraceMissing."""
        changes: dict[float, int] = {}
        for row in _rows(self.file, self.where, traces):
            for column, change in (("creation_time", 1), ("deletion_time", -1)):
                at_s = float(row[column]) - self.from_s
                changes[at_s] = changes.get(at_s, 0) + change
        points, living = dict[float, float](), 0
        for at_s in sorted(changes):
            points[at_s - AT_ONCE_S] = living * self.per_pod
            living += changes[at_s]
            points[at_s] = living * self.per_pod
        return Curve(points)


class Trace(Section):
    """A column of a recorded trace (CSV, gzip; `t_s` is seconds from its start), as a rate per second. Rows of one bin,
    as of several load generators, add up."""

    file: str = Field(min_length=1, description="a file name within the directory of --traces")
    column: str = Field(min_length=1, description="a column of counts per bin")
    where: dict[str, str] = Field(default_factory=dict, description="rows with these values only")
    bin_s: Seconds = Field(15.0, alias="bin", ge=1, le=3600, description="length of a bin, 1s to 1h")
    scale: Number = Field(1.0, ge=0, le=1e6, description="times the recorded rate, 0 to 1000000")

    def curve(self, traces: Path | None) -> Curve:
        """Raises TraceMissing."""
        points: dict[float, float] = {}
        for row in _rows(self.file, self.where, traces):
            if row.get(self.column):
                bin_start_s = float(row["t_s"]) // self.bin_s * self.bin_s
                rate = float(row[self.column]) / self.bin_s * self.scale
                points[bin_start_s] = points.get(bin_start_s, 0.0) + rate
        if not points:
            raise TraceMissing(f"{self.file}: no rows of {self.where} with a value in {self.column}")
        return Curve(points)


def _rows(name: str, where: Mapping[str, str], traces: Path | None) -> list[dict[str, str]]:
    if traces is None or not (traces / name).is_file():
        place = "no directory was given" if traces is None else f"not in {traces}"
        raise TraceMissing(f"needs the public trace {name}: {place} (--traces DIR)")
    with gzip.open(traces / name, "rt", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if all(row.get(key) == value for key, value in where.items())]
    if not rows:
        raise TraceMissing(f"{name}: no rows of {dict(where)}")
    return rows


class Load(Section):
    """Fresh requests per second: points (or a trace, or pods that lived), and bursts on top."""

    points: Points = Field(default_factory=lambda: {0.0: 0.0}, description="requests per second by time")
    trace: Trace | None = None
    lifetimes: Lifetimes | None = None
    bursts: Bursts | None = None

    def curve(self, traces: Path | None) -> Demand:
        recorded = self.trace or self.lifetimes
        return Demand(recorded.curve(traces) if recorded is not None else Curve(self.points), self.bursts)


class Demand:
    """What clients want answered per second, retries not counted."""

    def __init__(self, base: Curve, bursts: Bursts | None) -> None:
        self._base, self._bursts = base, bursts
        self._newest = -math.inf, 0.0

    def at(self, at_s: float) -> float:
        """Asked for several times in a step, so the last one is kept."""
        if at_s != self._newest[0]:
            self._newest = at_s, self._at(at_s)
        return self._newest[1]

    def _at(self, at_s: float) -> float:
        rate, bursts = self._base.at(at_s), self._bursts
        if (
            bursts is not None
            and at_s >= bursts.first_s
            and (at_s - bursts.first_s) % bursts.every_s < bursts.lasting_s
        ):
            return rate * bursts.factor
        return rate
