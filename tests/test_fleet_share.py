"""Who gets the room when it is not enough: the arithmetic of one tick as a table, and twenty services at once, whoever
asks first and whichever instance answers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pytest
from grpc import aio

from scaler._pb.externalscaler_pb2_grpc import ExternalScalerStub, add_ExternalScalerServicer_to_server
from scaler.decision import Verdict
from scaler.policy import OperatorPolicy
from scaler.serving.board import Board
from scaler.serving.loop import TickLoop
from scaler.serving.registry import Registry
from scaler.serving.servicer import Servicer
from scaler.snapshot import Snapshot, WorkloadReading
from tests.fleet import START_S, TICK_S, card, key, policy, reading, run, snapshot
from tests.serving import FakeSource, ManualClock, metrics_request

if TYPE_CHECKING:
    from scaler._pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

Metadata = dict[str, str]


def asks(running: int, wanted: int) -> WorkloadReading:
    """Four in flight are one replica's; at one arrival a second nothing is held against what was carried."""
    return reading(running, 4.0 * wanted, 1.0)


# --- one tick --------------------------------------------------------------------------------------------------------


class Asks(NamedTuple):
    """A service that runs so many replicas of 2 GiB each (unless its metadata says otherwise) and wants so many."""

    running: int
    wanted: int
    metadata: Metadata = {}  # noqa: RUF012 - never written to


@pytest.mark.parametrize(
    ("services", "room", "answers"),
    [
        pytest.param(
            {"a": Asks(1, 5), "b": Asks(1, 5, {"priority": "2"}), "c": Asks(1, 5)},
            4,
            {"a": (2, "fleet-share"), "b": (3, "fleet-share"), "c": (2, "fleet-share")},
            id="priorities 1:2:1, four places: b 8, then a and c 4 each, then b 8/3",
        ),
        pytest.param(
            {"a": Asks(1, 7), "b": Asks(1, 3)},
            4,
            {"a": (4, "fleet-share"), "b": (2, "fleet-share")},
            id="6 and 2 unmet, four places: a 6, a 6/3 before b 2 by name, b, a 6/5",
        ),
        pytest.param(
            {"a": Asks(1, 9), "z": Asks(1, 3, {"minReplicas": "3", "priority": "0.01"})},
            2,
            {"a": (1, "fleet-share"), "z": (3, "demand")},
            id="floors first, however little they weigh",
        ),
        pytest.param(
            {"c": Asks(1, 2), "a": Asks(1, 2), "b": Asks(1, 2)},
            2,
            {"a": (2, "demand"), "b": (2, "demand"), "c": (1, "fleet-share")},
            id="ties by name",
        ),
        pytest.param(
            {"a": Asks(1, 9, {"vramPerReplica": "7Gi", "priority": "100"}), "b": Asks(1, 3)},
            2,
            {"a": (1, "no-fit"), "b": (3, "demand")},
            id="7 GiB fit on no card, and keep nobody from 2",
        ),
        pytest.param(
            {"a": Asks(1, 3, {"priority": "5"}), "b": Asks(1, 2, {"vramPerReplica": "4Gi"})},
            2,
            {"a": (3, "demand"), "b": (1, "fleet-share")},
            id="4 GiB would fit alone, and a weighs more",
        ),
        pytest.param(
            {"a": Asks(1, 5, {"lowWatermark": "5Gi"}), "b": Asks(1, 5)},
            3,
            {"a": (2, "no-fit"), "b": (3, "fleet-share")},
            id="own watermark 5 GiB of 7.5 free: a 2, b 4, no second a beyond 2.5, b 6",
        ),
        pytest.param(
            {"a": Asks(1, 5), "b": Asks(1, 5, {"lowWatermark": "5Gi"})},
            3,
            {"a": (4, "no-fit"), "b": (1, "fleet-share")},
            id="own watermark 5 GiB of 7.5 free: a 2, b would make it 4 of 2.5, a 4, a 6: all there is",
        ),
        pytest.param(
            {"a": Asks(1, 2), "z": Asks(0, 2, {"minReplicas": "2"})},
            1,
            {"a": (2, "demand"), "z": (0, "no-fit")},
            id="from zero the two of minReplicas come together or not at all",
        ),
        pytest.param(
            {"a": Asks(2, 1), "b": Asks(1, 4)},
            0,
            {"a": (2, "scale-down-window"), "b": (1, "no-fit")},
            id="no room: nobody loses what runs",
        ),
    ],
)
def test_shares_of_one_tick(services: Mapping[str, Asks], room: int, answers: Mapping[str, tuple[int, str]]) -> None:
    """A card with 1.5 GiB of low watermark (10 % of 15) and `room` times 2 GiB above it; the next replica goes to the
    highest priority x unmet / (2 x granted + 1)."""
    readings = {name: asks(each.running, each.wanted) for name, each in services.items()}
    fleet = policy(
        OperatorPolicy(), **{name: {"vramPerReplica": "2Gi"} | each.metadata for name, each in services.items()}
    )
    history = [snapshot(START_S + TICK_S, readings, card(1.5 + 2.0 * room))]
    for asked in (list(services), list(services)[::-1]):
        in_order = replace(fleet, services={key(name): fleet.services[key(name)] for name in asked})
        decided = run(history, in_order)[0][-1].decisions
        assert {each.name: (d.granted, str(d.reasons[0])) for each, d in decided.items()} == answers
        for each, decision in decided.items():
            running, wanted, _ = services[each.name]
            if wanted > running:
                full_or_none = {wanted: Verdict.SCALE_UP, running: Verdict.VETO}
                assert decision.verdict == full_or_none.get(answers[each.name][0], Verdict.LIMITED)


# --- twenty services, two instances ----------------------------------------------------------------------------------

# Every window short, so that a history is some 60 snapshots.
OPERATOR = OperatorPolicy.model_validate(
    {
        "timing": {"learnEvery": "2m", "learnWindow": "20m", "watermarkWindow": "2m"},
        "pools": [{"lowWatermark": "1Gi", "highWatermark": "1Gi", "scaleDownWindow": "60s", "alarmAfter": "2m"}],
    }
)
NAMES = [f"s{number:02}" for number in range(20)]
SEVEN = dict.fromkeys(NAMES, 1) | dict.fromkeys(NAMES[:7], 2)
HELD_GIB = 2.0
HOMES = [dict.fromkeys(NAMES[first : first + 4], 1) for first in range(0, 20, 4)]


class Pool:
    """Twenty services with one replica each on five full cards, and room for seven more beside. From START_S on each
    wants five more. The HPA is slow: what was told is seen as spec.replicas 45 s later; the replica holds its VRAM
    after 75 s and is ready after 90 s.

    Attributes:
        places: free slots of each card that has room.
    """

    def __init__(self, places: Sequence[int]) -> None:
        self.places = places
        self.told_s: dict[str, list[float]] = {name: [] for name in NAMES}

    def tell(self, name: str, replicas: int, at_s: float) -> None:
        while 1 + len(self.told_s[name]) < replicas:
            self.told_s[name].append(at_s)

    def at(self, at_s: float) -> Snapshot:
        services, landed = {}, list[str]()
        for name in NAMES:
            running = 1 + sum(at_s >= told_s + 45 for told_s in self.told_s[name])
            ready = 1 + sum(at_s >= told_s + 90 for told_s in self.told_s[name])
            landed += [name] * sum(at_s >= told_s + 75 for told_s in self.told_s[name])
            base = asks(running, 6 if at_s >= START_S else 1)
            services[name] = replace(base, ready_replicas=ready, scraped_pods=ready)
        cards = [card(7.0, pods=home, held_gib=dict.fromkeys(home, (HELD_GIB,)), slots=4) for home in HOMES]
        for places in self.places:
            here, landed = landed[:places], landed[places:]
            held = {name: (HELD_GIB,) * here.count(name) for name in here}
            cards.append(
                card(
                    15.0 - HELD_GIB * len(here), pods={n: len(h) for n, h in held.items()}, held_gib=held, slots=places
                )
            )
        return snapshot(at_s, services, *cards)


class Instance:
    """One scaler, asked by KEDA over gRPC."""

    def __init__(self, pool: Pool, clock: ManualClock) -> None:
        self._clock, self._board = clock, Board(clock, OPERATOR.timing.stale_after_s)
        registry = Registry(OPERATOR, steady_s=clock.elapsed_s)
        self._loop = TickLoop(FakeSource(pool.at), OPERATOR, registry, self._board, clock)
        self.servicer = Servicer(registry, self._board)
        self.stub: ExternalScalerAsyncStub

    async def answers(self, order: Sequence[str]) -> dict[str, object]:
        """KEDA asks about each, then the instance plans, then KEDA asks again: only that counts."""
        for name in order:
            await self._asked(name)
        await self._loop.tick(self._clock.now_s())
        return {name: await self._asked(name) for name in order}

    async def _asked(self, name: str) -> object:
        try:
            reply = await self.stub.GetMetrics(metrics_request(name), timeout=5)
        except aio.AioRpcError as refused:
            return refused.code().name
        return round(reply.metricValues[0].metricValueFloat)


@asynccontextmanager
async def serving(pool: Pool, clock: ManualClock) -> AsyncIterator[Instance]:
    instance, server = Instance(pool, clock), aio.server()
    add_ExternalScalerServicer_to_server(instance.servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            instance.stub = ExternalScalerStub(channel)
            yield instance
    finally:
        await server.stop(0)


@pytest.mark.parametrize(
    "places",
    [
        pytest.param([1] * 7, id="seven slots, each on a card with room"),
        pytest.param([40], id="seven times 2 GiB above the watermark of 1 of 15"),
        pytest.param([4, 3], id="seven slots on two cards"),
    ],
)
async def test_seven_of_a_hundred_and_the_same_seven_from_everybody(places: list[int]) -> None:
    """Priority and unmet demand are equal, so the first seven by name get one each. One instance is killed while the
    seven start, and comes back without a memory of its own."""
    shuffle = random.Random(7).sample  # each tick KEDA asks in another order
    pool, clock = Pool(places), ManualClock(START_S - 105)
    restart_s = START_S + TICK_S  # told, and not a trace of it to be read yet
    async with AsyncExitStack() as stays, AsyncExitStack() as dies:
        first = await stays.enter_async_context(serving(pool, clock))
        second = await dies.enter_async_context(serving(pool, clock))
        while clock.now_s() < START_S + 13 * TICK_S:
            now_s = clock.now_s()
            if now_s == restart_s:
                await dies.aclose()
                second = await stays.enter_async_context(serving(pool, clock))
            told = await first.answers(shuffle(NAMES, 20))
            too = await second.answers(shuffle(NAMES, 20))
            if now_s < START_S:
                assert told == dict.fromkeys(NAMES, 1)
            else:
                assert told == SEVEN
            if now_s < restart_s or now_s >= restart_s + OPERATOR.settle_s:
                assert too == told
            else:
                # As yet it cannot know what the first has promised: nothing, or the same.
                assert all(too[name] in ("UNAVAILABLE", told[name]) for name in NAMES)
            if now_s == restart_s:
                assert {name for name in NAMES if too[name] == "UNAVAILABLE"} >= set(NAMES[:7])
            for name, replicas in told.items():
                assert isinstance(replicas, int)
                pool.tell(name, replicas, now_s)
            clock.advance(TICK_S)
