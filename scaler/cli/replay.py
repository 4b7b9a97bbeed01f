"""`vram-scaler replay`: a dry run over recorded time. What would have been decided, at every step."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group, RenderableType

from scaler.cli.faults import Unusable, warn
from scaler.cli.feed import evaluate_triggers, only_one_source, open_prometheus, open_recording, services_of, time_range
from scaler.cli.options import (
    all_manifests,
    config_option,
    end_option,
    manifests_option,
    prometheus_option,
    recording_option,
    report_option,
    say_written,
    start_option,
    step_option,
)
from scaler.cli.statuses import FOUND
from scaler.decision import FleetPlan, Reason
from scaler.explain import at
from scaler.manifests import Services
from scaler.policy import BadPolicy, FleetPolicy, ServiceKey, service_policy
from scaler.replay.against import Comparison, beside
from scaler.replay.against_tables import against_tables
from scaler.replay.asked import Asked, asked_table
from scaler.replay.drawing import Drawing
from scaler.replay.flow import flows
from scaler.replay.report_page import replay_page
from scaler.replay.rerun import Rerun
from scaler.replay.summary import Replay
from scaler.replay.tables import tables
from scaler.report.write import write_page
from scaler.serving.garbage import QuietCollector
from scaler.settings import Settings, load_settings
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
@click.option("--against", metavar="FILE", help="Other settings, B, beside --config, A: where their answers part.")
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    help="Every decision of A, one JSON object a line, B's answer under its key `against`; - is stdout.",
)
@report_option
@click.option(
    "--fail-on", callback=reasons, multiple=True, metavar="REASON,...", help="Exit with 1 on such a decision of A."
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
    against: str | None,
    json_path: str | None,
    report: str | None,
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
    services = services_of(files, settings, is_incident)
    if live is not None:
        evaluate_triggers(live, services)
    policy = FleetPolicy(settings, services.policies)
    other = None if against is None else _against(against, settings, services)

    most = None if every_change else SHOWN_CHANGES
    replay, finding, runs, baseline = Replay(most), Finding(fail_on), [Rerun(policy)], Asked()
    comparison = None
    if other is not None:
        comparison = Comparison(replay, Replay(0))
        runs.append(Rerun(other))
    collector = QuietCollector()
    drawing = Drawing([run.policy for run in runs], span.steps) if report is not None else None
    with contextlib.nullcontext() if json_path is None else click.open_file(json_path, "w", encoding="utf-8") as file:
        for snapshot in source.snapshots(span.start_s, span.end_s, span.step_s):
            with collector.tick():
                plans = [run.at(snapshot) for run in runs]
            finding.add(plans[0])
            asked = baseline.add(snapshot, plans[0], policy)
            if comparison is None:
                replay.add(plans[0], flows(snapshot, policy))
            else:
                comparison.add(plans[0], plans[1], *(flows(snapshot, run.policy) for run in runs))
            if drawing is not None:
                drawing.add(snapshot, plans, runs[0].memory)
            if file is not None:
                file.writelines(f"{json.dumps(each)}\n" for each in _as_json(plans, asked))
    names = [config or "the default settings", against or ""]
    if json_path != "-":
        shown = tables(replay) if comparison is None else against_tables(comparison, names[0], names[1], most)
        print_wide(Group(shown, asked_table(baseline, replay)) if baseline.services else shown)
    if report is not None and drawing is not None:
        where = "the incident of 18 June 2025" if is_incident else recording or "a Prometheus"
        page = replay_page(replay, drawing, where, span.step_s, comparison, names)
        say_written(report, write_page(Path(report), page))
    if finding.first is None:
        return 0
    of_a = "" if against is None else f" under A, {config or 'the default settings'}"
    click.echo(f"--fail-on found {finding.first}{of_a}; {finding.count} such decisions", err=True)
    return FOUND


def _against(path: str, settings: Settings, services: Services) -> FleetPolicy:
    """The policy of --against for the same ScaledObjects; the recorded time is read with the windows of --config."""
    other = load_settings(path)
    for window in ("stable_window_s", "burst_window_s"):
        own_s, other_s = getattr(settings.timing, window), getattr(other.timing, window)
        if own_s != other_s:
            field = type(other.timing).model_fields[window].alias
            warn(f"{path}: timing.{field} {other_s:g}s has no effect: signals are read with {own_s:g}s, as by --config")
    found = {}
    for key, metadata in services.metadata.items():
        try:
            found[key] = service_policy(key, metadata, other)
        except BadPolicy as fault:
            raise Unusable(f"{path}, for {'/'.join(key)}: {fault}") from None
    return FleetPolicy(other, found)


def _as_json(plans: list[FleetPlan], asked: Mapping[ServiceKey, int]) -> Iterator[dict[str, Any]]:
    """The decisions of A, with what B says and with what the present triggers asked for, where that is known."""
    for key, decision in plans[0].decisions.items():
        record = decision.as_json() if len(plans) == 1 else beside(decision, plans[1].decisions.get(key))
        yield record | ({"asked": asked[key]} if key in asked else {})


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


def print_wide(shown: RenderableType) -> None:
    """Tables on standard output, as wide as the terminal is or as their figures need."""
    width = max(shutil.get_terminal_size().columns, LEAST_COLUMNS) if sys.stdout.isatty() else PIPE_COLUMNS
    console = Console(markup=False, emoji=False, highlight=False, width=width)
    # Captured and then written: rich would end a broken pipe with status 1, which means "found".
    with console.capture() as captured:
        console.print(shown)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
