"""What the report draws, kept while the recorded time goes by: thinned curves, veto bands, and decisions in words.

A day at 15 s of 100 services on 200 cards is 5,760 moments and 576,000 decisions; the page gets POINTS points and
TELLINGS decisions, however long the time is.
"""

from __future__ import annotations

from collections.abc import Iterable

from scaler.decision import Decision, FleetPlan, Verdict
from scaler.explain import explanation
from scaler.planning.cards import cards_by_pool
from scaler.planning.memory import Memory
from scaler.planning.replicas import load_of
from scaler.policy import FleetPolicy, ServiceKey
from scaler.quantity import GIB
from scaler.report.page import Telling
from scaler.report.thin import Changes, Extremes, Spans
from scaler.signals.retries import oom_candidates_per_s
from scaler.snapshot import CardKey, Snapshot

POINTS = 300_000  # of measured curves altogether: some 3 MB of the file
FEWEST_POINTS, MOST_POINTS = 240, 3_000  # of one of them: a chart is 300 to 1,500 pixels wide
TELLINGS = 4_000  # decisions in words altogether, some 1.2 kB each

CURVES_A_SERVICE = 3


class Side:
    """What is of one of the settings alone: grants, vetoes, and the decisions in words."""

    def __init__(self) -> None:
        self.granted = Changes()
        self.demand = Changes()
        self.vetoes = Spans()
        self.told = Kept()

    def add(self, at: int, decision: Decision | None) -> None:
        """The decision of step `at`."""
        self.granted.add(at, decision.granted if decision else None)
        self.demand.add(at, decision.demand if decision else None)
        self.vetoes.add(at, decision is not None and decision.verdict in (Verdict.VETO, Verdict.LIMITED))
        if decision is not None:
            self.told.add(at, decision)


class ServiceDrawing:
    """One service: replicas that ran and that its present triggers asked for, requests in flight as read and as they
    count, failures; and each side's answers."""

    def __init__(self, width: int, sides: int) -> None:
        self.real, self.asked = Changes(), Changes()
        self.inflight, self.own_inflight, self.failed_per_min = (Extremes(width) for _ in range(CURVES_A_SERVICE))
        self.sides = [Side() for _ in range(sides)]


class PoolDrawing:
    """One pool: its services' replicas together, free VRAM of each card and what counts of it, failures, vetoes."""

    def __init__(self, width: int, sides: int) -> None:
        self.real, self.asked = Changes(), Changes()
        self.granted = [Changes() for _ in range(sides)]
        self.free_gib, self.failed_per_min = Extremes(width), Extremes(width)
        self.low_gib = [Changes() for _ in range(sides)]
        self.vetoes = [Spans() for _ in range(sides)]
        self.cards: dict[CardKey, Extremes] = {}


class Kept:
    """Decisions in words, where they changed. Where there are too many, every second one goes that changed demand or
    grant alone, and once there are none, every second one; so what is left is spread evenly. The first stays."""

    def __init__(self) -> None:
        self._kept: list[tuple[bool, Telling]] = []
        self._last: Decision | None = None
        self._every = {False: 1, True: 1}  # of the minor changes, and of the turns, one in so many is kept
        self._seen = {False: 0, True: 0}
        self.left_out = 0

    def add(self, at: int, decision: Decision) -> None:
        """The decision of step `at`."""
        before, self._last = self._last, decision
        if before is not None and _numbers(before) == _numbers(decision) and _turn(before) == _turn(decision):
            return
        is_turn = before is None or _turn(before) != _turn(decision)
        number = self._seen[is_turn]
        self._seen[is_turn] += 1
        if number % self._every[is_turn]:
            self.left_out += 1
        else:
            self._kept.append((is_turn, Telling(at, *explanation(decision.as_json()))))

    def thin(self) -> None:
        """Lets about half of them go; of two and fewer, none."""
        kind = sum(not is_turn for is_turn, _ in self._kept) < 2
        self._every[kind] *= 2
        kept, number = [], 0
        for is_turn, told in self._kept:
            if is_turn is kind:
                number += 1
            if is_turn is not kind or number % 2:
                kept.append((is_turn, told))
        self.left_out += len(self._kept) - len(kept)
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def tellings(self) -> list[Telling]:
        """What was kept, in the order of time."""
        return [told for _, told in self._kept]


class Drawing:
    """All of it. `policies` are those of the settings that are compared, A first; `steps` are the moments to come."""

    def __init__(self, policies: list[FleetPolicy], steps: int) -> None:
        self._policies = policies
        self._steps = steps
        self.at = -1
        self.services: dict[ServiceKey, ServiceDrawing] = {}
        self.pools: dict[str, PoolDrawing] = {}

    def add(self, snapshot: Snapshot, plans: list[FleetPlan], memory: Memory) -> None:
        """One more moment: what was seen, each side's plan, and what A remembered then."""
        if self.at < 0:
            self._begin(snapshot)
        self.at += 1
        self._add_services(snapshot, plans, memory)
        self._add_pools(snapshot, plans)
        self._trim()

    def _trim(self) -> None:
        """Whoever changed most often lets go first; everybody keeps two."""
        tellings = [side.told for each in self.services.values() for side in each.sides]
        while sum(map(len, tellings)) > max(TELLINGS, 2 * len(tellings)):
            max(tellings, key=len).thin()

    def _begin(self, snapshot: Snapshot) -> None:
        """Room for each curve, by how many there are."""
        services, sides = self._policies[0].services, len(self._policies)
        curves = CURVES_A_SERVICE * len(services) + len(snapshot.cards) + 2 * len(self._policies[0].operator.pools)
        points = min(MOST_POINTS, max(FEWEST_POINTS, POINTS // max(1, curves)))
        # Two points are kept of so many steps; a short time is kept as it is.
        self._width = 1 if self._steps <= points else -(-2 * self._steps // points)
        self.services = {key: ServiceDrawing(self._width, sides) for key in services}
        self.pools = {pool.name: PoolDrawing(self._width, sides) for pool in self._policies[0].operator.pools}

    def is_tightest(self, pool: str) -> bool:
        """Whether the free VRAM that counts is that of one card, the tightest."""
        return self._policies[0].operator.pool(pool).watermark_of.startswith("tightest")

    @property
    def is_thinned(self) -> bool:
        """Whether measured curves are less than every moment."""
        return self._width > 1

    @property
    def width(self) -> int:
        """Of so many steps each, the least and the highest value are kept."""
        return self._width

    def _add_services(self, snapshot: Snapshot, plans: list[FleetPlan], memory: Memory) -> None:
        policy = self._policies[0]
        for key, drawing in self.services.items():
            workload = policy.workloads[key]
            reading = snapshot.workloads.get(workload)
            drawing.real.add(self.at, reading.spec_replicas if reading else None)
            drawing.asked.add(self.at, snapshot.asked.get(workload))
            inflight = own = failed = None
            if reading is not None and reading.queued is not None and reading.executing is not None:
                inflight = reading.queued + reading.executing
            past = memory.workloads.get(workload)
            if past is not None and past.moments and past.moments[-1].time_s == snapshot.taken_at_s:
                own = load_of(past.moments[-1], policy.terms[key]).inflight
            if reading is not None and reading.failure_per_s is not None:
                failed = 60 * oom_candidates_per_s(reading)
            drawing.inflight.add(self.at, inflight)
            drawing.own_inflight.add(self.at, own)
            drawing.failed_per_min.add(self.at, failed)
            for side, plan in zip(drawing.sides, plans, strict=True):
                side.add(self.at, plan.decisions.get(key))

    def _add_pools(self, snapshot: Snapshot, plans: list[FleetPlan]) -> None:
        cards = cards_by_pool(snapshot.cards, self._policies[0].operator)
        for name, drawing in self.pools.items():
            keys = list(self._policies[0].in_pool(name))
            workloads = [self._policies[0].workloads[key] for key in keys]
            readings = [snapshot.workloads.get(each) for each in workloads]
            drawing.asked.add(self.at, _sum(snapshot.asked.get(each) for each in workloads))
            drawing.real.add(self.at, _sum(each.spec_replicas if each else None for each in readings))
            rates = [oom_candidates_per_s(each) for each in readings if each is not None]
            drawing.failed_per_min.add(self.at, 60 * sum(rates) if rates else None)
            for card in cards[name]:
                if card.key not in drawing.cards:
                    drawing.cards[card.key] = Extremes(self._width)
                free = None if card.reading.free_bytes is None else card.reading.free_bytes / GIB
                drawing.cards[card.key].add(self.at, free)
            for number, plan in enumerate(plans):
                # Without an answer the HPA holds what there is.
                decisions = [plan.decisions[key] for key in keys if key in plan.decisions]
                told = _sum(each.replicas if each.granted is None else each.granted for each in decisions)
                drawing.granted[number].add(self.at, told)
                state = plan.pools.get(name)
                low = None if state is None or state.low_bytes is None else state.low_bytes / GIB
                drawing.low_gib[number].add(self.at, low)
                barred = state is not None and (state.vetoed or state.barrier is not None)
                drawing.vetoes[number].add(self.at, barred)
            counts = plans[0].pools.get(name)
            drawing.free_gib.add(
                self.at, None if counts is None or counts.free_bytes is None else counts.free_bytes / GIB
            )


def _numbers(decision: Decision) -> tuple[int | None, ...]:
    return decision.demand, decision.granted


def _turn(decision: Decision) -> tuple[object, ...]:
    """What makes a reader look: the real autoscaler moved, or another verdict or reason."""
    return decision.replicas, decision.verdict, decision.reasons[:1]


def _sum(values: Iterable[int | None]) -> int | None:
    """None as soon as one of them cannot be seen: a sum without it would be a dip that never was."""
    found = list(values)
    return sum(each for each in found if each is not None) if found and None not in found else None
