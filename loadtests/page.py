"""What the status page costs: its making, its size, what the hour behind it takes, and what calls wait for it."""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
import tracemalloc
from dataclasses import replace
from statistics import median

from scaler.decision import FleetPlan
from scaler.planning.memory import Memory
from scaler.planning.plan import plan
from scaler.policy import FleetPolicy, OperatorPolicy
from scaler.serving.board import Board, Epoch, Grounds
from scaler.serving.clock import WallClock
from scaler.serving.hour import LastHour
from scaler.serving.pages import Pages
from scaler.serving.server import _SWITCH_S
from scaler.serving.shadow import ShadowBook, dry_run
from tests.fleet import START_S, TICK_S, at
from tests.status_fleet import large_fleet

CARDS, SERVICES = 500, 1000
ROUNDS = 9
PAUSE_S = 0.005


def measure() -> list[tuple[str, str]]:
    """Rows of a table: what, and the figure."""
    source, services = large_fleet(CARDS, SERVICES)
    fleet = FleetPolicy(OperatorPolicy(settle_s="0s"), services)
    base, memory = source.at(START_S), Memory()
    plans: list[FleetPlan] = []
    grounds: list[Grounds] = []
    for tick in range(240):
        seen = at(base, START_S + tick * TICK_S)
        planned, memory = plan(seen, fleet, memory)
        plans.append(planned)
        grounds.append(Grounds(seen, fleet, memory))
    hour, noted_s, taken_bytes = _hour(plans)
    begun_s = time.perf_counter()
    dry_run(plan, at(base, START_S + 240 * TICK_S), FleetPolicy(fleet.operator, {}), services, memory)
    shadow_ms = 1000 * (time.perf_counter() - begun_s)
    epoch = Epoch(plans[-1], 0.0, grounds[-1])
    body, overview_ms, service_ms, quiet_ms, busy_ms = asyncio.run(_pages(epoch, hour))
    return [
        (f"status page, {SERVICES:,} services on {CARDS} cards", f"made in {overview_ms:.0f} ms, once a plan"),
        ("its size", f"{len(body) / 1e3:.0f} kB, {len(gzip.compress(body)) / 1e3:.0f} kB compressed"),
        ("a service's page", f"made in {service_ms:.0f} ms"),
        ("the event loop's lag, p99, pages made without pause", f"{busy_ms:.1f} ms; without pages {quiet_ms:.1f} ms"),
        ("the last hour", f"{taken_bytes / SERVICES:.0f} bytes a service, a tick noted in {1000 * noted_s:.1f} ms"),
        (f"plan of {SERVICES:,} shadows beside KEDA's", f"{shadow_ms:.0f} ms more a tick"),
    ]


def _hour(plans: list[FleetPlan]) -> tuple[LastHour, float, int]:
    """The hour of these plans, the median time to note one, and the bytes that all take."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    hour, times = LastHour(TICK_S), list[float]()
    for each in plans:
        hour.note(each.time_s, each.decisions, each.pools)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    for tick, each in enumerate(plans[-ROUNDS:], start=1):
        begun_s = time.perf_counter()
        hour.note(plans[-1].time_s + tick * TICK_S, each.decisions, each.pools)
        times.append(time.perf_counter() - begun_s)
    return hour, median(times), taken


async def _pages(epoch: Epoch, hour: LastHour) -> tuple[bytes, float, float, float, float]:
    """The page, the medians of making it and a service's, and the loop's lag with and without it, in ms."""
    pages = Pages(Board(WallClock(), 45.0), hour, ShadowBook())
    key = next(iter(epoch.plan.decisions))
    whole, single = list[float](), list[float]()
    body = b""
    for _ in range(ROUNDS):
        fresh = replace(epoch)
        begun_s = time.perf_counter()
        body = (await pages.overview(fresh)).body
        made_s = time.perf_counter()
        await pages.service(fresh, key)
        whole.append(made_s - begun_s)
        single.append(time.perf_counter() - made_s)
    sys.setswitchinterval(_SWITCH_S)
    quiet = await _lags_s(3.0)
    busy = asyncio.create_task(_lags_s(3.0))
    while not busy.done():
        await pages.overview(replace(epoch))
    return body, 1000 * median(whole), 1000 * median(single), 1000 * _p99(quiet), 1000 * _p99(await busy)


async def _lags_s(seconds: float) -> list[float]:
    """How late the event loop wakes somebody who sleeps for PAUSE_S."""
    found: list[float] = []
    end_s = time.perf_counter() + seconds
    while (begun_s := time.perf_counter()) < end_s:
        await asyncio.sleep(PAUSE_S)
        found.append(time.perf_counter() - begun_s - PAUSE_S)
    return found


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]
