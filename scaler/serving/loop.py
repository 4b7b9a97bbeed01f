"""Read, plan, publish: once a tick for the whole fleet, at instants aligned to the clock. No failure ends it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from scaler.decision import Decision, FleetPlan
from scaler.planning.memory import Memory
from scaler.planning.plan import plan
from scaler.policy import FleetPolicy, OperatorPolicy, ServiceKey
from scaler.serving.board import Board, Grounds
from scaler.serving.clock import Clock
from scaler.serving.garbage import QuietCollector
from scaler.serving.history import Planner, learn, spans
from scaler.serving.hour import LastHour
from scaler.serving.registry import Registry
from scaler.serving.shadow import ShadowBook, dry_run
from scaler.snapshot import Snapshot
from scaler.sources.source import Source, SourceUnavailable

log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class LoopStats:
    """What the loop did, for /metrics. Times are `Clock.elapsed_s` (ages) and real seconds (durations)."""

    last_read_elapsed_s: float | None = None
    read_duration_s: float | None = None
    plan_duration_s: float | None = None
    learning_duration_s: float | None = None
    learnt_snapshots: int = 0
    reads_total: int = 0
    read_failures_total: int = 0
    plans_total: int = 0
    plan_failures_total: int = 0
    shadow_plan_duration_s: float | None = None
    shadow_plan_failures_total: int = 0
    clock_steps_total: int = 0
    problems_total: Counter[str] = field(default_factory=Counter)


class TickLoop:
    """Publishes a plan a tick. All its failures leave the plan in force to age, until the board calls it stale.

    Attributes:
        stats: what it did. hour: what the plans of the last hour said. shadows: how the shadows fared.
    """

    def __init__(
        self,
        source: Source,
        operator: OperatorPolicy,
        registry: Registry,
        board: Board,
        clock: Clock,
        planner: Planner = plan,
    ) -> None:
        self._source, self._operator, self._registry = source, operator, registry
        self._board, self._clock, self._planner = board, clock, planner
        self._fleet, self._memory = FleetPolicy(operator, {}), Memory()
        self._reading: asyncio.Future[Snapshot] | None = None
        self._stop = threading.Event()
        self._collector = QuietCollector()
        self.stats = LoopStats()
        self.hour = LastHour(operator.timing.tick_s)
        self.shadows = ShadowBook()
        self._asked_shadows: set[ServiceKey] = set()
        self._shadow_fault = ""

    async def run(self) -> None:
        """Ticks until cancelled: at once for the newest aligned instant, then at each that follows."""
        tick_s, ticked_s = self._operator.timing.tick_s, -math.inf
        try:
            while True:
                instant_s = math.floor(self._clock.now_s() / tick_s) * tick_s
                # A step back of up to one tick, such as a leap second, is waited out; a longer one is a new time.
                if instant_s >= self._clock.earliest_s and (instant_s > ticked_s or instant_s < ticked_s - tick_s):
                    ticked_s = instant_s
                    await self._tick_safely(instant_s)
                await self._clock.sleep_until((math.floor(self._clock.now_s() / tick_s) + 1) * tick_s)
        finally:
            self._stop.set()

    async def tick(self, instant_s: float) -> None:
        """Reads the fleet at that instant and plans for it, with memory rebuilt from history where it has a gap."""
        begun_s = self._clock.elapsed_s()
        snapshot = await self._read(instant_s)
        if snapshot is None:
            return
        await self._remember_until(instant_s)
        await self._plan(snapshot, begun_s)

    async def _tick_safely(self, instant_s: float) -> None:
        try:
            with self._collector.tick():
                await self.tick(instant_s)
        except Exception as fault:
            self._board.trouble = f"internal fault: {type(fault).__name__}: {fault}"
            log.exception("tick failed", instant_s=instant_s)

    async def _read(self, instant_s: float) -> Snapshot | None:
        """The snapshot, or None with the board's trouble set."""
        begun_s = time.perf_counter()
        self.stats.reads_total += 1
        try:
            snapshot = await self._ask_source(instant_s)
        except SourceUnavailable as fault:
            self.stats.read_failures_total += 1
            trouble = f"{_SOURCE} {' '.join(str(fault).split())}"
            if trouble != self._board.trouble:  # one line an outage, not one a tick
                log.warning("source unavailable", reason=str(fault))
            self._board.trouble = trouble
            return None
        finally:
            self.stats.read_duration_s = time.perf_counter() - begun_s
        if self._board.trouble.startswith(_SOURCE):
            log.info("source is back")
        self.stats.last_read_elapsed_s = self._clock.elapsed_s()
        self.stats.problems_total.update(problem.signal for problem in snapshot.problems)
        return snapshot

    async def _ask_source(self, instant_s: float) -> Snapshot:
        """Whatever goes wrong is a SourceUnavailable. A source that hangs costs one thread, not the loop."""
        if self._reading is not None and not self._reading.done():
            raise SourceUnavailable("an earlier reading has not returned")
        limit_s = self._operator.timing.stale_after_s
        self._reading = _in_thread(self._source.snapshot_at, instant_s)
        try:
            # Not wait_for: in Python 3.11 it loses a cancellation that comes as its future is done.
            async with asyncio.timeout(limit_s):
                return await asyncio.shield(self._reading)
        except SourceUnavailable:
            raise
        except TimeoutError:
            raise SourceUnavailable(f"no snapshot within {limit_s:g} s") from None
        except Exception as fault:
            raise SourceUnavailable(f"{type(fault).__name__}: {fault}") from fault

    async def _remember_until(self, instant_s: float) -> None:
        """Fills the memory up to the tick before: at the start, after a gap, and anew after the clock stepped back."""
        timing, remembered_s = self._operator.timing, self._memory.time_s
        if remembered_s is not None and instant_s <= remembered_s:
            self.stats.clock_steps_total += 1
            log.warning("clock stepped back", from_s=remembered_s, to_s=instant_s)
            self._memory, remembered_s = Memory(), None
        # One missed tick is a gap: it may be the one that teaches, and an instance that saw it would know more.
        if remembered_s is not None and instant_s - remembered_s < 1.5 * timing.tick_s:
            return
        wanted = spans(self._operator, instant_s - timing.tick_s, remembered_s, self._clock.earliest_s)
        if self._board.newest is None:
            self._board.trouble = "memory is being rebuilt from history"
        begun_s = time.perf_counter()
        learnt = await _in_thread(learn, self._source, self._planner, self._operator, self._memory, wanted, self._stop)
        self._memory = learnt.memory
        self.stats.learnt_snapshots += learnt.snapshots
        self.stats.learning_duration_s = time.perf_counter() - begun_s
        log.info("history read", snapshots=learnt.snapshots, seconds=round(self.stats.learning_duration_s, 3))
        for fault in learnt.faults:
            log.warning("history incomplete: scale-downs wait until their window is filled", reason=fault)

    async def _plan(self, snapshot: Snapshot, begun_s: float) -> None:
        started_s = time.perf_counter()
        services, is_settled = self._registry.policies(), self._registry.is_settled
        # For 1,000 services it takes a millisecond of the event loop: only when somebody came, went or changed.
        if services != self._fleet.services or is_settled != self._fleet.is_settled:
            self._fleet = FleetPolicy(self._operator, services, is_settled)
        fleet, remembered = self._fleet, self._memory
        try:
            planned, self._memory = await _in_thread(self._planner, snapshot, fleet, remembered)
        except Exception as fault:
            self.stats.plan_failures_total += 1
            self._board.trouble = f"no plan was made: {type(fault).__name__}: {fault}"
            log.exception("plan failed", instant_s=snapshot.taken_at_s)
            return
        finally:
            self.stats.plan_duration_s = time.perf_counter() - started_s
        self.stats.plans_total += 1
        before = self._board.newest
        grounds = Grounds(
            snapshot, fleet, self._memory, self._registry.shadows(), tuple(self._registry.asked_shadows())
        )
        self._board.publish(planned, begun_s, grounds)
        shadow = await self._plan_shadows(grounds, remembered)
        # A thousand services: 80 ms of log lines, and 2 ms for the hour. Not in the event loop.
        await _in_thread(self.hour.note, planned.time_s, {**shadow, **planned.decisions}, planned.pools)
        await _in_thread(_log_changes, before, planned)

    async def _plan_shadows(self, grounds: Grounds, memory: Memory) -> Mapping[ServiceKey, Decision]:
        """After KEDA's answers are out, and with no word in them: a failure here is only ever the shadows'."""
        for key in set(grounds.asked_shadows) - self._asked_shadows:
            log.warning("KEDA asks about a shadow: it is answered", namespace=key.namespace, name=key.name)
        self._asked_shadows = set(grounds.asked_shadows)
        snapshot, started_s = grounds.snapshot, time.perf_counter()
        decisions: Mapping[ServiceKey, Decision] = {}
        try:
            if grounds.shadows:
                decisions = await _in_thread(dry_run, self._planner, snapshot, grounds.fleet, grounds.shadows, memory)
                self.stats.shadow_plan_duration_s = time.perf_counter() - started_s
            self.shadows.add(decisions)
        except Exception as fault:
            self.stats.shadow_plan_failures_total += 1
            if self._shadow_fault != (text := f"{type(fault).__name__}: {fault}"):  # one line an outage
                log.exception("shadows were not planned", instant_s=snapshot.taken_at_s)
            self._shadow_fault = text
        self._board.cast(decisions)
        return decisions


_SOURCE = "source unavailable:"


def _log_changes(before: FleetPlan | None, after: FleetPlan) -> None:
    """One line for each decision and each pool whose answer is another than before: what fired can be told later."""
    for key, decision in after.decisions.items():
        past = before.decisions.get(key) if before is not None else None
        if past is None or (past.verdict, past.granted) != (decision.verdict, decision.granted):
            brief = {name: value for name, value in decision.as_json().items() if name != "steps"}
            log.info("decision", **brief)
    for name, pool in after.pools.items():
        past_pool = before.pools.get(name) if before is not None else None
        if pool.vetoed != (past_pool is not None and past_pool.vetoed):
            event = "veto" if pool.vetoed else "veto ended"
            log.info(event, pool=name, free_bytes=pool.free_bytes, low_bytes=pool.low_bytes, time=after.time_s)


def _in_thread(work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
    """Runs blocking work in a thread of its own that the process does not wait for at its end, as a pool's it would."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, fault: BaseException | None) -> None:
        if done.done():
            return
        if fault is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(fault)

    def run() -> None:
        result: T | None = None
        fault: BaseException | None = None
        try:
            result = work(*arguments)
        except StopIteration as raised:  # a future refuses it, and its waiter would wait for ever
            fault = RuntimeError(f"StopIteration: {raised}")
        except BaseException as raised:
            fault = raised
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, fault)

    threading.Thread(target=run, name=getattr(work, "__name__", "work"), daemon=True).start()
    return done
