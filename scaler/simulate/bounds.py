"""What ours is held to, scenario by scenario, against the oracle and the other policies, as medians over the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from scaler.simulate.policies import ORACLE, OURS
from scaler.simulate.runs import Job
from scaler.simulate.scenario import Attribution

LOST_RATIO, HOURS_RATIO, UNMET_TICKS = 1.05, 1.10, 2.0
TICK_S = 15.0
# Fewer lost than one in a hundred thousand is none: a ratio of two such numbers says nothing.
LOST_NONE_RATIO = 1e-5


class Row(NamedTuple):
    """One run of the matrix. `rises` is how often the need of a service went up."""

    job: Job
    scores: Mapping[str, Any]
    rises: int


class Bounds(NamedTuple):
    """One scenario's. Ratios and differences are of the seeds that both have: the median, and the worst.

    Attributes:
        seeds: of ours.
        unsafe_runs / unsafe_grants: runs with any, and the sum over all runs.
        lost_ratio: lost requests, ours over the oracle's; 1 where neither loses any, None without the oracle.
        hours_ratio: replica-hours likewise.
        unmet_ticks: unmet seconds, ours less the oracle's, in ticks of 15 s for each rise of a service's need.
        reversals: by policy, the median.
    """

    scenario: str
    seeds: int
    unsafe_runs: int
    unsafe_grants: int
    lost_ratio: tuple[float, float] | None
    hours_ratio: tuple[float, float] | None
    unmet_ticks: tuple[float, float] | None
    reversals: Mapping[str, float]

    @property
    def missed(self) -> tuple[str, ...]:
        """The names of the bounds that the median misses; unsafe grants count in any run."""
        ours = self.reversals[OURS]
        steadier = [
            policy for policy, each in self.reversals.items() if policy not in (OURS, ORACLE) and 0 < ours >= each
        ]
        found = {
            "unsafe": self.unsafe_grants > 0,
            "lost": self.lost_ratio is not None and self.lost_ratio[0] > LOST_RATIO,
            "hours": self.hours_ratio is not None and self.hours_ratio[0] > HOURS_RATIO,
            "unmet": self.unmet_ticks is not None and self.unmet_ticks[0] > UNMET_TICKS,
            f"reversals ({', '.join(steadier)})": bool(steadier),
        }
        return tuple(name for name, is_missed in found.items() if is_missed)


def bounds(scenario: str, rows: Iterable[Row]) -> Bounds | None:
    """Of the scenario's rows; None where ours has none."""
    of: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row.job.scenario == scenario:
            of.setdefault(row.job.policy, {})[row.job.seed] = row
    ours, oracle = of.get(OURS), of.get(ORACLE, {})
    if not ours:
        return None
    pairs = [(ours[seed], oracle[seed]) for seed in sorted(ours.keys() & oracle.keys())]
    unsafe = [row.scores["unsafe_grants"] for row in ours.values()]
    return Bounds(
        scenario,
        len(ours),
        sum(count > 0 for count in unsafe),
        sum(unsafe),
        _median_and_worst([_lost_ratio(mine, best) for mine, best in pairs]),
        _median_and_worst([mine.scores["replica_hours"] / best.scores["replica_hours"] for mine, best in pairs]),
        _median_and_worst([_unmet_ticks(mine, best) for mine, best in pairs]),
        {policy: median(row.scores["reversals"] for row in seeds.values()) for policy, seeds in of.items()},
    )


def _lost_ratio(ours: Row, oracle: Row) -> float:
    fresh = ours.scores["fresh_requests"]
    mine, best = (max(row.scores["lost_requests"], LOST_NONE_RATIO * fresh) for row in (ours, oracle))
    return float(mine / best)


def _unmet_ticks(ours: Row, oracle: Row) -> float:
    return float((ours.scores["unmet_s"] - oracle.scores["unmet_s"]) / TICK_S / max(1, ours.rises))


def _median_and_worst(values: Sequence[float]) -> tuple[float, float] | None:
    return (median(values), max(values)) if values else None


def errors(rows: Sequence[Row], attributions: Sequence[Attribution]) -> str:
    """A table in Markdown: a row a scenario of ours, for each attribution the own share's error (points) and the fresh
    demand's: the median over the seeds of each run's median. First, what no attribution at all would mean."""
    scenarios = list(dict.fromkeys(row.job.scenario for row in rows))
    lines = [_line(["scenario", "neighbours' part, points", *(f"{each}: own share, fresh" for each in attributions)])]
    lines.append(_line(["---", *["---:"] * (1 + len(attributions))]))
    for scenario in scenarios:
        of_scenario = [row for row in rows if row.job.scenario == scenario and row.job.policy == OURS]
        cells = [_middle(of_scenario, "neighbour_share_points", "{:.1f}")]
        for attribution in attributions:
            of_mode = [row for row in of_scenario if row.job.attribution == attribution]
            share, fresh = ("share_error_points", "{:.1f}"), ("fresh_error_ratio", "{:.1%}")
            cells.append(f"{_middle(of_mode, *share)}, {_middle(of_mode, *fresh)}")
        lines.append(_line([scenario, *cells]))
    return "\n".join(lines)


def _middle(rows: Iterable[Row], score: str, form: str) -> str:
    values = [row.scores[score] for row in rows if row.scores[score] is not None]
    return form.format(median(values)) if values else "-"


def table(found: Iterable[Bounds], policies: Sequence[str]) -> str:
    """A table in Markdown: a row a scenario, median and worst, the bounds in the head; missed ones stand in the last
    column."""
    head = [
        "scenario",
        "seeds",
        "unsafe grants (0)",
        f"lost / oracle's (<= {LOST_RATIO:g})",
        f"replica-hours / oracle's (<= {HOURS_RATIO:.2f})",
        f"unmet - oracle's, ticks a rise (<= {UNMET_TICKS:g})",
        f"reversals: {', '.join(policies)}",
        "missed",
    ]
    lines = [_line(head), _line(["---"] + ["---:"] * (len(head) - 3) + ["---", "---"])]
    for each in found:
        unsafe = f"{each.unsafe_grants} in {each.unsafe_runs} runs" if each.unsafe_grants else "0"
        reversals = ", ".join(f"{each.reversals[p]:g}" if p in each.reversals else "-" for p in policies)
        cells = [each.scenario, str(each.seeds), unsafe]
        cells += [_cell(pair) for pair in (each.lost_ratio, each.hours_ratio, each.unmet_ticks)]
        lines.append(_line([*cells, reversals, ", ".join(each.missed) or "none"]))
    return "\n".join(lines)


def _cell(pair: tuple[float, float] | None) -> str:
    if pair is None:
        return "-"
    middle, worst = f"{pair[0]:.2f}", f"{pair[1]:.2f}"
    return middle if middle == worst else f"{middle} / {worst}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
