"""Thinned curves: what a reader looks for is in them, whatever the curve; and the decisions that are kept in words."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.decision import Decision, FleetPlan, Reason
from scaler.planning.memory import Memory
from scaler.policy import FleetPolicy, OperatorPolicy, ServiceKey, ServicePolicy
from scaler.replay.drawing import Drawing, Kept
from scaler.report.thin import Changes, Extremes, Spans
from scaler.snapshot import Snapshot
from tests.test_replay import decided

CURVES = st.lists(st.none() | st.integers(0, 5).map(float), max_size=60)


def thinned(curve: list[float | None], width: int) -> list[tuple[int, float | None]]:
    extremes = Extremes(width)
    for at, value in enumerate(curve):
        extremes.add(at, value)
    points = extremes.points()
    return list(zip(points.at, points.values, strict=True))


@given(CURVES, st.integers(1, 10))
def test_no_dip_and_no_peak_is_lost(curve: list[float | None], width: int) -> None:
    """Of each bucket, the least and the highest are drawn: as points, or within a flat stretch between two of them."""
    points = thinned(curve, width)
    assert [at for at, _ in points] == sorted({at for at, _ in points})
    assert all(curve[at] == value for at, value in points)
    for first in range(0, len(curve), width):
        seen = [value for value in curve[first : first + width] if value is not None]
        for extreme in {min(seen), max(seen)} if seen else ():
            drawn = {value for at, value in points if first <= at < first + width}
            flat = any(
                a == b == extreme and at < first + width and first <= until
                for (at, a), (until, b) in itertools.pairwise(points)
            )
            assert extreme in drawn or flat


@given(CURVES, st.integers(1, 10))
def test_what_was_not_seen_is_a_gap(curve: list[float | None], width: int) -> None:
    """No line is drawn over a bucket in which nothing was seen at all."""
    points = thinned(curve, width)
    for (at, a), (until, b) in itertools.pairwise(points):
        if a is not None and b is not None:
            unseen = {step // width for step in range(at, until) if curve[step] is None}
            assert unseen <= {at // width, until // width}


@given(CURVES)
def test_a_short_curve_is_whole(curve: list[float | None]) -> None:
    points = thinned(curve, 1)
    whole: list[float | None] = []
    for (at, value), (until, _) in zip(points, [*points[1:], (len(curve), None)], strict=False):
        whole += [value] * (until - at)
    assert whole == curve


@pytest.mark.parametrize(
    ("curve", "width", "expected"),
    [
        pytest.param([5, 4, 9, 1, 6, 7], 3, [(1, 4), (2, 9), (3, 1), (5, 7)], id="least and highest, in order"),
        pytest.param([2, 2, 2, 2, 2, 3], 1, [(0, 2), (4, 2), (5, 3)], id="a flat stretch is its ends"),
        pytest.param([1, None, 8, 2, 3, 4], 3, [(0, 1), (1, None), (2, 8), (3, 2), (5, 4)], id="a gap within"),
    ],
)
def test_curves_by_hand(curve: list[float | None], width: int, expected: list[tuple[int, float | None]]) -> None:
    assert thinned(curve, width) == expected


def test_a_step_that_is_left_out_was_not_seen() -> None:
    extremes = Extremes(1)
    for at in (0, 1, 5):
        extremes.add(at, 3.0)
    points = extremes.points()
    assert list(zip(points.at, points.values, strict=True)) == [(0, 3.0), (1, 3.0), (2, None), (5, 3.0)]


def test_counts_keep_their_changes_and_spans_their_ends() -> None:
    changes, spans = Changes(), Spans()
    for at, value in enumerate([2, 2, 3, None, None, 3]):
        changes.add(at, value)
        spans.add(at, value == 3)
    points = changes.points
    assert list(zip(points.at, points.values, strict=True)) == [(0, 2), (2, 3), (3, None), (5, 3)]
    assert spans.until(9) == [(2, 3), (5, 9)]


def test_decisions_are_kept_where_they_changed() -> None:
    kept = Kept()
    hold, veto = decided(2, 2, 2), decided(2, 3, 2, Reason.LOW_VRAM)
    for at, decision in enumerate([hold, hold, veto, veto, veto._replace(demand=4), hold]):
        kept.add(at, decision)
    assert [told.at for told in kept.tellings] == [0, 2, 4, 5]
    assert "scale-up vetoed (low-vram): stays at 2; demand 3" in kept.tellings[1].headline


def kept_of(decisions: list[Decision], most: int) -> Kept:
    kept = Kept()
    for at, decision in enumerate(decisions):
        kept.add(at, decision)
        while len(kept) > most:
            kept.thin()
    return kept


def test_of_too_many_those_go_first_that_changed_demand_alone() -> None:
    decisions = [decided(9, demand, 2) for demand in (2, 3, 4, 5, 6, 7, 8)]  # a turn and 6 minor changes
    decisions.insert(4, decided(2, 3, 2, Reason.LOW_VRAM))  # a turn among them, and the turn back
    decisions.append(decided(None, None, None, Reason.STALE))  # and a fourth one
    kept = kept_of(decisions, most=8)
    assert [told.at for told in kept.tellings] == [0, 1, 3, 4, 5, 7, 8]  # of 1, 2, 3, 6, 7 every second one went
    assert kept.left_out == 2


def test_what_is_left_of_many_is_spread_evenly() -> None:
    """1,000 changes in room for 20: 16 to 20 of them, and no gap above twice the mean."""
    kept = kept_of([decided(1, demand % 7 + 2, 1, Reason.LOW_VRAM) for demand in range(1000)], most=20)
    at = [told.at for told in kept.tellings]
    assert at[0] == 0
    assert 10 <= len(at) <= 20
    assert max(b - a for a, b in itertools.pairwise([*at, 1000])) <= 2 * 1000 / len(at)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=300), st.integers(4, 20))
def test_none_is_lost_without_being_counted(demands: list[int], most: int) -> None:
    kept = kept_of([decided(1, demand, min(demand, 1)) for demand in demands], most)
    assert len(kept) <= most
    assert kept.tellings[0].at == 0
    changes = 1 + sum(a != b for a, b in itertools.pairwise(demands))
    assert len(kept) + kept.left_out == changes


def test_who_changes_most_lets_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.replay.drawing.TELLINGS", 30)
    restless, calm = ServiceKey("ml", "restless"), ServiceKey("ml", "calm")
    policy = FleetPolicy(OperatorPolicy(), {restless: ServicePolicy(), calm: ServicePolicy()})
    drawing, steps = Drawing([policy], 100), 100
    for step in range(steps):
        made = {
            restless: decided(1, 2 + step % 2, 1, Reason.LOW_VRAM)._replace(key=restless),
            calm: decided(1, 2 + step // 10, 1, Reason.LOW_VRAM)._replace(key=calm),
        }
        drawing.add(Snapshot(float(step)), [FleetPlan(float(step), made)], Memory())
    kept = {key.name: each.sides[0].told for key, each in drawing.services.items()}
    assert [told.at for told in kept["calm"].tellings] == list(range(0, 100, 10))
    assert len(kept["restless"]) <= 20
    assert kept["restless"].left_out + len(kept["restless"]) == steps
