"""The scores of a scenario as a table: a row a policy, median and worst over the seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scaler.simulate.runs import Run, Summary
from scaler.simulate.scenario import Scenario

# (score, column, format): what is shown, in this order; the JSON has all of it.
COLUMNS = (
    ("unsafe_grants", "unsafe\ngrants", "{:.0f}"),
    ("lost_requests", "lost\nrequests", "{:,.0f}"),
    ("failed_attempts", "failed\nattempts", "{:,.0f}"),
    ("replica_hours", "replica\nhours", "{:.1f}"),
    ("unmet_s", "unmet\nseconds", "{:,.0f}"),
    ("reversals", "rever-\nsals", "{:.0f}"),
    ("worst_free_mib", "worst free\nMiB", "{:,.0f}"),
    ("below_low_s", "below low\nseconds", "{:,.0f}"),
    ("fresh_error_ratio", "fresh\nerror", "{:.0%}"),
    ("share_error_points", "share\nerror", "{:.1f}"),
)


def table(
    name: str, scenario: Scenario, summaries: Sequence[Summary], seeds: int, runs: Sequence[Run] = ()
) -> RenderableType:
    """Each figure is the median over the seeds, and the worst one after a stroke where it differs. Below, who of the
    `runs` got less than it asked for, and why."""
    rows = Table(title=None, pad_edge=False, show_edge=False)
    rows.add_column("policy", no_wrap=True)
    for _, column, _ in COLUMNS:
        rows.add_column(column, justify="right", no_wrap=True)
    for summary in summaries:
        rows.add_row(summary.policy, *(_cell(summary, score, form) for score, _, form in COLUMNS))
    fresh = summaries[0].median["fresh_requests"] if summaries else None
    of = f", {fresh:,.0f} requests" if fresh is not None else ""
    return Group(
        Text(f"{name}: {scenario.about}", style="bold"),
        Text(
            f"{_length(scenario.duration_s)}{of}, {f'{seeds} seeds; median/worst over them' if seeds > 1 else '1 seed'}"
        ),
        rows,
        Text(
            "Lost: never answered, retries included. Unmet: with fewer ready replicas than the fresh load needs, "
            "summed over services.\nErrors: of fresh demand while requests fail; of the own share, in points.",
            style="dim",
        ),
        *(Text(line) for line in _withheld(runs)),
    )


def _withheld(runs: Sequence[Run]) -> list[str]:
    """A line a policy that gives reasons: the minutes of all its runs, by service and reason, the most first."""
    minutes: dict[str, Counter[str]] = {}
    for run in runs:
        found = minutes.setdefault(run.policy, Counter())
        for minute in run.timeline:
            found.update(f"{service} {reason}" for service, reason in minute.withheld.items())
    return [
        f"{policy} gave less than was asked for, in minutes of all seeds: "
        + ", ".join(f"{what} {count}" for what, count in sorted(found.items(), key=lambda item: (-item[1], item[0])))
        for policy, found in minutes.items()
        if found
    ]


def _length(duration_s: float) -> str:
    return f"{duration_s / 3600:g} h" if duration_s % 900 == 0 else f"{duration_s / 60:.4g} min"


def _cell(summary: Summary, score: str, form: str) -> str:
    middle, worst = summary.median[score], summary.worst[score]
    if middle is None or worst is None:
        return "-"
    shown = form.format(middle), form.format(worst)
    return shown[0] if shown[0] == shown[1] else "/".join(shown)
