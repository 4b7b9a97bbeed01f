"""The page of a modelled scenario: policies above each other, their scores, and a verdict from the scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from scaler.cli.commands import cli
from scaler.simulate.timelines import timelines_page
from tests.test_simulate_cli import SMALL

if TYPE_CHECKING:
    from tests.browser import OpenPage

pytest_plugins = ("tests.browser",)


def run(policy: str, seed: int, lost: float, *replicas: int, unsafe: int = 0) -> dict[str, Any]:
    minutes = [
        {
            "at_s": 60.0 * minute,
            "replicas": {"a": count, "b": 1},
            "ready": {"a": count, "b": 1},
            "needed": {"a": 2, "b": 1},
            "failed_ratio": {"a": 0.25, "b": 0.5},
            "tightest_free_mib": 512.0,
        }
        for minute, count in enumerate(replicas)
    ]
    scores = {
        "unsafe_grants": unsafe,
        "lost_requests": lost,
        "fresh_requests": 1000.0,
        "replica_hours": 2.5,
        "worst_free_mib": None if policy == "naive" else 100.0 - lost,
    }
    return {"policy": policy, "seed": seed, "scores": scores, "timeline": minutes}


RUNS = [
    *(run("naive", 1, 40, 2, 9), run("naive", 2, 50, 2, 9), run("naive", 3, 60, 2, 2, unsafe=3)),
    *(run("oracle", 1, 2, 3, 3), run("ours", 1, 5, 2, 3), run("ours", 2, 5, 2, 3), run("ours", 3, 11, 2, 3)),
]


def test_the_curves_are_sums_over_services_of_the_first_seed_in_the_policies_roles() -> None:
    [chart] = timelines_page("surge", "a test.", RUNS).sections[0].charts
    curves = {(curve.name, curve.row): curve for curve in chart.curves}
    assert list(curves["naive", 0].values) == [3, 10]
    assert list(curves["naive", 1].values) == [0.5, 0.5]  # GiB
    assert list(curves["naive", 2].values) == [50, 50]  # percent, of the service that fares worst
    assert [curves[name, 0].role for name in ("naive", "oracle", "ours")] == ["real", "demand", "ours"]


def test_the_verdict_begins_with_ours_and_no_seed_hides_in_a_median() -> None:
    page = timelines_page("surge", "a test.", RUNS)
    assert list(page.verdict) == [
        "ours made no unsafe grant and lost 5 of 1,000 requests with 2.5 replica-hours.",
        "oracle made no unsafe grant and lost 2 requests with 2.5 replica-hours.",
        "naive made 3 unsafe grants at worst and lost 50 requests with 2.5 replica-hours.",  # of 40, 50 and 60
    ]
    [table] = page.sections[0].tables
    assert table.caption == "Scores, median/worst over 3 seeds"
    assert [row[:3] for row in table.rows] == [("naive", "0/3", "50/60"), ("oracle", "0", "2"), ("ours", "0", "5/11")]
    assert [row[6] for row in table.rows] == ["-", "98", "95/89"]  # less is worse


def test_simulate_writes_it(open_page: OpenPage, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    arguments = ["simulate", str(tmp_path / "small.yaml"), "--policy", "ours,oracle", "--seeds", "1"]
    result = CliRunner().invoke(cli, [*arguments, "--report", str(tmp_path / "s.html")])
    assert result.exit_code == 0, result.output
    page = open_page((tmp_path / "s.html").as_uri(), width=390, height=844)
    assert page.text("h1").startswith("ours made no unsafe grant and lost ")
    page.wait_for("document.querySelector('.plot[data-drawn]') !== null")
    assert page.run("return document.querySelector('.plot').data.length") == 6
    assert page.overflow_px() == 0
