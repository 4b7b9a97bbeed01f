"""The lines of a recording, each a JSON object: its header, and Snapshot -> lines. The way back: recording_rows.py.

    {"format": "vram-scaler-recording", "version": 2, "start": ..., "end": ..., "step_s": ..., "timing": {...},
     "about": {...}, "columns": {...}}                          the header; the columns name what the arrays below hold
    {"workload": [namespace, deployment, ...]}                  what seldom changes, written when it does; the first
    {"card": [uuid, gpu_instance_id, ...]}                      such line is definition 0 of its kind, the next 1
    {"time": ..., "workloads": [[definition, ...], ...], "cards": [[definition, ...], ...], "problems": [[...], ...]}
    {"end": 2221}                                               the number of snapshots: a file without it is cut off

docs/recording.md describes them for readers of their own, recording.schema.json holds for each line.
Names, placement and totals stand in the definitions, so that a day of 100 services and 200 cards repeats numbers only.
Of the VRAM held on a card, the definition's held_by names the Deployments, and the snapshot's held gives the total and
the largest of each, in that order.
A snapshot may have "asked", [[namespace, deployment, replicas], ...]: new with version 2.
A card's definition may have "told_by", {"held": source, "pods": [source, ...]}, who told of held and of each of pods in
their order, null where that is not known: new with version 3. Else the versions are the same.
Floats are written with all their digits and come back bit for bit. The same snapshots give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import Any

from pydantic import ValidationError

from scaler.duration import LAST_MOMENT_S, LEAST_STEP_S, MOST_STEP_S
from scaler.policy import Timing, describe
from scaler.snapshot import CardReading, Snapshot, WorkloadReading

FORMAT = "vram-scaler-recording"
VERSION = 3
READABLE = (1, 2, 3)
SAME_INSTANT_S = 0.001  # start + n x step differs from the written time by less than 1 us at today's Unix time

WORKLOAD_SELDOM = ("gpu_busy_source", "gpu_memory_utilization", "revision_created_s")
CARD_SELDOM = ("total_bytes", "node", "model", "slots", "pods")
CARD_TOLD_BY = ("held_source", "placed_by")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "workload": ("namespace", "deployment", *WORKLOAD_SELDOM),
    "workloads": tuple(item.name for item in fields(WorkloadReading) if item.name not in WORKLOAD_SELDOM),
    "card": ("uuid", "gpu_instance_id", *CARD_SELDOM, "held_by"),
    "cards": tuple(item.name for item in fields(CardReading) if item.name not in CARD_SELDOM + CARD_TOLD_BY),
}
HEADER_KEYS = {"format", "version", "start", "end", "step_s", "timing", "about", "columns"}


class Unexpected(ValueError):
    """What a line should have held instead of what it holds."""


@dataclass(frozen=True, slots=True)
class RecordingHeader:
    """A recording's first line.

    Attributes:
        start_s / end_s: Unix seconds of the first and the last instant that were asked for.
        step_s: seconds between two snapshots; one that is missing leaves a gap.
        timing: the windows that the signals were measured over.
        about: where the data comes from, in words.
    """

    start_s: float
    end_s: float
    step_s: float
    timing: Timing = field(default_factory=Timing)
    about: Mapping[str, str] = field(default_factory=dict)

    def check_time(self, at_s: float, last_s: float) -> None:
        """Raises Unexpected for a snapshot's time that is outside of the range, not later than last_s (-inf: none yet),
        or between the steps."""
        after_last = at_s >= last_s + SAME_INSTANT_S
        if not (after_last and self.start_s - SAME_INSTANT_S <= at_s <= self.end_s + SAME_INSTANT_S):
            later = f", later than {last_s!r}" if math.isfinite(last_s) else ""
            raise Unexpected(f'"time" between {self.start_s!r} and {self.end_s!r}{later}, not {at_s!r}')
        if abs(self.start_s + self.step_number(at_s) * self.step_s - at_s) > SAME_INSTANT_S:
            raise Unexpected(f'"time" at a multiple of "step_s" {self.step_s!r} after {self.start_s!r}, not {at_s!r}')

    def step_number(self, at_s: float) -> int:
        """Steps from the start to that time."""
        return round((at_s - self.start_s) / self.step_s)


# -- to lines ---------------------------------------------------------------------------------------------------------


def header_line(header: RecordingHeader) -> bytes:
    timing = {key: f"{value:.17g}s" for key, value in header.timing.model_dump(by_alias=True).items()}
    record: dict[str, object] = {"format": FORMAT, "version": VERSION, "step_s": header.step_s}
    record |= {"start": header.start_s, "end": header.end_s, "timing": timing}
    return _line(record | {"about": dict(header.about), "columns": COLUMNS})


def end_line(snapshots: int) -> bytes:
    return _line({"end": snapshots})


class SnapshotLines:
    """Turns snapshots into lines; remembers which definitions were written."""

    def __init__(self) -> None:
        self._written: dict[str, dict[bytes, int]] = {"workload": {}, "card": {}}

    def lines(self, snapshot: Snapshot) -> list[bytes]:
        """The snapshot's new definitions, then the snapshot."""
        lines: list[bytes] = []
        workloads, cards = [], []
        for workload, reading in sorted(snapshot.workloads.items()):
            seldom = [getattr(reading, column) for column in WORKLOAD_SELDOM]
            number = self._definition("workload", {"workload": [*workload, *seldom]}, lines)
            workloads.append([number, *(getattr(reading, column) for column in COLUMNS["workloads"])])
        for card, shown in sorted(snapshot.cards.items()):
            pods = [[*workload, count] for workload, count in sorted(shown.pods.items())]
            held_by, held = sorted(shown.held), [part for _, vram in sorted(shown.held.items()) for part in vram]
            seldom = [pods if column == "pods" else getattr(shown, column) for column in CARD_SELDOM]
            definition: dict[str, object] = {"card": [*card, *seldom, held_by]}
            if shown.held_source is not None or shown.placed_by:
                placed_by = [shown.placed_by.get(workload) for workload in sorted(shown.pods)]
                definition["told_by"] = {"held": shown.held_source, "pods": placed_by}
            number = self._definition("card", definition, lines)
            numbers = [held if column == "held" else getattr(shown, column) for column in COLUMNS["cards"]]
            cards.append([number, *numbers])
        body: dict[str, object] = {
            "time": snapshot.taken_at_s,
            "workloads": workloads,
            "cards": cards,
            "problems": snapshot.problems,
        }
        if snapshot.asked:
            body["asked"] = [[*workload, replicas] for workload, replicas in sorted(snapshot.asked.items())]
        return [*lines, _line(body)]

    def written(self, kind: str, line: bytes) -> None:
        """Takes a definition of an earlier writer for one of its own."""
        self._written[kind].setdefault(line, len(self._written[kind]))

    @property
    def is_blank(self) -> bool:
        """True while no snapshot has shown a workload or a card."""
        return not any(self._written.values())

    def _definition(self, kind: str, definition: Mapping[str, object], lines: list[bytes]) -> int:
        """The definition's number; where it is new, its line is added."""
        line, written = _line(definition), self._written[kind]
        if line not in written:
            written[line] = len(written)
            lines.append(line)
        return written[line]


def _line(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


# -- the header back ----------------------------------------------------------------------------------------------


def parse_header(record: Mapping[str, Any]) -> RecordingHeader:
    """The header; raises Unexpected, also for another format or version."""
    if record.get("format") != FORMAT:
        raise Unexpected(f'a header with "format": "{FORMAT}"; this is not a recording')
    version = record.get("version")
    if type(version) is not int or version not in READABLE:
        raise Unexpected(f'"version": {READABLE[0]} to {VERSION}, not {version!r}')
    if record.keys() != HEADER_KEYS:
        raise Unexpected(f"a header with the keys {', '.join(sorted(HEADER_KEYS))}, not {', '.join(sorted(record))}")
    start_s, end_s, step_s = (_time(record[key]) for key in ("start", "end", "step_s"))
    if not 0.0 <= start_s <= end_s <= LAST_MOMENT_S:
        raise Unexpected('"start" up to "end" in Unix seconds of the years 1970 to 9999')
    if not LEAST_STEP_S <= step_s <= MOST_STEP_S:
        raise Unexpected(f'"step_s" from {LEAST_STEP_S:g} to {MOST_STEP_S:g}')
    if record["columns"] != {kind: list(names) for kind, names in COLUMNS.items()}:
        raise Unexpected(f'the "columns" of version {version}')
    about = record["about"]
    if not (isinstance(about, dict) and all(isinstance(text, str) for text in about.values())):
        raise Unexpected('"about" as {name: text}')
    try:
        timing = Timing.model_validate(record["timing"], by_alias=True, by_name=False)
    except ValidationError as error:
        raise Unexpected('"timing" with sound windows: ' + "; ".join(describe(error, Timing, "timing."))) from None
    return RecordingHeader(start_s, end_s, step_s, timing, about)


def _time(value: Any) -> float:
    """Seconds; NaN for what is no number."""
    fits = type(value) is float or (type(value) is int and abs(value) < 2**63)
    return float(value) if fits and math.isfinite(value) else math.nan


def schema() -> str:
    """The JSON Schema of a line, as text."""
    return resources.files("scaler.sources").joinpath("recording.schema.json").read_text(encoding="utf-8")
