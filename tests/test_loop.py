"""The tick loop: when it reads, what it remembers, and what KEDA is told while something is wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import NoReturn

import pytest

from scaler.decision import FleetPlan, Reason, Verdict
from scaler.planning.memory import Memory, horizon_s
from scaler.planning.plan import plan
from scaler.policy import FleetPolicy, OperatorPolicy, PoolPolicy, Timing
from scaler.serving.board import Board, NoPlan
from scaler.serving.clock import Playback
from scaler.serving.history import Planner, learn, spans
from scaler.serving.loop import TickLoop
from scaler.serving.registry import Registry
from scaler.snapshot import Problem, Snapshot
from scaler.sources.source import SourceUnavailable
from tests.fleet import START_S, TICK_S, card, key, reading, run, snapshot
from tests.serving import METADATA, OUTAGE, FakeSource, ManualClock, until

# Every window short, so that a whole history is some 50 snapshots: moments 600 s, the evidence of an OOM, + 120 s.
OPERATOR = OperatorPolicy(
    timing=Timing(learn_every_s="2m", learn_window_s="20m", watermark_window_s="2m"),
    pools=(PoolPolicy(scale_down_window_s="60s"),),
)


def fleet_at(at_s: float) -> Snapshot:
    """Two replicas with 6 in flight, and before START_S - 30 s four with 14: a scale-down is under way."""
    busy = at_s <= START_S - 30
    return snapshot(at_s, {"e5": reading(4, 14.0) if busy else reading(4, 6.0)}, card(8.0))


class Bench:
    def __init__(self, source: FakeSource | None = None, planner: Planner = plan, now_s: float = START_S) -> None:
        self.source = source or FakeSource(fleet_at)
        self.clock = ManualClock(now_s)
        self.board = Board(self.clock, OPERATOR.timing.stale_after_s)
        self.registry = Registry(OPERATOR)
        self.loop = TickLoop(self.source, OPERATOR, self.registry, self.board, self.clock, planner)
        self.registry.ask("models", "e5", METADATA)

    async def ticks(self, count: int = 1) -> None:
        """So many ticks, one TICK_S apart, the first at the clock's present time."""
        for index in range(count):
            if index:
                self.clock.advance(TICK_S)
            await self.loop.tick(self.clock.now_s())

    def fault(self) -> str:
        return self.board.fault() or ""


async def test_a_tick_publishes_one_plan_for_all_that_were_asked_about() -> None:
    bench = Bench()
    bench.registry.ask("models", "other", METADATA)
    await bench.ticks()
    published = bench.board.in_force()
    assert published.time_s == START_S
    assert set(published.decisions) == {key("e5"), key("other")}
    assert published.decisions[key("other")].verdict is Verdict.UNKNOWN
    assert bench.loop.stats.plans_total == 1


class TestHistory:
    def test_coarse_where_only_lessons_reach_and_every_tick_over_the_horizon(self) -> None:
        assert horizon_s(OPERATOR) == 915
        coarse, fine = spans(OPERATOR, START_S - 15, None, 0.0)
        # The horizon begins at 23:44:30; 20 min before that is 23:24:30, so from 23:26.
        assert coarse == (START_S - 2040, START_S - 960, 120.0)
        assert fine == (START_S - 930, START_S - 15, 15.0)

    def test_a_gap_is_filled_from_where_memory_ends(self) -> None:
        assert spans(OPERATOR, START_S, START_S - 90, 0.0) == [(START_S - 75, START_S, 15.0)]

    @pytest.mark.parametrize("tick", ["500ms", "700ms", "900ms", "7s"])
    def test_one_missed_tick_is_one_instant_however_its_multiples_are_rounded(self, tick: str) -> None:
        operator = OperatorPolicy(timing=Timing(tick_s=tick))
        tick_s = operator.timing.tick_s
        first = round(START_S / tick_s)
        for number in range(first, first + 200):
            remembered_s = round(number * tick_s, 3)  # a source may give whole milliseconds
            [span] = spans(operator, (number + 2) * tick_s - tick_s, remembered_s, 0.0)
            assert (span.end_s - span.start_s, span.end_s) == pytest.approx((0.0, remembered_s + tick_s), abs=1e-5)

    def test_nothing_before_a_recordings_beginning(self) -> None:
        assert spans(OPERATOR, START_S, None, START_S - 40) == [(START_S - 30, START_S, 15.0)]
        assert spans(OPERATOR, START_S - 15, None, START_S) == []

    async def test_a_restart_forgets_nothing(self) -> None:
        restarted = Bench()
        await restarted.ticks(3)
        fleet = FleetPolicy(OPERATOR, restarted.registry.policies())
        ran_for_an_hour, _ = run([fleet_at(START_S + TICK_S * tick) for tick in range(-240, 3)], fleet)
        assert restarted.board.in_force().decisions == ran_for_an_hour[-1].decisions
        # 6 in flight / 4 is 2, but 14/4 = 4 was needed until 60 s ago: the window holds, and a fresh memory would too.
        assert ran_for_an_hour[-1].decisions[key("e5")].granted == 4
        await restarted.ticks(4)
        assert restarted.board.in_force().decisions[key("e5")].granted == 2

    async def test_there_is_no_answer_while_history_is_read(self) -> None:
        bench, release = Bench(), threading.Event()
        snapshots = bench.source.snapshots
        bench.source.snapshots = lambda *span: (release.wait(5) and snapshots(*span)) or iter(())  # type: ignore[method-assign]
        ticking = asyncio.create_task(bench.ticks())
        await until(lambda: bench.fault() == "no plan yet: memory is being rebuilt from history")
        release.set()
        await ticking
        assert bench.fault() == ""

    async def test_a_plan_is_made_where_history_cannot_be_read_and_scale_downs_wait(self) -> None:
        bench = Bench()
        bench.source.history_fault = SourceUnavailable("query exceeds the retention")
        await bench.ticks()
        assert len(bench.source.spans) == 2
        decided = bench.board.in_force().decisions[key("e5")]
        assert (decided.demand, decided.granted, decided.reasons[0]) == (2, 4, Reason.SCALE_DOWN_WINDOW)

    def test_what_can_be_read_counts(self) -> None:
        source = FakeSource(fleet_at)
        wanted = spans(OPERATOR, START_S, None, 0.0)

        def planner(seen: Snapshot, fleet: FleetPolicy, memory: Memory) -> tuple[FleetPlan, Memory]:
            if seen.taken_at_s < START_S - horizon_s(OPERATOR):
                raise RuntimeError("planted")
            return plan(seen, fleet, memory)

        learnt = learn(source, planner, OPERATOR, Memory(), wanted, threading.Event())
        assert learnt.memory.time_s == START_S
        assert len(learnt.faults) == 1
        assert learnt.faults[0].endswith("every 120 s: RuntimeError: planted")

    def test_stops_at_the_next_snapshot(self) -> None:
        stop = threading.Event()
        stop.set()
        learnt = learn(FakeSource(), plan, OPERATOR, Memory(), spans(OPERATOR, START_S, None, 0.0), stop)
        assert learnt.snapshots == 0


def remembered(bench: Bench) -> Memory:
    """What was read. In a tick that was missed nobody was told anything, so what was told differs for 90 s."""
    return replace(bench.loop._memory, promises={})


class TestOutage:
    async def test_the_plan_in_force_stays_until_it_is_stale(self) -> None:
        bench = Bench()
        await bench.ticks()
        bench.source.fault = OUTAGE
        for age_s in (15, 30):
            bench.clock.advance(TICK_S)
            await bench.ticks()
            assert bench.fault() == "", age_s
        bench.clock.advance(TICK_S)
        await bench.ticks()
        assert bench.fault() == (
            "stale: the newest plan is 45 s old, the limit is 45 s: "
            "source unavailable: http://prometheus:9090: connection refused"
        )

    @pytest.mark.parametrize(
        ("missed", "one_by_one", "as_range"),
        [
            pytest.param(0, [], [], id="none missed"),
            pytest.param(1, [START_S + 15], [], id="one missed"),
            pytest.param(2, [START_S + 15, START_S + 30], [], id="two missed, each within the deadline of a tick"),
            pytest.param(3, [], [(START_S + 15, START_S + 45, 15.0)], id="three missed"),
            pytest.param(8, [], [(START_S + 15, START_S + 120, 15.0)], id="eight missed, one that teaches among them"),
        ],
    )
    async def test_what_was_missed_and_nothing_else_is_read_from_history_and_leaves_no_trace(
        self, missed: int, one_by_one: list[float], as_range: list[tuple[float, float, float]]
    ) -> None:
        gapped, whole = Bench(), Bench()
        await whole.ticks(missed + 2)
        await gapped.ticks()
        gapped.source.spans.clear()
        for fault in [OUTAGE] * missed + [None]:
            gapped.source.fault = fault
            gapped.source.asked.clear()
            gapped.clock.advance(TICK_S)
            await gapped.ticks()
        assert gapped.source.asked == [gapped.clock.now_s(), *one_by_one]
        assert gapped.source.spans == as_range
        # Law 7: the instance that missed them remembers and decides as the one that did not.
        assert remembered(gapped) == remembered(whole)
        assert gapped.board.in_force() == whole.board.in_force()

    async def test_the_tick_that_teaches_may_be_the_missed_one(self) -> None:
        # Lessons are due every 2 min, so at START_S + 120 s, the ninth tick. Without it the tenth would teach.
        gapped, whole = Bench(), Bench()
        await whole.ticks(10)
        await gapped.ticks(8)
        gapped.clock.advance(2 * TICK_S)
        await gapped.ticks()
        assert remembered(gapped) == remembered(whole)

    async def test_a_missed_tick_that_history_cannot_give_is_left_out(self) -> None:
        bench = Bench()
        await bench.ticks()
        bench.source.at = lambda at_s: fleet_at(at_s) if at_s != START_S + 15 else fail()
        bench.clock.advance(2 * TICK_S)
        await bench.ticks()
        assert bench.board.in_force().time_s == bench.loop._memory.time_s == START_S + 30
        # It is not asked for again.
        bench.source.asked.clear()
        bench.clock.advance(TICK_S)
        await bench.ticks()
        assert bench.source.asked == [START_S + 45]

    async def test_down_at_the_start_and_then_back(self) -> None:
        bench = Bench()
        bench.source.fault = OUTAGE
        await bench.ticks()
        assert bench.fault() == "no plan yet: source unavailable: http://prometheus:9090: connection refused"
        assert bench.source.spans == []
        bench.source.fault = None
        bench.clock.advance(TICK_S)
        await bench.ticks()
        assert bench.fault() == ""
        assert len(bench.source.spans) == 2

    async def test_any_fault_of_the_source_is_an_outage(self) -> None:
        bench = Bench()
        bench.source.fault = StopIteration("planted")
        await bench.ticks()
        assert bench.fault().startswith("no plan yet: source unavailable: RuntimeError: StopIteration: planted")

    async def test_a_source_that_hangs_is_left_alone_and_not_asked_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        impatient = OPERATOR.model_copy(update={"timing": OPERATOR.timing.model_copy(update={"stale_after_s": 0.05})})
        bench, release = Bench(), threading.Event()
        bench.loop = TickLoop(bench.source, impatient, bench.registry, bench.board, bench.clock)
        snapshot_at = bench.source.snapshot_at
        monkeypatch.setattr(bench.source, "snapshot_at", lambda at_s: release.wait(5) and snapshot_at(at_s))
        await bench.ticks()
        assert bench.fault() == "no plan yet: source unavailable: no snapshot within 0.05 s"
        await bench.ticks()
        assert bench.fault() == "no plan yet: source unavailable: an earlier reading has not returned"
        release.set()
        await until(lambda: bench.source.asked == [START_S])
        bench.clock.advance(TICK_S)
        await bench.ticks()
        assert bench.board.newest is not None

    async def test_a_plan_that_fails_leaves_the_last_one_in_force(self) -> None:
        broken = False

        def planner(seen: Snapshot, fleet: FleetPolicy, memory: Memory) -> tuple[FleetPlan, Memory]:
            return fail() if broken else plan(seen, fleet, memory)

        bench = Bench(planner=planner)
        await bench.ticks()
        broken = True
        bench.clock.advance(TICK_S)
        await bench.ticks(2)
        assert bench.board.in_force().time_s == START_S
        assert bench.loop.stats.plan_failures_total == 2
        bench.clock.advance(TICK_S)
        assert (
            bench.fault()
            == "stale: the newest plan is 45 s old, the limit is 45 s: no plan was made: RuntimeError: planted"
        )
        broken = False
        await bench.ticks()
        assert bench.fault() == ""

    async def test_what_a_snapshot_could_not_see_is_counted(self) -> None:
        bench = Bench(FakeSource(lambda at_s: Snapshot(at_s, problems=(Problem("free-vram", "empty"),))))
        bench.source.history_fault = OUTAGE
        await bench.ticks(2)
        assert bench.loop.stats.problems_total == {"free-vram": 2}


def fail() -> NoReturn:
    raise RuntimeError("planted")


class TestClockStepsBack:
    async def test_memory_is_rebuilt_at_the_new_time_and_nobody_is_told_more(self) -> None:
        bench = Bench()
        await bench.ticks(8)
        granted = bench.board.in_force().decisions[key("e5")].granted
        bench.clock.step(-3600)
        bench.source.spans.clear()
        bench.source.fault = OUTAGE
        await bench.ticks()
        # Not one answer is another than before while the new time has not been planned for.
        assert bench.board.in_force().decisions[key("e5")].granted == granted
        bench.source.fault = None
        await bench.ticks()
        published = bench.board.in_force()
        assert published.time_s == START_S + 7 * TICK_S - 3600
        assert published.decisions[key("e5")].granted == 4
        assert [span[1] for span in bench.source.spans][-1] == published.time_s - TICK_S
        assert bench.loop.stats.clock_steps_total == 1

    async def test_a_plan_from_the_future_still_grows_old(self) -> None:
        bench = Bench()
        await bench.ticks()
        bench.clock.step(-3600)
        bench.clock.advance(45)
        with pytest.raises(NoPlan, match="45 s old"):
            bench.board.in_force()


@pytest.fixture
async def spawn() -> AsyncIterator[Callable[[Bench], None]]:
    tasks: list[asyncio.Task[None]] = []
    yield lambda bench: tasks.append(asyncio.create_task(bench.loop.run()))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class TestRun:
    async def test_ticks_are_aligned_to_the_wall_clock_whenever_it_starts(self, spawn: Callable[[Bench], None]) -> None:
        bench = Bench(now_s=START_S + 7)
        spawn(bench)
        await until(lambda: bench.source.asked == [START_S])
        for seconds, asked_s in ((7, START_S), (1, START_S + 15), (14, START_S + 15), (16, START_S + 30)):
            await until(lambda: bool(bench.clock._wakers))
            bench.clock.advance(seconds)
            await until(lambda last_s=asked_s: bench.source.asked[-1] == last_s)  # type: ignore[misc]
        # At 46 s it is 45 that is read; 30 has passed unseen, and is read for the memory.
        assert bench.source.asked == [START_S, START_S + 15, START_S + 45, START_S + 30]

    async def test_a_small_step_back_is_waited_out_and_a_large_one_is_a_new_time(
        self, spawn: Callable[[Bench], None]
    ) -> None:
        bench = Bench(now_s=START_S + 1)
        spawn(bench)
        for step_s, asked in ((-2, [START_S]), (2, [START_S]), (-30, [START_S, START_S - 30])):
            await until(lambda: bool(bench.clock._wakers))
            bench.clock.step(step_s)
            await until(lambda: bool(bench.clock._wakers))
            # Earlier instants are the history of the new time, which is read back one by one where it is short.
            assert [at_s for at_s in bench.source.asked if at_s >= START_S - 60] == asked

    async def test_nothing_that_raises_ends_it(
        self, spawn: Callable[[Bench], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench = Bench()
        monkeypatch.setattr(bench.registry, "policies", fail)
        spawn(bench)
        await until(lambda: bench.fault() == "no plan yet: internal fault: RuntimeError: planted")
        monkeypatch.undo()
        bench.clock.advance(TICK_S)
        await until(lambda: bench.fault() == "")


class TestPlayback:
    async def test_plays_every_tick_and_begins_again_with_a_fresh_memory(self) -> None:
        slept: list[float] = []
        wrapped = asyncio.Event()

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            await asyncio.sleep(0)
            if len(source.asked) >= 7:
                wrapped.set()
                await asyncio.Event().wait()

        source = FakeSource(fleet_at)
        clock = Playback(START_S + 1, START_S + 70, speed=600, sleep=sleep)
        board = Board(clock, OPERATOR.timing.stale_after_s)
        registry = Registry(OPERATOR)
        registry.ask("models", "e5", METADATA)
        loop = TickLoop(source, OPERATOR, registry, board, clock)
        running = asyncio.create_task(loop.run())
        await asyncio.wait_for(wrapped.wait(), 5)
        # From 1 s to 70 s there are the ticks 15, 30, 45, 60, then it begins again.
        assert [at_s - START_S for at_s in source.asked] == [15, 30, 45, 60, 15, 30, 45]
        assert all(seconds <= 15 / 600 for seconds in slept)
        assert source.spans == []
        assert loop.stats.clock_steps_total == 1
        assert board.age_s() == 0
        running.cancel()

    async def test_what_lies_before_the_beginning_is_learnt_from(self) -> None:
        source = FakeSource(fleet_at)
        clock = Playback(START_S, START_S + 60, earliest_s=START_S - 60)
        loop = TickLoop(source, OPERATOR, Registry(OPERATOR), Board(clock, 45.0), clock)
        await loop.tick(START_S)
        assert source.spans == [(START_S - 60, START_S - 15, 15.0)]

    @pytest.mark.parametrize(
        ("begin_s", "end_s", "speed"), [(10.0, 10.0, 60.0), (10.0, 20.0, 0.0), (10.0, 20.0, float("nan"))]
    )
    def test_what_cannot_be_played_is_refused(self, begin_s: float, end_s: float, speed: float) -> None:
        with pytest.raises(ValueError, match="a playback"):
            Playback(begin_s, end_s, speed)
