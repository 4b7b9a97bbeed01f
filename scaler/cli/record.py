"""`vram-scaler record`: makes a recording from a Prometheus."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich import filesize
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scaler import __version__
from scaler.check.lint import refusal
from scaler.cli.faults import Unusable, warn
from scaler.cli.feed import Range, evaluate_triggers, open_prometheus, time_range
from scaler.cli.options import (
    all_manifests,
    config_option,
    end_option,
    given_namespace,
    is_relative,
    manifests_option,
    prometheus_option,
    refuse_irregular,
    start_option,
    step_option,
)
from scaler.cli.statuses import INTERRUPTED
from scaler.explain import at
from scaler.manifests import read_services
from scaler.settings import Settings, load_settings
from scaler.sources.baseline import Baseline
from scaler.sources.prometheus import PrometheusSource
from scaler.sources.recording_format import RecordingHeader, schema
from scaler.sources.recording_writer import RecordingWriter, header_of, part_of

LINE_EVERY_S = 30.0  # where nobody watches a bar
MOST_PROBLEMS = 10


def print_schema(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Callback of --schema."""
    if wanted:
        click.echo(schema(), nl=False)
        context.exit()


@click.command("record", short_help="Make a recording from a Prometheus.")
@config_option
@prometheus_option
@start_option
@end_option
@step_option
@manifests_option
@click.option("-o", "--output", required=True, metavar="FILE", help="Gzipped where the name ends in .gz.")
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_schema,
    help="Print the JSON Schema of a recording's lines.",
)
def record_command(
    config: str | None,
    prometheus: str | None,
    start: float | None,
    end: float | None,
    step: float | None,
    manifests: tuple[str, ...],
    more_manifests: tuple[str, ...],
    output: str,
) -> None:
    """Reads a range of time from a Prometheus and writes it as a recording, which replay and serve take.

    Until it is whole it is FILE.part; interrupted, the same command continues it. With -f the prometheus triggers of
    these ScaledObjects are evaluated as well: what they asked for is what a replay compares with.
    """
    settings = load_settings(config)
    files = all_manifests(manifests, more_manifests)
    services = read_services(files, settings, given_namespace(), refusal)
    source = open_prometheus(settings, prometheus)
    if source is None:
        raise click.UsageError("no Prometheus: it takes --prometheus URL, or --config with a prometheus section")
    evaluate_triggers(source, services)
    refuse_irregular(output)
    path = Path(output)
    span = _in_milliseconds(time_range(start, end, step, settings, None))
    if is_relative():
        span = _begun(path, span)
    header = _header(span, settings, source, services.baselines)
    _refuse_another(path, header)
    try:
        with RecordingWriter(path, header) as writer:
            _record(source, writer, span)
    except OSError as error:
        raise Unusable(f"{output}: {error.strerror or error}") from None
    except KeyboardInterrupt:
        # The threads that wait for Prometheus would hold the process for up to historyDeadline. Files are closed.
        os._exit(INTERRUPTED)
    finally:
        source.close()
    for problem, snapshots in writer.problems.most_common(MOST_PROBLEMS):
        warn(f"{problem.signal}: {problem.text} ({snapshots} of {writer.count} snapshots)")
    size = filesize.decimal(path.stat().st_size)
    click.echo(f"{output}: {writer.count} snapshots, {at(span.start_s)} to {at(span.end_s)}, {size}", err=True)


def _record(source: PrometheusSource, writer: RecordingWriter, span: Range) -> None:
    """Asks for what is not there yet, and puts the file in its place; what was read is kept, whatever ends it."""
    from_s, steps = span.start_s + writer.next_step * span.step_s, span.steps
    try:
        if writer.count:
            click.echo(
                f"{writer.part}: goes on at {at(from_s)}, {writer.count} of {steps} snapshots are there", err=True
            )
        with _progress(writer, steps) as advance:
            for snapshot in source.whole_snapshots(from_s, span.end_s, span.step_s):
                writer.add(snapshot)
                advance()
        if writer.is_blank:
            why = "".join(f"; {problem.signal}: {problem.text}" for problem, _ in writer.problems.most_common(1))
            writer.discard()
            raise Unusable(f"nothing to record: no workload and no card in any of {writer.count} snapshots{why}")
        writer.finish()
    except BaseException:
        if writer.kept and writer.part.exists():
            click.echo(
                f"{writer.part}: {writer.kept} of {steps} snapshots are kept; the same command goes on there", err=True
            )
        else:
            writer.discard()
        raise


def _in_milliseconds(span: Range) -> Range:
    """As Prometheus counts time."""
    return Range(*(round(seconds, 3) for seconds in span))


def _header(span: Range, settings: Settings, source: PrometheusSource, baselines: list[Baseline]) -> RecordingHeader:
    """What makes two recordings the same one: the range, the windows, and whom was asked what."""
    asked = json.dumps([sorted(source.promql.items()), baselines]).encode()
    about = {
        "made by": f"vram-scaler {__version__} record",
        "prometheus": source.url,
        "queries": f"sha256 {hashlib.sha256(asked).hexdigest()[:16]}",
    }
    return RecordingHeader(*span, settings.timing, about)


def _refuse_another(path: Path, header: RecordingHeader) -> None:
    """A whole recording is put in the place of one of the same time only: Prometheus may have forgotten the other's."""
    there = header_of(path)
    if there is not None and (there.start_s, there.end_s) != (header.start_s, header.end_s):
        times = f"{at(there.start_s)} to {at(there.end_s)}"
        raise Unusable(f"{path}: holds the recording of {times}: remove it, or take another name with -o")


def _begun(path: Path, span: Range) -> Range:
    """The span of what is there already if it is as long: `now` was another moment then."""
    begun = header_of(part_of(path))
    if begun is None or not math.isclose(begun.end_s - begun.start_s, span.end_s - span.start_s, abs_tol=0.001):
        return span
    return Range(begun.start_s, begun.end_s, span.step_s)


@contextmanager
def _progress(writer: RecordingWriter, steps: int) -> Iterator[Callable[[], None]]:
    """Says how far it is: a bar on a terminal, else a line every half minute; and the size, once it can be guessed."""
    before, begun_s = writer.count, time.monotonic()
    console = Console(stderr=True, markup=False, highlight=False)
    told_s, guessed = begun_s, before > 0
    bar_of_20 = BarColumn(bar_width=20)  # all of it fits 80 columns
    columns = (bar_of_20, MofNCompleteColumn(), TextColumn("{task.fields[more]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps, completed=before, more="")

        def advance() -> None:
            nonlocal told_s, guessed
            now_s = time.monotonic()
            rate = (writer.count - before) / max(now_s - begun_s, 0.001)
            if writer.kept and not guessed:
                guessed = True
                whole = filesize.decimal(round(writer.size_bytes / writer.kept * steps))
                bar.console.print(f"about {whole} in the end, as {writer.kept} of {steps} snapshots suggest")
            more = f"{filesize.decimal(writer.size_bytes)}, {rate:.1f} snapshots/s"
            bar.update(task, completed=writer.count, more=more)
            if bar.disable and now_s - told_s >= LINE_EVERY_S:
                told_s = now_s
                left_s = (steps - writer.count) / rate
                console.print(f"{writer.count} of {steps} snapshots, {more}, about {left_s / 60:.1f} min left")

        yield advance
