"""Writes the tables of docs/incident.md: `python -m docs.safeguards`, from the project's root.

What each safeguard alone, and all but each, would have granted on the bundled recording. Safeguards are switched off by
replacing functions of scaler/planning; the product has no such switches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import yaml

from scaler.decision import Decision, FleetPlan, PoolState, Reason
from scaler.incident import RECORDING, SCALED_OBJECTS
from scaler.incident.timeline import clock
from scaler.planning import memory, plan, rooms, shares, wants
from scaler.planning.arbitration import Arbitrated, Share, arbitrate
from scaler.planning.supply import NO_SUPPLY
from scaler.planning.watermark import Watch
from scaler.policy import FleetPolicy, OperatorPolicy, ServiceKey, service_policy
from scaler.quantity import MIB
from scaler.replay.rerun import Rerun
from scaler.snapshot import Snapshot, WorkloadKey
from scaler.sources.recording import RecordingSource
from tests.worst_landing import LOW_RATIO, asked_by_the_old_autoscaler, crossings_by_step

PAGE = Path(__file__).with_name("incident.md")
FULL_BYTES = 16 * MIB  # the record's "zero": 2 MiB, and the noise about it

# --- safeguards, and how each is switched off ------------------------------------------------------------------------

Switch = Callable[[], Iterator[Any]]


def no_watermark() -> Iterator[Any]:
    """Free VRAM below the low watermark vetoes nothing. The room of each card is still counted above it."""
    for module in (plan, wants):
        yield patch.object(module, "watch", lambda *_: Watch(False, None))


def no_room() -> Iterator[Any]:
    """Whoever asks gets it, whether a replica fits anywhere or not; a reservation is counted in the room, so there is
    none either."""

    def all_of_it(claims: Any, *_: Any) -> Arbitrated:
        wanted = {claim.key: claim.wanted for claim in claims}
        return Arbitrated({key: Share(replicas, False) for key, replicas in wanted.items()}, wanted)

    yield patch.object(shares, "arbitrate", all_of_it)


def no_reservation() -> Iterator[Any]:
    """Each service for itself, by free VRAM as it is read: nothing is counted for others' claims, for what was told and
    has not come, for replicas that still load, or for running pods that will grow to their high-water again."""

    def one_by_one(claims: Any, started: Any, promises: Any) -> Arbitrated:
        single = [arbitrate([claim], started, ()) for claim in claims]
        return Arbitrated(
            {key: share for each in single for key, share in each.shares.items()},
            {key: most for each in single for key, most in each.at_most.items()},
        )

    yield patch.object(shares, "arbitrate", one_by_one)
    yield patch.object(shares, "supply", lambda *_: NO_SUPPLY)
    yield patch.object(rooms, "_growth", lambda *_: rooms._Growth(0.0, 0.0))


def no_storm_breaker() -> Iterator[Any]:
    yield patch.object(memory, "storm_cards", lambda *_: ())


def no_forecast() -> Iterator[Any]:
    yield patch.object(memory, "soonest", lambda *_, **__: [])


class Row(NamedTuple):
    """A line of a table: what is switched off, and where replicas are taken to land (the pool's `placement`)."""

    name: str
    off: tuple[Switch, ...]
    placement: str = "worst"


ROWS = (
    Row("**all**", ()),
    Row("all but the watermark", (no_watermark,)),
    Row("all but room and reservation", (no_room,)),
    Row("all but the reservation", (no_reservation,)),
    Row("all but the storm breaker", (no_storm_breaker,)),
    Row("all but the forecast", (no_forecast,)),
    Row("watermark alone", (no_room, no_storm_breaker, no_forecast)),
    Row("room alone", (no_watermark, no_reservation, no_storm_breaker, no_forecast)),
    Row("room and reservation alone", (no_watermark, no_storm_breaker, no_forecast)),
    Row("storm breaker alone", (no_watermark, no_room, no_forecast)),
    Row("forecast alone", (no_watermark, no_room, no_storm_breaker)),
    Row("**none**", (no_watermark, no_room, no_storm_breaker, no_forecast)),
)
ALL, ROOMIEST = ROWS[0], Row("all, with `placement: roomiest`", (), "roomiest")


@contextmanager
def without(switches: Sequence[Switch]) -> Iterator[None]:
    with ExitStack() as stack:
        for switch in switches:
            for each in switch():
                stack.enter_context(each)
        yield


# --- the two demands -------------------------------------------------------------------------------------------------


def recorded() -> list[Snapshot]:
    source = RecordingSource(RECORDING)
    return list(source.snapshots(source.header.start_s, source.header.end_s, source.header.step_s))


def fleet(operator: OperatorPolicy) -> FleetPolicy:
    """The six ScaledObjects that are bundled with the recording."""
    services = {}
    for document in yaml.safe_load_all(SCALED_OBJECTS.read_text()):
        key = ServiceKey(document["metadata"]["namespace"], document["metadata"]["name"])
        services[key] = service_policy(key, document["spec"]["triggers"][0]["metadata"], operator)
    return FleetPolicy(operator, services)


class Demand(NamedTuple):
    """Who asks: the readings and the policy that make the plan's demand."""

    incident: Sequence[Snapshot]
    policy: FleetPolicy


def own(incident: Sequence[Snapshot]) -> Demand:
    """Own concurrency, as this scaler counts it."""
    return Demand(incident, fleet(OperatorPolicy()))


def asked_then(incident: Sequence[Snapshot]) -> Demand:
    """What the recorded autoscaler scaled to: as many requests in flight as one step later's replicas take at 4 each,
    with nothing taken out for neighbours or retries."""
    asked = [
        replace(
            snapshot,
            workloads={
                workload: replace(
                    each,
                    queued=0.0,
                    queued_burst=0.0,
                    executing=4.0 * later[workload],
                    executing_burst=4.0 * later[workload],
                )
                for workload, each in snapshot.workloads.items()
            },
        )
        for snapshot, later in zip(incident, asked_by_the_old_autoscaler(incident), strict=True)
    ]
    settings = {"clientRetries": 0, "pools": [{"contentionCounts": True}]}
    return Demand(asked, fleet(OperatorPolicy.model_validate(settings)))


# --- what came of it -------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What was asked for and granted above what ran, at the steps at which either rose.

    Attributes:
        asked / granted: replicas by step. withheld_s: steps at which less was granted than asked for.
        most: the most above what ran, all services together, at one step.
        short_s: steps at which a card with a free slot was below the low watermark.
        crossing_s: steps at which what had been told might not fit where it lands.
    """

    asked: dict[float, int]
    granted: dict[float, int]
    withheld_s: list[float]
    most: dict[float, int]
    short_s: set[float]
    crossing_s: set[float]

    def of_asked(self, first_s: float, last_s: float) -> str:
        asked, granted = within(self.asked, first_s, last_s), within(self.granted, first_s, last_s)
        return f"{sum(granted.values())} of {sum(asked.values())}"

    def granted_at(self, steps: set[float], first_s: float, last_s: float) -> int:
        return sum(count for at_s, count in within(self.granted, first_s, last_s).items() if at_s in steps)


def within(by_step: Mapping[float, int], first_s: float, last_s: float) -> dict[float, int]:
    return {at_s: count for at_s, count in by_step.items() if first_s <= at_s < last_s and count}


def replayed(demand: Demand, row: Row = ALL) -> list[FleetPlan]:
    """The plans of every step without the row's safeguards."""
    operator = demand.policy.operator
    pools = tuple(pool.model_copy(update={"placement": row.placement}) for pool in operator.pools)
    policy = replace(demand.policy, operator=operator.model_copy(update={"pools": pools}))
    with without(row.off):
        return list(map(Rerun(policy).at, demand.incident))


def outcome(demand: Demand, plans: Sequence[FleetPlan]) -> Outcome:
    told = told_by_step(demand.policy, plans)
    found = Outcome({}, {}, [], {}, short_steps(demand.incident), set(crossings_by_step(demand.incident, told)))
    before: dict[ServiceKey, Above] = {}
    for each in plans:
        now = {key: above(decision) for key, decision in each.decisions.items()}
        rises = [(one, before.get(key, Above(0, 0))) for key, one in now.items()]
        found.asked[each.time_s] = sum(max(0, one.asked - last.asked) for one, last in rises)
        found.granted[each.time_s] = sum(max(0, one.granted - last.granted) for one, last in rises)
        found.most[each.time_s] = sum(one.granted for one in now.values())
        if any(one.asked > one.granted for one in now.values()):
            found.withheld_s.append(each.time_s)
        before = now
    return found


class Above(NamedTuple):
    """Replicas above those that run."""

    asked: int
    granted: int


def above(decision: Decision) -> Above:
    """No answer grants nothing."""
    replicas = decision.replicas or 0
    return Above(max(0, (decision.demand or 0) - replicas), max(0, (decision.granted or 0) - replicas))


def told_by_step(policy: FleetPolicy, plans: Sequence[FleetPlan]) -> list[dict[WorkloadKey, int]]:
    """What KEDA was told of each Deployment; no answer is none."""
    return [
        {
            WorkloadKey(key.namespace, policy.services[key].deployment): decision.granted or 0
            for key, decision in each.decisions.items()
        }
        for each in plans
    ]


def short_steps(incident: Sequence[Snapshot]) -> set[float]:
    return {
        snapshot.taken_at_s
        for snapshot in incident
        if any(
            (card.free_bytes or 0.0) < LOW_RATIO * (card.total_bytes or 0.0)
            for card in snapshot.cards.values()
            if sum(card.pods.values()) < (card.slots or 0)
        )
    }


# --- the tables ------------------------------------------------------------------------------------------------------

SPIRAL = (clock("00:00"), clock("00:15"))
PHASES = {
    "spiral, 00:00": SPIRAL,
    "second wave, 01:05": (clock("01:05"), clock("01:30")),
    "after the restart, 01:30": (clock("01:30"), clock("03:15")),
    "queues of retries, 03:15": (clock("03:15"), clock("05:20")),
    "after the fix, 05:20": (clock("05:20"), clock("09:01")),
}
GROWTH_S = clock("05:55")  # real growth begins at 06:00, in the stable window's mean a little earlier


def morning_head() -> list[str]:
    return table_head(
        "safeguards", *PHASES, "most at once", "while a card was short", "may not fit", "first after 05:55"
    )


def morning_row(row: Row, demand: Demand, plans: Sequence[FleetPlan]) -> str:
    """The whole recording: granted of asked in each of its phases, and whether that was safe."""
    found, (first_s, last_s) = outcome(demand, plans), (clock("23:45"), clock("09:01"))
    return table_row(
        row.name,
        *(found.of_asked(*phase) for phase in PHASES.values()),
        max(found.most.values()),
        found.granted_at(found.short_s, first_s, last_s),
        found.granted_at(found.crossing_s, first_s, last_s),
        at(min(within(found.granted, GROWTH_S, last_s), default=None)),
    )


def morning(demand: Demand) -> list[str]:
    return [*morning_head(), *(morning_row(row, demand, replayed(demand, row)) for row in ROWS)]


def spiral(demand: Demand, full_s: float, failed_s: float) -> list[str]:
    """The quarter of an hour in which the pool filled up, and how much warning there was."""
    demand = demand._replace(incident=[each for each in demand.incident if each.taken_at_s < SPIRAL[1]])
    lines = table_head(
        "safeguards", "granted of asked", "most at once", "while a card was short", "may not fit", "first, last grant",
        "first withheld", "minutes to free VRAM zero", "minutes to the first failure",
    )  # fmt: skip
    for row in (*ROWS, ROOMIEST):
        found = outcome(demand, replayed(demand, row))
        grants = within(found.granted, *SPIRAL)
        withheld_s = min((at_s for at_s in found.withheld_s if at_s >= SPIRAL[0]), default=None)
        lines.append(
            table_row(
                row.name,
                found.of_asked(*SPIRAL),
                max(within(found.most, *SPIRAL).values(), default=0),
                found.granted_at(found.short_s, *SPIRAL),
                found.granted_at(found.crossing_s, *SPIRAL),
                f"{at(min(grants))}, {at(max(grants))}" if grants else "-",
                at(withheld_s),
                "-" if withheld_s is None else f"{(full_s - withheld_s) / 60:.1f}",
                "-" if withheld_s is None else f"{(failed_s - withheld_s) / 60:.1f}",
            )
        )
    return lines


def stood(demand: Demand) -> list[str]:
    """When each safeguard that bars the whole pool stood, whoever asked. A storm hides a forecast, so that is read
    without the breaker."""
    plans = replayed(demand)
    calm = replayed(demand, Row("", (no_storm_breaker,)))
    return [
        *table_head("safeguard", "barred the pool"),
        table_row("watermark", spans(plans, lambda pool: pool.vetoed)),
        table_row("storm breaker", spans(plans, lambda pool: pool.barrier is Reason.OOM_STORM)),
        table_row("forecast", spans(calm, lambda pool: pool.barrier is Reason.EXHAUSTION_FORECAST)),
    ]


def spans(plans: Sequence[FleetPlan], stands: Callable[[PoolState], bool]) -> str:
    steps = [(each.time_s, stands(each.pools["default"])) for each in plans]
    found = [list(span) for is_up, span in itertools.groupby(steps, key=lambda each: each[1]) if is_up]
    return "; ".join(f"{at(span[0][0])} to {at(span[-1][0])}" for span in found) or "never"


def first_full_s(incident: Sequence[Snapshot]) -> float:
    return next(
        snapshot.taken_at_s
        for snapshot in incident
        if min(card.free_bytes or 0.0 for card in snapshot.cards.values()) < FULL_BYTES
    )


def first_failure_s(incident: Sequence[Snapshot]) -> float:
    return next(
        snapshot.taken_at_s for snapshot in incident if any(each.failure_per_s for each in snapshot.workloads.values())
    )


def at(time_s: float | None) -> str:
    return "-" if time_s is None else datetime.fromtimestamp(time_s, UTC).strftime("%H:%M:%S")


def table_head(*names: str) -> list[str]:
    return [table_row(*names), table_row("---", *("---:" for _ in names[1:]))]


def table_row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def tables() -> dict[str, list[str]]:
    """The tables by name; each stands in the page between comments with that name."""
    incident = recorded()
    by_own, by_asked = own(incident), asked_then(incident)
    return {
        "stood": stood(by_own),
        "spiral, asked then": spiral(by_asked, first_full_s(incident), first_failure_s(incident)),
        "morning, asked then": morning(by_asked),
        "morning, own": morning(by_own),
    }


def main() -> None:
    page = PAGE.read_text()
    for name, lines in tables().items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        if not rest or not after:
            raise SystemExit(f"{PAGE}: no {begin} ... {end}")
        page = "\n".join([before + begin, "", *lines, "", end + after])
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
