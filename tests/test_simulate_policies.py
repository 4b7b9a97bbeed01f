"""Ours and the oracle inside the loop, and the scenarios that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaler.policy import BadPolicy
from scaler.quantity import GIB, Level
from scaler.simulate.curves import TraceMissing
from scaler.simulate.gate import LIMITS, RUNS, kept, measure, worse
from scaler.simulate.ours import Ours
from scaler.simulate.policies import POLICIES
from scaler.simulate.runs import run_one, summaries
from scaler.simulate.scenario import bundled_names, load_scenario
from scaler.simulate.world import World

TRACES = Path(__file__).parents[2] / "shared" / "traces"


@pytest.mark.parametrize("name", bundled_names())
def test_every_scenario_of_the_package_runs_under_every_policy(name: str) -> None:
    scenario = load_scenario(name).scenario.model_copy(update={"duration_s": 120.0, "warm_up_s": 120.0})
    try:
        for policy in POLICIES:
            scores = run_one(scenario, policy, 1, TRACES if TRACES.is_dir() else None).scores
            assert scores.replica_hours > 0
    except TraceMissing as missing:
        pytest.skip(str(missing))


def test_the_oracle_grants_real_growth_and_nothing_unsafe() -> None:
    scores = run_one(load_scenario("surge").scenario, "oracle", 1).scores
    naive = run_one(load_scenario("surge").scenario, "naive", 1).scores
    assert scores.unsafe_grants == 0
    assert scores.below_low_s == 0
    assert scores.unmet_s < naive.unmet_s


def test_a_restarted_scaler_answers_nothing_and_then_as_one_that_never_stopped() -> None:
    scenario = load_scenario("scaler-restart").scenario.model_copy(update={"duration_s": 1500.0})
    never = scenario.model_copy(update={"events": ()})
    worlds = [World(each, Ours, 1) for each in (scenario, never)]
    last = []
    for world in worlds:
        ours = world.autoscaler
        assert isinstance(ours, Ours)
        away = [(at_s, ours.last is None) for at_s in world.run()]
        last.append((ours.last, away))
    (restarted, away), (stayed, _) = last
    assert [at_s for at_s, is_away in away if is_away] == [1260.0]
    assert restarted is not None
    assert stayed is not None
    assert {key: each.demand for key, each in restarted.decisions.items()} == {
        key: each.demand for key, each in stayed.decisions.items()
    }


def test_median_and_worst_over_the_seeds() -> None:
    scenario = load_scenario("flash-crowd").scenario.model_copy(update={"duration_s": 300.0, "warm_up_s": 60.0})
    runs = [run_one(scenario, "oracle", seed) for seed in (1, 2, 3)]
    (summary,) = summaries(runs, ["oracle"])
    free = sorted(run.scores.worst_free_mib for run in runs)
    hours = sorted(run.scores.replica_hours for run in runs)
    assert (summary.median["worst_free_mib"], summary.worst["worst_free_mib"]) == (free[1], free[0])
    assert (summary.median["replica_hours"], summary.worst["replica_hours"]) == (hours[1], hours[2])
    assert summary.median["fresh_error_ratio"] is None


def test_the_gate() -> None:
    """Ours on a fixed set is no less safe and not clearly worse than kept; `make gate` shows what moved."""
    assert worse(measure(), kept()) == []


@pytest.mark.parametrize(
    ("score", "by", "faults"),
    [
        ("unsafe_grants", 1.0, 1),
        ("unsafe_grants", 0.0, 0),
        ("lost_requests", 999.0, 0),
        ("lost_requests", 1e6, 1),
        ("reversals", 100.0, 1),
    ],
)
def test_the_gate_can_fail(score: str, by: float, faults: int) -> None:
    before = kept()
    run = f"{RUNS[0][0]} {RUNS[0][1]}"
    now = {key: dict(scores) for key, scores in before.items()}
    now[run][score] += by
    assert len(worse(now, before)) == faults
    assert all(line.startswith(f"{run}: {score}") for line in worse(now, before))


def test_the_gate_misses_no_run() -> None:
    before = kept()
    assert set(before) == {f"{scenario} {seed}" for scenario, seed in RUNS}
    assert all(set(scores) == set(LIMITS) for scores in before.values())
    assert worse({}, before) == [f"{run}: not in the set" for run in sorted(before)]


GOOD = """
about: a test
duration: 10m
pool: {cards: 2, total: 10Gi}
services:
  - {name: a, load: {points: 1}, serviceTime: 0.1, gpuTime: 0.01, weights: 1Gi}
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param(GOOD.replace("cards: 2", "cards: none"), "pool.cards: 'none'", id="not a number"),
        pytest.param(GOOD.replace("duration: 10m", "duration: 10"), "duration: 10", id="no unit"),
        pytest.param(GOOD.replace("weights", "weigths"), "did you mean weights?", id="near miss"),
        pytest.param(GOOD + "basedOn: nothing\n", "basedOn: 'nothing'", id="no such base"),
        pytest.param(GOOD.replace("points: 1", "points: {}"), "no points", id="no points"),
        pytest.param(
            GOOD.replace("weights: 1Gi", "weights: 1Gi, scaling: {minReplica: '1'}"),
            "did you mean minReplicas",
            id="metadata",
        ),
        pytest.param(GOOD.replace("10Gi}", "10Gi, policy: {placment: worst}}"), "placement", id="pool policy"),
        pytest.param(GOOD + "events: [{at: 1m, restart: {services: [b]}}]\n", "restart of b", id="no such service"),
        pytest.param("- 1\n", "not one mapping", id="a list"),
        pytest.param(GOOD + "defaults: 5\n", "defaults: 5: not a mapping", id="defaults"),
        pytest.param(GOOD.split("services:")[0] + "services: 5\n", "services: 5: not a list", id="services"),
        pytest.param(GOOD.split("services:")[0] + "services: []\n", "services: none", id="no services"),
        pytest.param(GOOD.replace("points: 1", "points: -1"), "points: -1", id="of a service"),
        pytest.param(GOOD.replace("serviceTime: 0.1", "serviceTime: 0"), "0 is below 0.001", id="no service time"),
        pytest.param(GOOD.replace("weights", "maxConcurrent: 0, weights"), "0 is below 1", id="executes nothing"),
        pytest.param(GOOD.replace("10Gi}", "10Gi, reserved: 10Gi}"), "leaves nothing of total", id="all reserved"),
        pytest.param(GOOD.replace("10Gi}", "10Gi, lowWatermark: 2Gi}"), "pool: lowWatermark 2.0 GiB", id="two units"),
        pytest.param(GOOD + "events: [{at: 1m}]\n", "nothing happens at 60 s", id="an empty event"),
        pytest.param(GOOD + "events: [{at: 10m, cardsLost: 1}]\n", "it lasts 600 s", id="an event after the end"),
    ],
)
def test_a_bad_scenario_is_one_line_that_names_the_fault(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadPolicy) as fault:
        load_scenario(str(path))
    assert line in str(fault.value)
    assert str(fault.value).count(str(path)) == 1
    assert "\n" not in str(fault.value)
    assert "Tuple" not in str(fault.value)


def test_a_good_scenario_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD, encoding="utf-8")
    name, scenario = load_scenario(str(path))
    assert (name, scenario.services[0].name, scenario.pool.slots) == ("mine", "a", 2)


def test_a_base_gives_what_is_not_said_of_the_pool(tmp_path: Path) -> None:
    """What if my watermark were 2 GiB, and there were 12 cards? As the docs have it."""
    path = tmp_path / "mine.yaml"
    path.write_text("basedOn: surge\npool: {lowWatermark: 2Gi, highWatermark: 3Gi, cards: 12}\n", encoding="utf-8")
    pool, base = load_scenario(str(path)).scenario.pool, load_scenario("surge").scenario.pool
    said = {"cards": 12, "low_watermark": Level(bytes=2 * GIB), "high_watermark": Level(bytes=3 * GIB)}
    assert pool == base.model_copy(update=said)


def test_what_a_card_cannot_hold_never_runs(tmp_path: Path) -> None:
    """A replica of 11 GiB was put on a card of 10, which then had less than nothing free."""
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace("weights: 1Gi", "weights: 11Gi"), encoding="utf-8")
    scores = run_one(load_scenario(str(path)).scenario, "ours", 1).scores
    assert scores.worst_free_mib >= 0
    assert scores.lost_requests >= scores.fresh_requests  # those of the warm-up's last seconds come again
