"""The commands as people type them: what they print and return, and that no fault of input is more than a line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner, Result

from scaler.cli import main
from scaler.cli.commands import cli
from scaler.cli.options import parse_moment
from scaler.cli.statuses import FAULT, FOUND, INTERRUPTED, NO_READER, UNUSABLE
from scaler.incident import RECORDING, SCALED_OBJECTS
from scaler.snapshot import Problem, Snapshot
from scaler.sources.baseline import Baseline
from scaler.sources.recording import RecordingSource

COMMAND = [sys.executable, "-c", "from scaler.cli import main; main()"]
NOW_S = 1750204800.0  # 2025-06-18 00:00:00 UTC


def invoked(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="vram-scaler")


def at(clock: str) -> float:
    """Unix seconds of that time on 18 June 2025, UTC."""
    return parse_moment(f"2025-06-18T{clock}Z", NOW_S)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("2025-06-18T00:00:00Z", NOW_S, id="RFC 3339 in UTC"),
        pytest.param("2025-06-18t10:00:00.5+10:00", NOW_S + 0.5, id="offset and fraction"),
        pytest.param("1750204800", NOW_S, id="Unix seconds"),
        pytest.param("1750204800.25", NOW_S + 0.25, id="Unix seconds with a fraction"),
        pytest.param("now", NOW_S, id="now"),
        pytest.param("now-1h30m", NOW_S - 5400, id="before now"),
    ],
)
def test_a_moment_is_rfc_3339_unix_seconds_or_relative(text: str, expected: float) -> None:
    assert parse_moment(text, NOW_S) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "2025", "2025-06-18", "2025-06-18T00:00:00", "2025-13-18T00:00:00Z", "2025-06-18T25:00:00Z", "now-6"),
        *("now+6h", "now-60000d", "yesterday", "-1", "nan", "1e9", "999999999999", "１７５０２０４８００"),
    ],
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|years|duration|month|hour"):
        parse_moment(text, NOW_S)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["frob"], ["vram-scaler: No such command 'frob'"], id="no such command"),
        pytest.param(
            ["replay", "--strt", "now"], ["vram-scaler replay: No such option '--strt'", "--start"], id="near miss"
        ),
        pytest.param(["replay", "--start"], ["vram-scaler: Option '--start' requires an argument"], id="no value"),
        pytest.param(["replay", "--start", "2025"], ["'--start'", "'2025'", "RFC 3339", "now-6h"], id="no time"),
        pytest.param(["replay", "--step", "15"], ["'--step'", "'15'", "500ms to 1h"], id="step without unit"),
        pytest.param(["replay", "--step", "2h"], ["'--step'", "'2h': out of range", "500ms to 1h"], id="step too long"),
        pytest.param(
            ["replay", "--start", "2025-06-18T05:00:00Z", "--end", "2025-06-18T04:00:00Z"],
            ["--end 2025-06-18 04:00:00Z is before --start 2025-06-18 05:00:00Z"],
            id="end before start",
        ),
        pytest.param(
            ["replay", "--start", "2025-06-18T08:59:00Z", "--end", "2026-01-01T00:00:00Z"],
            ["no snapshot for", "2025-06-18T09:00:30Z"],
            id="not recorded",
        ),
        pytest.param(
            ["replay", "--start", "2025-06-17T00:00:00Z"],
            ["no snapshot for 2025-06-17T00:00:00Z"],
            id="before the recording",
        ),
        pytest.param(
            ["replay", "--start", "1971-01-01T00:00:00Z", "--step", "500ms"],
            ["--step 0.5s", "10000000"],
            id="too many steps",
        ),
        pytest.param(
            ["replay", "--fail-on", "low-vram,lowvram"], ["'--fail-on'", "'lowvram'", "low-vram, no-fit"], id="reason"
        ),
        pytest.param(["replay", "so.yaml"], ["unexpected argument 'so.yaml'", "-f"], id="manifest without -f"),
        pytest.param(["replay", "-f", "none.yaml"], ["none.yaml: No such file"], id="no manifest"),
        pytest.param(["replay", "--config", "none.yaml"], ["none.yaml: No such file"], id="no settings"),
        pytest.param(["replay", "--recording", "none.gz", "-f", "x"], ["none.gz", "No such file"], id="no recording"),
        pytest.param(
            ["replay", "--recording", str(SCALED_OBJECTS), "-f", "x"],
            [str(SCALED_OBJECTS), "line 1"],
            id="not a recording",
        ),
        pytest.param(["replay", "--recording", str(RECORDING)], ["-f is missing"], id="no ScaledObject"),
        pytest.param(
            ["replay", "--recording", "a", "--prometheus", "http://x"],
            ["--recording and --prometheus"],
            id="two sources",
        ),
        pytest.param(["replay", "--prometheus", "x", "-f", "x"], ["--prometheus", "'x'", "http or https"], id="no URL"),
        pytest.param(["replay", "--prometheus", "http://x", "-f", "x"], ["--start is missing"], id="no start"),
        pytest.param(["replay", "--json", "/none/x.json"], ["/none/x.json: No such file"], id="JSON into nowhere"),
        pytest.param(["record", "-o", "x"], ["no Prometheus", "--prometheus URL"], id="record without source"),
        pytest.param(
            ["record", "--prometheus", "http://x", "--start", "now", "--end", "now"], ["'-o'"], id="record to nowhere"
        ),
        pytest.param(
            ["record", "--prometheus", "http://127.0.0.1:1", "--start", "now-1m", "--end", "now", "-o", "/none/x"],
            ["/none/x"],
            id="record into no folder",
        ),
        pytest.param(["serve", "--listen", "x"], ["'--listen'", "'x'", "HOST:PORT, port 0 to 65535"], id="no address"),
        pytest.param(["serve", "--speed", "0"], ["'--speed'", "1<=x<=10000"], id="speed"),
        pytest.param(["serve", "--speed", "nan"], ["'--speed'", "nan", "1 to 10000"], id="no speed"),
        pytest.param(["serve", "--speed", "inf"], ["'--speed'", "inf", "1<=x<=10000"], id="endless speed"),
        pytest.param(
            ["serve", "--speed", "9", "--prometheus", "http://x"], ["--speed is a recording's"], id="speed of now"
        ),
        pytest.param(["explain", "e5"], ["'e5' is not a ScaledObject", "NAMESPACE/NAME"], id="no namespace"),
        pytest.param(["explain", "a/b", "--http", "127.0.0.1:1"], ["http://127.0.0.1:1", "refused"], id="nobody there"),
    ],
)
def test_unusable_input_is_one_line_and_status_2(
    arguments: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoked(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for part in expected:
        assert part in result.stderr


def test_help_names_every_command_and_the_statuses() -> None:
    result = invoked("--help")
    assert result.exit_code == 0
    for word in ("serve", "replay", "record", "explain", "Exit status"):
        assert word in result.stdout
    epilog = " ".join(result.stdout[result.stdout.index("Exit status") :].split())
    for status in (0, FOUND, UNUSABLE, FAULT, INTERRUPTED, NO_READER):
        assert re.search(rf"\b{status} \w", epilog), status


@pytest.fixture(scope="module")
def decisions() -> list[dict[str, Any]]:
    """All decisions of the incident's replay; 3 s once."""
    result = invoked("replay", "--json", "-")
    assert (result.exit_code, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def e5(decisions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [decision for decision in decisions if decision["name"] == "e5"]


class TestReplayOfTheIncident:
    """The story that this project exists for, as `vram-scaler replay` tells it."""

    def test_there_is_a_decision_for_each_service_at_each_step(self, decisions: list[dict[str, Any]]) -> None:
        header = RecordingSource(RECORDING).header
        steps = int((header.end_s - header.start_s) / header.step_s) + 1
        names = {decision["name"] for decision in decisions}
        assert len(decisions) == steps * len(names)
        assert list(decisions[0])[:11] == [
            *(
                "time",
                "namespace",
                "name",
                "pool",
                "replicas",
                "demand",
                "granted",
                "active",
                "verdict",
                "reasons",
                "steps",
            )
        ]

    def test_the_text_encoder_is_never_granted_more_than_it_has_and_its_demand_is_flat(
        self, e5: list[dict[str, Any]]
    ) -> None:
        night = [each for each in e5 if at("00:00:00") <= each["time"] <= at("05:20:00")]
        assert max(each["replicas"] for each in night) == 11  # what the old autoscaler made of it
        assert all(each["granted"] <= each["replicas"] for each in night)
        assert {each["demand"] for each in night} == {2}

    def test_after_the_fix_real_growth_is_granted_in_the_tick_that_shows_it(self, e5: list[dict[str, Any]]) -> None:
        grown = [each for each in e5 if each["time"] > at("05:40:00") and each["demand"] > each["replicas"]]
        assert grown
        assert all(each["granted"] == each["demand"] == 3 for each in grown)
        assert grown[0]["time"] < at("06:03:00")  # when the old autoscaler went from 2 to 3

    def test_the_tables_show_it(self) -> None:
        result = invoked("replay")
        assert (result.exit_code, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        pool = next(line for line in lines if line.startswith("default"))
        [began, ended] = re.findall(r"(\d\d:\d\d:\d\d) to (\d\d:\d\d:\d\d)", pool)[0]
        assert "00:04:00" < began < "00:12:00"
        assert "05:20:00" < ended < "05:40:00"
        assert "2 MiB at 00:" in pool
        differ = lines[lines.index("Scale-ups that differ") :]
        e5 = [line for line in differ[: differ.index("Pools")] if "e5" in line or line.startswith("    ")]
        assert "00:03:00 2→3" in e5[0]
        assert "00:04:00 3→7" in e5[1]
        assert any("veto begins" in line for line in lines)
        assert max(len(line) for line in lines) <= 160

    def test_a_part_of_the_time_and_what_fail_on_finds(self) -> None:
        window = ("--start", "2025-06-18T01:30:00Z", "--end", "2025-06-18T01:45:00Z")
        found = invoked("replay", *window, "--fail-on", "stale,missing", "--fail-on", "low-vram")
        assert found.exit_code == 1
        assert found.stderr.startswith("--fail-on found low-vram at 2025-06-18 01:38:00Z for kserve-models/e5; ")
        assert "61 steps" in found.stdout
        assert invoked("replay", *window, "--fail-on", "stale").exit_code == 0

    def test_the_step_may_be_coarser_than_the_recording(self) -> None:
        window = ("--start", "2025-06-18T01:00:00Z", "--end", "2025-06-18T02:00:00Z")
        assert "13 steps" in invoked("replay", *window, "--step", "5m").stdout

    def test_json_into_a_file_leaves_the_tables_on_stdout(self, tmp_path: Path) -> None:
        window = ("--start", "2025-06-18T01:00:00Z", "--end", "2025-06-18T01:01:00Z")
        path = tmp_path / "out.jsonl"
        assert "Services" in invoked("replay", *window, "--json", str(path)).stdout
        assert len(path.read_text().splitlines()) == 5 * 6


def test_manifests_may_trail_as_a_shell_writes_them(tmp_path: Path) -> None:
    text = SCALED_OBJECTS.read_text()
    documents = [part for part in text.split("\n---\n") if "kind: ScaledObject" in part][:3]
    names = []
    for number, document in enumerate(documents):
        (tmp_path / f"{number}.yaml").write_text(document)
        names.append(str(tmp_path / f"{number}.yaml"))
    one_minute = ("--recording", str(RECORDING), "--start", "2025-06-18T01:00:00Z", "--end", "2025-06-18T01:00:00Z")
    result = invoked("replay", "-f", *names, *one_minute, "--json", "-")
    assert [json.loads(line)["name"] for line in result.stdout.splitlines()] == ["e5", "bundle-a", "bundle-b"]
    assert len(invoked("replay", *one_minute, "-f", names[0], "-f", names[1], "--json", "-").stdout.splitlines()) == 2


def test_doubts_about_manifests_and_windows_are_warnings(tmp_path: Path) -> None:
    first = SCALED_OBJECTS.read_text().split("\n---\n")[1]
    (tmp_path / "so.yaml").write_text(first.replace("        deployment: e5-predictor\n", ""))
    (tmp_path / "settings.yaml").write_text("timing: {stableWindow: 2m}")
    one = (
        "--start",
        "2025-06-18T01:00:00Z",
        "--end",
        "2025-06-18T01:00:00Z",
        "--config",
        str(tmp_path / "settings.yaml"),
    )
    result = invoked("replay", "-f", str(tmp_path / "so.yaml"), "--recording", str(RECORDING), *one)
    assert result.exit_code == 0
    [windows, deployment] = result.stderr.splitlines()
    assert "timing.stableWindow 60s, not 120s" in windows
    assert "metadata.deployment should be 'e5-predictor'" in deployment
    # Its Deployment is not called e5, so there is nothing to see; the table says so, and not zero.
    assert "no spec.replicas" in result.stdout


class _Past(RecordingSource):
    """The incident's recording in a Prometheus' place."""

    url, promql = "http://x", {"replicas": "a"}

    def evaluate(self, baselines: Sequence[Baseline]) -> None:
        assert not baselines

    def whole_snapshots(self, start_s: float, end_s: float, step_s: float) -> Iterator[Snapshot]:
        return self.snapshots(start_s, end_s, step_s)

    def close(self) -> None:
        pass


def test_what_is_recorded_replays_as_its_source_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.cli.record.open_prometheus", lambda settings, url: _Past(RECORDING))
    # From where the source itself begins: of a later start it would know the time before, and the recording would not.
    window = ("--start", "2025-06-17T23:45:00Z", "--end", "2025-06-18T00:00:00Z", "--step", "30s")
    path = tmp_path / "night.jsonl.gz"
    recorded = invoked("record", "--prometheus", "http://x", *window, "-o", str(path))
    assert (recorded.exit_code, recorded.stdout) == (0, "")
    said = f"{path}: 31 snapshots, 2025-06-17 23:45:00Z to 2025-06-18 00:00:00Z, "
    assert recorded.stderr.startswith(said)
    assert len(recorded.stderr.splitlines()) == 1
    again = invoked("replay", "--recording", str(path), "-f", str(SCALED_OBJECTS), "--json", "-")
    assert again.stdout == invoked("replay", *window, "--json", "-").stdout
    assert len(again.stdout.splitlines()) == 31 * 6


class _Blank(_Past):
    """A Prometheus that answers and knows neither a workload nor a card."""

    def snapshots(self, start_s: float, end_s: float, step_s: float) -> Iterator[Snapshot]:
        for snapshot in super().snapshots(start_s, end_s, step_s):
            yield Snapshot(snapshot.taken_at_s, problems=(Problem("spec_replicas", "no series"),))


def test_where_nothing_could_be_read_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.cli.record.open_prometheus", lambda settings, url: _Blank(RECORDING))
    window = ("--start", "2025-06-18T00:00:00Z", "--end", "2025-06-18T00:15:00Z", "--step", "30s")
    path = tmp_path / "night.jsonl.gz"
    path.write_text("an older recording")
    result = invoked("record", "--prometheus", "http://x", *window, "-o", str(path))
    assert (result.exit_code, result.stderr) == (
        2,
        "nothing to record: no workload and no card in any of 31 snapshots; spec_replicas: no series\n",
    )
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "an older recording"


class _Canned(BaseHTTPRequestHandler):
    """Answers every GET with what stands in `replies` for its path."""

    replies: dict[str, tuple[int, bytes]] = {}  # noqa: RUF012 - replaced by each test

    def do_GET(self) -> None:
        status, body = self.replies[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def canned() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Canned)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


DECISION = {
    "time": NOW_S, "namespace": "ml", "name": "e5", "pool": "t4",
    "replicas": 3, "demand": 2, "granted": 2, "active": True, "verdict": "scale-down", "reasons": ["demand"],
    "steps": [{"name": "granted", "value": 2, "unit": "replicas", "text": "what KEDA is told"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "body", "code", "expected"),
    [
        pytest.param(
            200, json.dumps(DECISION), 0, "e5 in ml, 2025-06-18 00:00:00Z: scale down from 3 to 2", id="a decision"
        ),
        pytest.param(404, '{"error": "no decision for ml/e5"}', 2, "HTTP 404: no decision for ml/e5", id="not known"),
        pytest.param(502, "<html>\nBad\nGateway</html>", 2, "HTTP 502: <html> Bad Gateway</html>", id="a proxy"),
        pytest.param(200, "<html>", 2, "not JSON", id="HTML"),
        pytest.param(200, "[]", 2, "not a decision: list", id="a list"),
        pytest.param(200, '{"verdict": "hold"}', 2, "not a decision: KeyError", id="half a decision"),
        pytest.param(200, json.dumps(DECISION | {"time": "noon"}), 2, "not a decision: TypeError", id="a wrong type"),
    ],
)
def test_explain_prints_what_the_scaler_says(
    canned: str, monkeypatch: pytest.MonkeyPatch, status: int, body: str, code: int, expected: str
) -> None:
    monkeypatch.setattr(_Canned, "replies", {"/v1/decisions/ml/e5": (status, body.encode())})
    result = invoked("explain", "ml/e5", "--http", canned)
    assert result.exit_code == code
    said = result.stderr if code else result.stdout
    assert expected in said
    assert not code or len(said.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_finding() -> None:
    replay = subprocess.Popen([*COMMAND, "replay", "--json", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert replay.stdout is not None
    assert replay.stderr is not None
    replay.stdout.readline()
    replay.stdout.close()
    assert (replay.wait(timeout=60), replay.stderr.read()) == (141, b"")
    replay.stderr.close()


def test_ctrl_c_ends_a_replay_quietly() -> None:
    replay = subprocess.Popen([*COMMAND, "replay", "--json", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert replay.stdout is not None
    replay.stdout.readline()
    replay.send_signal(signal.SIGINT)
    _, said = replay.communicate(timeout=60)
    assert (replay.returncode, said.strip()) == (130, b"")


_SIGINT_AT_IMPORT = """
import os, signal, sys
interrupted = sys.argv[1]
sys.argv = ["vram-scaler", "serve", "--help"]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == interrupted:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from scaler.cli import main
main()
"""


@pytest.mark.parametrize("module", ["click", "pydantic", "grpc", "aiohttp", "scaler.serving.server"])
def test_ctrl_c_during_the_imports_ends_quietly(module: str) -> None:
    command = [sys.executable, "-c", _SIGINT_AT_IMPORT, module]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")


def test_what_nobody_expected_is_one_line_and_no_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> NoReturn:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("scaler.cli.replay.load_settings", broken)
    monkeypatch.setattr(sys, "argv", ["vram-scaler", "replay"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, told = capsys.readouterr()
    assert (ended.value.code, out) == (70, "")
    assert re.fullmatch(r"vram-scaler: internal fault: ZeroDivisionError: two lines \(.*test_cli\.py:\d+\)\n", told)


def test_a_broken_installation_is_one_line_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr("scaler.cli.commands.cli")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 70
    assert re.fullmatch(
        r"vram-scaler: internal fault: ImportError: cannot import name 'cli' .*\n", capsys.readouterr().err
    )


def test_a_fault_in_a_process_of_its_own_is_one_line_as_well() -> None:
    done = subprocess.run([*COMMAND, "replay", "--step", "x"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_serve_plays_the_incident_says_how_to_ask_and_ends_on_a_signal() -> None:
    environment = {**os.environ, "PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
    arguments = ["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    scaler = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert scaler.stdout is not None
    told = ""
    for line in iter(scaler.stdout.readline, b""):
        told += line.decode()
        if b"Ctrl-C" in line:
            break
    try:
        for part in (
            "plays the incident",
            "explain kserve-models/e5 --http",
            "curl http://",
            "grpcurl -plaintext -d",
            "e5-predictor",
        ):
            assert part in told
        http = re.search(r"HTTP +(http://127\.0\.0\.1:\d+)/", told)
        assert http is not None
        with urlopen(f"{http[1]}/livez", timeout=10) as response:
            assert response.status == 200
        with pytest.raises(HTTPError, match="400"):  # its header is longer than aiohttp reads
            urlopen(Request(f"{http[1]}/livez", headers={"X-Long": 20_000 * "x"}), timeout=10)
    finally:
        scaler.send_signal(signal.SIGTERM)
        try:
            _, logged = scaler.communicate(timeout=30)
        finally:
            scaler.kill()
    assert scaler.returncode == 0
    events = [json.loads(line) for line in logged.decode().splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("listening", "stopped")
    [refused] = [event for event in events if event.get("source") == "aiohttp.server"]
    assert refused["reason"].startswith("LineTooLong: 400, message: Got more than 8190 bytes")
    assert len(refused["reason"]) <= 300


def test_an_address_that_is_taken_is_one_line(canned: str) -> None:
    result = invoked("serve", "--listen", "127.0.0.1:0", "--http", canned)
    assert result.exit_code == 2
    assert f"cannot listen on {canned}" in result.stderr.splitlines()[-1]
