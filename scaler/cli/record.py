"""`vram-scaler record`: makes a recording from a Prometheus."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from scaler import __version__
from scaler.cli.faults import Unusable, warn
from scaler.cli.feed import Range, open_prometheus, time_range
from scaler.cli.options import config_option, end_option, prometheus_option, start_option, step_option
from scaler.explain import at
from scaler.settings import load_settings
from scaler.snapshot import Problem, Snapshot
from scaler.sources.recording import RecordingHeader, write_recording

PROGRESS_STEPS = 100
MOST_PROBLEMS = 10


@click.command("record", short_help="Make a recording from a Prometheus.")
@config_option
@prometheus_option
@start_option
@end_option
@step_option
@click.option("-o", "--output", required=True, metavar="FILE", help="Gzipped where the name ends in .gz.")
def record_command(
    config: str | None, prometheus: str | None, start: float | None, end: float | None, step: float | None, output: str
) -> None:
    """Reads a range of time from a Prometheus and writes it as a recording, which replay and serve take."""
    settings = load_settings(config)
    source = open_prometheus(settings, prometheus)
    if source is None:
        raise click.UsageError("no Prometheus: it takes --prometheus URL, or --config with a prometheus section")
    span = time_range(start, end, step, settings, None)
    header = RecordingHeader(
        span.start_s, span.end_s, span.step_s, settings.timing, {"made by": f"vram-scaler {__version__} record"}
    )
    problems: Counter[Problem] = Counter()
    try:
        seen = _not_blank(source.snapshots(*span), problems)
        count = write_recording(Path(output), header, _with_progress(seen, span, problems))
    except OSError as error:
        raise Unusable(f"{output}: {error.strerror or error}") from None
    finally:
        source.close()
    for problem, snapshots in problems.most_common(MOST_PROBLEMS):
        warn(f"{problem.signal}: {problem.text} ({snapshots} of {count} snapshots)")
    click.echo(f"{output}: {count} snapshots, {at(span.start_s)} to {at(span.end_s)}", err=True)


def _not_blank(snapshots: Iterator[Snapshot], problems: Counter[Problem]) -> Iterator[Snapshot]:
    """The same snapshots; raises Unusable at their end if all were blank, so that no file is put in place."""
    count, is_blank = 0, True
    for snapshot in snapshots:
        count += 1
        is_blank = is_blank and not snapshot.workloads and not snapshot.cards
        yield snapshot
    if is_blank:
        why = "".join(f"; {problem.signal}: {problem.text}" for problem, _ in problems.most_common(1))
        raise Unusable(f"nothing to record: no workload and no card in any of {count} snapshots{why}")


def _with_progress(snapshots: Iterator[Snapshot], span: Range, problems: Counter[Problem]) -> Iterator[Snapshot]:
    """The same snapshots, their problems counted; on a terminal, a line that says how far they are."""
    terminal = sys.stderr.isatty()
    for number, snapshot in enumerate(snapshots):
        if terminal and number % PROGRESS_STEPS == 0:
            done = (snapshot.taken_at_s - span.start_s) / max(span.end_s - span.start_s, span.step_s)
            click.echo(f"\r{done:4.0%}  {at(snapshot.taken_at_s)} ", nl=False, err=True)
        problems.update(snapshot.problems)
        yield snapshot
    if terminal:
        click.echo("\r\033[K", nl=False, err=True)
