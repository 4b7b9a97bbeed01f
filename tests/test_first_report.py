"""The README's way to a first report, as a new user types it, against a real Prometheus that saw the incident.

The samples are the bundled incident under the exporters' real names. promtool cannot write staleness markers, which a
scrape leaves where a pod ends; so the server forgets a series after 30 s instead of 5 minutes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scaler.incident import RECORDING, SCALED_OBJECTS
from scaler.policy import Timing
from scaler.snapshot import WorkloadKey
from scaler.sources.prometheus import PrometheusSettings, PrometheusSource
from scaler.sources.recording import RecordingSource
from tests.incident_metrics import incident_openmetrics
from tests.prometheus_server import PrometheusServer, running_prometheus

README = Path(__file__).parent.parent / "README.md"
HEADING = "## What would it have done on your pool last Tuesday?"
START, END = "2025-06-18T00:01:00Z", "2025-06-18T06:01:00Z"  # the six hours before the old autoscaler saw the growth
START_S, END_S = 1_750_204_860.0, 1_750_226_460.0
E5 = WorkloadKey("kserve-models", "e5-predictor")
# e5 as the incident's tenant had it, with KEDA's own trigger and nothing of ours; the others as they are bundled.
TODAY = """
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: e5, namespace: kserve-models}
spec:
  scaleTargetRef: {name: e5-predictor}
  minReplicaCount: 1
  maxReplicaCount: 11
  triggers:
    - type: prometheus
      metadata:
        serverAddress: http://prometheus:9090
        query: sum(nv_inference_pending_request_count{namespace="kserve-models",pod=~"e5-predictor-.*"})
        threshold: "3"
"""


@dataclass(frozen=True)
class Report:
    """What the README's commands came to."""

    folder: Path
    url: str
    commands: list[list[str]]
    outputs: list[subprocess.CompletedProcess[str]]

    @property
    def recording(self) -> Path:
        return self.folder / "tuesday.jsonl.gz"


def readme_commands() -> list[list[str]]:
    """The indented lines below the heading, as the shell splits them."""
    text = README.read_text(encoding="utf-8")
    section = text[text.index(HEADING) + len(HEADING) :].split("\n## ")[0]
    block = re.search(r"(?:^    \S.*\n)+", section, re.MULTILINE)
    assert block is not None
    return [shlex.split(line) for line in block[0].splitlines()]


def typed(command: list[str], url: str) -> list[str]:
    """With the address of this Prometheus, and its hours in place of the last ones."""
    known = {"http://prometheus:9090": url, "now-6h": START, "now": END}
    assert command[0] == "vram-scaler"
    return [
        sys.executable,
        "-c",
        "from scaler.cli import main; main()",
        *(known.get(word, word) for word in command[1:]),
    ]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    before_s = 120.0  # the windows of the first instant
    snapshots = RecordingSource(RECORDING).snapshots(START_S - before_s, END_S, 15.0)
    folder = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(folder, incident_openmetrics(snapshots), flags=("--query.lookback-delta=30s",)) as server:
        yield server


@pytest.fixture(scope="module")
def report(prometheus: PrometheusServer, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("operator")
    bundled = SCALED_OBJECTS.read_text().split("\n---\n")
    others = [each for each in bundled if "kind: ScaledObject" in each and "name: e5\n" not in each]
    (folder / "scaledobject.yaml").write_text("\n---\n".join(others) + TODAY)
    commands = readme_commands()
    outputs = [
        subprocess.run(typed(command, prometheus.url), cwd=folder, capture_output=True, text=True, timeout=300)
        for command in commands[1:]
    ]
    return Report(folder, prometheus.url, commands, outputs)


@pytest.fixture(scope="module")
def decisions(report: Report) -> list[dict[str, Any]]:
    """Every decision of the same replay."""
    arguments = ["replay", "--recording", report.recording.name, "-f", "scaledobject.yaml", "--json", "-"]
    command = [sys.executable, "-c", "from scaler.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=report.folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def of(decisions: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [each for each in decisions if each["name"] == name]


def test_it_takes_three_commands(report: Report) -> None:
    assert len(report.commands) <= 3
    assert report.commands[0][:2] == ["pip", "install"]
    for output in report.outputs:
        assert output.returncode == 0, output.stderr


def test_the_report_tells_the_story_in_its_first_words(report: Report) -> None:
    page = (report.folder / "tuesday.html").read_text(encoding="utf-8")
    assert "Free VRAM ran out at 00:10; our veto stood from 00:09, 33 minutes before the first request failed." in page


def test_what_is_said_on_the_way_is_a_few_lines(report: Report) -> None:
    recorded, replayed = report.outputs
    assert "about" in recorded.stderr.splitlines()[0]
    assert "snapshots suggest" in recorded.stderr.splitlines()[0]
    assert "tuesday.jsonl.gz: 1441 snapshots, 2025-06-18 00:01:00Z to 2025-06-18 06:01:00Z" in recorded.stderr
    e5, written = replayed.stderr.splitlines()
    assert written.startswith("tuesday.html: ")
    assert "kserve-models/e5: no trigger of type external; planned as if it had one" in e5


def test_the_recording_holds_what_the_exporters_showed(report: Report) -> None:
    """The readings of the bundled recording come back, less what two windows smooth."""
    was, found = RecordingSource(RECORDING), RecordingSource(report.recording)
    for at_s in (START_S + 1200, START_S + 6000, START_S + 13_000, END_S - 600):
        old, new = was.snapshot_at(at_s), found.snapshot_at(at_s)
        assert new.cards.keys() == old.cards.keys()
        for key, card in old.cards.items():
            assert new.cards[key].free_bytes == card.free_bytes
            assert new.cards[key].total_bytes == card.total_bytes
            assert (new.cards[key].slots, new.cards[key].node) == (card.slots, card.node)
        assert new.workloads.keys() == old.workloads.keys()
        for workload, reading in old.workloads.items():
            seen = new.workloads[workload]
            assert (seen.spec_replicas, seen.status_replicas) == (reading.spec_replicas, reading.status_replicas)
            assert (seen.ready_replicas, seen.scraped_pods) == (reading.ready_replicas, reading.scraped_pods)
            assert seen.executing == pytest.approx(reading.executing, rel=0.1)
            assert seen.success_per_s == pytest.approx(reading.success_per_s, rel=0.1)
            assert seen.revision_created_s == reading.revision_created_s


def test_the_veto_stands_half_an_hour_before_the_first_failure(report: Report, decisions: list[dict[str, Any]]) -> None:
    source = RecordingSource(report.recording)
    snapshots = source.snapshots(START_S, END_S, 15.0)
    failed_s = next(each.taken_at_s for each in snapshots if (each.workloads[E5].failure_per_s or 0) > 0.02)
    tables = report.outputs[1].stdout
    began = re.search(r"│ 00:(\d\d):(\d\d) to 05:2\d:\d\d", tables)
    assert began is not None, tables
    veto_s = START_S - 60 + 60 * int(began[1]) + int(began[2])
    assert failed_s - veto_s > 30 * 60
    # The first whom it holds: image-small grows by itself at 02:00 and gets nothing.
    held = next(each for each in of(decisions, "image-small") if each["verdict"] == "veto")
    assert (held["granted"], held["replicas"], held["demand"], held["reasons"][0]) == (1, 1, 2, "low-vram")


def test_flat_demand_is_never_granted_more_and_growth_after_the_fix_is(decisions: list[dict[str, Any]]) -> None:
    e5 = of(decisions, "e5")
    night = [each for each in e5 if each["time"] <= START_S + 5 * 3600 + 19 * 60]
    assert max(each["replicas"] for each in night) == 11
    assert all(each["granted"] is not None and each["granted"] <= each["replicas"] for each in night)
    assert max(each["demand"] for each in night) == 2
    grown = [each for each in e5 if each["time"] > START_S + 5 * 3600 + 39 * 60 and each["demand"] > each["replicas"]]
    assert grown
    assert all(each["granted"] == each["demand"] == 3 for each in grown)


def test_what_the_old_trigger_asked_for_is_recorded(report: Report) -> None:
    asked = {each.taken_at_s: each.asked for each in RecordingSource(report.recording).snapshots(START_S, END_S, 15.0)}
    assert {key for each in asked.values() for key in each} == {E5}
    assert asked[START_S + 600] == {E5: 1}
    spike_s = START_S + 3 * 3600 + 35 * 60  # 03:36, 31 requests wait: ceil(31 / 3) = 11
    assert asked[spike_s][E5] == pytest.approx(11, abs=1)
    shown = report.outputs[1].stdout
    # Eleven wait from 03:20 on: at three a replica that is more than the two that are granted.
    assert re.search(r"kserve-models/e5 +│ +11 │ .*│ 03:(19|20):\d\d \d+, not 2", shown), shown


def test_a_prometheus_with_few_samples_a_query_is_asked_for_less_at_once(
    prometheus: PrometheusServer, report: Report, tmp_path: Path
) -> None:
    """--query.max-samples refuses 60 instants and takes fewer; the snapshots are the same but for the last digits."""
    flags = ("--query.lookback-delta=30s", "--query.max-samples=4000")
    with running_prometheus(_copy(prometheus, tmp_path), flags=flags) as server:
        source = PrometheusSource(PrometheusSettings(url=server.url), Timing())
        found = list(source.whole_snapshots(END_S - 1800, END_S, 15.0))
        source.close()
    assert any(query.failures for query in source.stats.values())
    whole = RecordingSource(report.recording).snapshots(END_S - 1800, END_S, 15.0)
    for one, other in zip(found, whole, strict=True):
        assert one.problems == ()
        assert one.cards == other.cards
        assert one.workloads[E5].success_per_s == pytest.approx(other.workloads[E5].success_per_s, rel=1e-12)


def _copy(prometheus: PrometheusServer, folder: Path) -> Path:
    """The same blocks for a second server: hard links, which it never writes into."""
    data = Path(
        next(word for word in prometheus.arguments if word.startswith("--storage.tsdb.path=")).partition("=")[2]
    )
    for block in data.iterdir():
        if (block / "meta.json").exists():
            for file in block.rglob("*"):
                target = folder / "small" / "data" / file.relative_to(data)
                if file.is_file():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.link(file, target)
    return folder / "small"
