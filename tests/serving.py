"""Parts for tests of the serving side: a clock moved by hand, a source that obeys, decisions made by hand, a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from grpc import aio

from scaler._pb.externalscaler_pb2 import GetMetricsRequest, ScaledObjectRef
from scaler._pb.externalscaler_pb2_grpc import ExternalScalerStub, add_ExternalScalerServicer_to_server
from scaler.decision import Decision, FleetPlan, Reason, Step, Verdict
from scaler.policy import METRIC_NAME, OperatorPolicy
from scaler.serving.board import Board
from scaler.serving.registry import Registry
from scaler.serving.servicer import Servicer
from scaler.snapshot import Snapshot
from scaler.sources.source import SourceUnavailable
from tests.fleet import NAMESPACE, START_S, key

if TYPE_CHECKING:
    from scaler._pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

METADATA = {"scalerAddress": "vram-scaler.keda.svc:6000", "targetConcurrency": "4"}


class ManualClock:
    """Time that moves when the test says so. `advance` moves both clocks, `step` only the wall clock."""

    earliest_s = 0.0

    def __init__(self, now_s: float = START_S) -> None:
        self._now_s, self._elapsed_s = now_s, 1000.0
        self._wakers: list[asyncio.Future[None]] = []

    def now_s(self) -> float:
        return self._now_s

    def elapsed_s(self) -> float:
        return self._elapsed_s

    def advance(self, seconds: float) -> None:
        self._elapsed_s += seconds
        self.step(seconds)

    def step(self, seconds: float) -> None:
        self._now_s += seconds
        wakers, self._wakers = self._wakers, []
        for waker in wakers:
            if not waker.done():
                waker.set_result(None)

    async def sleep_until(self, at_s: float) -> None:
        before_s = self._now_s
        while before_s <= self._now_s < at_s:
            before_s = self._now_s
            waker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._wakers.append(waker)
            await waker


class FakeSource:
    """Gives `at(instant)`, or raises `fault` while that is set. Remembers what it was asked."""

    def __init__(self, at: Callable[[float], Snapshot] | None = None) -> None:
        self.at = at or Snapshot
        self.fault: Exception | None = None
        self.history_fault: Exception | None = None
        self.asked: list[float] = []
        self.spans: list[tuple[float, float, float]] = []

    def snapshot_at(self, at_s: float) -> Snapshot:
        self.asked.append(at_s)
        if self.fault is not None:
            raise self.fault
        return self.at(at_s)

    def snapshots(self, start_s: float, end_s: float, step_s: float) -> Iterator[Snapshot]:
        self.spans.append((start_s, end_s, step_s))
        fault = self.history_fault or self.fault
        if fault is not None:
            raise fault
        for index in range(round((end_s - start_s) / step_s) + 1):
            yield self.at(start_s + index * step_s)


OUTAGE = SourceUnavailable("http://prometheus:9090: connection refused")


def decision(
    name: str = "e5",
    granted: int | None = 3,
    *,
    replicas: int | None = 3,
    active: bool = True,
    verdict: Verdict = Verdict.HOLD,
    reason: Reason = Reason.DEMAND,
    time_s: float = START_S,
    steps: tuple[Step, ...] = (),
) -> Decision:
    return Decision(time_s, key(name), "default", replicas, granted, granted, active, verdict, (reason,), steps)


def unknown(name: str = "e5", text: str = "own signals have age 61 s", reason: Reason = Reason.STALE) -> Decision:
    step = Step("unknown", None, "", text)
    return decision(name, None, verdict=Verdict.UNKNOWN, reason=reason, active=False, steps=(step,))


def fleet_plan(*decisions: Decision, time_s: float = START_S) -> FleetPlan:
    return FleetPlan(time_s, {each.key: each for each in decisions})


def ref(name: str = "e5", namespace: str = NAMESPACE, **metadata: str) -> ScaledObjectRef:
    return ScaledObjectRef(name=name, namespace=namespace, scalerMetadata={**METADATA, **metadata})


def metrics_request(name: str = "e5", metric: str = METRIC_NAME, **metadata: str) -> GetMetricsRequest:
    return GetMetricsRequest(scaledObjectRef=ref(name, **metadata), metricName=metric)


class Bench:
    """A servicer behind a real server and client, with a board that the test writes on."""

    def __init__(self, operator: OperatorPolicy | None = None, stream_most_s: float = 600.0) -> None:
        operator = operator or OperatorPolicy()
        self.clock = ManualClock()
        self.board = Board(self.clock, operator.timing.stale_after_s)
        self.registry = Registry(operator, steady_s=self.clock.elapsed_s)
        self.servicer = Servicer(self.registry, self.board, stream_most_s)

    def publish(self, *decisions: Decision) -> None:
        now_s = self.clock.now_s()
        self.board.publish(fleet_plan(*decisions, time_s=now_s), self.clock.elapsed_s())

    @contextlib.asynccontextmanager
    async def stub(self) -> AsyncIterator[ExternalScalerAsyncStub]:
        server = aio.server()
        add_ExternalScalerServicer_to_server(self.servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield ExternalScalerStub(channel)
        finally:
            await server.stop(0)


async def until(holds: Callable[[], bool]) -> None:
    """Lets the event loop run until that holds, for at most 5 s."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - what is waited for happens inside gRPC and has no event
            await asyncio.sleep(0.001)


async def streams_have_seen(board: Board, streams: int = 1) -> None:
    """Returns when so many streams have looked at the plan in force and wait for the next."""
    await until(lambda: len(board.next_change._waiters) >= streams)
