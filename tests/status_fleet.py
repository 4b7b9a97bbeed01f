"""A running service whose pages a browser can open: the incident at a moment of it, a small fleet, a large one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from scaler.address import Address
from scaler.incident import RECORDING, SCALED_OBJECTS
from scaler.manifests import read_services
from scaler.policy import OperatorPolicy, ServiceKey, ServicePolicy
from scaler.serving.server import Service
from scaler.snapshot import CardKey, CardReading, Snapshot, WorkloadReading
from scaler.sources.recording import RecordingSource
from scaler.sources.source import Source
from tests.fleet import START_S, TICK_S, asking, card, policy, reading, workload
from tests.serving import OUTAGE, FakeSource, ManualClock

T = TypeVar("T")
LOCAL = Address("127.0.0.1", 0)


class Served:
    """A service in an event loop of its own thread, its clock moved by the test."""

    def __init__(
        self,
        source: Source,
        operator: OperatorPolicy,
        kept: Mapping[ServiceKey, ServicePolicy],
        shadow: Mapping[ServiceKey, ServicePolicy],
        begin_s: float,
    ) -> None:
        self.clock = ManualClock(begin_s)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.service = self.call(self._started(source, operator, kept, shadow))

    async def _started(self, source: Source, operator: OperatorPolicy, kept: Any, shadow: Any) -> Service:
        service = Service(
            source, operator, grpc_address=LOCAL, http_address=LOCAL, clock=self.clock, kept=kept, shadow=shadow
        )
        await service.start()
        return service

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def tick(self, times: int = 1) -> None:
        """So many ticks, each with all that it leaves for the pages."""
        for _ in range(times):
            self.call(self._ticked())

    async def _ticked(self) -> None:
        before = self.service.loop.stats.reads_total
        self.clock.advance(TICK_S)
        await self._asleep(before)

    async def _asleep(self, reads_before: int) -> None:
        """The loop has read once more, and waits for its next instant."""
        async with asyncio.timeout(100):
            while self.service.loop.stats.reads_total <= reads_before or not self.clock._wakers:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    def settle(self) -> None:
        """Waits until the first tick is over."""
        self.call(self._asleep(0))

    @property
    def url(self) -> str:
        return f"http://{self.service.http_address}"

    def close(self) -> None:
        self.call(self.service.stop(0.1))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextmanager
def served(
    source: Source,
    operator: OperatorPolicy | None = None,
    kept: Mapping[ServiceKey, ServicePolicy] | None = None,
    shadow: Mapping[ServiceKey, ServicePolicy] | None = None,
    begin_s: float = START_S,
) -> Iterator[Served]:
    """The service, its first tick over."""
    running = Served(source, operator or OperatorPolicy(), kept or {}, shadow or {}, begin_s)
    try:
        running.settle()
        yield running
    finally:
        running.close()


@contextmanager
def incident(at_s: float, ticks: int = 8, *, in_shadow: bool = False) -> Iterator[Served]:
    """The bundled night at that moment, after so many ticks before it."""
    operator = OperatorPolicy(settle_s="0s")
    policies = read_services((str(SCALED_OBJECTS),), operator).policies
    kept, shadow = ({}, policies) if in_shadow else (policies, {})
    with served(RecordingSource(RECORDING), operator, kept, shadow, at_s - ticks * TICK_S) as running:
        running.tick(ticks)
        yield running


def large_fleet(cards: int = 500, services: int = 1000) -> tuple[FakeSource, dict[ServiceKey, ServicePolicy]]:
    """Cards of four places from nearly full to nearly empty; of twenty services one wants more than there is, one
    moves, and one in a hundred is not seen."""
    placed: list[dict[str, tuple[float, ...]]] = [{} for _ in range(cards)]
    readings: dict[str, WorkloadReading] = {}
    for index in range(services):
        name, running = f"service-{index:04}", 1 + index % 2
        for pod in range(running):
            placed[(index * 2 + pod) % cards][name] = (1.0 + (index % 7) * 0.5,)
        wanted = running + 2 if index % 20 == 0 else running + 1 if index % 20 == 1 else running
        readings[name] = asking(running, wanted)
        if index % 100 == 50:
            readings[name] = replace(readings[name], signals_age_s=300.0)
    on_cards: list[CardReading] = []
    for index, held in enumerate(placed):
        free = max(0.3, 15.0 - sum(map(sum, held.values()))) * (0.1 if index < cards // 50 else 1.0)
        seen = card(free, pods=dict.fromkeys(held, 1), held_gib=held, slots=4)
        on_cards.append(replace(seen, node=f"gpu-node-{index // 8:02}"))
    cards_by_key = {CardKey(f"GPU-{index:04}a1b2-c3d4"): each for index, each in enumerate(on_cards)}
    workloads = {workload(name): each for name, each in readings.items()}
    fleet = policy(OperatorPolicy(settle_s="0s"), **{name: {} for name in readings})
    source = FakeSource(lambda at_s: Snapshot(at_s, workloads, cards_by_key))
    source.history_fault = OUTAGE  # a day of such a fleet takes minutes
    return source, dict(fleet.services)


def small_fleet() -> tuple[FakeSource, dict[ServiceKey, ServicePolicy]]:
    """Two services on two cards of 15 GiB with known bars: 3.75 GiB used of one, 12 GiB of the other."""
    readings = {"e5": reading(2, 6.0), "clip": reading(1, 3.0)}
    seen = [card(11.25, pods={"e5": 1}, held_gib={"e5": (2.0,)}), card(3.0, pods={"e5": 1, "clip": 1})]
    cards = {CardKey(f"GPU-{index}"): each for index, each in enumerate(seen)}
    workloads = {workload(name): each for name, each in readings.items()}
    fleet = policy(OperatorPolicy(settle_s="0s"), e5={}, clip={})
    return FakeSource(lambda at_s: Snapshot(at_s, workloads, cards)), dict(fleet.services)
