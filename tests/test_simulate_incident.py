"""The naive triggers in the model against the record of the incident: without this the model is no judge."""

from __future__ import annotations

from statistics import median

import pytest

from scaler.simulate.runs import Run, run_one
from scaler.simulate.scenario import load_scenario
from scaler.simulate.scores import Minute

SEEDS = range(1, 6)
MIDNIGHT = 15  # minutes after the start, 23:45


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    scenario = load_scenario("incident").scenario
    return [run_one(scenario, "naive", seed) for seed in SEEDS]


def between(run: Run, first: int, last: int) -> list[Minute]:
    """The timeline from minute to minute after midnight."""
    return [row for row in run.timeline if first <= row.at_s / 60 - MIDNIGHT < last]


def worst_failing(run: Run, first: int, last: int) -> float:
    return max(ratio for row in between(run, first, last) for ratio in row.failed_ratio.values())


def test_replicas_dip_and_over_correct_on_flat_demand(runs: list[Run]) -> None:
    before = [sum(between(run, 0, 1)[0].replicas.values()) for run in runs]
    after = [max(sum(row.replicas.values()) for row in between(run, 2, 12)) for run in runs]
    assert 38 <= median(before) <= 42  # the record: 38-42
    assert 52 <= median(after) <= 60  # the record: 55
    encoder = [max(row.replicas["e5"] for row in between(run, 2, 12)) for run in runs]
    assert 5 <= median(encoder) <= 8  # the record: 3 -> 7
    assert all(row.needed["e5"] == 2 for run in runs for row in run.timeline)


def test_vram_doubles_within_a_quarter_of_an_hour_and_the_tightest_card_is_full(runs: list[Run]) -> None:
    grown = [between(run, 15, 16)[0].used_gib / between(run, 0, 1)[0].used_gib for run in runs]
    assert 1.8 <= median(grown) <= 2.4  # the record: 97 -> 201 GiB
    roomy = [between(run, 0, 1)[0].tightest_free_mib for run in runs]
    full = [min(row.tightest_free_mib for row in between(run, 4, 30)) for run in runs]
    assert median(roomy) > 4000  # the record: 5.5 GB
    assert median(full) < 16  # the record: 2 MiB


def test_requests_fail_within_the_hour_stop_after_the_restart_and_fail_again(runs: list[Run]) -> None:
    first_wave = [worst_failing(run, 0, 60) for run in runs]
    assert 0.17 <= median(first_wave) <= 0.40  # the record: 17-21 %, at worst 40 %
    # Restart at 01:30; the record has none from then to 03:15.
    relief = [worst_failing(run, 100, 190) for run in runs]
    assert median(relief) < 0.02
    relapse = [worst_failing(run, 190, 240) for run in runs]
    assert median(relapse) >= 0.17


def test_ours_does_not_join_the_spiral() -> None:
    scenario = load_scenario("incident").scenario
    naive, ours = (run_one(scenario, policy, 1).scores for policy in ("naive", "ours"))
    assert ours.unsafe_grants < naive.unsafe_grants
    assert ours.failed_attempts < naive.failed_attempts
    assert ours.replica_hours < naive.replica_hours
