"""`vram-scaler simulate`: a fleet in a model, policies side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import click
from rich.console import Console
from rich.progress import Progress

from scaler.cli.faults import Unusable
from scaler.cli.options import json_output, report_option, say_written
from scaler.cli.replay import print_wide
from scaler.report.write import write_page
from scaler.simulate.curves import TraceMissing
from scaler.simulate.policies import POLICIES
from scaler.simulate.runs import Job, Run, run_all, summaries
from scaler.simulate.scenario import Attribution, bundled_names, load_scenario
from scaler.simulate.tables import table
from scaler.simulate.timelines import timelines_page

SEEDS = 5
ATTRIBUTIONS = get_args(Attribution)


def chosen(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Callback of --policy: names with commas between, given once or more often; none is all."""
    names = [word.strip() for text in value for word in text.split(",")]
    for name in names:
        if name not in POLICIES:
            raise click.BadParameter(f"{name!r} is not a policy; it takes {', '.join(POLICIES)}")
    return tuple(dict.fromkeys(names)) or tuple(POLICIES)


@click.command(
    "simulate",
    short_help="The closed loop: policies side by side in a model of a fleet.",
    epilog=f"Scenarios that come with the package: {', '.join(bundled_names())}.",
)
@click.argument("scenario", metavar="SCENARIO")
@click.option("--policy", "policies", callback=chosen, multiple=True, metavar="NAME,...", help="Default: all.")
@click.option("--attribution", type=click.Choice(ATTRIBUTIONS), help="What tells pods apart. Default: the scenario's.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=SEEDS, show_default=True, help="Runs of each policy.")
@click.option("--traces", metavar="DIR", help="Where the public traces lie that a scenario may read.")
@click.option("--json", "json_path", metavar="FILE", help="Every run, one JSON object a line; - is stdout.")
@report_option
def simulate_command(
    scenario: str,
    policies: tuple[str, ...],
    attribution: Attribution | None,
    seeds: int,
    traces: str | None,
    json_path: str | None,
    report: str | None,
) -> int:
    """Runs SCENARIO, one of the package's or a YAML file, under each policy. Same scenario and seed, same outcome."""
    if json_path is not None and not Path(json_path).absolute().parent.is_dir():  # before minutes of runs, not after
        raise Unusable(f"{json_path}: no such directory")
    name, loaded = load_scenario(scenario)
    directory = Path(traces) if traces is not None else None
    try:
        for service in loaded.services:
            service.load.curve(directory)
    except TraceMissing as missing:
        raise click.UsageError(f"{name} {missing}") from None
    jobs = [Job(scenario, policy, seed, attribution) for policy in policies for seed in range(1, seeds + 1)]
    runs = list(_shown((run for _, run in run_all(jobs, directory)), len(jobs), name))
    runs.sort(key=lambda run: (policies.index(run.policy), run.seed))
    with json_output(json_path) as file:
        if file is not None:
            file.writelines(f"{json.dumps(run.as_json(name))}\n" for run in runs)
    if json_path != "-":
        print_wide(table(name, loaded, summaries(runs, policies), seeds, runs))
    if report is not None:
        page = timelines_page(name, loaded.about, [run.as_json(name) for run in runs])
        say_written(report, write_page(Path(report), page))
    return 0


def _shown(runs: Iterable[Run], count: int, name: str) -> Iterator[Run]:
    """The same runs, with a bar on standard error where a terminal reads it."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=count)
        for run in runs:
            progress.advance(task)
            yield run
