"""`vram-scaler replay`: a dry run over recorded time. What would have been decided, at every step."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console, Group, RenderableType

from scaler.cli.faults import Unusable, warn
from scaler.cli.feed import (
    Range,
    evaluate_triggers,
    only_one_source,
    open_prometheus,
    open_recording,
    services_of,
    time_range,
)
from scaler.cli.options import (
    all_manifests,
    config_option,
    end_option,
    json_output,
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
from scaler.planning.memory import Memory
from scaler.planning.plan import plan
from scaler.planning.replicas import LONGEST_GAP_S
from scaler.policy import BadPolicy, FleetPolicy, OperatorPolicy, service_policy
from scaler.replay.against_tables import against_tables
from scaler.replay.asked import asked_table
from scaler.replay.dry_run import DryRun
from scaler.replay.report_page import replay_page
from scaler.replay.tables import tables
from scaler.report.write import write_page
from scaler.serving.garbage import seldom_collecting
from scaler.serving.history import learn, spans
from scaler.settings import Settings, load_settings
from scaler.snapshot import Snapshot
from scaler.sources.prometheus import PrometheusSource
from scaler.sources.recording import RecordingSource
from scaler.sources.source import Source

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
    """Runs recorded time through the plan that serves, with what is known of the time before the start.

    Without a Prometheus and a recording it replays the incident that comes with the package.
    """
    only_one_source(recording, prometheus)
    settings = load_settings(config)
    feed = _feed(recording, prometheus, all_manifests(manifests, more_manifests), settings)
    span = time_range(start, end, step, settings, feed.recorded)
    services = _services(feed, settings)
    policies = [FleetPolicy(settings, services.policies)]
    if against is not None:
        policies.append(_against(against, settings, services))
    names = [config or "the default settings", against or ""]

    most = None if every_change else SHOWN_CHANGES
    run, finding = DryRun(policies, span.steps, most, report is not None), Finding(fail_on)
    _play(run, finding, _from_history_on(run, policies, feed, span), json_path)
    if json_path != "-":
        print_wide(_shown(run, names, most))
    if report is not None and run.drawing is not None:
        page = replay_page(run.replay, run.drawing, feed.name, span.step_s, run.comparison, names, run.asked)
        say_written(report, write_page(Path(report), page))
    return finding.say("" if against is None else f" under A, {names[0]}")


class _Feed(NamedTuple):
    """Where the snapshots come from, its name in a report, and the manifests (none: the bundled incident's)."""

    live: PrometheusSource | None
    recorded: RecordingSource | None
    name: str
    manifests: tuple[str, ...]

    @property
    def source(self) -> Source:
        """The one of both that there is."""
        found = self.live or self.recorded
        assert found is not None
        return found


def _feed(recording: str | None, prometheus: str | None, manifests: tuple[str, ...], settings: Settings) -> _Feed:
    """The recording, the Prometheus, or the incident."""
    live = open_prometheus(settings, prometheus) if recording is None else None
    recorded = open_recording(recording, settings) if live is None else None
    is_incident = live is None and recording is None
    if not manifests and not is_incident:
        raise click.UsageError("-f is missing: it takes the ScaledObjects to decide for", click.get_current_context())
    name = "the incident of 18 June 2025" if is_incident else recording or "a Prometheus"
    return _Feed(live, recorded, name, manifests)


def _services(feed: _Feed, settings: Settings) -> Services:
    """The services to decide for; a Prometheus evaluates their present triggers, too."""
    services = services_of(feed.manifests, settings, is_incident=not feed.manifests)
    if feed.live is not None:
        evaluate_triggers(feed.live, services)
    return services


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


def _from_history_on(run: DryRun, policies: list[FleetPolicy], feed: _Feed, span: Range) -> Iterator[Snapshot]:
    """The snapshots of the span. Before the first is decided on, the time before it is read, as a service that starts
    then would read it; not before the first is there, so that a source that cannot be read says so at once."""
    if span.steps > 1 and span.step_s > LONGEST_GAP_S:
        warn(f"--step {span.step_s:g}s: a scaleDownWindow takes a moment every {LONGEST_GAP_S:g}s; nothing scales down")
    snapshots = feed.source.snapshots(*span)
    for first in snapshots:
        run.begin(span.start_s, [_history(feed, policy.operator, span.start_s) for policy in policies])
        yield first
        yield from snapshots


def _history(feed: _Feed, operator: OperatorPolicy, start_s: float) -> Memory:
    """What is remembered at the start, as far as the source reaches back."""
    earliest_s = feed.recorded.header.start_s if feed.recorded is not None else 0.0
    wanted = spans(operator, start_s - operator.timing.tick_s, None, earliest_s)
    learnt = learn(feed.source, plan, operator, Memory(), wanted, threading.Event())
    for fault in learnt.faults:
        warn(f"the time before --start, {fault}")
    return learnt.memory


def _play(run: DryRun, finding: Finding, snapshots: Iterable[Snapshot], json_path: str | None) -> None:
    """Runs them all, and writes each moment's decisions as it comes."""
    with seldom_collecting(), json_output(json_path) as file:
        for snapshot in snapshots:
            moment = run.at(snapshot)
            finding.add(moment.plans[0])
            if file is not None:
                file.writelines(f"{json.dumps(each)}\n" for each in moment.as_json())


def _shown(run: DryRun, names: list[str], most: int | None) -> RenderableType:
    """What is printed: the tables of A, or of A beside B, then the baseline where there is one."""
    a_and_b = run.comparison
    shown = tables(run.replay) if a_and_b is None else against_tables(a_and_b, names[0], names[1], most)
    return Group(shown, asked_table(run.asked, run.replay)) if run.asked.services else shown


@dataclass(slots=True)
class Finding:
    """Decisions with a reason of --fail-on: how many, and the first in words."""

    wanted: frozenset[Reason]
    count: int = 0
    first: str | None = None

    def add(self, plan: FleetPlan) -> None:
        """One more plan is looked through."""
        if not self.wanted:
            return
        for decision in plan.decisions.values():
            hit = self.wanted.intersection(decision.reasons)
            if hit:
                self.count += 1
                who = f"{decision.key.namespace}/{decision.key.name}"
                self.first = self.first or f"{', '.join(sorted(hit))} at {at(decision.time_s)} for {who}"

    def say(self, of_whom: str) -> int:
        """Tells what was found on standard error; returns the exit status."""
        if self.first is None:
            return 0
        click.echo(f"--fail-on found {self.first}{of_whom}; {self.count} such decisions", err=True)
        return FOUND


def print_wide(shown: RenderableType) -> None:
    """Tables on standard output, as wide as the terminal is or as their figures need."""
    width = max(shutil.get_terminal_size().columns, LEAST_COLUMNS) if sys.stdout.isatty() else PIPE_COLUMNS
    console = Console(markup=False, emoji=False, highlight=False, width=width)
    # Captured and then written: rich would end a broken pipe with status 1, which means "found".
    with console.capture() as captured:
        console.print(shown)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
