"""`vram-scaler check`: what in ScaledObjects would not do what it seems to, before they are applied."""

from __future__ import annotations

import click

from scaler.check.finding import Level
from scaler.check.formats import as_github, as_json, as_text
from scaler.check.lint import DEFAULT_LOAD_TIME_S, lint
from scaler.check.manifest import read_manifests
from scaler.cli.options import all_manifests, config_option, manifests_option
from scaler.cli.statuses import FOUND
from scaler.quantity import parse_duration
from scaler.settings import load_settings

LONGEST_LOAD_S = 86400.0


def load_time(_: click.Context, __: click.Parameter, value: str | None) -> float:
    """Callback of --load-time."""
    if value is None:
        return DEFAULT_LOAD_TIME_S
    try:
        load_s = parse_duration(value)
        if load_s > LONGEST_LOAD_S:
            raise ValueError("out of range")
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}; it takes a duration such as 2m, 0s to 24h") from None
    return load_s


@click.command("check", short_help="What in ScaledObjects would defeat the scaler.")
@manifests_option
@config_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="For people, one JSON object a line, or GitHub annotations.",
)
@click.option(
    "--load-time",
    "load_time_s",
    callback=load_time,
    metavar="DURATION",
    help="A replica's time from start to ready; default 2m.",
)
def check_command(
    manifests: tuple[str, ...], more_manifests: tuple[str, ...], config: str | None, form: str, load_time_s: float
) -> int:
    """Lints ScaledObjects and the configuration: everything at once, each with its line, why, and what to write.

    Exit status 1 says that there is an error: a manifest that is refused, or that lets a veto or an "unknown" be passed
    by. Warnings are shown and leave it at 0.
    """
    settings = load_settings(config)
    files = all_manifests(manifests, more_manifests)
    if not files and config is None:
        raise click.UsageError("-f is missing: it takes the ScaledObjects to check, or --config alone")
    found = read_manifests(files)
    findings = lint(found, settings, load_time_s)
    lines = {"text": lambda: as_text(findings, len(found)), "json": lambda: as_json(findings)}
    for line in lines.get(form, lambda: as_github(findings))():
        click.echo(line)
    return FOUND if any(finding.level is Level.ERROR for finding in findings) else 0
