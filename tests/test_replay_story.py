"""The verdict in words: every sentence from accounts whose arithmetic can be redone, and none that they do not bear."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaler.decision import Decision, FleetPlan, PoolState, Reason
from scaler.replay.flow import Flow
from scaler.replay.story import details, verdict
from scaler.replay.summary import Replay
from tests.test_replay import E5, START_S, decided, pool

MINUTE_S = 60.0
HOLD = decided(2, 2, 2)
NOTHING = Flow(10, 10, 0)


def told(*moments: tuple[Decision, PoolState, Flow]) -> Replay:
    """A moment a minute from midnight on."""
    replay = Replay(None)
    for minute, (decision, state, flow) in enumerate(moments):
        time_s = START_S + minute * MINUTE_S
        replay.add(FleetPlan(time_s, {E5: decision._replace(time_s=time_s)}, {"t4": state}), {"t4": flow})
    return replay


ROOM, SHORT, OUT = pool(5), pool(1, vetoed=True), pool(0.01, vetoed=True)  # the low watermark is 1.5 GiB
FAILING = Flow(10, 8, 2)


WITHHELD = "1 of 2 real scale-ups would have been withheld, because the service's own load did not ask."


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        pytest.param(
            [(HOLD, ROOM, NOTHING)],
            "Free VRAM never fell below the low watermark (5.0 GiB at the least).",
            id="nothing happened",
        ),
        pytest.param([(HOLD, pool(None, vetoed=True), NOTHING)], "Free VRAM of pool t4 could not be seen.", id="blind"),
        pytest.param(
            [(HOLD, ROOM, NOTHING), (HOLD, SHORT, NOTHING), (HOLD, ROOM, NOTHING)],
            "Free VRAM fell below the low watermark at 00:01; no request failed for it.",
            id="short, and nothing failed",
        ),
        pytest.param(
            [(HOLD, ROOM, NOTHING), (HOLD, SHORT, NOTHING), (HOLD, OUT, NOTHING), (HOLD, OUT, FAILING)],
            "Free VRAM ran out at 00:02; our veto stood from 00:01, 2 minutes before the first request failed.",
            id="out, then failures",
        ),
        pytest.param(
            [(HOLD, SHORT, NOTHING), (HOLD, ROOM, NOTHING)],
            "Free VRAM was below the low watermark from the beginning; no request failed for it.",
            id="as it was found",
        ),
        pytest.param(
            [(HOLD, ROOM, FAILING), (HOLD, ROOM, FAILING), (HOLD, ROOM, FAILING), (HOLD, SHORT, FAILING)],
            "Free VRAM fell below the low watermark at 00:03; our veto stood from 00:03, 3 minutes after requests had "
            "begun to fail.",
            id="no early warning",
        ),
        pytest.param(
            [(HOLD, ROOM, NOTHING), (HOLD, SHORT, FAILING)],
            "Free VRAM fell below the low watermark at 00:01; our veto stood from 00:01, the moment at which requests "
            "began to fail.",
            id="at once",
        ),
    ],
)
def test_free_vram_and_failures(moments: list[tuple[Decision, PoolState, Flow]], expected: str) -> None:
    assert verdict(told(*moments))[0] == expected


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        pytest.param([(2, 2), (2, 2)], "The real autoscaler scaled nothing up.", id="none"),
        pytest.param([(2, 2), (3, 3)], "The real scale-up would have been granted.", id="none withheld"),
        pytest.param([(2, 2), (3, 2), (4, 4)], WITHHELD, id="one of two"),
    ],
)
def test_scale_ups(numbers: list[tuple[int, int]], expected: str) -> None:
    moments = [(decided(real, granted, granted), ROOM, NOTHING) for real, granted in numbers]
    assert verdict(told(*moments))[1] == expected


def test_growth_after_the_veto_and_what_was_granted_for_it() -> None:
    """A quarter of an hour each: 10/s before the veto ends, then 16/s; granted five minutes before the real one."""
    before = [(HOLD, SHORT, Flow(10, 10, 0))] * 15 + [(HOLD, ROOM, Flow(10, 10, 0))] * 15
    grown = [(decided(2, 3, 3), ROOM, Flow(16, 16, 0))] * 5 + [(decided(3, 3, 3), ROOM, Flow(16, 16, 0))] * 11
    assert verdict(told(*before, *grown))[2] == (
        "When traffic grew by 60\N{NO-BREAK SPACE}% afterwards, e5 2→3 would have been granted at 00:30:00, 5 minutes "
        "before the real autoscaler."
    )
    flat = [(decision, state, Flow(10, 10, 0)) for decision, state, _ in (*before, *grown)]
    assert verdict(told(*flat))[2].startswith("e5 2→3 would have been granted at 00:30:00, 5 minutes before")


def test_the_details_have_the_sums() -> None:
    replay = told(
        (HOLD, ROOM, NOTHING),
        (decided(5, 2, 2), SHORT, Flow(10, 8, 2)),  # a minute: 120 of 600 failed
        (decided(7, 6, 5, Reason.LOW_VRAM), SHORT, NOTHING),  # 5 to 7, granted 5
        (decided(2, 3, 3), ROOM, NOTHING),
        (decided(3, 3, 3), ROOM, NOTHING),
        (decided(None, None, None), ROOM, NOTHING),
    )
    space = "\N{NO-BREAK SPACE}"
    assert details(replay) == [
        "Free VRAM was below the low watermark from 00:01:00, for 0.0 h altogether; the least was 1.0 GiB at 00:01:00.",
        f"120 of 3,000 requests failed (4.0{space}%), the first at 00:01:00.",
        # 2 to 5 at 2, and 5 to 7 at 5: three and two replicas.
        "2 scale-ups by 5 replicas would have been withheld: 1 because the service's own load did not ask for them, "
        "1 for low VRAM.",
        "1 scale-up would have come sooner: e5 2→3 at 00:03:00, 1.0 min earlier.",
        f"16.7{space}% of the decisions would have been no answer, for want of readings; KEDA then holds.",
    ]


def test_what_was_not_seen_is_not_said_to_be_nothing() -> None:
    """No counters: it is not known whether requests failed. No replicas: it is not known what was scaled."""
    replay = Replay(None)
    for number, state in enumerate((ROOM, SHORT)):
        time_s = START_S + number * MINUTE_S
        nothing = decided(None, None, None, Reason.MISSING)._replace(time_s=time_s)
        replay.add(FleetPlan(time_s, {E5: nothing}, {"t4": state}))
    assert verdict(replay) == [
        "Free VRAM fell below the low watermark at 00:01; whether requests failed for it could not be seen.",
        "No service could be decided on at any moment: its readings are missing.",
    ]


def test_of_several_pools_the_one_that_was_short_leads_and_is_named() -> None:
    replay = Replay(None)
    for number, state in enumerate((ROOM, SHORT)):
        time_s = START_S + number * MINUTE_S
        made = FleetPlan(
            time_s, {E5: HOLD._replace(time_s=time_s)}, {"roomy": replace(ROOM, name="roomy"), "t4": state}
        )
        replay.add(made, {"roomy": FAILING, "t4": NOTHING})
    assert verdict(replay)[0] == "Free VRAM of pool t4 fell below the low watermark at 00:01; no request failed for it."


def test_nothing_replayed() -> None:
    assert verdict(Replay(None)) == ["Nothing was replayed."]
