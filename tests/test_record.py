"""A recording that is interrupted, whatever by, continues, and ends as the same bytes as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.cli.commands import cli
from scaler.policy import Timing
from scaler.snapshot import CardKey, WorkloadKey
from scaler.sources.recording import BadRecording, RecordingSource
from scaler.sources.recording_format import RecordingHeader
from scaler.sources.recording_writer import BLOCK_STEPS, RecordingWriter, part_of, write_recording
from tests.fake_prometheus import Asked, FakePrometheus, Reply, success
from tests.test_recording import START_S, STEP_S, header, snapshot

COMMAND = [sys.executable, "-c", "from scaler.cli import main; main()"]
STEPS = 5 * BLOCK_STEPS + 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """By file name, the bytes of a recording that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    found = {}
    for name in ("a.jsonl", "a.jsonl.gz"):
        write_recording(folder / name, header(STEPS), map(snapshot, range(STEPS)))
        found[name] = (folder / name).read_bytes()
    return found


@given(
    st.sampled_from(["a.jsonl", "a.jsonl.gz"]),
    st.lists(st.tuples(st.integers(0, STEPS), st.integers(0, 3_000)), max_size=4),
)
@settings(deadline=None, max_examples=40)
def test_interruptions_at_any_snapshot_and_byte_leave_no_trace(
    tmp_path_factory: pytest.TempPathFactory, whole: dict[str, bytes], name: str, interruptions: list[tuple[int, int]]
) -> None:
    """Each interruption comes after so many more snapshots, and takes so many bytes of the file's end with it."""
    path = tmp_path_factory.mktemp("record") / name
    for snapshots, lost_bytes in interruptions:
        with RecordingWriter(path, header(STEPS)) as writer:
            for number in range(writer.next_step, min(writer.next_step + snapshots, STEPS)):
                writer.add(snapshot(number))
        assert not path.exists()
        os.truncate(part_of(path), max(0, part_of(path).stat().st_size - lost_bytes))
    with RecordingWriter(path, header(STEPS)) as writer:
        for number in range(writer.next_step, STEPS):
            writer.add(snapshot(number))
        writer.finish()
        assert writer.count == STEPS
    assert path.read_bytes() == whole[name]
    assert [each.name for each in path.parent.iterdir()] == [name]


def test_no_more_than_a_block_is_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    with RecordingWriter(path, header(STEPS)) as writer:
        for number in range(2 * BLOCK_STEPS + 30):
            writer.add(snapshot(number))
        assert writer.kept == 2 * BLOCK_STEPS
    with RecordingWriter(path, header(STEPS)) as writer:
        assert (writer.next_step, writer.count, writer.is_blank) == (2 * BLOCK_STEPS, 2 * BLOCK_STEPS, False)


def test_one_that_was_killed_before_its_last_step_is_only_put_in_place(tmp_path: Path, whole: dict[str, bytes]) -> None:
    part_of(tmp_path / "a.gz").write_bytes(whole["a.jsonl.gz"])
    with RecordingWriter(tmp_path / "a.gz", header(STEPS)) as writer:
        assert writer.next_step == STEPS
        writer.finish()
    assert (tmp_path / "a.gz").read_bytes() == whole["a.jsonl.gz"]


def test_what_is_damaged_inside_is_asked_for_again_from_there(tmp_path: Path, whole: dict[str, bytes]) -> None:
    path, data = tmp_path / "a.gz", bytearray(whole["a.jsonl.gz"])
    data[len(data) // 2] ^= 0xFF
    part_of(path).write_bytes(data)
    with RecordingWriter(path, header(STEPS)) as writer:
        assert 0 < writer.next_step < STEPS
        assert writer.next_step % BLOCK_STEPS == 0
        for number in range(writer.next_step, STEPS):
            writer.add(snapshot(number))
        writer.finish()
    assert path.read_bytes() == whole["a.jsonl.gz"]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        pytest.param(RecordingHeader(START_S, START_S + 75, STEP_S), "end 1750000045.0, not 1750000075.0", id="end"),
        pytest.param(RecordingHeader(START_S, START_S + 45, 5.0), "step_s 15.0, not 5.0", id="step"),
        pytest.param(
            RecordingHeader(START_S, START_S + 45, STEP_S, Timing.model_validate({"burstWindow": "20s"})),
            "timing.burstWindow '30s', not '20s'",
            id="windows",
        ),
        pytest.param(
            RecordingHeader(START_S, START_S + 45, STEP_S, about={"queries": "sha256 1"}),
            "about.queries None, not 'sha256 1'",
            id="queries",
        ),
    ],
)
def test_what_was_begun_otherwise_is_refused_in_one_line(tmp_path: Path, other: RecordingHeader, expected: str) -> None:
    path = tmp_path / "a.gz"
    with RecordingWriter(path, header(3)) as writer:
        writer.add(snapshot())
    with pytest.raises(BadRecording) as refusal:
        RecordingWriter(path, other)
    assert str(refusal.value).startswith(f"{path}.part: begun with {expected}: ")
    assert "\n" not in str(refusal.value)
    with RecordingWriter(path, header(3)) as writer:  # and is as it was
        assert writer.count == 0


def test_what_is_no_beginning_is_left_alone(tmp_path: Path) -> None:
    part_of(tmp_path / "a.gz").write_text("my notes")
    with pytest.raises(BadRecording, match=r"a\.gz\.part: this is no beginning of a recording; remove it"):
        RecordingWriter(tmp_path / "a.gz", header(3))
    assert part_of(tmp_path / "a.gz").read_text() == "my notes"
    part_of(tmp_path / "b.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(BadRecording, match=r"b\.jsonl\.part: line 1: expected a header .*remove it"):
        RecordingWriter(tmp_path / "b.jsonl", header(3))


def test_two_do_not_write_the_same_one(tmp_path: Path) -> None:
    with (
        RecordingWriter(tmp_path / "a.gz", header(3)),
        pytest.raises(BadRecording, match=r"a\.gz\.part: another process is writing it"),
    ):
        RecordingWriter(tmp_path / "a.gz", header(3))


# -- the command ------------------------------------------------------------------------------------------------------

WINDOW = ("--start", "1750000000", "--end", str(1750000000 + 15 * (STEPS - 1)))
SERVICE = {"namespace": "models", "deployment": "resnet"}
CARD = {"UUID": "GPU-1", "node": "node-1", "modelName": "Tesla T4"}


class Past:
    """A Prometheus' answers to ranges; from the instant `until_s` on it is `trouble` that answers."""

    def __init__(self) -> None:
        self.until_s = float("inf")
        self.trouble = Reply(503)
        self.reached = threading.Event()

    def __call__(self, asked: Asked) -> Reply:
        is_one = "time" in asked.form
        start, end = (float(asked.form["time" if is_one else name]) for name in ("start", "end"))
        step = float(asked.form.get("step", "1"))
        if start >= self.until_s:
            self.reached.set()
            return self.trouble
        instants = [start + index * step for index in range(round((end - start) / step) + 1)]
        series: list[dict[str, object]] = []
        for signal_, labels, value in (
            ("spec_replicas", SERVICE, lambda at_s: 2 + int(at_s / 600) % 3),
            ("queued", SERVICE, lambda at_s: at_s % 7 / 7),
            ("free_bytes", CARD, lambda at_s: 2e9 + at_s % 1000),
        ):
            if f'"{signal_}"' in asked.query:
                values = [[at_s, repr(value(at_s))] for at_s in instants]
                points = {"value": values[0]} if is_one else {"values": values}
                series.append({"metric": {**labels, "signal": signal_}, **points})
        return success({"resultType": "vector" if is_one else "matrix", "result": series})


@pytest.fixture
def past() -> Past:
    return Past()


@pytest.fixture
def prometheus(past: Past) -> Iterator[FakePrometheus]:
    with FakePrometheus(past) as fake:
        yield fake


def recorded(path: Path, prometheus: FakePrometheus, *arguments: str) -> Result:
    said = ["record", "--prometheus", prometheus.url, *(arguments or WINDOW), "-o", str(path)]
    return CliRunner().invoke(cli, said, prog_name="vram-scaler")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=["kill -9", "Ctrl-C", "kill"])
def test_a_killed_process_is_continued(
    tmp_path: Path, past: Past, prometheus: FakePrometheus, number: signal.Signals
) -> None:
    path = tmp_path / "killed.jsonl.gz"
    past.until_s, past.trouble = START_S + 15 * 2 * BLOCK_STEPS, Reply(silent=True)
    arguments = ["record", "--prometheus", prometheus.url, *WINDOW, "-o", str(path)]
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
    assert past.reached.wait(30)
    process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    assert [each.name for each in tmp_path.iterdir()] == ["killed.jsonl.gz.part"]
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert said.splitlines()[-1] == (
            f"{path}.part: {2 * BLOCK_STEPS} of {STEPS} snapshots are kept; the same command goes on there"
        )
    past.until_s = float("inf")
    again = recorded(path, prometheus)
    assert again.exit_code == 0, again.output
    assert f"{2 * BLOCK_STEPS} of {STEPS} snapshots are there" in again.stderr
    unbroken = tmp_path / "unbroken.jsonl.gz"
    assert recorded(unbroken, prometheus).exit_code == 0
    assert path.read_bytes() == unbroken.read_bytes()


def test_a_prometheus_that_goes_away_leaves_what_was_read(
    tmp_path: Path, past: Past, prometheus: FakePrometheus
) -> None:
    path = tmp_path / "a.jsonl.gz"
    past.until_s = START_S + 15 * 3 * BLOCK_STEPS
    broken = recorded(path, prometheus)
    assert broken.exit_code == 2
    *_, kept, why = broken.stderr.splitlines()
    assert kept.startswith(f"{path}.part: {3 * BLOCK_STEPS} of {STEPS} snapshots are kept")
    assert why.startswith(f"{prometheus.url}: all 11 queries failed; replicas: unavailable: HTTP 503")
    assert not path.exists()
    past.until_s = float("inf")
    before = len(prometheus.asked)
    assert recorded(path, prometheus).exit_code == 0
    assert len(prometheus.asked) - before == 11 * 3  # two blocks and the rest
    source = RecordingSource(path)
    found = list(source.snapshots(source.header.start_s, source.header.end_s, 15.0))
    assert len(found) == STEPS
    assert found[-1].cards[CardKey("GPU-1")].free_bytes == 2e9 + (START_S + 15 * (STEPS - 1)) % 1000
    assert not part_of(path).exists()


def test_one_query_without_an_answer_leaves_no_hole(tmp_path: Path, past: Past, prometheus: FakePrometheus) -> None:
    def one_fails(asked: Asked) -> Reply:
        late = float(asked.form.get("start", asked.form.get("time", "0"))) >= START_S + 15 * BLOCK_STEPS
        return Reply(503) if late and '"queued"' in asked.query else past(asked)

    prometheus.answering = one_fails
    broken = recorded(tmp_path / "a.gz", prometheus, "--start", "1750000000", "--end", "1750000975")
    assert broken.exit_code == 2
    assert "stable: unavailable: HTTP 503" in broken.stderr
    assert not (tmp_path / "a.gz").exists()


def test_where_nothing_was_kept_nothing_is_left(tmp_path: Path, past: Past, prometheus: FakePrometheus) -> None:
    past.until_s = 0.0
    broken = recorded(tmp_path / "a.gz", prometheus)
    assert (broken.exit_code, len(broken.stderr.splitlines())) == (2, 1)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, prometheus: FakePrometheus) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused = recorded(pipe, prometheus)
    assert (refused.exit_code, refused.stderr) == (2, f"{pipe}: not a regular file\n")
    assert list(tmp_path.iterdir()) == [pipe]
    assert pipe.is_fifo()


def test_a_whole_recording_of_another_time_is_not_replaced(tmp_path: Path, prometheus: FakePrometheus) -> None:
    path = tmp_path / "a.gz"
    assert recorded(path, prometheus).exit_code == 0
    before = path.read_bytes()
    refused = recorded(path, prometheus, *WINDOW[:2], "--end", str(START_S + 600))
    assert (refused.exit_code, "remove it, or take another name with -o" in refused.stderr) == (2, True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_now_is_the_moment_at_which_it_was_begun(
    tmp_path: Path, past: Past, prometheus: FakePrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, hours = tmp_path / "a.gz", ("--start", "now-1h", "--end", "now")
    monkeypatch.setattr("scaler.cli.options.time.time", lambda: START_S + 3600.7)
    past.until_s = START_S + 15 * BLOCK_STEPS
    assert recorded(path, prometheus, *hours).exit_code == 2
    past.until_s = float("inf")
    monkeypatch.setattr("scaler.cli.options.time.time", lambda: START_S + 4000.2)
    refused = recorded(path, prometheus, "--start", "now-2h", "--end", "now")
    assert (refused.exit_code, "begun with end" in refused.stderr) == (2, True)
    again = recorded(path, prometheus, *hours)
    assert again.exit_code == 0, again.stderr
    assert (RecordingSource(path).header.start_s, RecordingSource(path).header.end_s) == (START_S, START_S + 3600)


def test_the_size_is_told_from_the_first_block_and_the_pace_in_lines(
    tmp_path: Path, prometheus: FakePrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaler.cli.record.LINE_EVERY_S", 0.0)
    result = recorded(tmp_path / "a.gz", prometheus)
    first = next(line for line in result.stderr.splitlines() if "in the end" in line)
    assert f"as {BLOCK_STEPS} of {STEPS} snapshots suggest" in first
    assert any("snapshots/s, about" in line and "min left" in line for line in result.stderr.splitlines())
    assert max(len(line) for line in result.stderr.splitlines()) < 200


def test_the_header_says_who_was_asked_what(tmp_path: Path, prometheus: FakePrometheus) -> None:
    recorded(tmp_path / "a.jsonl", prometheus, "--start", "1750000000", "--end", "1750000015")
    about = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])["about"]
    assert about["prometheus"] == prometheus.url
    assert about["queries"].startswith("sha256 ")


def test_the_triggers_of_manifests_are_evaluated_and_recorded(
    tmp_path: Path, past: Past, prometheus: FakePrometheus
) -> None:
    def with_trigger(asked: Asked) -> Reply:
        if asked.query != "sum(waiting)":
            return past(asked)
        points = [[1750000000, "11.2"], [1750000015, "99"], [1750000030, "0"]]
        return success({"resultType": "matrix", "result": [{"metric": {}, "values": points}]})

    (tmp_path / "so.yaml").write_text(
        "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\n"
        "metadata: {name: r, namespace: models}\nspec:\n  scaleTargetRef: {name: resnet}\n"
        "  minReplicaCount: 2\n  maxReplicaCount: 9\n  triggers:\n"
        '    - {type: prometheus, metadata: {serverAddress: "http://p", query: sum(waiting), threshold: "5"}}\n'
    )
    prometheus.answering = with_trigger
    window = ("--start", "1750000000", "--end", "1750000045", "-f", str(tmp_path / "so.yaml"))
    assert recorded(tmp_path / "a.gz", prometheus, *window).exit_code == 0
    found = RecordingSource(tmp_path / "a.gz").snapshots(START_S, START_S + 45, 15.0)
    # 11.2 / 5 -> 3; 99 / 5 -> 20, at most 9; 0, and no series: at least 2.
    assert [each.asked for each in found] == [{WorkloadKey("models", "resnet"): asked} for asked in (3, 9, 2, 2)]
