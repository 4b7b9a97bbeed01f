"""The lines of a recording, each a JSON object: Snapshot -> lines, lines -> Snapshot. No files here (recording.py).

    {"format": "vram-scaler-recording", "version": 1, "start": ..., "end": ..., "step_s": ..., "timing": {...},
     "about": {...}, "columns": {...}}                          the header; the columns name what the arrays below hold
    {"workload": [namespace, deployment, ...]}                  what seldom changes, written when it does; the first
    {"card": [uuid, gpu_instance_id, ...]}                      such line is definition 0 of its kind, the next 1
    {"time": ..., "workloads": [[definition, ...], ...], "cards": [[definition, ...], ...], "problems": [[...], ...]}
    {"end": 2221}                                               the number of snapshots: a file without it is cut off

Names, placement and totals stand in the definitions, so that a day of 100 services and 200 cards repeats numbers only.
Of the VRAM held on a card, the definition's held_by names the Deployments, and the snapshot's held gives the total and
the largest of each, in that order.
Floats are written with all their digits and come back bit for bit. The same snapshots give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import ValidationError

from scaler.policy import Timing, describe
from scaler.snapshot import (
    CardKey,
    CardReading,
    GpuBusySource,
    HeldVram,
    Problem,
    Snapshot,
    WorkloadKey,
    WorkloadReading,
)

FORMAT = "vram-scaler-recording"
VERSION = 1
SAME_INSTANT_S = 0.001  # start + n x step differs from the written time by less than 1 us at today's Unix time

_WORKLOAD_SELDOM = ("gpu_busy_source", "gpu_memory_utilization", "revision_created_s")
_CARD_SELDOM = ("total_bytes", "node", "model", "slots", "pods")
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "workload": ("namespace", "deployment", *_WORKLOAD_SELDOM),
    "workloads": tuple(item.name for item in fields(WorkloadReading) if item.name not in _WORKLOAD_SELDOM),
    "card": ("uuid", "gpu_instance_id", *_CARD_SELDOM, "held_by"),
    "cards": tuple(item.name for item in fields(CardReading) if item.name not in _CARD_SELDOM),
}
_TEXTS = {"namespace", "deployment", "uuid", "gpu_instance_id", "node", "model"}
_COUNTS = {"spec_replicas", "ready_replicas", "status_replicas", "scraped_pods", "slots"}

_Key = TypeVar("_Key", WorkloadKey, CardKey)


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
        """Raises Unexpected for a snapshot's time outside of the range or not later than last_s (-inf: none yet)."""
        after_last = at_s >= last_s + SAME_INSTANT_S
        if not (after_last and self.start_s - SAME_INSTANT_S <= at_s <= self.end_s + SAME_INSTANT_S):
            later = f", later than {last_s!r}" if math.isfinite(last_s) else ""
            raise Unexpected(f'"time" between {self.start_s!r} and {self.end_s!r}{later}, not {at_s!r}')


# -- to lines ---------------------------------------------------------------------------------------------------------


def header_line(header: RecordingHeader) -> bytes:
    timing = {key: f"{value:.17g}s" for key, value in header.timing.model_dump(by_alias=True).items()}
    record: dict[str, object] = {"format": FORMAT, "version": VERSION, "step_s": header.step_s}
    record |= {"start": header.start_s, "end": header.end_s, "timing": timing}
    return _line(record | {"about": dict(header.about), "columns": _COLUMNS})


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
            seldom = [getattr(reading, column) for column in _WORKLOAD_SELDOM]
            number = self._definition("workload", [*workload, *seldom], lines)
            workloads.append([number, *(getattr(reading, column) for column in _COLUMNS["workloads"])])
        for card, shown in sorted(snapshot.cards.items()):
            pods = [[*workload, count] for workload, count in sorted(shown.pods.items())]
            held_by, held = sorted(shown.held), [part for _, vram in sorted(shown.held.items()) for part in vram]
            seldom = [pods if column == "pods" else getattr(shown, column) for column in _CARD_SELDOM]
            number = self._definition("card", [*card, *seldom, held_by], lines)
            numbers = [held if column == "held" else getattr(shown, column) for column in _COLUMNS["cards"]]
            cards.append([number, *numbers])
        body = {"time": snapshot.taken_at_s, "workloads": workloads, "cards": cards, "problems": snapshot.problems}
        return [*lines, _line(body)]

    def _definition(self, kind: str, values: list[object], lines: list[bytes]) -> int:
        """The definition's number; where it is new, its line is added."""
        line, written = _line({kind: values}), self._written[kind]
        if line not in written:
            written[line] = len(written)
            lines.append(line)
        return written[line]


def _line(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


# -- from lines -------------------------------------------------------------------------------------------------------


def parse_line(line: bytes) -> dict[str, Any]:
    """One line as a JSON object; raises Unexpected."""
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except Unexpected:
        raise
    except (ValueError, RecursionError) as error:
        raise Unexpected(f"one JSON object ({type(error).__name__}: {error})") from None
    if not isinstance(record, dict):
        raise Unexpected(f"one JSON object, not {type(record).__name__}")
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise Unexpected(f"finite numbers or null, not {name}")


def parse_header(record: Mapping[str, Any]) -> RecordingHeader:
    """The header; raises Unexpected, also for another format or version."""
    if record.get("format") != FORMAT:
        raise Unexpected(f'a header with "format": "{FORMAT}"; this is not a recording')
    if record.get("version") != VERSION:
        raise Unexpected(f'"version": {VERSION}, not {record.get("version")!r}')
    times = [_number("header", key, record.get(key)) for key in ("start", "end", "step_s")]
    start_s, end_s, step_s = (math.nan if time is None else time for time in times)
    if not (start_s <= end_s and step_s > 0):
        raise Unexpected('"start" up to "end" in Unix seconds and "step_s" above 0')
    if record.get("columns") != {kind: list(names) for kind, names in _COLUMNS.items()}:
        raise Unexpected(f'the "columns" of version {VERSION}')
    about = record.get("about")
    if not (isinstance(about, dict) and all(isinstance(text, str) for text in about.values())):
        raise Unexpected('"about" as {name: text}')
    try:
        timing = Timing.model_validate(record.get("timing"))
    except ValidationError as error:
        raise Unexpected('"timing" with sound windows: ' + "; ".join(describe(error, Timing, "timing."))) from None
    return RecordingHeader(start_s, end_s, step_s, timing, about)


def snapshots_in(records: Iterator[dict[str, Any]], header: RecordingHeader) -> Iterator[Snapshot]:
    """The snapshots in the lines after the header, up to the end mark; raises Unexpected at the first unsound line."""
    workloads: list[tuple[WorkloadKey, dict[str, Any]]] = []
    cards: list[tuple[CardKey, dict[str, Any]]] = []
    count, last_s = 0, -math.inf
    for record in records:
        if record.keys() == {"workload"}:
            values = _row("workload", record["workload"])
            workloads.append((WorkloadKey(values.pop("namespace"), values.pop("deployment")), values))
        elif record.keys() == {"card"}:
            values = _row("card", record["card"])
            cards.append((CardKey(values.pop("uuid"), values.pop("gpu_instance_id")), values))
        elif record.keys() == {"time", "workloads", "cards", "problems"}:
            at_s = _number("snapshot", "time", record["time"])
            header.check_time(math.nan if at_s is None else at_s, last_s)
            assert at_s is not None  # NaN is within no range
            problems = record["problems"]
            if not (isinstance(problems, list) and all(_is_texts(problem, 2) for problem in problems)):
                raise Unexpected('"problems" as [[signal, text], ...]')
            yield Snapshot(
                taken_at_s=at_s,
                workloads={
                    key: WorkloadReading(**values)
                    for key, values in _rows("workloads", record["workloads"], workloads).items()
                },
                cards={key: _card(values) for key, values in _rows("cards", record["cards"], cards).items()},
                problems=tuple(Problem(*problem) for problem in problems),
            )
            count, last_s = count + 1, at_s
        elif record == {"end": count}:
            break
        else:
            raise Unexpected(
                f'a "workload", a "card", a snapshot with "time", or {{"end": {count}}} after {count} of them'
            )
    else:
        raise Unexpected(f'{{"end": {count}}}: the file is cut off after {count} snapshots')
    for _ in records:
        raise Unexpected("nothing after the end mark")


def _card(values: dict[str, Any]) -> CardReading:
    held_by, held = values.pop("held_by"), values.pop("held")
    if len(held) != 2 * len(held_by):
        raise Unexpected(f'"cards": held as a total and a largest for each of the {len(held_by)} in held_by')
    return CardReading(held=dict(zip(held_by, map(HeldVram, held[::2], held[1::2]), strict=True)), **values)


def _rows(kind: str, rows: Any, definitions: list[tuple[_Key, dict[str, Any]]]) -> dict[_Key, dict[str, Any]]:
    """The rows [definition, numbers...] with what their definitions say, by key."""
    if not isinstance(rows, list):
        raise Unexpected(f'"{kind}" as [[definition, ...], ...]')
    values: dict[_Key, dict[str, Any]] = {}
    for row in rows:
        if not (isinstance(row, list) and row and _is_count(row[0]) and row[0] < len(definitions)):
            raise Unexpected(f'"{kind}" as [[definition, ...], ...] with one of the {len(definitions)} defined so far')
        key, seldom = definitions[row[0]]
        if key in values:
            raise Unexpected(f'"{kind}" with {"/".join(key)} once')
        values[key] = seldom | _row(kind, row[1:])
    return values


def _row(kind: str, values: Any) -> dict[str, Any]:
    columns = _COLUMNS[kind]
    if not (isinstance(values, list) and len(values) == len(columns)):
        raise Unexpected(f'"{kind}" with {len(columns)} values each: {", ".join(columns)}')
    return {column: _value(kind, column, value) for column, value in zip(columns, values, strict=True)}


def _value(kind: str, column: str, value: Any) -> Any:
    if column in _TEXTS:
        fits, takes = isinstance(value, str), "a text"
    elif column == "pods":
        fits, takes = isinstance(value, list) and all(map(_is_pods, value)), "[[namespace, deployment, number], ...]"
        return {WorkloadKey(*names): number for *names, number in value} if fits else _refuse(kind, column, takes)
    elif column == "held_by":
        fits, takes = (
            isinstance(value, list) and all(_is_texts(one, 2) for one in value),
            "[[namespace, deployment], ...]",
        )
        return [WorkloadKey(*one) for one in value] if fits else _refuse(kind, column, takes)
    elif column == "held":
        numbers = [_number(kind, column, one) for one in value] if isinstance(value, list) else [None]
        return numbers if None not in numbers else _refuse(kind, column, "[total, largest, ...] in numbers")
    elif column == "gpu_busy_source":
        names = get_args(GpuBusySource)
        fits, takes = value is None or value in names, f"null or one of {', '.join(names)}"
    elif column in _COUNTS:
        fits, takes = value is None or _is_count(value), "null or a whole number from 0"
    else:
        return _number(kind, column, value)
    return value if fits else _refuse(kind, column, takes)


def _number(kind: str, column: str, value: Any) -> float | None:
    if value is None or (type(value) is float and math.isfinite(value)):
        return value
    # 1e999 is valid JSON and reads as Infinity; a whole number of 400 digits fits no float.
    return float(value) if type(value) is int and abs(value) < 2**63 else _refuse(kind, column, "null or a number")


def _refuse(kind: str, column: str, takes: str) -> NoReturn:
    raise Unexpected(f'"{kind}": {column} as {takes}')


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_texts(values: Any, length: int) -> bool:
    return isinstance(values, list) and len(values) == length and all(isinstance(value, str) for value in values)


def _is_pods(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and _is_texts(value[:2], 2) and _is_count(value[2])
