"""The servers of a measurement, each a process of its own. They print their port when they answer; SIGTERM ends them.

python -m loadtests.servers echo                       a bare echo
python -m loadtests.servers scaler [URL]               the scaler, from a Prometheus or from a fleet that stands still
python -m loadtests.servers prometheus SERVICES DELAY  a false Prometheus that takes so many seconds for a query
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import structlog
from grpc import aio

from loadtests.fleet import OPERATOR, SlowPrometheus, StaticSource
from scaler._pb.externalscaler_pb2 import GetMetricsRequest, GetMetricsResponse, MetricValue
from scaler._pb.externalscaler_pb2_grpc import ExternalScalerServicer, add_ExternalScalerServicer_to_server
from scaler.address import Address
from scaler.serving.server import serve
from scaler.sources.prometheus import PrometheusSettings, PrometheusSource
from tests.fake_prometheus import FakePrometheus

SERVER_CORE, CLIENT_CORE = 0, 1


class Echo(ExternalScalerServicer):
    """The least that can be called an answer: one value under the name that was asked for."""

    async def GetMetrics(self, request: GetMetricsRequest, context: Any) -> GetMetricsResponse:  # noqa: N802
        return GetMetricsResponse(
            metricValues=[MetricValue(metricName=request.metricName, metricValue=1, metricValueFloat=1.0)]
        )

    async def _unasked(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    GetMetricSpec = IsActive = _unasked
    StreamIsActive = StreamMetricSpec = _unasked  # type: ignore[assignment]


@contextlib.contextmanager
def running(kind: str, *arguments: str, core: int | None = SERVER_CORE) -> Iterator[int]:
    """The port of such a server in a process of its own, on that core where there is more than one."""
    process = subprocess.Popen([sys.executable, "-m", "loadtests.servers", kind, *arguments], stdout=subprocess.PIPE)
    try:
        if core is not None:
            pin(process.pid, core)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.strip().isdigit():
            raise SystemExit(f"the server {kind!r} did not start")
        yield int(line)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def pin(pid: int, core: int) -> None:
    """Keeps a process on one core, so that server and client do not take each other's time."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, {core})


def silence() -> None:
    """The log is the service's, not the measurement's."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


async def _echo() -> None:
    server = aio.server()
    add_ExternalScalerServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await _terminated()
    await server.stop(0)


async def _scaler(url: str = "") -> None:
    local = Address("127.0.0.1", 0)
    source = PrometheusSource(PrometheusSettings(url=url), OPERATOR.timing) if url else StaticSource()
    await serve(
        source,
        OPERATOR,
        grpc_address=local,
        http_address=local,
        listening=lambda grpc_address, _: print(grpc_address.port, flush=True),
    )


async def _prometheus(services: str, delay_s: str) -> None:
    with FakePrometheus(SlowPrometheus(int(services), OPERATOR.timing, float(delay_s))) as prometheus:
        print(prometheus.url.rpartition(":")[2], flush=True)
        await _terminated()


async def _terminated() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


if __name__ == "__main__":
    silence()
    _SERVERS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
        "echo": _echo,
        "scaler": _scaler,
        "prometheus": _prometheus,
    }
    asyncio.run(_SERVERS[sys.argv[1]](*sys.argv[2:]))
