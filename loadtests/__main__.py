"""Runs the measurements and prints their figures."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from loadtests import agent, echo, page, plan, recording, report
from loadtests.fleet import METADATA, OPERATOR, SlowPrometheus, name
from loadtests.keda import CALLS_PER_S, latencies_s, until_known
from loadtests.servers import CLIENT_CORE, running, silence
from scaler.serving.board import Board
from scaler.serving.clock import WallClock
from scaler.serving.loop import TickLoop
from scaler.serving.registry import Registry
from scaler.sources.prometheus import PrometheusSettings, PrometheusSource
from tests.fake_prometheus import FakePrometheus
from tests.fleet import NAMESPACE

SERVICES = 500
QUERY_S = 0.1
MEASURE_S = 31.0  # two ticks
Rows = list[tuple[str, str]]


def slow_prometheus() -> Rows:
    """500 ScaledObjects at KEDA's pace while each query takes 100 ms."""
    with (
        running("prometheus", str(SERVICES), str(QUERY_S), core=CLIENT_CORE) as prometheus_port,
        running("scaler", f"http://127.0.0.1:{prometheus_port}") as port,
    ):
        until_known(port, SERVICES)
        found = sorted(asyncio.run(latencies_s(port, SERVICES, MEASURE_S)))
    p50_ms, p99_ms = (1000 * found[int(len(found) * part)] for part in (0.5, 0.99))
    rate = f"{SERVICES * CALLS_PER_S:.0f} calls/s for {MEASURE_S:.0f} s, a tick every {OPERATOR.timing.tick_s:g} s"
    return [
        (f"{SERVICES} ScaledObjects, {1000 * QUERY_S:.0f} ms a query", rate),
        ("GetMetrics (p99 below 10 ms)", f"p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms, most {1000 * found[-1]:.2f} ms"),
    ]


def queries() -> Rows:
    """Queries that a fake Prometheus counts in one tick."""
    return [(f"queries per tick, {services:5,} ScaledObjects", f"{_counted(services)}") for services in (1, 100, 1000)]


def _counted(services: int) -> int:
    with FakePrometheus(SlowPrometheus(services, OPERATOR.timing, 0.0)) as prometheus:
        source = PrometheusSource(PrometheusSettings(url=prometheus.url), OPERATOR.timing)
        clock, registry = WallClock(), Registry(OPERATOR)
        for index in range(services):
            registry.ask(NAMESPACE, name(index), METADATA)

        async def tick_twice() -> int:
            board = Board(clock, OPERATOR.timing.stale_after_s)
            loop = TickLoop(source, OPERATOR, registry, board, clock)
            now_s = clock.now_s() // 15 * 15
            await loop.tick(now_s)  # the first also reads history
            before = len(prometheus.asked)
            await loop.tick(now_s + 15)
            assert len(board.in_force().decisions) == services
            return len(prometheus.asked) - before

        counted = asyncio.run(tick_twice())
        source.close()
    return counted


MEASUREMENTS: dict[str, Callable[[], Rows]] = {
    "echo": echo.measure,
    "slow-prometheus": slow_prometheus,
    "queries": queries,
    "plan": plan.measure,
    "agent": agent.measure,
    "page": page.measure,
    "report": report.measure,
    "recording": recording.measure,
}
ONLY_BY_NAME = {"recording"}  # half an hour and more, on two cores


def main(wanted: list[str]) -> int:
    unknown = [each for each in wanted if each not in MEASUREMENTS]
    if unknown:
        print(f"no measurement {unknown[0]!r}; there are: {', '.join(MEASUREMENTS)}", file=sys.stderr)
        return 2
    silence()
    table = Table("measurement", "figure", title=f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    for each in wanted or [one for one in MEASUREMENTS if one not in ONLY_BY_NAME]:
        for row in MEASUREMENTS[each]():
            table.add_row(*row)
        table.add_section()
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
