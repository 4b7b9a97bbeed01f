"""The matrix: what is run again and what is not, and the bounds that its rows are held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scaler.simulate import matrix
from scaler.simulate.bounds import Bounds, Row, bounds, errors, table
from scaler.simulate.runs import Job, run_one
from scaler.simulate.scenario import Attribution, load_scenario


def row(policy: str, seed: int = 1, attribution: Attribution | None = None, rises: int = 4, **scores: Any) -> Row:
    usual = {
        "unsafe_grants": 0,
        "lost_requests": 0.0,
        "fresh_requests": 1e6,
        "replica_hours": 10.0,
        "unmet_s": 0.0,
        "reversals": 0,
        "share_error_points": None,
        "fresh_error_ratio": None,
        "neighbour_share_points": None,
    }
    return Row(Job("s", policy, seed, attribution), {**usual, **scores}, rises)


def of(*rows: Row) -> Bounds:
    found = bounds("s", rows)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("ours", "oracle", "missed"),
    [
        pytest.param({}, {}, (), id="alike"),
        pytest.param({"unsafe_grants": 1}, {}, ("unsafe",), id="one unsafe grant"),
        pytest.param({"lost_requests": 1060.0}, {"lost_requests": 1000.0}, ("lost",), id="6 % more lost"),
        pytest.param({"lost_requests": 1040.0}, {"lost_requests": 1000.0}, (), id="4 % more lost"),
        pytest.param({"lost_requests": 9.0}, {}, (), id="9 lost of a million are none"),
        pytest.param({"replica_hours": 11.1}, {}, ("hours",), id="11 % more hours"),
        # 4 rises: 2 ticks of 15 s each are 120 s.
        pytest.param({"unmet_s": 120.0}, {}, (), id="two ticks a rise"),
        pytest.param({"unmet_s": 125.0}, {}, ("unmet",), id="more than two ticks a rise"),
    ],
)
def test_against_the_oracle(ours: dict[str, Any], oracle: dict[str, Any], missed: tuple[str, ...]) -> None:
    assert of(row("ours", **ours), row("oracle", **oracle)).missed == missed


def test_reversals_are_held_against_every_baseline_and_not_against_the_oracle() -> None:
    rows = [row("ours", reversals=3), row("oracle", reversals=0), row("naive", reversals=9)]
    assert of(*rows).missed == ()
    assert of(*rows, row("concurrency", reversals=3)).missed == ("reversals (concurrency)",)
    assert of(row("ours", reversals=0), row("naive", reversals=0)).missed == ()


def test_unsafe_grants_count_in_any_run_and_the_rest_by_the_median_of_the_seeds_of_both() -> None:
    found = of(
        *(row("ours", seed, replica_hours=hours) for seed, hours in ((1, 10.0), (2, 10.5), (3, 14.0), (4, 99.0))),
        *(row("oracle", seed) for seed in (1, 2, 3)),
    )
    assert found.seeds == 4
    assert found.hours_ratio == (1.05, 1.4)
    assert of(row("ours"), row("ours", 2, unsafe_grants=2)).unsafe_grants == 2
    assert "| s | 4 | 0 | 1.00 | 1.05 / 1.40 | 0.00 | 0 | none |" in table([found], ["ours"])


def test_errors_by_attribution() -> None:
    shown = errors(
        [
            row("ours", 1, "agent", share_error_points=3.0, neighbour_share_points=30.0),
            row("ours", 2, "agent", share_error_points=5.0, fresh_error_ratio=0.02, neighbour_share_points=30.0),
            row("ours", 1, "none", neighbour_share_points=36.0),
        ],
        ["agent", "none"],
    )
    assert shown.splitlines()[-1] == "| s | 30.0 | 4.0, 2.0% | -, - |"


def test_rises_are_counted_minute_by_minute() -> None:
    scenario = load_scenario("flash-crowd").scenario.model_copy(update={"duration_s": 1800.0, "warm_up_s": 60.0})
    # The crowd needs 1 up to 20 min, and 300 x 0.06 / 4 = 4.5 from 21 min on; the others' load is flat.
    assert 1 <= matrix.rises(run_one(scenario, "oracle", 1)) <= 2


def test_a_run_that_is_there_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = load_scenario("flash-crowd").scenario.model_copy(update={"duration_s": 60.0, "warm_up_s": 60.0})
    done: list[Job] = []

    def run_all(jobs: list[Job], traces: Path | None, workers: int) -> Any:
        for job in jobs:
            done.append(job)
            yield job, run_one(short, job.policy, job.seed)

    monkeypatch.setattr(matrix, "run_all", run_all)
    file = tmp_path / "runs.jsonl"

    def invoke(*arguments: str) -> list[Job]:
        done.clear()
        monkeypatch.setattr("sys.argv", ["matrix", str(file), "--scenarios", "flash-crowd", *arguments])
        matrix.main()
        return list(done)

    assert len(invoke("--policies", "ours,oracle", "--seeds", "2")) == 4
    with file.open("a", encoding="utf-8") as cut_short:
        cut_short.write('{"scenario": "flash-cr')
    with file.open("a", encoding="utf-8") as newline:
        newline.write("\n")
    assert invoke("--policies", "ours,oracle", "--seeds", "3") == [
        Job("flash-crowd", "ours", 3),
        Job("flash-crowd", "oracle", 3),
    ]
    assert "| flash-crowd | 3 |" in capsys.readouterr().out
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    assert {(each["policy"], each["seed"]) for each in rows} == {(p, s) for p in ("ours", "oracle") for s in (1, 2, 3)}
    monkeypatch.setattr(matrix, "code_digest", lambda: "another")
    assert len(invoke("--policies", "ours,oracle", "--seeds", "3")) == 6


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["matrix", "x.jsonl", "--policies", "ours,orakel"])
    with pytest.raises(SystemExit) as left:
        matrix.main()
    assert left.value.code == 2
    assert "--policies: 'orakel'; it takes naive" in capsys.readouterr().err
