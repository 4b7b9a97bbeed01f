"""Life of the service: listen, tick, answer, drain. `serve` is all of it; `Service` is the same without the signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping

import structlog
from aiohttp import web
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from scaler._pb import externalscaler_pb2
from scaler._pb.externalscaler_pb2_grpc import add_ExternalScalerServicer_to_server
from scaler.address import Address
from scaler.planning.plan import plan
from scaler.policy import OperatorPolicy, ServiceKey, ServicePolicy
from scaler.serving.board import Board
from scaler.serving.clock import Clock, Playback, WallClock
from scaler.serving.history import Planner
from scaler.serving.loop import TickLoop
from scaler.serving.pages import Pages
from scaler.serving.registry import Registry
from scaler.serving.servicer import Servicer
from scaler.serving.status import status_app
from scaler.serving.telemetry import Telemetry
from scaler.sources.prometheus import PrometheusSource
from scaler.sources.source import Source

log = structlog.get_logger(__name__)

SERVICE_NAME = externalscaler_pb2.DESCRIPTOR.services_by_name["ExternalScaler"].full_name
DRAIN_S = 5.0  # streams end at once and calls take milliseconds; Kubernetes allows 30 s
# While a tick computes, each call waits for Python's lock two or three times: at the usual 5 ms that was 20 ms at the
# 99th percentile with 500 services and a tick every 3 s, at 0.5 ms it was 14 ms.
_SWITCH_S = 0.0005
MOST_CALLS_AT_ONCE = 50_000  # two streams for each of 20,000 ScaledObjects, and room for the calls

# KEDA keeps one connection for ever and sends no pings. So we end it after half an hour, that a client behind a
# headless Service finds new instances; the grace outlives a stream's 10 minutes, so no stream is ever cut. Our pings
# notice clients that vanished. Without so_reuseport a second server on the port fails instead of sharing it unseen.
_CHANNEL_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 11 * 60_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    # A trigger's metadata weighs some 400 bytes. It is kept, so this bounds what 20,000 hostile ones can take.
    ("grpc.max_receive_message_length", 16 * 1024),
)


class CannotListen(Exception):
    """An address that cannot be bound; the text names it and says why."""


class Service:
    """gRPC, HTTP and the tick loop around one board.

    Attributes:
        grpc_address / http_address: where it listens, once started.
    """

    def __init__(
        self,
        source: Source,
        operator: OperatorPolicy,
        *,
        grpc_address: Address,
        http_address: Address,
        clock: Clock | None = None,
        kept: Mapping[ServiceKey, ServicePolicy] | None = None,
        shadow: Mapping[ServiceKey, ServicePolicy] | None = None,
        planner: Planner = plan,
    ) -> None:
        self.grpc_address, self.http_address = grpc_address, http_address
        clock = clock or WallClock()
        self.board = Board(clock, operator.timing.stale_after_s)
        # What is played has no other instance that could have promised anything.
        settle_s = 0.0 if isinstance(clock, Playback) else None
        self.registry = Registry(operator, kept, shadow, settle_s=settle_s)
        self.loop = TickLoop(source, operator, self.registry, self.board, clock, planner)
        self.servicer = Servicer(self.registry, self.board)
        queries = (lambda: source.stats) if isinstance(source, PrometheusSource) else dict
        telemetry = Telemetry(
            self.board, self.registry, self.servicer, self.loop.stats, clock, self.loop.shadows, queries
        )
        # A plan is 15 s old at most when it is seen; of a recording that is played, a quarter of an hour passes in 7 s.
        refresh_s = 2.0 if isinstance(clock, Playback) else min(max(operator.timing.tick_s, 5.0), 30.0)
        self.pages = Pages(self.board, self.loop.hour, self.loop.shadows, refresh_s)
        self._http = web.AppRunner(
            status_app(self.board, telemetry, self.pages, self._is_alive), access_log=None, shutdown_timeout=DRAIN_S
        )
        self._grpc = aio.server(options=_CHANNEL_OPTIONS, maximum_concurrent_rpcs=MOST_CALLS_AT_ONCE)
        self._health = HealthServicer()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Binds both ports, then begins to tick.

        Raises:
            CannotListen: if an address cannot be bound; nothing is left listening.
        """
        add_ExternalScalerServicer_to_server(self.servicer, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = (SERVICE_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._grpc)
        await self._show_health(False)
        try:
            self.http_address = await self._bind_http()
            self.grpc_address = self._bind_grpc()
        except CannotListen:
            await self._http.cleanup()
            raise
        await self._grpc.start()
        self._tasks = [asyncio.create_task(self.loop.run()), asyncio.create_task(self._follow_health())]
        log.info("listening", grpc=str(self.grpc_address), http=str(self.http_address))

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Not ready at once, streams end with OK, calls in progress get `drain_s`, then everything is closed."""
        self.board.close()
        await self._health.enter_graceful_shutdown()
        await self._grpc.stop(drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.cleanup()
        log.info("stopped")

    def _is_alive(self) -> bool:
        return all(not task.done() for task in self._tasks)

    def _bind_grpc(self) -> Address:
        host, port = self.grpc_address
        _try_to_bind(self.grpc_address, "gRPC")
        try:
            return Address(host, self._grpc.add_insecure_port(str(self.grpc_address)))
        except RuntimeError as fault:
            raise CannotListen(f"cannot listen on {host}:{port} for gRPC: {fault}") from None

    async def _bind_http(self) -> Address:
        await self._http.setup()
        site = web.TCPSite(self._http, *self.http_address, reuse_address=True)
        try:
            await site.start()
        except OSError as fault:
            raise CannotListen(f"cannot listen on {self.http_address} for HTTP: {_why(fault)}") from None
        return Address(self.http_address.host, self._http.addresses[0][1])

    async def _follow_health(self) -> None:
        """The gRPC health of KEDA's service follows readiness, looked at once a second; that of "" is liveness."""
        was_ready = False
        while True:
            is_ready = self.board.fault() is None
            if is_ready != was_ready:
                await self._show_health(is_ready)
                log.info("ready" if is_ready else "not ready", reason=self.board.fault())
            was_ready = is_ready
            # Not wait_for: in Python 3.11 it loses a cancellation that comes as its future is done, and we never end.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.board.next_change.wait()

    async def _show_health(self, is_ready: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self._health.set(SERVICE_NAME, status.SERVING if is_ready else status.NOT_SERVING)


def _try_to_bind(address: Address, use: str) -> None:
    """gRPC says only that it failed; the socket says why."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as fault:
        raise CannotListen(f"cannot listen on {address} for {use}: {_why(fault)}") from None


def _why(fault: OSError) -> str:
    """The reason alone: asyncio repeats the address in it, and a failed look-up of a name has no errno."""
    if fault.errno is not None and fault.errno > 0:
        return os.strerror(fault.errno).lower()
    return (fault.strerror or str(fault)).lower()


@contextlib.asynccontextmanager
async def running(service: Service, drain_s: float = DRAIN_S) -> AsyncIterator[Service]:
    """The service between start and stop."""
    await service.start()
    try:
        yield service
    finally:
        await service.stop(drain_s)


async def serve(
    source: Source,
    operator: OperatorPolicy,
    *,
    grpc_address: Address,
    http_address: Address,
    clock: Clock | None = None,
    kept: Mapping[ServiceKey, ServicePolicy] | None = None,
    shadow: Mapping[ServiceKey, ServicePolicy] | None = None,
    listening: Callable[[Address, Address], None] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains. `listening` is told the two addresses once both are bound.

    Raises:
        CannotListen: if an address cannot be bound.
    """
    sys.setswitchinterval(_SWITCH_S)
    service = Service(
        source, operator, grpc_address=grpc_address, http_address=http_address, clock=clock, kept=kept, shadow=shadow
    )
    ended = asyncio.Event()
    async with running(service):
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        if listening is not None:
            listening(service.grpc_address, service.http_address)
        await ended.wait()
