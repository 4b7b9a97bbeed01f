"""The accounts of a replay, on plans whose arithmetic can be redone by hand, and how the tables tell them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from scaler.decision import Decision, FleetPlan, PoolState, Reason, Verdict
from scaler.planning.memory import Memory
from scaler.planning.plan import plan
from scaler.policy import FleetPolicy, OperatorPolicy, ServiceKey, ServicePolicy
from scaler.replay.divergence import Ahead, Withheld
from scaler.replay.flow import Flow
from scaler.replay.rerun import Rerun
from scaler.replay.summary import Growth, Replay, Veto
from scaler.replay.tables import tables
from scaler.snapshot import CardKey, CardReading, Problem, Snapshot, WorkloadKey, WorkloadReading

GIB = 1024.0**3
E5 = ServiceKey("ml", "e5")
START_S = 1750204800.0  # 2025-06-18 00:00:00 UTC
STEP_S = 900.0  # a quarter of an hour, so that replica-hours are quarters


def decided(replicas: int | None, demand: int | None, granted: int | None, *reasons: Reason) -> Decision:
    if replicas is None or demand is None or granted is None:
        verdict = Verdict.UNKNOWN
    elif demand > replicas:
        verdict = Verdict.SCALE_UP if granted == demand else Verdict.VETO if granted <= replicas else Verdict.LIMITED
    else:
        verdict = Verdict.SCALE_DOWN if granted < replicas else Verdict.HOLD
    return Decision(START_S, E5, "t4", replicas, demand, granted, True, verdict, reasons or (Reason.DEMAND,), ())


def pool(free_gib: float | None, vetoed: bool = False) -> PoolState:
    free = None if free_gib is None else free_gib * GIB
    return PoolState("t4", free, None if free is None else 1.5 * GIB, None, None, vetoed, None, 24)


def replayed(
    *moments: tuple[Decision, PoolState], max_changes: int | None = None, problems: tuple[Problem, ...] = ()
) -> Replay:
    replay = Replay(max_changes)
    for number, (decision, state) in enumerate(moments):
        time_s = START_S + number * STEP_S
        replay.add(FleetPlan(time_s, {E5: decision._replace(time_s=time_s)}, {"t4": state}, problems))
    return replay


def printed(replay: Replay) -> str:
    console = Console(file=io.StringIO(), width=160, markup=False)
    with console.capture() as captured:
        console.print(tables(replay))
    return captured.get()


def test_replica_hours_are_those_between_moments_with_an_answer() -> None:
    roomy = pool(5)
    account = replayed(
        (decided(4, 2, 4), roomy),  # 1/4 h: 4 real, 4 granted
        (decided(4, 2, 2), roomy),  # 1/4 h: 4 real, 2 granted
        (decided(None, None, None), roomy),  # not counted
        (decided(2, 2, 2), roomy),  # 1/4 h: 2 and 2
        (decided(9, 9, 9), roomy),  # the end
    ).services[E5]
    assert (account.real_hours, account.granted_hours) == (2.5, 2.0)
    assert (account.real_max, account.granted_max, account.unknown_steps) == (9, 9, 1)


def test_withheld_are_real_scale_ups_above_the_grant_with_the_room_there_was() -> None:
    account = replayed(
        (decided(2, 2, 2), pool(5)),
        (decided(3, 2, 2), pool(5)),  # 2 to 3, granted 2
        (decided(3, 2, 2), pool(5)),  # no scale-up
        (decided(None, None, None), pool(5)),
        (decided(7, 2, 2, Reason.LOW_VRAM), pool(None)),  # 3 to 7 behind the gap
        (decided(8, 9, 9), pool(5)),  # granted more: not withheld
    ).services[E5]
    assert account.withheld == [
        Withheld(START_S + STEP_S, 2, 3, 2, 5 * GIB, Reason.DEMAND),
        Withheld(START_S + 4 * STEP_S, 3, 7, 2, None, Reason.LOW_VRAM),
    ]


def test_a_scale_up_against_a_veto_is_withheld_though_what_runs_is_granted() -> None:
    account = replayed(
        (decided(2, 3, 2, Reason.LOW_VRAM), pool(1, vetoed=True)),
        (decided(3, 3, 3), pool(1, vetoed=True)),
        (decided(3, 5, 4, Reason.NO_FIT), pool(5)),
        (decided(4, 5, 4, Reason.NO_FIT), pool(5)),  # as many as the limit granted
        (decided(5, 5, 5), pool(5)),
    ).services[E5]
    assert account.withheld == [
        Withheld(START_S + STEP_S, 2, 3, 2, GIB, Reason.LOW_VRAM),
        Withheld(START_S + 4 * STEP_S, 4, 5, 4, 5 * GIB, Reason.NO_FIT),
    ]


def test_a_scale_up_that_nobody_asked_for_is_withheld_though_the_start_knows_no_scale_down() -> None:
    account = replayed(
        (decided(2, 2, 2), pool(5)),
        (decided(7, 2, 7, Reason.SCALE_DOWN_WINDOW), pool(5)),
        (decided(8, 8, 8), pool(5)),  # asked for in the same moment
    ).services[E5]
    assert account.withheld == [Withheld(START_S + STEP_S, 2, 7, 2, 5 * GIB, Reason.DEMAND)]


def after(steps: int) -> float:
    return START_S + steps * STEP_S


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        pytest.param(
            [(2, 3), (2, 3), (3, 3)], [Ahead(after(0), 2, 3, GIB, "followed", after(2))], id="two steps earlier"
        ),
        pytest.param([(2, 3), (2, 2), (3, 2)], [Ahead(after(0), 2, 3, GIB, "withdrawn", after(1))], id="withdrawn"),
        pytest.param([(2, 3), (2, 3)], [Ahead(after(0), 2, 3, GIB)], id="not before the end"),
        pytest.param(
            [(2, 3), (2, 5), (3, 5), (4, 5), (6, 5)],
            [Ahead(after(0), 2, 3, GIB, "followed", after(2)), Ahead(after(1), 3, 5, GIB, "followed", after(4))],
            id="each rise by itself",
        ),
        pytest.param(
            [(2, 5), (2, 3), (3, 5), (5, 5)],
            [Ahead(after(0), 2, 3, GIB, "followed", after(2)), Ahead(after(2), 3, 5, GIB, "followed", after(3))],
            id="less, and again",
        ),
        pytest.param(
            [(2, 3), (None, None), (3, 3)], [Ahead(after(0), 2, 3, GIB, "followed", after(2))], id="over a gap"
        ),
        pytest.param([(2, 2), (3, 3), (3, 3)], [], id="at the same moment"),
    ],
)
def test_ahead_is_what_was_granted_before_the_recorded_autoscaler_did_it(
    numbers: list[tuple[int | None, int | None]], expected: list[Ahead]
) -> None:
    account = replayed(*((decided(real, granted, granted), pool(1)) for real, granted in numbers)).services[E5]
    assert account.ahead == expected
    steps = [each.earlier_s / STEP_S for each in account.ahead if each.earlier_s is not None]
    assert steps == [
        (each.until_s or 0) / STEP_S - each.time_s / STEP_S for each in expected if each.outcome == "followed"
    ]


def test_a_partial_grant_counts_as_vetoed() -> None:
    account = replayed((decided(4, 4, 4), pool(5)), (decided(4, 6, 5, Reason.NO_FIT), pool(4))).services[E5]
    assert account.ahead == [Ahead(after(1), 4, 5, 4 * GIB)]
    assert (account.vetoed_steps, account.first_veto_s) == (1, after(1))


def test_a_pool_counts_what_failed_and_the_time_between_veto_and_failure() -> None:
    hold, replay = decided(2, 2, 2), Replay(None)
    moments = [
        (pool(5), Flow(10, 10, 0)),
        (pool(1, vetoed=True), Flow(10, 10, 0)),
        (pool(1, vetoed=True), None),  # not seen: no requests are counted
        (pool(1, vetoed=True), Flow(12, 8, 4)),
        (pool(5), Flow(16, 16, 0)),
        (pool(5), Flow(16, 16, 0)),
        (pool(5), Flow(1, 1, 0)),
    ]
    for number, (state, flow) in enumerate(moments):
        made = FleetPlan(after(number), {E5: hold}, {"t4": state})
        replay.add(made, {} if flow is None else {"t4": flow})
    account = replay.pools["t4"]
    assert account.first_below_s == account.vetoes[0].start_s == after(1)
    assert account.first_failure_s == after(3)
    assert account.warning_s == 2 * STEP_S
    # A step is 900 s, and the last one lasts for none.
    assert account.requests == 900 * (10 + 10 + 12 + 16 + 16)
    assert account.failed_requests == 900 * 4
    # Quarters of an hour, as long as a step: the one that ended with the veto served 8/s, the busiest after it 16/s.
    assert account.growth() == Growth(after(4), 8, 16)
    assert Growth(0, 8, 16).ratio == 1.0


def test_growth_looks_only_at_what_came_after_the_veto() -> None:
    """16/s and 12/s while the veto stands, then 4/s and 6/s: it shrank by a half."""
    replay = Replay(None)
    for number, per_s in enumerate((16, 12, 4, 6, 0)):
        made = FleetPlan(after(number), {E5: decided(2, 2, 2)}, {"t4": pool(5, vetoed=number < 2)})
        replay.add(made, {"t4": Flow(per_s, per_s, 0)})
    growth = replay.pools["t4"].growth()
    assert growth == Growth(after(2), 12, 6)
    assert growth.ratio == -0.5


def test_a_pool_keeps_its_tightest_moment_its_time_below_and_its_vetoes() -> None:
    hold = decided(2, 2, 2)
    account = replayed(
        (hold, pool(5)),
        (hold, pool(0.5, vetoed=True)),  # 1/4 h below 1.5 GiB
        (hold, pool(1.0, vetoed=True)),  # 1/4 h below
        (hold, pool(3.0, vetoed=True)),
        (hold, pool(3.0)),
        (hold, pool(None, vetoed=True)),
    ).pools["t4"]
    assert (account.least_free_bytes, account.least_at_s) == (0.5 * GIB, START_S + STEP_S)
    assert (account.below_hours, account.blind_steps) == (0.5, 1)
    assert account.vetoes == [Veto(START_S + STEP_S, START_S + 4 * STEP_S), Veto(START_S + 5 * STEP_S, None)]


@pytest.mark.parametrize(
    ("second", "logged"),
    [
        pytest.param(decided(2, 2, 2), False, id="the same"),
        pytest.param(decided(2, 3, 3), True, id="demand and verdict"),
        pytest.param(decided(3, 2, 2), True, id="granted below replicas"),
        pytest.param(decided(2, 2, 2, Reason.FLOOR), True, id="first reason"),
        pytest.param(decided(None, None, None, Reason.STALE), True, id="no answer"),
    ],
)
def test_the_change_log_has_a_line_only_where_something_became_another(second: Decision, logged: bool) -> None:
    replay = replayed((decided(2, 2, 2), pool(5)), (second, pool(4)))
    assert len(replay.changes) == 1 + logged


def test_the_change_log_is_cut_and_says_so() -> None:
    moments = [(decided(2, 2 + number % 2, 2), pool(5)) for number in range(10)]
    replay = replayed(*moments, max_changes=4)
    assert (len(replay.changes), replay.changes_left_out) == (4, 6)
    assert "and 6 changes more; --all shows them" in printed(replay)
    assert "--all" not in printed(replayed(*moments))


def test_the_tables_say_what_happened() -> None:
    text = printed(
        replayed(
            (decided(2, 2, 2), pool(5)),
            (decided(7, 2, 2), pool(0.25, vetoed=True)),
            (decided(7, 9, 7, Reason.LOW_VRAM), pool(0.25, vetoed=True)),
            (decided(2, 3, 3), pool(5)),
            problems=(Problem("vram", "is the DCGM exporter scraped?"),),
        )
    )
    for expected in (
        "2025-06-18 00:00:00Z to 2025-06-18 00:45:00Z, 4 steps",
        "00:15:00 2→7, granted 2 (demand), 256 MiB free",
        "00:45:00 2→3, not followed, 5.0 GiB free",
        "00:15:00 to 00:45:00",
        "256 MiB at 00:15:00",
        "veto begins",
        "veto ends",
        "00:30:00 (1)",
        "low-vram",
        "is the DCGM exporter scraped?",
    ):
        assert expected in text, expected


def test_a_replay_over_days_names_the_day() -> None:
    replay = Replay(None)
    for time_s in (START_S, START_S + 86400):
        replay.add(FleetPlan(time_s, {E5: decided(2, 2, 2)._replace(time_s=time_s)}, {"t4": pool(5)}))
    assert "06-18 00:00:00" in printed(replay)


def test_nothing_replayed_is_said() -> None:
    assert "nothing was replayed" in printed(Replay(None))


def test_rerun_is_plan_with_the_memory_handed_on() -> None:
    workload = WorkloadKey("ml", "e5")
    reading = WorkloadReading(
        spec_replicas=2, ready_replicas=2, replicas_age_s=5, scraped_pods=2, signals_age_s=5, queued=0, executing=1
    )
    snapshots = [
        Snapshot(START_S + 15 * tick, {workload: reading}, {CardKey("GPU-1"): CardReading(5 * GIB, 15 * GIB, age_s=5)})
        for tick in range(40)
    ]
    policy = FleetPolicy(OperatorPolicy(), {E5: ServicePolicy(deployment="e5")})
    memory, expected = Memory(), []
    for snapshot in snapshots:
        fleet, memory = plan(snapshot, policy, memory)
        expected.append(fleet)
    plans = list(map(Rerun(policy).at, snapshots))
    assert plans == expected
    # 300 s of lower demand must have been seen first, which a memory that is lost at each step never has.
    granted = [each.decisions[E5].granted for each in plans]
    assert (granted[0], granted[-1]) == (2, 1)
