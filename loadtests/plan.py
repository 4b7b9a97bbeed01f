"""The time of one plan() over fleets of two sizes, with the memory that a start rebuilds from a day of history."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import NamedTuple

from scaler.planning.memory import Memory
from scaler.planning.plan import plan
from scaler.policy import FleetPolicy, OperatorPolicy, PoolPolicy, service_policy
from scaler.serving.garbage import QuietCollector
from scaler.serving.history import spans
from scaler.snapshot import CardKey, CardReading, Snapshot
from tests.fleet import START_S, TICK_S, at, card, key, reading, workload

SIZES = (1_000, 10_000)
TARGETS_MS = (50, 1_000)
TICKS = 9
# A tenth of services and cards is a pool of its own: a free slot on each of its cards, and no room for a replica.
OPERATOR = OperatorPolicy(pools=(PoolPolicy(name="tight", nodes="tight-.*"), PoolPolicy(name="default")))
FOOTPRINTS_GIB = (1.0, 1.5, 2.0, 2.5)
CASES = ("nobody grows", "5 % grow with room, 5 % without", "all grow at once")


class Figures(NamedTuple):
    """Seconds of each tick, and of them those that this process computed; what the first tick granted, and withheld."""

    ticks_s: list[float]
    computed_s: list[float]
    granted: int
    withheld: int


def measure() -> list[tuple[str, str]]:
    """Rows of a table: what, and the figure."""
    rows: list[tuple[str, str]] = []
    medians_s: dict[str, list[float]] = {case: [] for case in CASES}
    for services, target_ms in zip(SIZES, TARGETS_MS, strict=True):
        fleet = Fleet(services)
        memory = fleet.remembered()
        rows.append((f"{services:,} services on {services // 2:,} cards", f"{TICKS} ticks each"))
        for case, grows in zip(CASES, (lambda _: False, fleet.grows_at_the_edges, lambda _: True), strict=True):
            found = fleet.planned(memory, grows)
            medians_s[case].append(median(found.computed_s))
            tick_ms, computed_ms = 1000 * median(found.ticks_s), 1000 * median(found.computed_s)
            times = (
                f"median {tick_ms:.0f} ms, {computed_ms:.0f} ms computing; teaching {1000 * found.ticks_s[0]:.0f} ms"
            )
            rows.append(
                (
                    f"plan(), {case} (median below {target_ms:,} ms)",
                    f"{times}; first: {found.granted:,} replicas granted, {found.withheld:,} withheld",
                )
            )
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append(("peak resident memory so far", f"{peak_mib:.0f} MiB"))
    for case, (small_s, large_s) in medians_s.items():
        rows.append((f"{SIZES[1] // SIZES[0]} times the fleet, {case}", f"{large_s / small_s:.1f} times the computing"))
    return rows


class Fleet:
    """Services with one or two replicas on half as many cards of four slots: three pods and a free slot on each."""

    def __init__(self, services: int) -> None:
        self._services, self._cards = services, _cards(services)
        self._policy = FleetPolicy(
            OPERATOR,
            {
                key(_name(index)): service_policy(
                    key(_name(index)), {"pool": _pool(index, services), "targetConcurrency": "4"}, OPERATOR
                )
                for index in range(services)
            },
        )

    def remembered(self) -> Memory:
        """The memory at a start: lessons of the last day, and the last hour at every tick."""
        memory, steady = Memory(), self._snapshot(lambda _: False)
        with QuietCollector().tick():
            for span in spans(OPERATOR, START_S - TICK_S, None, 0.0):
                for number in range(round((span.end_s - span.start_s) / span.step_s) + 1):
                    seen = at(steady, span.start_s + number * span.step_s)
                    _, memory = plan(seen, FleetPolicy(OPERATOR, {}), memory)
        return memory

    def planned(self, memory: Memory, grows: Callable[[int], bool]) -> Figures:
        """Some ticks during which those services need two replicas more. The first teaches, as one in 40."""
        grown, collector = self._snapshot(grows), QuietCollector()
        ticks_s: list[float] = []
        computed_s: list[float] = []
        granted = withheld = 0
        for tick in range(TICKS):
            seen = at(grown, START_S + tick * TICK_S)
            with collector.tick():
                begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
                planned, memory = plan(seen, self._policy, memory)
                ticks_s.append(time.perf_counter() - begun_s)
                computed_s.append(time.process_time() - begun_cpu_s)
            for each in planned.decisions.values() if tick == 0 else ():
                if each.granted is None or each.replicas is None or each.demand is None:
                    raise SystemExit(f"{each.key.name} has no answer: {each.steps[-1].text}")
                granted += each.granted - each.replicas
                withheld += each.demand - each.granted
        return Figures(ticks_s, computed_s, granted, withheld)

    def grows_at_the_edges(self, index: int) -> bool:
        """The first 5 % of all services, in the tight pool, and the last 5 %, where there is room."""
        return not self._services // 20 <= index < self._services - self._services // 20

    def _snapshot(self, grows: Callable[[int], bool]) -> Snapshot:
        """3 of 4 in flight per replica at 50 arrivals a second; with more arrivals, as many as need two more."""
        services = {}
        for index in range(self._services):
            replicas = _replicas(index)
            inflight = 4.0 * (replicas + 2) - 1 if grows(index) else 3.0 * replicas
            services[workload(_name(index))] = reading(replicas, inflight, inflight / 0.06)
        return Snapshot(START_S, services, self._cards)


def _name(index: int) -> str:
    return f"service-{index:05}"


def _pool(index: int, of: int) -> str:
    return "tight" if index < of // 10 else "default"


def _replicas(index: int) -> int:
    return 1 + index % 2


def _cards(services: int) -> dict[CardKey, CardReading]:
    """Pods go round the cards of their pool. The first of a service holds all of its footprint, the second has some
    growth left. In the tight pool something else holds the rest, but for 2 GiB: 0.5 GiB above the watermark."""
    count = services // 2
    on_cards: list[dict[str, list[float]]] = [{} for _ in range(count)]
    first = {"tight": 0, "default": count // 10}
    several = {"tight": count // 10, "default": count - count // 10}
    placed = {"tight": 0, "default": 0}
    for index in range(services):
        pool, footprint_gib = _pool(index, services), FOOTPRINTS_GIB[index // 2 % len(FOOTPRINTS_GIB)]
        for pod in range(_replicas(index)):
            number = first[pool] + placed[pool] % several[pool]
            placed[pool] += 1
            on_cards[number].setdefault(_name(index), []).append(footprint_gib * (1.0 if pod == 0 else 0.9))
    found = {}
    for number, held in enumerate(on_cards):
        is_tight = number < count // 10
        free_gib = 2.0 if is_tight else 15.0 - sum(map(sum, held.values()))
        seen = card(
            free_gib,
            pods={name: len(each) for name, each in held.items()},
            held_gib={name: tuple(each) for name, each in held.items()},
            slots=4,
        )
        found[CardKey(f"GPU-{number:05}")] = replace(seen, node=f"{'tight' if is_tight else 'node'}-{number // 8}")
    return found
