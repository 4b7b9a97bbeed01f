"""`vram-scaler replay`: a dry run over recorded time. What would have been decided, at every step."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from dataclasses import dataclass

import click
from rich.console import Console

from scaler.cli.feed import only_one_source, open_prometheus, open_recording, services_of, time_range
from scaler.cli.options import (
    all_manifests,
    config_option,
    end_option,
    manifests_option,
    prometheus_option,
    recording_option,
    start_option,
    step_option,
)
from scaler.cli.statuses import FOUND
from scaler.decision import FleetPlan, Reason
from scaler.explain import at
from scaler.policy import FleetPolicy
from scaler.replay.flow import flows
from scaler.replay.rerun import Rerun
from scaler.replay.summary import Replay
from scaler.replay.tables import tables
from scaler.settings import load_settings
from scaler.sources.recording import RecordingSource

SHOWN_CHANGES = 100
LEAST_COLUMNS, PIPE_COLUMNS = 110, 160  # narrower, the figures would be cut; a file or a pipe has no width


def reasons(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> frozenset[Reason]:
    """Callback of --fail-on: words with commas between, given once or more often."""
    known = {str(reason): reason for reason in Reason}
    words = [word.strip() for text in value for word in text.split(",")]
    for word in words:
        if word not in known:
            raise click.BadParameter(f"{word!r} is not a reason; it takes {', '.join(known)}")
    return frozenset(known[word] for word in words)


@click.command("replay", short_help="What would have been decided, over recorded time.")
@recording_option
@prometheus_option
@start_option
@end_option
@step_option
@manifests_option
@config_option
@click.option("--json", "json_path", metavar="FILE", help="Every decision, one JSON object a line; - is stdout.")
@click.option(
    "--fail-on", callback=reasons, multiple=True, metavar="REASON,...", help="Exit with 1 on such a decision."
)
@click.option("--all", "every_change", is_flag=True, help=f"All changes, not the first {SHOWN_CHANGES} only.")
def replay_command(
    recording: str | None,
    prometheus: str | None,
    start: float | None,
    end: float | None,
    step: float | None,
    manifests: tuple[str, ...],
    more_manifests: tuple[str, ...],
    config: str | None,
    json_path: str | None,
    fail_on: frozenset[Reason],
    every_change: bool,
) -> int:
    """Runs recorded time through the plan that serves, without a memory of what came before the start.

    Without a Prometheus and a recording it replays the incident that comes with the package.
    """
    only_one_source(recording, prometheus)
    settings = load_settings(config)
    live = open_prometheus(settings, prometheus) if recording is None else None
    source = live or open_recording(recording, settings)
    is_incident = live is None and recording is None
    files = all_manifests(manifests, more_manifests)
    if not files and not is_incident:
        raise click.UsageError("-f is missing: it takes the ScaledObjects to decide for")
    span = time_range(start, end, step, settings, source if isinstance(source, RecordingSource) else None)
    policy = FleetPolicy(settings, services_of(files, settings, is_incident).policies)

    replay = Replay(max_changes=None if every_change else SHOWN_CHANGES)
    finding = Finding(fail_on)
    run = Rerun(policy)
    with contextlib.nullcontext() if json_path is None else click.open_file(json_path, "w", encoding="utf-8") as file:
        for snapshot in source.snapshots(*span):
            plan = run.at(snapshot)
            finding.add(plan)
            replay.add(plan, flows(snapshot, policy))
            if file is not None:
                file.writelines(f"{json.dumps(decision.as_json())}\n" for decision in plan.decisions.values())
    if json_path != "-":
        _print(replay)
    if finding.first is None:
        return 0
    click.echo(f"--fail-on found {finding.first}; {finding.count} such decisions", err=True)
    return FOUND


@dataclass(slots=True)
class Finding:
    """Decisions with a reason of --fail-on: how many, and the first in words."""

    wanted: frozenset[Reason]
    count: int = 0
    first: str | None = None

    def add(self, plan: FleetPlan) -> None:
        """One more plan is looked through."""
        for decision in plan.decisions.values():
            hit = self.wanted.intersection(decision.reasons)
            if hit:
                self.count += 1
                who = f"{decision.key.namespace}/{decision.key.name}"
                self.first = self.first or f"{', '.join(sorted(hit))} at {at(decision.time_s)} for {who}"


def _print(replay: Replay) -> None:
    width = max(shutil.get_terminal_size().columns, LEAST_COLUMNS) if sys.stdout.isatty() else PIPE_COLUMNS
    console = Console(markup=False, emoji=False, highlight=False, width=width)
    # Captured and then written: rich would end a broken pipe with status 1, which means "found".
    with console.capture() as captured:
        console.print(tables(replay))
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
