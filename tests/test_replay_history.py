"""What a replay knows of the time before its start: as much as a service that starts then would read, or it says so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scaler.cli.commands import cli
from scaler.incident import RECORDING, SCALED_OBJECTS
from scaler.planning.memory import Memory
from scaler.policy import OperatorPolicy
from scaler.replay.dry_run import warm_up
from scaler.replay.rerun import Rerun
from scaler.replay.summary import WarmUp
from scaler.snapshot import Snapshot
from scaler.sources.baseline import Baseline
from scaler.sources.recording import RecordingSource
from scaler.sources.source import SourceUnavailable
from tests.fleet import START_S, asking, card, policy, snapshot

FIVE_MINUTES = ("--start", "2025-06-18T05:21:00Z", "--end", "2025-06-18T05:26:00Z")
START, END = 1_750_224_060.0, 1_750_224_360.0


def invoked(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ("replay", *arguments), prog_name="vram-scaler")


def decided(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def served() -> list[dict[str, Any]]:
    """The five minutes as decided by one that ran since the evening before. Services are on their way down then."""
    whole = decided(invoked("--end", "2025-06-18T05:26:00Z", "--json", "-"))
    found = [each for each in whole if START <= each["time"] <= END]
    assert len(found) == 21 * 6
    assert "scale-down" in {each["verdict"] for each in found[:6]}
    return found


class _Live(RecordingSource):
    """The incident's recording in a Prometheus' place."""

    def __init__(self, known_s: float = 0.0) -> None:
        super().__init__(RECORDING)
        self.known_s = known_s

    def evaluate(self, baselines: Sequence[Baseline]) -> None:
        assert not baselines

    def snapshots(self, start_s: float, end_s: float, step_s: float) -> Iterator[Snapshot]:
        header = self.header
        for number in range(round((end_s - start_s) / step_s) + 1):
            at_s = start_s + number * step_s
            known = max(header.start_s, self.known_s) <= at_s <= header.end_s
            yield self.snapshot_at(at_s) if known else Snapshot(at_s)


def live(monkeypatch: pytest.MonkeyPatch, source: RecordingSource) -> tuple[str, ...]:
    monkeypatch.setattr("scaler.cli.replay.open_prometheus", lambda settings, url: source)
    return ("--prometheus", "http://x", "-f", str(SCALED_OBJECTS), *FIVE_MINUTES)


def test_from_a_prometheus_the_first_decision_is_the_served_one(
    monkeypatch: pytest.MonkeyPatch, served: list[dict[str, Any]]
) -> None:
    arguments = live(monkeypatch, _Live())
    assert decided(invoked(*arguments, "--json", "-")) == served
    assert "Warming up" not in invoked(*arguments).stdout


def test_so_it_is_within_a_recording(served: list[dict[str, Any]]) -> None:
    assert decided(invoked(*FIVE_MINUTES, "--json", "-")) == served
    assert "Warming up" not in invoked(*FIVE_MINUTES).stdout


def test_both_settings_know_it(tmp_path: Path, served: list[dict[str, Any]]) -> None:
    other = tmp_path / "b.yaml"
    other.write_text("pools: [{name: default, scaleDownWindow: 10m}]")
    lines = decided(invoked(*FIVE_MINUTES, "--against", str(other), "--json", "-"))
    alone = decided(invoked(*FIVE_MINUTES, "--config", str(other), "--json", "-"))
    assert [each["granted"] for each in lines] == [each["granted"] for each in served]
    assert [each["against"]["granted"] for each in lines] == [each["granted"] for each in alone]
    assert not any("seen so far" in step["text"] for each in alone for step in each["steps"])


@pytest.mark.parametrize(
    ("known", "until"),
    [
        pytest.param("05:21:00", "05:26:00", id="nothing before"),
        pytest.param("05:19:00", "05:24:00", id="two minutes before"),
        pytest.param("05:16:00", None, id="the whole window"),
    ],
)
def test_what_prometheus_does_not_know_is_warming_up(
    monkeypatch: pytest.MonkeyPatch, served: list[dict[str, Any]], known: str, until: str | None
) -> None:
    hours, minutes, _ = map(int, known.split(":"))
    source = _Live(START + 60 * (60 * (hours - 5) + minutes - 21))
    arguments = live(monkeypatch, source)
    said = re.search(r"Warming up until (\S+): nothing is known of before (\S+), so", invoked(*arguments).stdout)
    assert (said.groups() if said else None) == ((until, known) if until else None)
    lines = decided(invoked(*arguments, "--json", "-"))
    unsure = [each["time"] for each in lines if any("less than 300 s seen" in step["text"] for step in each["steps"])]
    # The decisions themselves say so up to then.
    assert (max(unsure) + 15 if unsure else None) == (source.known_s + 300 if until else None)


def test_the_beginning_of_a_recording_is_warming_up(tmp_path: Path) -> None:
    text = invoked("--end", "2025-06-18T00:00:00Z", "--report", str(tmp_path / "r.html")).stdout
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<li>Warming up until 23:50:00: nothing is known of before 23:45:00" in page
    assert "Warming up until 23:50:00: nothing is known of before 23:45:00, so no scaleDownWindow is over" in text


def test_history_that_fails_is_a_warning_and_one_that_never_answers_ends_it_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Short(_Live):
        def snapshots(self, start_s: float, end_s: float, step_s: float) -> Iterator[Snapshot]:
            if start_s < START:
                raise SourceUnavailable("http://x: retention is over")
            yield from super().snapshots(start_s, end_s, step_s)

    class Gone(_Live):
        def snapshots(self, start_s: float, end_s: float, step_s: float) -> Iterator[Snapshot]:
            raise SourceUnavailable("http://x: connection refused")

    short = invoked(*live(monkeypatch, Short()))
    assert short.exit_code == 0
    lines = short.stderr.splitlines()
    assert len(lines) == 2  # the coarse and the fine span
    for line in lines:
        assert re.fullmatch(r"warning: the time before --start, from \d+ to .*: http://x: retention is over", line)
    assert "Warming up until 05:26:00" in short.stdout
    gone = invoked(*live(monkeypatch, Gone()))
    assert (gone.exit_code, gone.stdout, gone.stderr) == (2, "", "http://x: connection refused\n")


def test_a_gap_before_the_start_is_where_knowing_begins() -> None:
    """Minutes 0 to 4 and 7 to 9 are seen; at minute 10 the scaleDownWindow of 5 minutes reaches back to minute 7, and
    is over at minute 12. A gap of 2 minutes would be none."""
    run, operator = Rerun(policy(e5={})), OperatorPolicy()
    for minute in (0, 1, 2, 3, 4, 7, 8, 9):
        run.at(snapshot(START_S + 60 * minute, {"e5": asking(2, 2)}, card(12.0)))
    assert warm_up(operator, run.memory, START_S + 600) == WarmUp(START_S + 420, START_S + 720)
    assert warm_up(operator, Memory(), START_S) == WarmUp(START_S, START_S + 300)


def test_a_step_that_fills_no_window_is_warned_of() -> None:
    result = invoked("--start", "2025-06-18T05:00:00Z", "--end", "2025-06-18T06:00:00Z", "--step", "5m")
    assert result.stderr == ("warning: --step 300s: a scaleDownWindow takes a moment every 120s; nothing scales down\n")
