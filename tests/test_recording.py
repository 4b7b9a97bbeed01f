"""A recording comes back as it was written, and whatever is no whole and sound recording is refused in one line."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.policy import Timing
from scaler.snapshot import (
    CardKey,
    CardReading,
    HeldSource,
    HeldVram,
    PlaceSource,
    Problem,
    Snapshot,
    WorkloadKey,
    WorkloadReading,
)
from scaler.sources.recording import BadRecording, RecordingSource
from scaler.sources.recording_format import RecordingHeader, Unexpected
from scaler.sources.recording_rows import parse_line
from scaler.sources.recording_writer import write_recording
from scaler.sources.source import SourceUnavailable

START_S, STEP_S = 1_750_000_000.0, 15.0
E5 = WorkloadKey("kserve-models", "e5-predictor")
CARD = CardKey("GPU-0")


def snapshot(number: int = 0) -> Snapshot:
    """One service on one card, `number` steps after the start."""
    return Snapshot(
        taken_at_s=START_S + number * STEP_S,
        workloads={E5: WorkloadReading(spec_replicas=2, queued=number / 7, replicas_age_s=5.0, signals_age_s=9.0)},
        cards={
            CARD: CardReading(
                free_bytes=1.5e9 - number,
                total_bytes=1.54e10,
                age_s=7.0,
                slots=2,
                pods={E5: 1},
                held={E5: HeldVram(9.5e9 + number, 9.5e9 + number)},
                held_source="agent",
                placed_by={E5: "kubelet"},
            )
        },
    )


def header(steps: int) -> RecordingHeader:
    return RecordingHeader(START_S, START_S + steps * STEP_S, STEP_S)


def written(path: Path, snapshots: list[Snapshot], steps: int | None = None) -> Path:
    write_recording(path, header(len(snapshots) if steps is None else steps), snapshots)
    return path


def all_of(path: Path) -> list[Snapshot]:
    source = RecordingSource(path)
    return list(source.snapshots(source.header.start_s, source.header.end_s, source.header.step_s))


# -- what is written comes back ---------------------------------------------------------------------------------------

floats = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.none() | floats
counts = st.none() | st.integers(0, 10_000)
names = st.text(max_size=12)
keys = st.builds(WorkloadKey, names, names)
readings = st.builds(
    WorkloadReading,
    **dict.fromkeys(("spec_replicas", "ready_replicas", "status_replicas", "scraped_pods"), counts),
    **dict.fromkeys(("replicas_age_s", "queued", "executing", "success_time_s", "revision_created_s"), numbers),
    inflight_growth_per_s=numbers,
    gpu_memory_utilization=numbers,
    gpu_busy_source=st.sampled_from([None, "agent", "exporter-per-process", "triton-wall-time", "vllm-running"]),
)
untold = st.builds(
    CardReading,
    **dict.fromkeys(("free_bytes", "total_bytes", "utilization_ratio", "age_s"), numbers),
    node=names,
    slots=counts,
    pods=st.dictionaries(keys, st.integers(0, 9), max_size=3),
    held=st.dictionaries(keys, st.builds(HeldVram, floats, floats), max_size=3),
)


def told(card: CardReading, held_source: HeldSource | None, places: list[PlaceSource | None]) -> CardReading:
    placed_by = {workload: by for workload, by in zip(sorted(card.pods), places, strict=False) if by is not None}
    return replace(card, held_source=held_source, placed_by=placed_by)


shown = st.builds(
    told,
    untold,
    st.sampled_from([None, *get_args(HeldSource)]),
    st.lists(st.sampled_from([None, *get_args(PlaceSource)]), max_size=3),
)
fleets = st.builds(
    Snapshot,
    taken_at_s=st.just(START_S),
    workloads=st.dictionaries(keys, readings, max_size=3),
    cards=st.dictionaries(st.builds(CardKey, names, names), shown, max_size=3),
    problems=st.lists(st.builds(Problem, names, names), max_size=2).map(tuple),
    asked=st.dictionaries(keys, st.integers(0, 9), max_size=2),
)


@given(st.lists(fleets, max_size=4), st.sampled_from(["a.jsonl", "a.jsonl.gz"]))
def test_every_float_and_every_none_comes_back(
    tmp_path_factory: pytest.TempPathFactory, fleet: list[Snapshot], name: str
) -> None:
    path = tmp_path_factory.mktemp("recording") / name
    snapshots = [replace(one, taken_at_s=START_S + number * STEP_S) for number, one in enumerate(fleet)]
    assert write_recording(path, header(len(snapshots)), snapshots) == len(snapshots)
    source = RecordingSource(path)
    again = list(source.snapshots(START_S, START_S + (len(snapshots) - 1) * STEP_S, STEP_S))
    assert repr(again) == repr([_sorted(one) for one in snapshots])  # repr also tells -0.0 from 0.0


def _sorted(one: Snapshot) -> Snapshot:
    cards = {
        key: replace(card, pods=dict(sorted(card.pods.items())), held=dict(sorted(card.held.items())))
        for key, card in sorted(one.cards.items())
    }
    asked = dict(sorted(one.asked.items()))
    return replace(one, workloads=dict(sorted(one.workloads.items())), cards=cards, asked=asked)


def test_the_header_comes_back(tmp_path: Path) -> None:
    timing = Timing.model_validate({"tick": "5s", "stableWindow": "90s", "burstWindow": "22.5s"})
    head = RecordingHeader(START_S, START_S, 0.7, timing, {"what": "a test"})
    write_recording(tmp_path / "a.jsonl.gz", head, [])
    assert RecordingSource(tmp_path / "a.jsonl.gz").header == head


def test_the_same_snapshots_give_the_same_bytes_under_any_name_and_order(tmp_path: Path) -> None:
    other = WorkloadKey("kserve-models", "bundle-a")
    one = snapshot()
    both = {E5: one.workloads[E5], other: WorkloadReading(spec_replicas=1)}
    held = {E5: HeldVram(2e9, 1e9), other: HeldVram(3e9, 3e9)}

    def with_card(held: dict[WorkloadKey, HeldVram], workloads: dict[WorkloadKey, WorkloadReading]) -> list[Snapshot]:
        return [replace(one, workloads=workloads, cards={CARD: replace(one.cards[CARD], held=held)})]

    first = written(tmp_path / "a.gz", with_card(held, both))
    second = written(tmp_path / "b.gz", with_card(dict(reversed(held.items())), dict(reversed(both.items()))))
    assert first.read_bytes() == second.read_bytes()


def test_names_and_placement_are_written_once(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [snapshot(number) for number in range(50)])
    assert path.read_text().count("e5-predictor") == 3  # its own definition, and pods and held_by of the card's
    moved = replace(snapshot(50), cards={CARD: CardReading(free_bytes=1.0, pods={E5: 2})})
    path = written(tmp_path / "b.jsonl", [*(snapshot(number) for number in range(50)), moved])
    assert path.read_text().count("e5-predictor") == 4
    assert all_of(path)[-1].cards[CARD].pods == {E5: 2}
    assert all_of(path)[-1].cards[CARD].held == {}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_memory_does_not_grow_with_the_length(tmp_path: Path, name: str) -> None:
    def peak_bytes(snapshots: int) -> int:
        tracemalloc.start()
        write_recording(tmp_path / name, header(snapshots), (snapshot(number) for number in range(snapshots)))
        source = RecordingSource(tmp_path / name)
        for _ in source.snapshots(START_S, START_S + (snapshots - 1) * STEP_S, STEP_S):
            pass
        source.snapshot_at(source.header.end_s)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(2_500)  # what is allocated once: the interpreter keeps 2,000 tuples of a size for their next use
    assert peak_bytes(1500) < peak_bytes(150) + 50_000  # 1,500 snapshots held at once take 3 MB


# -- which snapshot answers for which time ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after_s", "answered_by", "age_s"),
    [
        pytest.param(0.0, 0, 5.0, id="the first instant"),
        pytest.param(14.9, 0, 19.9, id="just before the second: the first, 14.9 s older"),
        pytest.param(15.0, 1, 5.0, id="the second instant"),
        pytest.param(14.9999, 1, 5.0, id="a rounding error before the second is the second"),
        pytest.param(45.0, 2, 20.0, id="number 3 is missing: number 2, one step older"),
        pytest.param(52.5, 2, 27.5, id="one and a half steps older, the most there may be"),
        pytest.param(52.6, None, None, id="more than that"),
        pytest.param(60.0, 4, 5.0, id="after the gap"),
        pytest.param(-0.1, None, None, id="before the first"),
        pytest.param(82.5, 4, 27.5, id="a step and a half after the last"),
        pytest.param(90.0, None, None, id="long after the last"),
    ],
)
def test_snapshot_at(tmp_path: Path, after_s: float, answered_by: int | None, age_s: float | None) -> None:
    source = RecordingSource(written(tmp_path / "a.gz", [snapshot(number) for number in (0, 1, 2, 4)], steps=4))
    for asked_before_s in (None, 0.0, 60.0):  # nothing, earlier and later: the place in the file makes no difference
        if asked_before_s is not None:
            source.snapshot_at(START_S + asked_before_s)
        if answered_by is None:
            with pytest.raises(
                SourceUnavailable, match=r"a\.gz: no snapshot for 2025-06-15T15:0.*2025-06-15T15:07:40Z"
            ):
                source.snapshot_at(START_S + after_s)
            continue
        seen = source.snapshot_at(START_S + after_s)
        reading = seen.workloads[E5]
        assert reading.queued == answered_by / 7
        assert reading.replicas_age_s == pytest.approx(age_s)
        assert age_s is not None
        assert reading.signals_age_s == pytest.approx(age_s + 4)
        assert seen.cards[CARD].age_s == pytest.approx(age_s + 2)
        assert seen.taken_at_s == pytest.approx(START_S + after_s)


def test_snapshots_are_what_snapshot_at_gives_until_a_gap(tmp_path: Path) -> None:
    source = RecordingSource(written(tmp_path / "a.gz", [snapshot(number) for number in (0, 1, 2, 6)], steps=6))
    stream = source.snapshots(START_S + 5, START_S + 90, 10.0)
    for after_s in (5, 15, 25, 35, 45):
        assert next(stream) == source.snapshot_at(START_S + after_s)
    with pytest.raises(SourceUnavailable, match="no snapshot for 2025-06-15T15:07:35Z"):
        next(stream)


def test_snapshots_include_the_end(tmp_path: Path) -> None:
    source = RecordingSource(written(tmp_path / "a.gz", [snapshot(number) for number in range(5)]))
    assert [one.taken_at_s - START_S for one in source.snapshots(START_S, START_S + 60, 30.0)] == [0, 30, 60]
    assert list(source.snapshots(START_S + 60, START_S, 30.0)) == []
    with pytest.raises(ValueError, match="step above 0 s"):
        next(source.snapshots(START_S, START_S + 60, 0.0))


# -- what is refused --------------------------------------------------------------------------------------------------

Change = Callable[[list[bytes]], list[bytes]]


def _edit(number: int, old: bytes, new: bytes) -> Change:
    def change(lines: list[bytes]) -> list[bytes]:
        assert old in lines[number - 1]
        return [*lines[: number - 1], lines[number - 1].replace(old, new, 1), *lines[number:]]

    return change


def _row_twice(number: int, kind: str) -> Change:
    def change(lines: list[bytes]) -> list[bytes]:
        record = json.loads(lines[number - 1])
        record[kind] *= 2
        return [*lines[: number - 1], json.dumps(record).encode() + b"\n", *lines[number:]]

    return change


# Line 1 is the header, 2 the service, 3 the card, 4 to 6 three snapshots, 7 the end mark.
@pytest.mark.parametrize(
    ("change", "line", "expected"),
    [
        pytest.param(lambda lines: [], 1, "this is not a recording", id="empty"),
        pytest.param(lambda lines: [b"# HELP up\n"], 1, "one JSON object", id="not JSON"),
        pytest.param(lambda lines: [b"{}\n"], 1, "this is not a recording", id="other JSON"),
        pytest.param(lambda lines: [b"[1]\n"], 1, "one JSON object, not list", id="a list"),
        pytest.param(lambda lines: [b"[" * 100_000], 1, "one JSON object", id="nested beyond reason"),
        pytest.param(lambda lines: [b"\xff\xfe\n"], 1, "one JSON object", id="not UTF-8"),
        pytest.param(_edit(1, b'"version":3', b'"version":4'), 1, '"version": 1 to 3, not 4', id="a newer version"),
        pytest.param(_edit(1, b'"queued",', b""), 1, 'the "columns" of version 3', id="other columns"),
        pytest.param(_edit(1, b'"step_s":15.0', b'"step_s":0'), 1, '"step_s" from 0.5 to 3600', id="no step"),
        pytest.param(_edit(1, b'"step_s":15.0', b'"step_s":1e-9'), 1, '"step_s" from 0.5', id="too small a step"),
        pytest.param(_edit(1, b'"end":1', b'"end":9999999'), 1, "the years 1970 to 9999", id="beyond the year 9999"),
        pytest.param(_edit(1, b'"start":1', b'"start":-1'), 1, "the years 1970 to 9999", id="before 1970"),
        pytest.param(_edit(3, b'"GPU-0"', b'"\\ud800"'), 3, "half of a surrogate pair", id="half a pair"),
        pytest.param(_edit(1, b'"tick":"15s"', b'"tick":15'), 1, "timing.tick: 15", id="a window without unit"),
        pytest.param(_edit(1, b'"about":{}', b'"about":null'), 1, '"about"', id="no provenance"),
        pytest.param(_edit(4, b"1500000000.0", b"NaN"), 4, "finite numbers or null, not NaN", id="NaN"),
        pytest.param(_edit(4, b"1500000000.0", b"-Infinity"), 4, "not -Infinity", id="Infinity"),
        pytest.param(
            _edit(4, b"1500000000.0", b"1e999"), 4, "free_bytes as null or a number", id="Infinity in disguise"
        ),
        pytest.param(
            _edit(4, b"1500000000.0", b"9" * 400), 4, "free_bytes as null or a number", id="no float holds it"
        ),
        pytest.param(_edit(4, b"1500000000.0", b'"much"'), 4, "free_bytes as null or a", id="a text for a number"),
        pytest.param(_edit(4, b"1500000000.0", b"true"), 4, "free_bytes as null or a", id="true for a number"),
        pytest.param(_edit(4, b"[[0,2,", b"[[0,-2,"), 4, "spec_replicas as null or a whole", id="negative replicas"),
        pytest.param(_edit(4, b"[[0,2,", b"[[0,2.5,"), 4, "spec_replicas as null or a whole", id="half a replica"),
        pytest.param(_edit(4, b"[[0,2,", b"[[1,2,"), 4, "one of the 1 defined so far", id="an undefined service"),
        pytest.param(_edit(4, b"[[0,2,", b"[[0,2,7,"), 4, '"workloads" with 16 values each', id="a value too many"),
        pytest.param(_row_twice(4, "workloads"), 4, "with kserve-models/e5-predictor once", id="a service twice"),
        pytest.param(_row_twice(4, "cards"), 4, '"cards" with GPU-0/ once', id="a card twice"),
        pytest.param(_edit(4, b'"problems":[]', b'"problems":[1]'), 4, '"problems" as', id="no problem"),
        pytest.param(_edit(3, b'"GPU-0"', b"7"), 3, '"card": uuid as a text', id="a card without name"),
        pytest.param(_edit(3, b'"e5-predictor",1', b'"e5-predictor"'), 3, "pods as", id="pods without number"),
        pytest.param(_edit(3, b'"e5-predictor"]]]', b"7]]]"), 3, "held_by as", id="no name for what is held"),
        pytest.param(_edit(3, b'"held":"agent"', b'"held":"me"'), 3, "told_by as", id="a source that is none"),
        pytest.param(_edit(3, b'["kubelet"]', b"[]"), 3, "a source for each of its pods", id="pods without a source"),
        pytest.param(_edit(3, b'{"held":"agent","pods":["kubelet"]}', b"null"), 3, "told_by as", id="told by null"),
        pytest.param(_edit(4, b"9500000000.0]", b"null]"), 4, "held as [total, largest", id="held is unknown"),
        pytest.param(_edit(4, b"[9500000000.0,9500000000.0]", b"null"), 4, "held as [total, largest", id="no list"),
        pytest.param(_edit(4, b",9500000000.0]", b"]"), 4, "each of the 1 in held_by", id="a total without a largest"),
        pytest.param(lambda lines: [*lines[:4], lines[5], lines[4], lines[6]], 6, "later than", id="mixed up"),
        pytest.param(lambda lines: [*lines[:5], lines[4], *lines[5:]], 6, "later than", id="a line twice"),
        pytest.param(_edit(1, b'"end":1750000045.0', b'"end":1750000015.0'), 6, '"time" between', id="out of range"),
        pytest.param(lambda lines: lines[:-1], 6, '{"end": 3}: the file is cut off', id="no end mark"),
        pytest.param(lambda lines: lines[:1], 1, '{"end": 0}: the file is cut off', id="the header alone"),
        pytest.param(lambda lines: [*lines[:5], lines[5][:40]], 6, "one JSON object", id="cut off in a line"),
        pytest.param(lambda lines: [*lines[:5], *lines[6:]], 6, '{"end": 2}', id="a snapshot is missing"),
        pytest.param(lambda lines: [*lines, b"{}\n"], 8, "nothing after the end mark", id="more after the end"),
        pytest.param(
            lambda lines: [*lines[:5], *lines], 6, "not a second header after 2 snapshots", id="a second header"
        ),
        pytest.param(_edit(1, b'"step_s":15.0', b'"step_s":10.0'), 5, 'a multiple of "step_s" 10.0', id="another step"),
        pytest.param(_edit(5, b"1750000015.0", b"1750000016.0"), 5, 'a multiple of "step_s" 15.0', id="between steps"),
        pytest.param(_edit(1, b'"about":{}', b'"about":{},"more":1'), 1, "a header with the keys", id="another key"),
        pytest.param(_edit(4, b'"problems":[]', b'"problems":[],"x":1'), 4, "a snapshot with cards", id="one key more"),
        pytest.param(
            _edit(4, b'"cards":', b'"asked":[["a","b",-1]],"cards":'), 4, '"asked" as [[namespace', id="asked below 0"
        ),
        pytest.param(
            lambda lines: [*lines[:5], b"{}\n", *lines[5:]], 6, 'a "workload", a "card", a snapshot', id="unknown line"
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_an_unsound_file_is_refused_in_one_line(
    tmp_path: Path, change: Change, line: int, expected: str, packed: bool
) -> None:
    path = written(tmp_path / "a.jsonl", [snapshot(number) for number in range(3)])
    text = b"".join(change(path.read_bytes().splitlines(keepends=True)))
    path.write_bytes(gzip.compress(text) if packed else text)
    with pytest.raises(BadRecording) as refusal:
        all_of(path)
    assert str(refusal.value).startswith(f"{path}: line {line}: expected ")
    assert expected in str(refusal.value)
    assert "\n" not in str(refusal.value)
    if line > 1:  # the source opens, and refuses whenever it comes to that line
        source = RecordingSource(path)
        if line == 6:
            source.snapshot_at(START_S)
        for _ in range(2):
            with pytest.raises(BadRecording, match=f"line {line}: "):
                source.snapshot_at(START_S + 45)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(lambda data: data[:-9], "the gzip stream is cut off", id="cut off in the trailer"),
        pytest.param(lambda data: data[: len(data) // 2], "the gzip stream is cut off", id="cut off in the middle"),
        pytest.param(lambda data: data[:-8] + bytes(4) + data[-4:], "sound gzip data (CRC check", id="wrong checksum"),
        pytest.param(lambda data: data[:40] + b"\xff" * 40 + data[80:], "sound gzip data", id="overwritten"),
        pytest.param(lambda data: data + b"more", "sound gzip data", id="something appended"),
    ],
)
def test_damaged_gzip_data_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], expected: str) -> None:
    path = written(tmp_path / "a.jsonl.gz", [snapshot(number) for number in range(300)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadRecording) as refusal:
        all_of(path)
    assert expected in str(refusal.value)
    assert str(refusal.value).startswith(f"{path}: line ")


def _as_json_reads_it(line: bytes) -> str:
    """What Python's json makes of a line, or that it is refused."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        record = json.loads(line.decode("utf-8"), parse_constant=refuse)
        json.dumps(record, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is no text
    except (ValueError, RecursionError):
        return "refused"
    return repr(record) if isinstance(record, dict) else "refused"


def _as_read(line: bytes) -> str:
    try:
        return repr(parse_line(line))
    except Unexpected:
        return "refused"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"1e999", id="a number beyond the largest float"),
        pytest.param(b"1" * 20, id="a whole number beyond 64 bits"),
        pytest.param(b"-9223372036854775809", id="below 64 bits"),
        pytest.param(b"9" * 400, id="400 digits"),
        pytest.param(b"9" * 5000, id="more digits than Python converts"),
        pytest.param(b"-0", id="a zero with a sign"),
        pytest.param(b"5e-324", id="the smallest float"),
        pytest.param(b'1,"a":2', id="a key twice"),
        pytest.param(b'"\\ud800"', id="half of a surrogate pair"),
        pytest.param(b'"\xed\xa0\x80"', id="the same in UTF-8"),
        pytest.param(b'"\xff"', id="not UTF-8"),
        pytest.param(b'"\x01"', id="a control character"),
        pytest.param(b"[1,]", id="a comma too many"),
        pytest.param(b"01", id="a leading zero"),
        pytest.param(b"[" * 500 + b"]" * 500, id="500 deep"),
        pytest.param(b"1}{", id="two objects"),
        pytest.param(b"1} \r\n\t", id="a brace too many"),
    ],
)
def test_a_line_reads_as_json_reads_it(value: bytes) -> None:
    line = b'{"a":' + value + b"}"
    assert _as_read(line) == _as_json_reads_it(line)


LINE = b'{"time":1750000000.0,"cards":[[0,1.5e9,null,-0.0,[9500000000.0]]],"problems":[["vram","\\u00fc \xc3\xbc"]]}'
pieces = st.sampled_from([b"", b"-", b".", b"0", b"9" * 25, b"e9", b"e999", b'"', b"[", b"]", b",", b"NaN", b"null"])


@given(st.integers(0, len(LINE)), st.integers(0, 3), pieces | st.binary(max_size=3))
def test_a_damaged_line_reads_as_json_reads_it(at: int, less: int, new: bytes) -> None:
    line = LINE[:at] + new + LINE[at + less :]
    assert _as_read(line) == _as_json_reads_it(line)


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.sources.recording._LONGEST_LINE", 4096)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b" " * 10_000)
    with pytest.raises(BadRecording, match="line 1: expected a line below 4096 bytes"):
        RecordingSource(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecording, match=r"a\.jsonl: cannot be read: No such file"):
        RecordingSource(tmp_path / "a.jsonl")
    with pytest.raises(BadRecording, match="cannot be read: Is a directory"):
        RecordingSource(tmp_path)


@pytest.mark.parametrize(
    ("snapshots", "expected"),
    [
        pytest.param([snapshot(1), snapshot(0)], "snapshot 2: expected .*later than 1750000015.0", id="mixed up"),
        pytest.param([snapshot(0), snapshot(9)], "snapshot 2: expected .*not 1750000135.0", id="after the end"),
        pytest.param([replace(snapshot(), taken_at_s=float("nan"))], "snapshot 1: expected .*not nan", id="no time"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, snapshots: list[Snapshot], expected: str) -> None:
    before = written(tmp_path / "a.gz", [snapshot()]).read_bytes()
    with pytest.raises(BadRecording, match=expected):
        write_recording(tmp_path / "a.gz", header(2), snapshots)
    assert (tmp_path / "a.gz").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.gz"]


@pytest.mark.parametrize("vram", [HeldVram(float("nan"), 1.0), HeldVram(1.0, float("inf"))], ids=["NaN", "Inf"])
def test_held_vram_that_is_not_finite_reaches_no_recording(vram: HeldVram) -> None:
    with pytest.raises(ValueError, match=r"held: HeldVram.* of kserve-models/e5-predictor is no reading"):
        CardReading(free_bytes=1.0, held={E5: vram})


def test_a_broken_off_recording_leaves_the_old_file(tmp_path: Path) -> None:
    def broken() -> Iterator[Snapshot]:
        yield snapshot()
        raise SourceUnavailable("Prometheus went away")

    before = written(tmp_path / "a.gz", [snapshot()]).read_bytes()
    with pytest.raises(SourceUnavailable, match="went away"):
        write_recording(tmp_path / "a.gz", header(1), broken())
    assert (tmp_path / "a.gz").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.gz"]


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_file_is_read_as_one_that_names_no_source(tmp_path: Path, version: int) -> None:
    path = written(tmp_path / "a.jsonl", [snapshot(number) for number in range(3)], 2)
    text = path.read_text().replace('"version":3', f'"version":{version}')
    path.write_text(text.replace(',"told_by":{"held":"agent","pods":["kubelet"]}', ""))
    unnamed = replace(snapshot().cards[CARD], held_source=None, placed_by={})
    assert all_of(path) == [
        replace(each, cards={CARD: replace(unnamed, free_bytes=shown.free_bytes, held=shown.held)})
        for each in map(snapshot, range(3))
        for shown in each.cards.values()
    ]


def test_the_lines_are_as_documented(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in written(tmp_path / "a.jsonl", [snapshot()]).read_text().splitlines()]
    assert [sorted(line) for line in lines[1:]] == [
        ["workload"],
        ["card", "told_by"],
        ["cards", "problems", "time", "workloads"],
        ["end"],
    ]
    assert lines[0]["timing"]["stableWindow"] == "60s"
