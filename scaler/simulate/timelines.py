"""Several policies over the same modelled time, as a page: all of them above each other, then each by itself.

Takes runs as `simulate --json` writes them, one object each: `policy`, `seed`, `scores`, and a `timeline` of a row a
minute with `at_s`, per service `replicas`, `ready`, `needed` and `failed_ratio`, and `tightest_free_mib`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scaler.report.page import Chart, Column, Curve, Page, Role, Row, Section, Table
from scaler.simulate.runs import over_seeds

Run = Mapping[str, Any]
Minute = Mapping[str, Any]
Scores = Mapping[str, float | None]

# The same two hues as in a replay: what is ours, and what the usual triggers do. The oracle is dotted, the rest grey.
ROLES: Mapping[str, Role] = {"ours": "ours", "naive": "real", "oracle": "demand"}
ROWS = (
    ("replicas of all services", 170.0),
    ("free VRAM of the tightest card, GiB", 150.0),
    ("failed attempts, %", 110.0),
)
# (score, column): what the table has, in this order.
SHORT = (
    ("unsafe_grants", "unsafe grants"),
    ("lost_requests", "lost requests"),
    ("failed_attempts", "failed attempts"),
    ("replica_hours", "replica hours"),
    ("unmet_s", "unmet demand, s"),
    ("worst_free_mib", "worst free VRAM, MiB"),
    ("below_low_s", "below the low watermark, s"),
)


def timelines_page(scenario: str, about: str, runs: Sequence[Run]) -> Page:
    """The page of a scenario's runs; the curves are those of each policy's first seed, the table has all seeds."""
    policies = list(dict.fromkeys(str(run["policy"]) for run in runs))
    first = {policy: next(run for run in runs if run["policy"] == policy) for policy in policies}
    medians, worst = dict[str, Scores](), dict[str, Scores]()
    for policy in policies:
        scores = [run["scores"] for run in runs if run["policy"] == policy]
        medians[policy], worst[policy] = over_seeds(scores)
    seeds = len({run["seed"] for run in runs})
    minutes = max((len(run["timeline"]) for run in first.values()), default=0)
    together = [curve for policy in policies for curve in _curves(first[policy], ROLES.get(policy, "plain"), policy)]
    rows = tuple(Row(*row) for row in ROWS)
    sections = [
        Section(
            "together",
            "All policies",
            f"Seed {first[policies[0]]['seed']} of each, a point a minute." if policies else "",
            [Chart(f"All policies in {scenario}: replicas, free VRAM, failed attempts", rows, together)],
            [_scores(medians, worst, seeds)],
        ),
        *(_alone(policy, first[policy], is_open=policy == "ours") for policy in policies),
    ]
    start_s = min((float(run["timeline"][0]["at_s"]) for run in first.values() if run["timeline"]), default=0.0)
    return Page(
        title=f"vram-scaler simulate {scenario}",
        subtitle=f"{scenario}: {about} Times count from the start.",
        verdict=_verdict(medians, worst),
        details=(),
        figures=(),
        sections=sections,
        notes=("A model, not a record: what it leaves out is in docs/simulate.md.",),
        start_s=start_s,
        step_s=60.0,
        steps=max(minutes, 1),
        is_clock=False,
    )


def _alone(policy: str, run: Run, is_open: bool) -> Section:
    needed = _curve(0, "needed by fresh load", "demand", run, lambda minute: sum(minute["needed"].values()), True)
    ready = _curve(0, "ready", "plain", run, lambda minute: sum(minute["ready"].values()), True)
    curves = [*_curves(run, ROLES.get(policy, "plain") if policy != "oracle" else "ours", "replicas"), ready, needed]
    chart = Chart(f"{policy}: replicas, free VRAM, failed attempts", tuple(Row(*row) for row in ROWS), curves)
    return Section(f"policy-{policy}", policy, "", (chart,), (), is_open)


def _curves(run: Run, role: Role, name: str) -> list[Curve]:
    return [
        _curve(0, name, role, run, lambda minute: sum(minute["replicas"].values()), True),
        _curve(1, name, role, run, lambda minute: minute["tightest_free_mib"] / 1024, False),
        _curve(2, name, role, run, lambda minute: 100 * max(minute["failed_ratio"].values(), default=0.0), False),
    ]


def _curve(row: int, name: str, role: Role, run: Run, value: Callable[[Minute], float], is_step: bool) -> Curve:
    values = [value(minute) for minute in run["timeline"]]
    return Curve(row, name, role, range(len(values)), values, is_step)


def _scores(medians: Mapping[str, Scores], worst: Mapping[str, Scores], seeds: int) -> Table:
    columns = [Column("policy"), *(Column(title, True) for _, title in SHORT)]
    rows = [(policy, *(_cell(medians[policy], worst[policy], name) for name, _ in SHORT)) for policy in medians]
    over = f"median/worst over {seeds} seeds" if seeds > 1 else "1 seed"
    return Table(f"Scores, {over}", columns, rows)


def _cell(medians: Scores, worst: Scores, name: str) -> str:
    shown = _number(medians, name), _number(worst, name)
    return shown[0] if shown[0] == shown[1] else "/".join(shown)


def _verdict(medians: Mapping[str, Scores], worst: Mapping[str, Scores]) -> list[str]:
    """Whether each policy was safe, what it lost and what it cost: ours first, then the rest, the least lost first."""
    order = sorted(medians, key=lambda policy: (policy != "ours", medians[policy].get("lost_requests") or 0.0))
    texts: list[str] = []
    for policy in order:
        scores, unsafe = medians[policy], worst[policy].get("unsafe_grants")
        of = f" of {_number(scores, 'fresh_requests')}" if not texts else ""
        lost, hours = _number(scores, "lost_requests"), _number(scores, "replica_hours")
        grants = (
            "no unsafe grant" if unsafe == 0 else f"{_number(worst[policy], 'unsafe_grants')} unsafe grants at worst"
        )
        safety = "" if unsafe is None else f"made {grants} and "
        texts.append(f"{policy} {safety}lost {lost}{of} requests with {hours} replica-hours.")
    return texts or ["Nothing was run."]


def _number(scores: Scores, name: str) -> str:
    value = scores.get(name)
    return "-" if value is None else f"{value:,.1f}" if name.endswith("hours") else f"{value:,.0f}"
