"""The lines of a recording back into Snapshots, every value checked.

The rows of a snapshot are checked column by column, which takes a quarter of the time; only where a column is not as it
should be each row is looked at by itself, for the words of the refusal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any, NamedTuple, NoReturn, get_args

import msgspec.json

from scaler.snapshot import (
    CardKey,
    CardReading,
    GpuBusySource,
    HeldSource,
    HeldVram,
    PlaceSource,
    Problem,
    Snapshot,
    WorkloadKey,
    WorkloadReading,
    from_columns,
)
from scaler.sources.recording_format import COLUMNS, FORMAT, WORKLOAD_SELDOM, RecordingHeader, Unexpected

_TEXTS = {"namespace", "deployment", "uuid", "gpu_instance_id", "node", "model"}
_COUNTS = {"spec_replicas", "ready_replicas", "status_replicas", "scraped_pods", "slots"}
_SNAPSHOT_KEYS = {"time", "workloads", "cards", "problems"}
_NUMBER, _COUNT = {float, type(None)}, {int, type(None)}
_NOBODY = object()  # a card's definition without told_by
# Readings are built from their columns by place.
assert (*COLUMNS["workloads"], *WORKLOAD_SELDOM) == tuple(item.name for item in fields(WorkloadReading))
assert COLUMNS["cards"] == ("free_bytes", "utilization_ratio", "age_s", "held")


class _Workload(NamedTuple):
    """A workload's definition: its name, and WORKLOAD_SELDOM."""

    key: WorkloadKey
    gpu_busy_source: GpuBusySource | None
    gpu_memory_utilization: float | None
    revision_created_s: float | None


class _Card(NamedTuple):
    """A card's definition."""

    key: CardKey
    total_bytes: float | None
    node: str
    model: str
    slots: int | None
    pods: dict[WorkloadKey, int]
    held_by: list[WorkloadKey]
    held_source: HeldSource | None
    placed_by: dict[WorkloadKey, PlaceSource]


def parse_line(line: bytes) -> dict[str, Any]:
    """One line as a JSON object; raises Unexpected."""
    try:
        record = _decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        record = _decode_in_words(line)
    if not isinstance(record, dict):
        raise Unexpected(f"one JSON object, not {type(record).__name__}")
    return record


def _decode_in_words(line: bytes) -> Any:
    """By Python's json, which takes seven times as long: for the words of a refusal, and for the little that it takes
    and msgspec does not. Half of a surrogate pair neither of them may take: no file and no terminal could show it."""
    try:
        record = _DECODER.decode(line.decode("utf-8"))
        json.dumps(record, ensure_ascii=False).encode("utf-8")
        return record
    except Unexpected:
        raise
    except UnicodeEncodeError:
        raise Unexpected("text in Unicode, not half of a surrogate pair") from None
    except (ValueError, RecursionError) as error:
        raise Unexpected(f"one JSON object ({type(error).__name__}: {error})") from None


def _refuse_constant(name: str) -> NoReturn:
    raise Unexpected(f"finite numbers or null, not {name}")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_decode = msgspec.json.Decoder().decode


def snapshots_in(records: Iterator[dict[str, Any]], header: RecordingHeader) -> Iterator[Snapshot]:
    """The snapshots in the lines after the header, up to the end mark; raises Unexpected at the first unsound line."""
    rows = _Rows()
    count, last_s = 0, -math.inf
    for record in records:
        if "time" in record:
            snapshot = rows.snapshot(record)
            header.check_time(snapshot.taken_at_s, last_s)
            yield snapshot
            count, last_s = count + 1, snapshot.taken_at_s
        elif record.keys() == {"workload"}:
            rows.define_workload(record["workload"])
        elif record.keys() - {"told_by"} == {"card"}:
            rows.define_card(record["card"], record.get("told_by", _NOBODY))
        elif record.keys() == {"end"} and type(record["end"]) is int and record["end"] == count:
            break
        elif record.get("format") == FORMAT:
            raise Unexpected(f"one recording, not a second header after {count} snapshots of the first")
        else:
            raise Unexpected(
                f'a "workload", a "card", a snapshot with "time", or {{"end": {count}}} after {count} of them'
            )
    else:
        raise Unexpected(f'{{"end": {count}}}: the file is cut off after {count} snapshots')
    for _ in records:
        raise Unexpected("nothing after the end mark")


class _Rows:
    """The rows of snapshots, by the definitions so far."""

    def __init__(self) -> None:
        self._workloads: list[_Workload] = []
        self._cards: list[_Card] = []

    def define_workload(self, values: Any) -> None:
        namespace, deployment, *seldom = _row("workload", values)
        self._workloads.append(_Workload(WorkloadKey(namespace, deployment), *seldom))

    def define_card(self, values: Any, told_by: Any) -> None:
        uuid, gpu_instance_id, total_bytes, node, model, slots, pods, held_by = _row("card", values)
        held_source, placed_by = _told_by(told_by, list(pods))
        key = CardKey(uuid, gpu_instance_id)
        self._cards.append(_Card(key, total_bytes, node, model, slots, pods, held_by, held_source, placed_by))

    def snapshot(self, record: dict[str, Any]) -> Snapshot:
        if record.keys() - {"asked"} != _SNAPSHOT_KEYS:
            raise Unexpected(f"a snapshot with {', '.join(sorted(_SNAPSHOT_KEYS))}, not {', '.join(sorted(record))}")
        problems = record["problems"]
        if not (isinstance(problems, list) and all(_is_texts(problem, 2) for problem in problems)):
            raise Unexpected('"problems" as [[signal, text], ...]')
        at_s = _number("snapshot", "time", record["time"])
        return Snapshot(
            taken_at_s=math.nan if at_s is None else at_s,
            workloads=self._readings(record["workloads"]),
            cards=self._shown(record["cards"]),
            problems=tuple(Problem(*problem) for problem in problems),
            asked=_asked(record["asked"]) if "asked" in record else {},
        )

    def _readings(self, rows: Any) -> dict[WorkloadKey, WorkloadReading]:
        numbers, *columns = _columns("workloads", rows, len(self._workloads))
        if not numbers:
            return {}
        keys, *seldom = _defined("workloads", self._workloads, numbers)
        readings = from_columns(WorkloadReading, [*columns, *seldom])
        return dict(zip(keys, readings, strict=True))

    def _shown(self, rows: Any) -> dict[CardKey, CardReading]:
        numbers, free_bytes, utilization_ratio, age_s, held = _columns("cards", rows, len(self._cards))
        if not numbers:
            return {}
        keys, total_bytes, node, model, slots, pods, held_by, *told_by = _defined("cards", self._cards, numbers)
        by_workload = list(map(_held, held_by, held))
        columns = [free_bytes, total_bytes, utilization_ratio, age_s, node, model, slots, pods, by_workload, *told_by]
        return dict(zip(keys, from_columns(CardReading, columns), strict=True))


def _defined(kind: str, definitions: Sequence[tuple[Any, ...]], numbers: Sequence[int]) -> list[tuple[Any, ...]]:
    """The columns of the definitions of these numbers, their keys first."""
    keys, *seldom = zip(*map(definitions.__getitem__, numbers), strict=True)
    if len(set(keys)) < len(keys):
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise Unexpected(f'"{kind}" with {"/".join(twice)} once')
    return [keys, *seldom]


def _columns(kind: str, rows: Any, defined: int) -> list[Sequence[Any]]:
    """The columns of the rows [definition, values...], with every value as its column takes it."""
    if not isinstance(rows, list):
        raise Unexpected(f'"{kind}" as [[definition, ...], ...]')
    for row in rows:
        if not (isinstance(row, list) and row and type(row[0]) is int and 0 <= row[0] < defined):
            raise Unexpected(f'"{kind}" as [[definition, ...], ...] with one of the {defined} defined so far')
    names = COLUMNS[kind]
    if {len(row) for row in rows} == {1 + len(names)}:
        columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
        if all(map(_is_sound, names, columns[1:])):
            return columns
    checked = [[row[0], *_row(kind, row[1:])] for row in rows]
    return list(zip(*checked, strict=True)) or [()] * (1 + len(names))


def _held(held_by: list[WorkloadKey], numbers: list[float]) -> dict[WorkloadKey, HeldVram]:
    if len(numbers) != 2 * len(held_by):
        raise Unexpected(f'"cards": held as a total and a largest for each of the {len(held_by)} in held_by')
    return dict(zip(held_by, map(HeldVram, numbers[::2], numbers[1::2]), strict=True)) if numbers else {}


def _is_sound(column: str, values: Sequence[Any]) -> bool:
    """Whether all values of a column are as they should be, without any conversion."""
    types = set(map(type, values))
    if column == "held":
        values = tuple(chain.from_iterable(values)) if types == {list} else (None,)
        return set(map(type, values)) <= {float} and math.isfinite(sum(values))
    if column in _COUNTS:
        return types <= _COUNT and all(value is None or 0 <= value < 2**31 for value in values)
    return types <= _NUMBER and math.isfinite(sum(filter(None, values)))


def _asked(rows: Any) -> dict[WorkloadKey, int]:
    if not (isinstance(rows, list) and all(map(_is_counted, rows))):
        raise Unexpected('"asked" as [[namespace, deployment, replicas], ...]')
    return {WorkloadKey(namespace, deployment): replicas for namespace, deployment, replicas in rows}


def _told_by(value: Any, placed: list[WorkloadKey]) -> tuple[HeldSource | None, dict[WorkloadKey, PlaceSource]]:
    if value is _NOBODY:
        return None, {}
    if isinstance(value, dict) and value.keys() == {"held", "pods"}:
        held, pods = value["held"], value["pods"]
        sound = isinstance(pods, list) and len(pods) == len(placed)
        if sound and held in (None, *get_args(HeldSource)) and all(by in (None, *get_args(PlaceSource)) for by in pods):
            return held, {workload: by for workload, by in zip(placed, pods, strict=True) if by is not None}
    raise Unexpected('"card": told_by as {"held": source, "pods": [a source for each of its pods]}')


def _row(kind: str, values: Any) -> list[Any]:
    columns = COLUMNS[kind]
    if not (isinstance(values, list) and len(values) == len(columns)):
        raise Unexpected(f'"{kind}" with {len(columns)} values each: {", ".join(columns)}')
    return [_value(kind, column, value) for column, value in zip(columns, values, strict=True)]


def _value(kind: str, column: str, value: Any) -> Any:
    if column in _TEXTS:
        fits, takes = isinstance(value, str), "a text"
    elif column == "pods":
        fits, takes = isinstance(value, list) and all(map(_is_counted, value)), "[[namespace, deployment, number], ...]"
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


def _is_counted(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and _is_texts(value[:2], 2) and _is_count(value[2])
