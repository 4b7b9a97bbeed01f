"""`vram-scaler simulate` as people type it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scaler.cli.commands import cli
from scaler.cli.statuses import UNUSABLE
from scaler.simulate.scores import SCORE_NAMES

SMALL = """
about: a test
duration: 5m
warmUp: 2m
pool: {cards: 2, total: 10Gi}
services:
  - {name: a, load: {points: 20}, serviceTime: 0.1, gpuTime: 0.01, weights: 1Gi, scaling: {minReplicas: "1"}}
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return str(path)


def invoked(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ("simulate", *arguments), prog_name="vram-scaler")


def test_a_row_a_policy_in_the_order_asked_for(small: str) -> None:
    result = invoked(small, "--policy", "oracle,ours", "--seeds", "2")
    assert result.exit_code == 0, result.output
    rows = [line.split()[0] for line in result.stdout.splitlines() if line.startswith(("ours", "oracle"))]
    assert rows == ["oracle", "ours"]
    assert result.stdout.startswith("small: a test\n5 min, ")


def test_json_has_a_line_a_run_with_its_scores_and_its_timeline(small: str) -> None:
    result = invoked(small, "--policy", "ours", "--policy", "naive", "--seeds", "2", "--json", "-")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["policy"], line["seed"]) for line in lines] == [("ours", 1), ("ours", 2), ("naive", 1), ("naive", 2)]
    assert all(set(line["scores"]) == set(SCORE_NAMES) for line in lines)
    assert [minute["at_s"] for minute in lines[0]["timeline"]] == [0.0, 60.0, 120.0, 180.0, 240.0]
    assert invoked(small, "--policy", "ours,naive", "--seeds", "2", "--json", "-").stdout == result.stdout


def test_it_says_why_ours_gave_less(tmp_path: Path) -> None:
    """60/s of 0.1 s are 6 in flight, 2 replicas of 4; of 6 GiB each one fits on the only card."""
    path = tmp_path / "tight.yaml"
    path.write_text(SMALL.replace("cards: 2", "cards: 1").replace("20}", "60}").replace("1Gi,", "6Gi,"), "utf-8")
    shown = invoked(str(path), "--policy", "ours,naive", "--seeds", "2", "--json", str(tmp_path / "runs.jsonl")).stdout
    assert shown.splitlines()[-1] == "ours gave less than was asked for, in minutes of all seeds: a no-fit 10"
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text("utf-8").splitlines()]
    withheld = {"ours": {"a": "no-fit"}, "naive": {}}
    assert all(minute["withheld"] == withheld[run["policy"]] for run in runs for minute in run["timeline"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(["nowhere"], "scenario 'nowhere': it takes a YAML file or one of", id="scenario"),
        pytest.param(["surge", "--policy", "our"], "'our' is not a policy; it takes naive", id="policy"),
        pytest.param(["surge", "--seeds", "0"], "--seeds", id="seeds"),
        pytest.param(["trace-azure"], "needs the public trace azure2023_15s.csv.gz", id="no traces"),
        pytest.param(["trace-azure", "--traces", "/nowhere"], "not in /nowhere", id="traces elsewhere"),
        pytest.param(["missing.yaml"], "missing.yaml: No such file", id="no file"),
        pytest.param(["day", "--json", "/nowhere/runs.jsonl"], "/nowhere/runs.jsonl: no such directory", id="json"),
    ],
)
def test_unusable_input_is_one_line(arguments: list[str], text: str) -> None:
    result = invoked(*arguments)
    assert result.exit_code == UNUSABLE
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


INTERRUPTED_RUNS = """
import os, signal, sys
from scaler.simulate.runs import Job, run_all

short, week = sys.argv[1:]
runs = run_all([Job(short, "naive", 1), *(Job(week, "naive", seed) for seed in range(1, 31))], workers=2)
next(runs)
try:
    os.killpg(0, signal.SIGINT)  # as a terminal's Ctrl-C: parent and workers
    next(runs)
except KeyboardInterrupt:
    runs.close()
    print("ended")
"""


def test_ctrl_c_ends_a_long_run(small: str, tmp_path: Path) -> None:
    """Workers took Ctrl-C for the outcome of the run that they were at, and began the next one: 30 weeks here."""
    week = tmp_path / "week.yaml"
    week.write_text(SMALL.replace("duration: 5m", "duration: 168h"), encoding="utf-8")
    command = [sys.executable, "-c", INTERRUPTED_RUNS, small, str(week)]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.communicate(timeout=120)[0] == "ended\n"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
