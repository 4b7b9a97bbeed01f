"""With room, the safeguards cost no tick: growth is granted when it would be without any of them."""

from __future__ import annotations

import pytest

from scaler.planning import plan as planning
from scaler.snapshot import CardReading, Snapshot, WorkloadReading
from tests.fleet import START_S, TICK_S, asking, card, key, policy, pool_with, run, snapshot

A_STEP = {300.0: 4}  # from one replica's load to four's
A_RAMP = {300.0: 2, 330.0: 3, 360.0: 4, 390.0: 5}
QUIET = asking(2, 2)
ROLLING, STARTING, GOING = asking(2, 2, existing=3), asking(2, 2, ready=1), asking(2, 1)


def home(free_gib: float = 9.0) -> CardReading:
    """Where a and b sit: a holds 2 GiB a replica, b 1."""
    return card(free_gib, pods={"a": 1, "b": 2}, held_gib={"a": (2.0,), "b": (1.0, 1.0)}, slots=4)


def wanted(steps: dict[float, int], at_s: float) -> int:
    return max((replicas for since_s, replicas in steps.items() if at_s >= since_s), default=1)


@pytest.mark.parametrize(
    ("steps", "neighbour", "free_gib", "granted_s"),
    [
        pytest.param(A_STEP, {}, {}, {4: 300.0}, id="a step at 300 s"),
        pytest.param(A_RAMP, {}, {}, {2: 300.0, 3: 330.0, 4: 360.0, 5: 390.0}, id="a replica more every 30 s"),
        pytest.param(A_STEP, {300.0: ROLLING}, {}, {4: 300.0}, id="as a neighbour's rolling update begins"),
        pytest.param(A_STEP, {240.0: STARTING}, {}, {4: 300.0}, id="while a replica of a neighbour starts"),
        pytest.param(A_STEP, {0.0: GOING}, {}, {4: 300.0}, id="in the tick in which a neighbour is told to shrink"),
        pytest.param(A_STEP, {}, {300.0: 7.0}, {4: 300.0}, id="as its card loses 2 GiB at a stroke"),
        pytest.param(
            A_STEP, {}, {60.0 * i: 9.0 - i % 2 for i in range(9)}, {4: 300.0}, id="free VRAM up and down by 1"
        ),
    ],
)
def test_granted_when_it_shows(
    steps: dict[float, int],
    neighbour: dict[float, WorkloadReading],
    free_gib: dict[float, float],
    granted_s: dict[int, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Six more cards with 13 GiB and four slots each: room for 24 replicas of 2 GiB, wherever they land."""
    history: list[Snapshot] = []
    for tick in range(40):
        at_s = tick * TICK_S
        since_s = [each for each in neighbour if at_s >= each]
        free_s = [each for each in free_gib if at_s >= each]
        load = {"a": asking(1, wanted(steps, at_s)), "b": neighbour[max(since_s)] if since_s else QUIET}
        cards = [home(free_gib[max(free_s)] if free_s else 9.0), *(card(13.0, slots=4) for _ in range(6))]
        history.append(snapshot(START_S + at_s, load, *cards))

    def first_s() -> dict[int, float]:
        seen: dict[int, float] = {}
        for each in run(history, policy(pool_with(), a={}, b={}))[0]:
            granted = each.decisions[key("a")].granted
            if granted is not None and granted > 1:
                seen.setdefault(granted, each.time_s - START_S)
        return seen

    assert first_s() == granted_s
    monkeypatch.setattr(planning, "allot", lambda *_: {})
    monkeypatch.setattr(planning, "pool_barrier", lambda *_: None)
    assert first_s() == granted_s
