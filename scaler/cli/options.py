"""What the flags take: moments, durations, addresses, lists of files."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from scaler.address import Address, parse_address
from scaler.cli.faults import Unusable
from scaler.duration import LAST_MOMENT_S, LEAST_STEP_S, MOST_STEP_S, parse_duration

_Command = TypeVar("_Command", bound=Callable[..., Any])

_RFC_3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_UNIX = re.compile(r"\d{9,12}(\.\d{1,9})?", re.ASCII)  # from 1973 on: fewer digits are a mistyped year
_RELATIVE = re.compile(r"now(?:-([0-9a-z.]{1,32}))?", re.ASCII)
_NOW, _IS_RELATIVE, _NAMESPACE = "scaler.now", "scaler.relative-moment", "scaler.namespace"


def parse_moment(text: str, now_s: float) -> float:
    """Unix seconds of "2025-06-18T00:00:00Z", "1750204800", "now" or "now-6h"; raises ValueError."""
    relative = _RELATIVE.fullmatch(text)
    if relative is not None:
        at_s = now_s - (parse_duration(relative[1]) if relative[1] else 0.0)
    elif _UNIX.fullmatch(text):
        at_s = float(text)
    elif _RFC_3339.fullmatch(text):
        at_s = datetime.fromisoformat(text.upper()).timestamp()
    else:
        raise ValueError("not a time")
    if not 0 <= at_s <= LAST_MOMENT_S:
        raise ValueError("not within the years 1970 to 9999")
    return at_s


def moment(context: click.Context, _: click.Parameter, value: str | None) -> float | None:
    """Callback of --start and --end. `now` is whole seconds, so that a range made of it has whole instants, and the
    same for both."""
    now_s = context.meta.setdefault(_NOW, float(int(time.time())))
    try:
        moment_s = None if value is None else parse_moment(value, now_s)
        if value is not None and _RELATIVE.fullmatch(value):
            context.meta[_IS_RELATIVE] = True
        return moment_s
    except ValueError as error:
        takes = "RFC 3339 with its offset (2025-06-18T00:00:00Z), Unix seconds, now, or now-6h"
        raise click.BadParameter(f"{value!r}: {error}; it takes {takes}") from None


def is_relative() -> bool:
    """True if --start or --end of this call counts from now: the same words mean another time when said again."""
    return bool(click.get_current_context().meta.get(_IS_RELATIVE))


def step(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Callback of --step."""
    if value is None:
        return None
    try:
        step_s = parse_duration(value)
        if not LEAST_STEP_S <= step_s <= MOST_STEP_S:
            raise ValueError("out of range")
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}; it takes a duration such as 15s, 500ms to 1h") from None
    return step_s


def speed(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """Callback of --speed: click's range lets NaN pass, which is neither below nor above."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number; it takes 1 to 10000")
    return value


def address(_: click.Context, __: click.Parameter, value: str | Address | None) -> Address | None:
    """Callback of --listen and --http."""
    try:
        return None if value is None else parse_address(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}; it takes HOST:PORT, port 0 to 65535") from None


def report(context: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Callback of --report: says before a long run that what draws is not installed, or that the file has no place."""
    if value is None:
        return None
    from scaler.report.write import PlotlyMissing, plotly_script

    if value == "-":
        raise click.UsageError("--report: it takes the name of a file", context)
    try:
        plotly_script()
    except PlotlyMissing as missing:
        raise Unusable(str(missing)) from None
    if not Path(value).absolute().parent.is_dir():
        raise Unusable(f"{value}: no such directory")
    refuse_irregular(value)
    return value


def refuse_irregular(path: str) -> None:
    """What is written is put in its place by a rename, which would replace /dev/null itself, or fail at the end."""
    if Path(path).exists() and not Path(path).is_file():
        raise Unusable(f"{path}: not a regular file")


@contextmanager
def json_output(path: str | None) -> Iterator[IO[str] | None]:
    """The file of --json, standard output for `-`, None without one. A write that fails names the file."""
    if path is None:
        yield None
        return
    try:
        with click.open_file(path, "w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        if path != "-":
            error.filename = error.filename or path
        raise


def say_written(path: str, size_bytes: int) -> None:
    """Where the page is."""
    click.echo(f"{path}: {size_bytes / 1e6:.1f} MB, opens in a browser without network", err=True)


report_option = click.option(
    "--report",
    callback=report,
    metavar="FILE",
    help="One HTML page that opens without network: verdict, charts, tables.",
)
config_option = click.option("--config", metavar="FILE", help="Settings (YAML), the operator's policy.")
recording_option = click.option("--recording", metavar="FILE", help="A recording, as `record` writes it.")
prometheus_option = click.option(
    "--prometheus", metavar="URL", help="A Prometheus; wins over prometheus.url of --config."
)
start_option = click.option("--start", callback=moment, metavar="TIME", help="RFC 3339, Unix seconds, now, or now-6h.")
end_option = click.option("--end", callback=moment, metavar="TIME", help="The last moment, included.")
step_option = click.option(
    "--step",
    callback=step,
    metavar="DURATION",
    help="Time between two moments; default: timing.tick, of a recording its own.",
)


def manifests_option(command: _Command) -> _Command:
    """`-f a.yaml b.yaml`, as a shell makes of `-f *.yaml`: what trails the first file without a flag is a file, too."""
    more = click.argument("more_manifests", nargs=-1, metavar="[FILE]...")
    namespace = click.option(
        "-n",
        "--namespace",
        metavar="NAME",
        expose_value=False,
        callback=_namespace,
        help="Of manifests that name none, as kubectl's.",
    )
    return click.option(
        "-f", "--filename", "manifests", multiple=True, metavar="FILE", help="ScaledObject manifests; - is stdin."
    )(namespace(more(command)))


def _namespace(context: click.Context, _: click.Parameter, value: str | None) -> None:
    context.meta[_NAMESPACE] = value


def given_namespace() -> str | None:
    """The --namespace of this call."""
    namespace: str | None = click.get_current_context().meta.get(_NAMESPACE)
    return namespace


def all_manifests(manifests: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """The files of -f and those that trail it."""
    if more and not manifests:
        raise click.UsageError(f"unexpected argument {more[0]!r}; manifests take -f", click.get_current_context())
    return (*manifests, *more)
