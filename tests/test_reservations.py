"""What is granted is spoken for: promises until they are seen, starting replicas until they are resident, and one
arbitration for all that is left. Cards have 15 GiB and keep 1.5 free; every replica takes 2 GiB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from scaler.decision import Decision, FleetPlan
from scaler.planning.arbitration import Claim, arbitrate
from scaler.planning.footprints import Footprints
from scaler.planning.headroom import Need, Room, Worst
from scaler.planning.memory import Memory
from scaler.planning.plan import plan
from scaler.planning.supply import Count, Supply, supply
from scaler.policy import FleetPolicy
from scaler.signals.footprint import CardClass
from scaler.snapshot import Snapshot, WorkloadReading
from tests.fleet import START_S, TICK_S, asking, card, key, policy, pool_with, reading, run, snapshot

TWO_GIB = {"vramPerReplica": "2Gi"}
ROOM_FOR_5 = card(11.5)  # (11.5 - 1.5) / 2
FROM_ZERO = reading(0, 20.0, 1.0)  # five replicas' worth of requests wait before the service


def ticks(*loads: dict[str, WorkloadReading], first: int = 1, free_gib: float = 11.5) -> list[Snapshot]:
    """A snapshot a tick, the first of them at tick `first`."""
    return [snapshot(START_S + TICK_S * (first + i), load, card(free_gib)) for i, load in enumerate(loads)]


def last(history: Sequence[Snapshot], fleet: FleetPolicy, name: str) -> Decision:
    return run(history, fleet)[0][-1].decisions[key(name)]


def fitting(decision: Decision) -> str:
    return next(step.text for step in decision.steps if step.name == "fitting")


AB = policy(pool_with(), a=TWO_GIB, b=TWO_GIB)
A_ASKS = {"a": asking(1, 6), "b": asking(1, 1)}
B_ASKS = {"a": asking(1, 1), "b": asking(1, 6)}

# --- told, not seen yet -----------------------------------------------------------------------------------------------


def test_what_was_told_is_no_room_for_others() -> None:
    """Room for 5: a is told of all, and b asks a tick later, when nothing of it can be seen."""
    plans, _ = run(ticks(A_ASKS, B_ASKS), AB)
    assert plans[0].decisions[key("a")].granted == 6
    decision = plans[1].decisions[key("b")]
    assert (decision.verdict, decision.reasons[0], decision.granted) == ("veto", "fleet-share", 1)
    assert "5 told to others and not seen yet" in fitting(decision)


def test_a_promise_is_over_after_90_s() -> None:
    """The fifth tick after it is 75 s later, the sixth 90 s."""
    granted = [last(ticks(A_ASKS, *[A_QUIET] * (quiet - 1), B_ASKS), AB, "b").granted for quiet in (5, 6)]
    assert granted == [1, 6]


A_QUIET = {"a": asking(1, 1), "b": asking(1, 1)}


@pytest.mark.parametrize(
    ("again", "granted"),
    [
        pytest.param(1, 6, id="1 again: nothing is coming back, all 5"),
        pytest.param(3, 4, id="3 again: two may be coming back"),
        pytest.param(4, 3, id="and one more than there were"),
    ],
)
def test_what_was_told_after_less_may_be_coming_back(again: int, granted: int) -> None:
    """3 of a run, it is told 1, and a tick later `again`: two may have gone and be on their way back, although 3 are
    read all the time. Their VRAM is not b's."""
    fleet = policy(pool_with(scaleDownWindow="0s"), a=TWO_GIB, b=TWO_GIB)
    loads = [{"a": asking(3, wanted), "b": asking(1, b)} for wanted, b in ((1, 1), (again, 1), (1, 6))]
    plans, _ = run(ticks(*loads), fleet)
    assert [each.decisions[key("a")].granted for each in plans[:2]] == [1, again]
    assert plans[2].decisions[key("b")].granted == granted


def test_a_promise_that_is_seen_is_not_counted_twice() -> None:
    """Of 2 told more, both exist a tick later and one is ready: room for 5 less 2 that start is 3."""
    history = ticks({"a": asking(1, 3), "b": asking(1, 1)}, {"a": asking(3, 3, ready=2), "b": asking(1, 6)})
    decision = last(history, AB, "b")
    assert (decision.verdict, decision.granted) == ("limited", 4)
    assert "2 still starting" in fitting(decision)
    assert "told to others" not in fitting(decision)


def test_who_was_refused_for_a_promise_was_told_nothing() -> None:
    """b asks for two ticks while a's promise of all the room stands: a veto both times."""
    plans, _ = run(ticks(A_ASKS, B_ASKS, B_ASKS), AB)
    assert [str(each.decisions[key("b")].verdict) for each in plans[1:]] == ["veto", "veto"]


@pytest.mark.parametrize(
    ("times", "granted"),
    [
        pytest.param(1, None, id="6 told 15 s ago: they may be coming"),
        pytest.param(3, None, id="for 45 s"),
        pytest.param(4, 1, id="for 60 s, and 1 ran all along: nobody acts on it, so what runs is known"),
    ],
)
def test_an_answer_is_not_taken_back_before_it_is_seen(times: int, granted: int | None) -> None:
    """6 were told; then room is for 2 more. 3 would take back what may have started: no answer until it is seen."""
    decision = last([*ticks(*[A_ASKS] * times), *ticks(A_ASKS, first=1 + times, free_gib=6.0)], AB, "a")
    assert (decision.granted, str(decision.verdict)) == (granted, "veto" if granted else "unknown")


def test_what_was_told_while_fewer_ran_has_been_overtaken() -> None:
    """2 run and it is told 1; 1 runs and it is told 3; 3 run, two of them just started. These two are outstanding once:
    as starting, and not as told beyond the 1, too. Room for 5 less 2 is 3."""
    fleet = policy(pool_with(scaleDownWindow="0s"), a=TWO_GIB, b=TWO_GIB)
    a, b = [asking(2, 1), asking(1, 3), asking(3, 3, ready=1)], [asking(1, 1), asking(1, 1), asking(1, 6)]
    plans, _ = run(ticks(*({"a": x, "b": y} for x, y in zip(a, b, strict=True))), fleet)
    assert [each.decisions[key("a")].granted for each in plans] == [1, 3, 3]
    assert plans[-1].decisions[key("b")].granted == 1 + 3


def test_nobody_scales_up_before_the_instance_has_settled() -> None:
    fleet = FleetPolicy(AB.operator, AB.services, is_settled=False)
    decision = last(ticks(A_ASKS), fleet, "a")
    assert (decision.verdict, decision.steps[-1].name) == ("unknown", "not-settled")


# --- started, not resident --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "at_s", "expected"),
    [
        pytest.param([Count(0, 3, 3)], 30, Supply(3, 0, 0, 3), id="all ready since it was first seen"),
        pytest.param([Count(0, 3, 1)], 30, Supply(3, 2, 0, 3), id="two start"),
        pytest.param([Count(0, 3, 1), Count(30, 3, 3)], 89, Supply(3, 2, 0, 3), id="ready for 59 s: not resident yet"),
        pytest.param([Count(0, 3, 1), Count(30, 3, 3)], 90, Supply(3, 0, 0, 3), id="ready for 60 s: resident"),
        pytest.param([Count(0, 3, 1)], 599, Supply(3, 2, 0, 3), id="not ready for 599 s"),
        pytest.param([Count(0, 3, 1)], 600, Supply(3, 0, 2, 3), id="not ready for 600 s: given up"),
        pytest.param([Count(0, 3, 1), Count(500, 5, 1)], 600, Supply(5, 2, 2, 5), id="two given up, two more start"),
        pytest.param([Count(0, 3, 1), Count(590, 3, 3)], 600, Supply(3, 2, 0, 3), id="late, but they came"),
        pytest.param([Count(0, 4, 4), Count(60, 1, 1)], 179, Supply(1, 0, 0, 4), id="three ended 119 s ago"),
        pytest.param([Count(0, 4, 4), Count(60, 1, 1)], 180, Supply(1, 0, 0, 1), id="three ended 120 s ago"),
        pytest.param([], 600, Supply(0, 0, 0, 0), id="never seen"),
    ],
)
def test_supply(history: list[Count], at_s: float, expected: Supply) -> None:
    assert supply(tuple(history), at_s) == expected


def test_a_replica_that_never_gets_ready_is_given_up_aloud() -> None:
    """b waits for 3 replicas that never come. Their 6 GiB are held for 10 minutes: room for 5 - 3; then for 5."""
    load = {"a": asking(1, 1), "b": asking(4, 4, ready=1)}
    for minutes, granted, words in ((9, 3, "3 still starting"), (10, 6, "")):
        count = minutes * 4
        history = [*ticks(*[load] * count), *ticks({**load, "a": asking(1, 6)}, first=1 + count)]
        decision = last(history, AB, "a")
        assert decision.granted == granted
        assert not words or words in fitting(decision)
    history[-1] = snapshot(history[-1].taken_at_s, {"a": asking(1, 1), "b": asking(4, 5, ready=1)}, ROOM_FOR_5)
    step = next(step for step in last(history, AB, "b").steps if step.name == "given-up")
    assert (step.value, step.text) == (3, "not ready for over 600 s: nothing is reserved for them any more")


def test_who_is_not_asked_about_counts_with_what_it_has_started() -> None:
    """KEDA has not asked about b; its pods sit on the card, one of three has yet to load its default 2.25 GiB."""
    now = card(11.5, pods={"b": 3})
    history = [snapshot(START_S + TICK_S, {"a": asking(1, 6), "b": asking(3, 3, ready=2)}, now)]
    assert last(history, policy(pool_with(), a=TWO_GIB), "a").granted == 1 + 3  # (10 - 2.25) / 2


@pytest.mark.parametrize(
    ("named", "granted"),
    [
        pytest.param({"b": 1}, 1, id="not named yet: 4 of 8 GiB are spoken for, 1 is the watermark"),
        pytest.param({"b": 1, "a": 1}, None, id="named there, and not in the readings: it loads there"),
    ],
)
def test_who_is_named_before_its_replica_shows_loads_there(named: dict[str, int], granted: int | None) -> None:
    """a was told 1 a tick ago, its pod is named on the card with 8 GiB free, and kube-state-metrics, 20 s old, shows
    none. Another one of 4 GiB could land beside it."""
    fleet = policy(pool_with(lowWatermark="1Gi", highWatermark="1Gi"), a={"vramPerReplica": "4Gi"})

    def seen(at_s: float, wanted: int, pods: dict[str, int]) -> Snapshot:
        services = {"a": replace(asking(0, wanted), replicas_age_s=20.0), "b": asking(1, 1)}
        return snapshot(at_s, services, card(8.0, slots=3, pods=pods, held_gib={"b": (7.0,)}), card(15.0, slots=3))

    quiet = [seen(START_S - TICK_S * tick, 0, {"b": 1}) for tick in range(8, 0, -1)]
    told = seen(START_S, 1, {"b": 1})
    assert last([*quiet, told], fleet, "a").granted == 1
    assert last([*quiet, told, seen(START_S + TICK_S, 2, named)], fleet, "a").granted == granted


# --- from zero --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free_gib", "minimum", "granted"),
    [
        pytest.param(6.0, "0", 2, id="from zero one by one: (6 - 1.5) / 2"),
        pytest.param(6.0, "3", 0, id="KEDA starts three at once: 6 GiB do not fit into 4.5"),
        pytest.param(7.5, "3", 3, id="and into 6 they do"),
    ],
)
def test_from_zero_the_first_replicas_fit_together(free_gib: float, minimum: str, granted: int) -> None:
    fleet = policy(pool_with(), a={**TWO_GIB, "minReplicas": minimum})
    decision = last(ticks({"a": FROM_ZERO}, free_gib=free_gib), fleet, "a")
    assert (decision.granted, decision.active) == (granted, granted > 0)


def test_from_zero_below_a_floor_that_the_pool_cuts() -> None:
    """minReplicas 5, the pool's maxReplicas 3, room for 3: whatever is right, it is right for longer than a tick."""
    fleet = policy(pool_with(maxReplicas=3), a={**TWO_GIB, "minReplicas": "5"})
    plans, _ = run(ticks(*[{"a": FROM_ZERO}] * 2, free_gib=8.0), fleet)
    first, second = (each.decisions[key("a")].granted for each in plans)
    assert first == second


# --- who gets it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asks", "metadata", "granted", "reasons"),
    [
        pytest.param((3, 3), ({}, {}), (3, 3), ("demand", "demand"), id="4 of 5: all"),
        pytest.param((6, 6), ({}, {}), (4, 3), ("fleet-share", "fleet-share"), id="5 for two: a first by name"),
        pytest.param((6, 1), ({}, {}), (6, 1), ("demand", "demand"), id="5 for one"),
        pytest.param((8, 1), ({}, {}), (6, 1), ("no-fit", "demand"), id="7 asked of 5, nobody else asks"),
        pytest.param((6, 6), ({}, {"priority": "9"}), (2, 5), ("fleet-share", "fleet-share"), id="9 to 1: b has 4"),
        pytest.param((6, 6), ({}, {"minReplicas": "4"}), (3, 4), ("fleet-share", "fleet-share"), id="b's floor of 4"),
        pytest.param(
            (6, 6), ({"priority": "9"}, {"minReplicas": "6"}), (1, 6), ("fleet-share", "demand"), id="floors come first"
        ),
        pytest.param((4, 7), ({}, {}), (3, 4), ("fleet-share", "fleet-share"), id="3 and 6 unmet: 6 2 | 3 1 | 2 1.2"),
        pytest.param(
            (3, 6), ({}, {"vramPerReplica": "11Gi"}), (3, 1), ("demand", "no-fit"), id="what never fits takes nothing"
        ),
    ],
)  # fmt: skip
def test_arbitration(
    asks: tuple[int, int],
    metadata: tuple[dict[str, str], dict[str, str]],
    granted: tuple[int, int],
    reasons: tuple[str, str],
) -> None:
    """Both run one replica; the room is for 5 more of 2 GiB. Turns go by priority x unmet / (2 x got + 1)."""
    history = ticks({"a": asking(1, asks[0]), "b": asking(1, asks[1])})
    for names in (("a", "b"), ("b", "a")):  # whichever KEDA asked about first
        triggers = dict(zip(("a", "b"), ({**TWO_GIB, **each} for each in metadata), strict=True))
        fleet = policy(pool_with(), **{name: triggers[name] for name in names})
        decisions = [last(history, fleet, name) for name in ("a", "b")]
        assert tuple(each.granted for each in decisions) == granted
        assert tuple(each.reasons[0] for each in decisions) == reasons


def test_twenty_ask_for_five_more_and_seven_fit() -> None:
    """One more for each of the first seven names, and the same tick after tick."""
    services = {f"s{index:02}": asking(1, 6) for index in range(20)}
    big = card(15.0, slots=40)
    history = [snapshot(START_S + TICK_S * i, services, big) for i in range(1, 9)]
    metadata = {"vramPerReplica": "1920Mi"}  # (15 - 1.5) GiB / 1920 MiB is 7.2
    plans, _ = run(history, policy(pool_with(), **dict.fromkeys(services, metadata)))
    backwards, _ = run(history, policy(pool_with(), **dict.fromkeys(reversed(services), metadata)))
    for result, other in zip(plans, backwards, strict=True):
        got = {name.name for name, each in result.decisions.items() if each.granted == 2}
        assert got == {f"s{index:02}" for index in range(7)}
        assert {name: each.granted for name, each in other.decisions.items()} == {
            name: each.granted for name, each in result.decisions.items()
        }


def test_whose_turn_comes_first_may_take_the_room_of_a_smaller_one() -> None:
    """a wants one of 4 GiB with priority 10, b three of 1 GiB. 3 GiB: b has all three. 4 GiB: a has one, b none."""
    card_class = CardClass("Tesla T4", 15)
    a = Claim(key("a"), 0, 1, 0, 10.0, 1, Need({card_class: 4.0}, 1, {}), 0)
    b = Claim(key("b"), 0, 3, 0, 1.0, 1, Need({card_class: 1.0}, 1, {}), 0)
    granted = [
        arbitrate([a, b], Worst.of([Room(card_class, room, 9, 9)], 0), []).shares[key("b")].granted
        for room in (3.0, 4.0)
    ]
    assert granted == [3, 0]


def test_work_grows_with_the_fleet_and_not_with_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """All services are limited while promises stand. Twice the services may look up some three times as much."""
    looked_up = 0
    of = Footprints.of

    def counting(self: Footprints, *args: object) -> object:
        nonlocal looked_up
        looked_up += 1
        return of(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Footprints, "of", counting)
    work = []
    for count in (30, 60):
        looked_up = 0
        plans = starving(count)
        assert {str(each.verdict) for each in plans.decisions.values()} == {"limited"}
        assert all(each.steps for each in plans.decisions.values())
        work.append(looked_up)
    assert work[1] < 3 * work[0]


def starving(count: int) -> FleetPlan:
    """Services with room for two each on all cards that want nine more, in the second tick."""
    services = {f"s{index}": asking(1, 10) for index in range(count)}
    cards = [card(15.0, slots=2) for _ in range(count)]
    fleet, memory = policy(pool_with(), **dict.fromkeys(services, TWO_GIB)), Memory()
    for tick in (1, 2):
        result, memory = plan(snapshot(START_S + TICK_S * tick, services, *cards), fleet, memory)
    return result


@pytest.mark.parametrize(
    "declared", [pytest.param("1Pi", id="absurd"), pytest.param("14Gi", id="just above an empty card")]
)
@pytest.mark.parametrize(
    "b", [pytest.param(asking(2, 2), id="it runs"), pytest.param(asking(2, 2, ready=1), id="a replica of it starts")]
)
def test_no_tenant_blocks_the_pool_by_what_it_declares(declared: str, b: WorkloadReading) -> None:
    """b names more than a card's 13.5 GiB above the watermark. It gets nothing more; a has its one of 2 GiB."""
    history = [snapshot(START_S + TICK_S, {"a": asking(1, 2), "b": b}, card(9.0, pods={"a": 1, "b": 2}))]
    fleet = policy(pool_with(), a=TWO_GIB, b={"vramPerReplica": declared})
    assert last(history, fleet, "a").granted == 2
