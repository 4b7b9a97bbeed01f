"""A client that calls as KEDA does, an HPA that computes as Kubernetes' does, and the veto between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc import aio

from scaler._pb.externalscaler_pb2 import GetMetricsRequest, ScaledObjectRef
from scaler._pb.externalscaler_pb2_grpc import ExternalScalerStub
from scaler.address import Address
from scaler.decision import FleetPlan, Verdict
from scaler.planning.memory import Memory
from scaler.planning.plan import plan
from scaler.policy import METRIC_NAME, FleetPolicy
from scaler.serving.server import Service, running
from scaler.simulate.hpa import DEFAULT_BEHAVIOR, EXAMPLE_BEHAVIOR, SYNC_S, Behavior, Hpa
from scaler.snapshot import Snapshot
from tests.fleet import OPERATOR, START_S, TICK_S, card, key, policy, reading, snapshot
from tests.serving import METADATA, OUTAGE, FakeSource, ManualClock, decision, fleet_plan, unknown, until

if TYPE_CHECKING:
    from scaler._pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

LOCAL = Address("127.0.0.1", 0)


class KedaClient:
    """One trigger of type external-push as KEDA's operator works it: the specs, then value and activity for each
    metric; an activity that fails discards the value; every failure is tried once more at once; both streams."""

    def __init__(self, stub: ExternalScalerAsyncStub, name: str = "e5") -> None:
        self._stub = stub
        self._ref = ScaledObjectRef(name=name, namespace="models", scalerMetadata=METADATA)
        self.events: list[str] = []
        self.pushes: list[bool] = []
        self.clean_ends = 0

    async def poll(self) -> tuple[float, bool] | None:
        """What KEDA makes of one poll: the metric's value and the activity, or None where it holds."""
        for _ in range(2):
            try:
                specs = (await self._stub.GetMetricSpec(self._ref)).metricSpecs
                assert len(specs) == 1
                value = await self._value(specs[0].metricName)
                return value, (await self._stub.IsActive(self._ref)).result
            except aio.AioRpcError as fault:
                self.events.append(f"{fault.code().name}: {fault.details()}")
        return None

    async def _value(self, metric: str) -> float:
        request = GetMetricsRequest(scaledObjectRef=self._ref, metricName=metric)
        (value,) = (await self._stub.GetMetrics(request)).metricValues
        return value.metricValueFloat if value.metricValueFloat > 0 else float(value.metricValue)

    async def watch(self) -> None:
        """Both streams until they end. Only an end with OK resets KEDA's wait before the next attempt."""
        activity, specs = self._stub.StreamIsActive(self._ref), self._stub.StreamMetricSpec(self._ref)
        async for pushed in activity:
            self.pushes.append(pushed.result)
        async for told in specs:
            assert told.metricSpecs[0].metricName == METRIC_NAME
        self.clean_ends = [await activity.code(), await specs.code()].count(grpc.StatusCode.OK)


class Bench:
    def __init__(self, service: Service, source: FakeSource, clock: ManualClock, stub: ExternalScalerAsyncStub) -> None:
        self.service, self.source, self.clock = service, source, clock
        self.keda = KedaClient(stub)
        self.watching: asyncio.Task[None] | None = None

    async def watch(self) -> None:
        """Returns when both streams are open."""
        self.watching = asyncio.create_task(self.keda.watch())
        await until(lambda: self.service.servicer.streams.total() == 2)

    async def tick(self) -> None:
        """One tick later; returns when the loop is through with it."""
        self.clock.advance(TICK_S)
        asked = len(self.source.asked)
        await until(lambda: len(self.source.asked) > asked and bool(self.clock._wakers))


@contextlib.asynccontextmanager
async def bench(source: FakeSource) -> AsyncIterator[Bench]:
    clock = ManualClock()
    service = Service(source, OPERATOR, grpc_address=LOCAL, http_address=LOCAL, clock=clock)
    async with running(service, drain_s=1.0):
        await until(lambda: bool(clock._wakers))
        async with aio.insecure_channel(str(service.grpc_address)) as channel:
            bench = Bench(service, source, clock, ExternalScalerStub(channel))
            yield bench
            if bench.watching is not None:
                service.board.close()  # as the drain does first: both streams end, and with OK
                await asyncio.wait_for(bench.watching, 5)


async def test_a_scaled_object_from_its_first_poll_to_the_drain() -> None:
    state = {"replicas": 2, "inflight": 6.0, "free_gib": 8.0}

    def at(at_s: float) -> Snapshot:
        load = reading(int(state["replicas"]), state["inflight"], arrivals_per_s=state["inflight"] * 20)
        return snapshot(at_s, {"e5": load}, card(state["free_gib"]))

    async with bench(FakeSource(at)) as b:
        # The first call makes it known; the next tick plans for it. KEDA tries twice at once and then holds.
        assert await b.keda.poll() is None
        assert b.keda.events == ["UNAVAILABLE: no decision yet: the next tick plans for it"] * 2
        await b.tick()
        assert await b.keda.poll() == (2.0, True)  # 6 in flight / 4 = 1.5

        state["inflight"] = 30.0
        await b.tick()
        assert await b.keda.poll() == (8.0, True)  # 30/4 = 7.5, at once

        state["free_gib"] = 0.3
        await b.tick()
        # Below the watermark of 1.5 GiB. Up to 8 may run by now: an answer of 2 could take them back.
        b.keda.events.clear()
        assert await b.keda.poll() is None
        assert "2 were read, 8 told since" in b.keda.events[0]
        for _ in range(6):
            await b.tick()
        assert await b.keda.poll() == (2.0, True)  # 90 s later it is clear that 2 run: frozen, and still active

        b.source.fault = OUTAGE
        for _ in range(2):
            await b.tick()
            assert await b.keda.poll() == (2.0, True)
        await b.tick()
        b.keda.events.clear()
        assert await b.keda.poll() is None
        assert len(b.keda.events) == 2
        assert b.keda.events[0].startswith("UNAVAILABLE: stale: the newest plan is 45 s old")

        b.source.fault = None
        state["free_gib"] = 8.0
        await b.tick()
        assert await b.keda.poll() == (2.0, True)  # above the high watermark, but not yet for releaseAfter
        await b.watch()
    assert (b.keda.pushes, b.keda.clean_ends) == ([], 2)


async def test_a_push_wakes_a_service_at_zero() -> None:
    async with bench(FakeSource()) as b:
        b.service.board.publish(fleet_plan(decision(granted=0, replicas=0, active=False)), b.clock.elapsed_s())
        await b.watch()
        b.service.board.publish(fleet_plan(decision(granted=1, replicas=0, active=True)), b.clock.elapsed_s())
        await until(lambda: b.keda.pushes == [True])
    assert (b.keda.pushes, b.keda.clean_ends) == ([True], 2)


async def test_one_bad_scaled_object_hurts_nobody_else() -> None:
    async with bench(FakeSource()) as b:
        b.service.board.publish(fleet_plan(decision("e5"), unknown("lost")), b.clock.elapsed_s())
        lost = KedaClient(b.keda._stub, "lost")
        polls: list[Callable[[], Awaitable[object]]] = [b.keda.poll, lost.poll] * 20
        answers = await asyncio.gather(*(poll() for poll in polls))
    assert answers == [(3.0, True), None] * 20
    assert set(lost.events) == {"UNAVAILABLE: unknown (stale): own signals have age 61 s"}


class TestHpaModel:
    """The arithmetic of the model against figures that can be redone by hand."""

    @pytest.mark.parametrize(
        ("replicas", "value", "tolerance", "wanted"),
        [
            pytest.param(10, 11.0, 0.1, 10, id="1.1 x 10 is swallowed"),
            pytest.param(10, 12.0, 0.1, 12, id="12 is outside"),
            pytest.param(20, 18.0, 0.1, 20, id="0.9 x 20 is swallowed"),
            pytest.param(9, 10.0, 0.1, 10, id="up to 9 every step passes"),
            pytest.param(20, 21.0, 0.0, 21, id="with tolerance 0 every step passes"),
            pytest.param(10, 10.0, 0.0, 10, id="equal"),
        ],
    )
    def test_tolerance(self, replicas: int, value: float, tolerance: float, wanted: int) -> None:
        rules = DEFAULT_BEHAVIOR.up
        free = Behavior(up=type(rules)(0, rules.policies, tolerance), down=type(rules)(0, rules.policies, tolerance))
        assert Hpa(replicas, free).sync(START_S, value) == wanted

    def test_a_surge_pod_is_ratcheted_into_the_spec_unless_the_tolerance_is_zero(self) -> None:
        assert Hpa(20, DEFAULT_BEHAVIOR).sync(START_S, 20.0, status_replicas=21) == 21
        assert Hpa(20, EXAMPLE_BEHAVIOR).sync(START_S, 20.0, status_replicas=21) == 20

    def test_at_most_two_pods_in_thirty_seconds(self) -> None:
        hpa = Hpa(4)
        assert [hpa.sync(START_S + SYNC_S * index, 11.0) for index in range(7)] == [6, 6, 8, 8, 10, 10, 11]

    def test_down_only_after_five_minutes(self) -> None:
        hpa = Hpa(8)
        hpa.sync(START_S, 8.0)
        after = [hpa.sync(START_S + SYNC_S * index, 3.0) for index in range(1, 22)]
        assert after == [8] * 19 + [3, 3]  # 20 syncs later the 8 is 300 s old, and no longer within 300 s

    def test_a_metric_that_cannot_be_read_changes_nothing_and_is_not_remembered(self) -> None:
        hpa = Hpa(4, behavior=None)
        assert [hpa.sync(START_S + SYNC_S * index, None) for index in range(3)] == [4, 4, 4]
        assert hpa.sync(START_S + 60, 3.0) == 3

    def test_the_bounds_are_forced_without_reading_the_metric(self) -> None:
        assert Hpa(20, most=12).sync(START_S, None) == 12
        assert Hpa(1, least=3).sync(START_S, None) == 3
        assert Hpa(4, most=6).sync(START_S, 40.0) == 6


def veto_from(replicas: int, behavior: Behavior | None, syncs: int) -> list[int]:
    """spec.replicas over the syncs after one in which 40 were granted; from then on the value is what there is."""
    hpa = Hpa(replicas, behavior)
    seen = [replicas, hpa.sync(START_S, 40.0)]
    seen += (hpa.sync(START_S + SYNC_S * index, float(hpa.replicas)) for index in range(1, syncs))
    return seen


def test_without_behavior_a_veto_is_void_for_five_minutes() -> None:
    assert veto_from(4, None, 4) == [4, 8, 16, 32, 40]


def test_with_behavior_a_veto_holds_at_once() -> None:
    assert veto_from(4, DEFAULT_BEHAVIOR, 4) == [4, 8, 8, 8, 8]
    assert veto_from(4, EXAMPLE_BEHAVIOR, 4) == [4, 6, 6, 6, 6]


class ClosedLoop:
    """The real plan, the HPA, and replicas that are read `lag_s` late, all at the HPA's pace of one tick a sync."""

    def __init__(self, replicas: int, lag_s: float) -> None:
        self.hpa = Hpa(replicas)
        self._lag_ticks = round(lag_s / TICK_S)
        self._history = [replicas]
        self._memory = Memory()
        self._fleet: FleetPolicy = policy(e5={"maxReplicas": "50"})
        self._now_s = START_S

    def step(self, inflight: float, free_gib: float) -> tuple[FleetPlan, int, int]:
        """One tick and one sync: the plan, and spec.replicas before and after."""
        lag = min(self._lag_ticks, len(self._history) - 1)
        # Arrivals at 20/s for each request in flight: 50 ms a request, at every load.
        seen = reading(self._history[-1 - lag], inflight, arrivals_per_s=max(inflight, 0.1) * 20)
        object.__setattr__(seen, "replicas_age_s", self._lag_ticks * TICK_S)
        planned, self._memory = plan(snapshot(self._now_s, {"e5": seen}, card(free_gib)), self._fleet, self._memory)
        before = self.hpa.replicas
        granted = planned.decisions[key("e5")].granted
        after = self.hpa.sync(self._now_s, None if granted is None else float(granted))
        self._history.append(after)
        self._now_s += TICK_S
        return planned, before, after


def stages(*stages: tuple[int, float, float]) -> Iterator[tuple[float, float]]:
    """(ticks, requests in flight, free GiB) unrolled tick by tick."""
    for ticks, inflight, free_gib in stages:
        yield from [(inflight, free_gib)] * ticks


@pytest.mark.parametrize("lag_s", [0.0, 15.0, 30.0, 45.0])
def test_a_veto_holds_the_replicas_exactly(lag_s: float) -> None:
    loop = ClosedLoop(3, lag_s)
    for inflight, free_gib in stages((60, 12.0, 8.0)):
        loop.step(inflight, free_gib)
    assert loop.hpa.replicas == 3
    for inflight, free_gib in stages((240, 80.0, 0.3)):  # an hour of 20 replicas' worth of demand on a full card
        planned, _, after = loop.step(inflight, free_gib)
        assert planned.decisions[key("e5")].verdict is Verdict.VETO
        assert after == 3
    # Room again: after releaseAfter (120 s = 8 ticks) all of it is granted, and the HPA takes 2 pods every 30 s.
    replicas = [loop.step(inflight, free_gib)[2] for inflight, free_gib in stages((48, 80.0, 8.0))]
    assert replicas[0] == 3
    assert replicas[-1] == 20


SCALED_DOWN_AFTER = 40  # ticks: 300 s of our window, then 300 s of the HPA's


@pytest.mark.parametrize(
    ("surge_after", "lag_s"),
    [(ticks, lag_s) for ticks in range(36, 48) for lag_s in (0.0, 15.0, 30.0, 45.0)],
)
def test_with_replicas_read_late_a_veto_never_scales_up(lag_s: float, surge_after: int) -> None:
    """600 s after its load fell the service goes from 10 replicas to 2. At each tick around that the load comes back
    while the card is full: the replicas that are read then are those of up to 45 s ago, 10 where 2 run."""
    loop = ClosedLoop(10, lag_s)
    for inflight, free_gib in stages((60, 40.0, 8.0), (surge_after, 8.0, 8.0)):
        loop.step(inflight, free_gib)
    for inflight, free_gib in stages((30, 80.0, 0.3)):
        planned, before, after = loop.step(inflight, free_gib)
        assert planned.decisions[key("e5")].verdict in (Verdict.VETO, Verdict.UNKNOWN)
        assert after <= before, f"{before} -> {after}, told {planned.decisions[key('e5')].granted}"
