"""Two settings over the same recorded time: what is counted as a difference, and what the command says of both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scaler.cli.commands import cli
from scaler.decision import FleetPlan, Reason, Verdict
from scaler.replay.against import Answer, Comparison, Parting
from scaler.replay.against_tables import answers, pair
from scaler.replay.summary import Replay
from tests.test_replay import E5, after, decided, pool

ROOM, TIGHT = pool(5), pool(1, vetoed=True)
MORNING = ("--start", "2025-06-18T05:50:00Z", "--end", "2025-06-18T06:10:00Z")


def invoked(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ("replay", *arguments), prog_name="vram-scaler")


def compared(*moments: tuple[int, int]) -> Comparison:
    """Demand 3 at 2 replicas, and what A and B grant of it; where less than that is granted there is a veto."""
    comparison = Comparison(Replay(None), Replay(None))
    for number, granted in enumerate(moments):
        plans = []
        for each in granted:
            reason = Reason.DEMAND if each == 3 else Reason.LOW_VRAM
            decision = decided(2, 3, each, reason)._replace(time_s=after(number))
            plans.append(FleetPlan(after(number), {E5: decision}, {"t4": ROOM if each == 3 else TIGHT}))
        comparison.add(plans[0], plans[1])
    return comparison


GRANTED, VETOED = Answer(3, 3, Verdict.SCALE_UP, Reason.DEMAND), Answer(3, 2, Verdict.VETO, Reason.LOW_VRAM)


@pytest.mark.parametrize(
    ("moments", "steps", "expected"),
    [
        pytest.param([(3, 3), (2, 2), (3, 3)], 0, [], id="both change together"),
        pytest.param([(3, 3), (3, 2), (3, 2)], 2, [Parting(after(1), "t4", E5, GRANTED, VETOED)], id="they part once"),
        pytest.param(
            [(3, 2), (3, 3), (2, 2)],
            1,
            [Parting(after(0), "t4", E5, GRANTED, VETOED), Parting(after(1), "t4", E5, GRANTED, GRANTED)],
            id="apart from the start, then the same, whatever it becomes",
        ),
        pytest.param(
            [(3, 2), (2, 3)],
            2,
            [Parting(after(0), "t4", E5, GRANTED, VETOED), Parting(after(1), "t4", E5, VETOED, GRANTED)],
            id="the other way about",
        ),
    ],
)
def test_where_two_settings_part(moments: list[tuple[int, int]], steps: int, expected: list[Parting]) -> None:
    comparison = compared(*moments)
    assert [parting for parting in comparison.partings if parting.service] == expected
    assert comparison.differ_steps.get(E5, 0) == comparison.pool_steps.get("t4", 0) == steps
    assert comparison.first_s.get(E5) == (expected[0].time_s if expected else None)
    pools = [(parting.a, parting.b) for parting in comparison.partings if parting.service is None]
    assert pools == [(each.a == VETOED, each.b == VETOED) for each in expected]


def test_each_side_keeps_its_own_account() -> None:
    comparison = compared((3, 2), (3, 2), (3, 3))
    a, b = comparison.a.services[E5], comparison.b.services[E5]
    assert (a.granted_hours, b.granted_hours, a.real_hours, b.real_hours) == (1.5, 1.0, 1.0, 1.0)  # steps of 1/4 h
    assert (a.vetoed_steps, b.vetoed_steps) == (0, 2)
    assert (pair(1, 1), pair(1, 2)) == ("1", "1 | 2")
    assert [answers(each) for each in comparison.partings if each.service] == [
        ("3 of 3, scale-up (demand)", "2 of 3, veto (low-vram)"),
        ("3 of 3, scale-up (demand)", "the same"),
    ]


@pytest.fixture(scope="module")
def stricter(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("settings") / "stricter.yaml"
    path.write_text("pools: [{name: default, lowWatermark: 50%, highWatermark: 60%}]")
    return str(path)


def test_the_command_shows_both_and_where_they_part(stricter: str) -> None:
    result = invoked(*MORNING, "--against", stricter)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1:3] == ["A: the default settings", f"B: {stricter}"]
    e5 = next(line for line in result.stdout.splitlines() if line.startswith("kserve-models/e5"))
    assert "from 05:59:45 (25)" in e5  # 05:59:45 to 06:06:00, when the old autoscaler had three: 25 steps of 15 s
    assert "3 of 3, scale-up (demand) │ 2 of 3, veto (low-vram)" in result.stdout


def test_fail_on_speaks_of_a(stricter: str) -> None:
    """B's vetoes are no finding: a CI job tries B beside what is in force, and fails on what is in force."""
    assert invoked(*MORNING, "--against", stricter, "--fail-on", "low-vram").exit_code == 0
    found = invoked(*MORNING, "--config", stricter, "--against", "/dev/null", "--fail-on", "low-vram")
    assert found.exit_code == 1
    assert f" for kserve-models/e5 under A, {stricter}; " in found.stderr


def test_json_is_as_ever_with_b_under_a_key_of_its_own(stricter: str) -> None:
    alone = [json.loads(line) for line in invoked(*MORNING, "--json", "-").stdout.splitlines()]
    both = [json.loads(line) for line in invoked(*MORNING, "--against", stricter, "--json", "-").stdout.splitlines()]
    b = [json.loads(line) for line in invoked(*MORNING, "--config", stricter, "--json", "-").stdout.splitlines()]
    against = [each.pop("against") for each in both]
    assert both == alone
    assert against == [{name: each[name] for name in against[0]} for each in b]
    assert {"demand", "granted", "active", "verdict", "reasons", "pool"} == set(against[0])
    assert any(one["granted"] != other["granted"] for one, other in zip(both, against, strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "pools: [{name: gpu}]", "for kserve-models/e5: metadata.pool: 'default' is not", id="no such pool"
        ),
        pytest.param("pools: [{name: default, lowWatermark: 200%}]", "lowWatermark", id="a value out of range"),
    ],
)
def test_what_b_cannot_be_is_one_line_that_names_it(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(text)
    result = invoked(*MORNING, "--against", str(path))
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith(str(path))
    assert expected in line


def test_windows_that_b_cannot_have_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("timing: {stableWindow: 2m}")
    result = invoked(*MORNING, "--against", str(path))
    assert result.exit_code == 0
    assert "timing.stableWindow 120s has no effect: signals are read with 60s" in result.stderr
