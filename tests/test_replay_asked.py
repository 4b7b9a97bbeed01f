"""The baseline of a replay: what the present triggers asked for, beside what was granted."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from scaler.replay.asked import Asked, AskedAccount, Beyond, asked_table
from scaler.replay.rerun import Rerun
from scaler.replay.summary import Replay
from tests.fleet import START_S, asking, card, key, policy, snapshot, workload


def test_hours_and_moments_of_one_service() -> None:
    """Every 15 minutes. Asked 2 2 5 5 - 6 2, granted 2 2 2 3 - 3 2: more than granted from the third on, and again."""
    account = AskedAccount()
    for number, moment in enumerate([(2, 2), (2, 2), (5, 2), (5, 3), None, (6, 3), (2, 2)]):
        if moment is None:
            account.gap()
        else:
            account.add(900.0 * number, *moment)
    assert account.asked_max == 6
    assert account.asked_hours == (2 + 2 + 5 + 6) / 4  # nothing over the gap: neither up to it nor from it on
    assert account.granted_hours == (2 + 2 + 2 + 3) / 4
    assert account.beyond == [Beyond(1800.0, 5, 2), Beyond(4500.0, 6, 3)]


def test_only_services_whose_triggers_were_evaluated_are_in_it() -> None:
    fleet = policy(e5={}, clip={})
    seen = snapshot(START_S, {"e5": asking(2, 2), "clip": asking(1, 1)}, card(12.0))
    asked, replay, run = Asked(), Replay(0), Rerun(fleet)
    for number in range(3):
        moment = replace(seen, taken_at_s=START_S + 15 * number, asked={workload("e5"): 7})
        plan = run.at(moment)
        replay.add(plan, {})
        assert asked.add(moment, plan, fleet) == {key("e5"): 7}
    assert list(asked.services) == [key("e5")]
    console = Console(width=120)
    with console.capture() as captured:
        console.print(asked_table(asked, replay))
    [row] = [line for line in captured.get().splitlines() if "models/e5" in line]
    assert "7" in row
    assert "00:00:00 7, not 2" in row


def test_no_plan_reads_it() -> None:
    fleet = policy(e5={})
    seen = snapshot(START_S, {"e5": asking(2, 3)}, card(12.0))
    plain, told = (Rerun(fleet).at(each) for each in (seen, replace(seen, asked={workload("e5"): 40})))
    assert plain == told
