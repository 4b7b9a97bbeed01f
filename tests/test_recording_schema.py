"""The published schema and the reader agree: what the writer writes validates, what the schema refuses the reader
refuses, in one line that says where."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.cli.commands import cli
from scaler.incident import RECORDING
from scaler.policy import Timing
from scaler.snapshot import Problem, Snapshot
from scaler.sources.recording import BadRecording, RecordingSource
from scaler.sources.recording_format import COLUMNS, SnapshotLines, end_line, header_line, parse_header, schema
from scaler.sources.recording_writer import write_recording
from tests.test_recording import E5, START_S, STEP_S, fleets, header, snapshot

VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema()))


def test_the_schema_is_one_and_is_what_the_command_prints() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(schema()))
    printed = CliRunner().invoke(cli, ["record", "--schema"])
    assert (printed.exit_code, printed.output) == (0, schema())


def test_it_names_the_columns_and_windows_of_the_code() -> None:
    of_header = json.loads(schema())["$defs"]["header"]["properties"]
    assert of_header["columns"]["const"] == {kind: list(names) for kind, names in COLUMNS.items()}
    assert list(of_header["timing"]["properties"]) == [field.alias for field in Timing.model_fields.values()]


def test_every_line_of_the_bundled_incident_validates() -> None:
    lines = gzip.decompress(RECORDING.read_bytes()).splitlines()
    for line in [*lines[:400], *lines[400::40], lines[-1]]:  # all definitions of the first hours; 2 minutes for all
        VALIDATOR.validate(json.loads(line))


@given(st.lists(fleets, min_size=1, max_size=2))
@settings(deadline=None)
def test_whatever_the_writer_writes_validates(tmp_path_factory: pytest.TempPathFactory, fleet: list[Snapshot]) -> None:
    path = tmp_path_factory.mktemp("recording") / "a.jsonl"
    times = [START_S + number * STEP_S for number in range(len(fleet))]
    snapshots = [
        Snapshot(at_s, each.workloads, each.cards, each.problems, each.asked)
        for at_s, each in zip(times, fleet, strict=True)
    ]
    write_recording(path, header(len(snapshots)), snapshots)
    for line in path.read_bytes().splitlines():
        VALIDATOR.validate(json.loads(line))


def sound_lines() -> list[Any]:
    """A header, a workload, a card, two snapshots with all that a line may have, and the end."""
    full = [
        replace(snapshot(number), problems=(Problem("vram", "no series"),), asked={E5: 7 + number})
        for number in range(2)
    ]
    lines = SnapshotLines()
    written = [header_line(header(1)), *(line for each in full for line in lines.lines(each)), end_line(2)]
    return [json.loads(line) for line in written]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values within a JSON value, its own first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(each for key, part in inner for each in places(part, (*path, key)))]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([2.5, -1.0, 2**31, 10**400, 1e308])
    | st.sampled_from(["", "x", "15s"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["end", "time", "x"]), inner, max_size=2)
    ),
    max_leaves=3,
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[int, list[Any]]:
    """The sound lines with one value replaced, added or taken away; and which line that is."""
    records = sound_lines()
    number = draw(st.integers(0, len(records) - 1))
    path = draw(st.sampled_from(places(records[number])))
    if not path:
        records[number] = draw(json_values)
        return number, records
    holder = records[number]
    for key in path[:-1]:
        holder = holder[key]
    change = draw(st.sampled_from(["replace", "remove", "add"]))
    if change == "replace":
        holder[path[-1]] = draw(json_values)
    elif change == "remove":
        del holder[path[-1]]
    elif isinstance(holder, list):
        holder.insert(path[-1], draw(json_values))
    else:
        holder["another"] = draw(json_values)
    return number, records


def test_the_lines_that_are_mutated_are_sound(tmp_path: Path) -> None:
    assert len(read(tmp_path / "a.jsonl", sound_lines())) == 2


@given(mutated())
@settings(max_examples=400, deadline=None)
def test_what_the_schema_refuses_the_reader_refuses(
    tmp_path_factory: pytest.TempPathFactory, change: tuple[int, list[Any]]
) -> None:
    number, records = change
    path = tmp_path_factory.mktemp("recording") / "a.jsonl"
    if VALIDATOR.is_valid(records[number]):
        return
    with pytest.raises(BadRecording) as refusal:
        read(path, records)
    text = str(refusal.value)
    assert text.startswith(f"{path}: line {number + 1}: expected ")
    assert "\n" not in text
    assert len(text) < 1200


def read(path: Path, records: list[Any]) -> list[Snapshot]:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    source = RecordingSource(path)
    start_s = source.header.start_s
    return list(source.snapshots(start_s, start_s + 15, 15.0))


def test_a_window_that_the_header_leaves_out_is_the_default() -> None:
    """The one thing that both take and nobody writes."""
    record = {**sound_lines()[0], "timing": {}}
    VALIDATOR.validate(record)
    assert parse_header(record).timing == Timing()
