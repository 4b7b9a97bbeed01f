"""A client at KEDA's pace: open loop, each latency from the moment at which the call was due: none is hidden."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from loadtests.fleet import ref, request
from scaler._pb.externalscaler_pb2_grpc import ExternalScalerStub

# A poll every 30 s and an HPA read every 15 s, each of GetMetricSpec, GetMetrics and IsActive.
CALLS_PER_S = 3 / 30 + 3 / 15


def until_known(port: int, services: int, timeout_s: float = 60.0) -> None:
    """Asks about each service until it is answered: the first call makes it known, the next tick plans for it."""
    end_s = time.monotonic() + timeout_s
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = ExternalScalerStub(channel)
        waiting = list(range(services))
        while waiting:
            waiting = [index for index in waiting if not _answers(stub, index)]
            if time.monotonic() > end_s:
                raise SystemExit(f"{len(waiting)} of {services} services have no answer after {timeout_s:.0f} s")
            time.sleep(0.2 if waiting else 0.0)


def _answers(stub: ExternalScalerStub, index: int) -> bool:
    try:
        stub.GetMetrics(request(index), timeout=5, wait_for_ready=True)
    except grpc.RpcError as fault:
        if fault.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


async def latencies_s(port: int, services: int, seconds: float) -> list[float]:
    """Latencies of GetMetrics in seconds, over so long, all services polled in turn on one connection."""
    found: list[float] = []
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = ExternalScalerStub(channel)
        loop, calls = asyncio.get_running_loop(), set()
        interval_s, begin_s = 3 / (services * CALLS_PER_S), loop.time() + 0.1
        for poll in range(int(seconds / interval_s)):
            due_s = begin_s + poll * interval_s
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            call = loop.create_task(_poll(stub, poll % services, due_s, found, loop.time))
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.gather(*calls)
    return found


async def _poll(stub: Any, index: int, due_s: float, found: list[float], now: Callable[[], float]) -> None:
    calls: tuple[tuple[Callable[..., Awaitable[object]], object], ...] = (
        (stub.GetMetrics, request(index)),
        (stub.GetMetricSpec, ref(index)),
        (stub.IsActive, ref(index)),
    )
    for call, message in calls:
        await call(message, timeout=10)
        if call == stub.GetMetrics:
            found.append(now() - due_s)
