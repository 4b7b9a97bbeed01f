"""What a page shows, as values. It knows nothing of replays and models: they say what their curves mean by a role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

# What a curve is; page.js gives each role its colour and stroke. There are two hues: what happened, and what is ours.
Role = Literal["real", "asked", "ours", "other", "demand", "card", "tightest", "watermark", "failures", "plain"]


class Row(NamedTuple):
    """One of a chart's plots above each other, over the same time: its title with the unit, its height in pixels."""

    title: str
    height: float


class Curve(NamedTuple):
    """Values at the steps `at` (0 is the page's start), None where it cannot be seen. A step curve holds each value
    until the next; any other is drawn straight. A quiet one is drawn, and not named where the reader points."""

    row: int
    name: str
    role: Role
    at: Sequence[int]
    values: Sequence[float | None]
    is_step: bool = False
    is_quiet: bool = False


class Band(NamedTuple):
    """From one step up to another: a veto of ours over the whole height, or of the other settings along the edge."""

    start: int
    end: int
    is_other: bool = False


class Chart(NamedTuple):
    """A picture of one subject; `subject` names whose decisions a reader sees who clicks into it, or nobody's."""

    label: str
    rows: Sequence[Row]
    curves: Sequence[Curve]
    bands: Sequence[Band] = ()
    subject: str | None = None


class Column(NamedTuple):
    name: str
    is_number: bool = False


class Table(NamedTuple):
    """Rows of text; a row's first cell names it."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Section(NamedTuple):
    """A part of the page; one that is not open is a line that opens."""

    key: str
    title: str
    text: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    is_open: bool = True


class Figure(NamedTuple):
    """A number that counts, and what it is."""

    value: str
    label: str


class Telling(NamedTuple):
    """A decision in words, from the step `at` until the next one of its subject: as `explain.Explanation`."""

    at: int
    headline: str
    steps: Sequence[tuple[str, str, str]]
    reasons: Sequence[str]
    without: Sequence[str]
    changed_by: Sequence[str]


class Tellings(NamedTuple):
    """One subject's decisions in words, by the settings' names; `left_out` were not kept. Reading begins at `start`."""

    subject: str
    by_settings: Mapping[str, Sequence[Telling]]
    start: int
    left_out: int = 0


class Page(NamedTuple):
    """All of it. Step n is at start_s + n x step_s; with `is_clock` that is a time of day (UTC), else the time since
    the start. `title` is the browser's; of the `verdict`'s sentences the first is the first thing that is read."""

    title: str
    subtitle: str
    verdict: Sequence[str]
    details: Sequence[str]
    figures: Sequence[Figure]
    sections: Sequence[Section]
    notes: Sequence[str]
    start_s: float
    step_s: float
    steps: int
    is_clock: bool = True
    tellings: Sequence[Tellings] = ()
