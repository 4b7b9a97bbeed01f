"""`vram-scaler check`: what in ScaledObjects would not do what it seems to, before they are applied."""

from __future__ import annotations

import click

from scaler.check.finding import Level
from scaler.check.formats import as_github, as_json, as_text
from scaler.check.lint import lint
from scaler.check.manifest import read_manifests
from scaler.cli.options import all_manifests, config_option, manifests_option
from scaler.cli.statuses import FOUND
from scaler.settings import load_settings


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
def check_command(manifests: tuple[str, ...], more_manifests: tuple[str, ...], config: str | None, form: str) -> int:
    """Lints ScaledObjects and the configuration: everything at once, each with its line, why, and what to write.

    Exit status 1 says that there is an error: a manifest that is refused, or that lets a veto or an "unknown" be passed
    by. Warnings are shown and leave it at 0.
    """
    settings = load_settings(config)
    files = all_manifests(manifests, more_manifests)
    if not files and config is None:
        raise click.UsageError("-f is missing: it takes the ScaledObjects to check, or --config alone")
    found = read_manifests(files)
    findings = lint(found, settings)
    lines = {"text": lambda: as_text(findings, len(found)), "json": lambda: as_json(findings)}
    for line in lines.get(form, lambda: as_github(findings))():
        click.echo(line)
    return FOUND if any(finding.level is Level.ERROR for finding in findings) else 0
