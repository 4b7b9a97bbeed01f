"""How many more replicas fit: by free VRAM, slots, growth of what runs, and where the scheduler may put them.

Cards have 15 GiB and a low watermark of 10 %: 1.5 GiB. Service a runs one replica and wants eight more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec import structs

from scaler.decision import Decision
from scaler.planning import spread as spreading
from scaler.planning.headroom import UNLIMITED, Need, Room, Roomiest, Worst
from scaler.planning.spread import Node, Nodes, Pods, Spread
from scaler.policy import OperatorPolicy, Placement
from scaler.quantity import GIB
from scaler.signals.footprint import CardClass
from scaler.snapshot import CardKey, CardReading, HeldVram, Snapshot, WorkloadReading
from tests.fleet import START_S, TICK_S, asking, card, decide, key, policy, pool_with, run, snapshot, workload

TWO_GIB = {"vramPerReplica": "2Gi"}
LOW_1_GIB = {"lowWatermark": "1Gi", "highWatermark": "1Gi"}
L4 = replace(card(6.0), total_bytes=24.0 * GIB, model="NVIDIA L4")
FULL = card(2.0, pods={"x": 2}, slots=2)
NO_SLOT = card(8.0, pods={"a": 1}, slots=1)
HAS_HELD_5 = replace(card(8.0, pods={"b": 1}), held={workload("b"): HeldVram(2.0 * GIB, 5.0 * GIB)})


def one_tick(cards: Sequence[CardReading], operator: OperatorPolicy, metadata: dict[str, str]) -> Decision:
    """Between two lessons, so that nothing is learnt of anybody."""
    history = [snapshot(START_S + TICK_S, {"a": asking(1, 9)}, *cards)]
    return decide(history, policy(operator, a=metadata), "a")


@pytest.mark.parametrize(
    ("cards", "pool", "metadata", "more"),
    [
        pytest.param([card(8)], {}, {}, 3, id="(8 - 1.5) / 2"),
        pytest.param([card(7.5)], {}, {}, 3, id="(7.5 - 1.5) / 2: exactly"),
        pytest.param([card(4), card(4)], {}, {}, 1, id="(4 - 1.5) / 2, both may land on one: no sum of what is free"),
        pytest.param([card(14), card(4)], {}, {}, 1, id="the tightest card with a slot"),
        pytest.param([card(14, slots=4), card(4, slots=1)], {}, {}, 4, id="five slots, one is a's own"),
        pytest.param([card(14), FULL], {}, {}, 6, id="a card without a slot does not count"),
        pytest.param([card(8, pods={"a": 1}, slots=2)], {}, {}, 1, id="one slot is left"),
        pytest.param([card(8, slots=4)], {"slotsPerCard": 2}, {}, 1, id="the operator's slots win: two, one taken"),
        pytest.param([card(8, slots=None)], {}, {}, 3, id="unknown slots: any number may land"),
        pytest.param([card(8, slots=None), card(4, slots=None)], {}, {}, 1, id="unknown slots: all on the tight card"),
        pytest.param([NO_SLOT], {}, {}, 0, id="no slot"),
        pytest.param([NO_SLOT], {"pendingReplicas": 2}, {}, 2, id="two wait for a node"),
        pytest.param([NO_SLOT, card(8, slots=1)], {"pendingReplicas": 2}, {}, 3, id="one slot, two wait"),
        pytest.param([card(4), card(4)], {"placement": "roomiest"}, {}, 2, id="roomiest: one on each"),
        pytest.param([card(8), card(3)], {"placement": "roomiest"}, {}, 3, id="roomiest: three on one"),
        pytest.param([card(8, slots=2), card(4)], {"placement": "roomiest"}, {}, 3, id="roomiest: two slots and one"),
        pytest.param([NO_SLOT], {"placement": "roomiest", "pendingReplicas": 2}, {}, 2, id="roomiest: two wait"),
        pytest.param([card(8), L4], {}, {}, 1, id="L4 of 24: (6 - 2.4) / 2, T4: (8 - 1.5) / 2"),
        pytest.param([card(8), L4], LOW_1_GIB, {}, 2, id="L4: (6 - 1) / 2, T4: (8 - 1) / 2"),
        pytest.param([card(8)], {}, {"lowWatermark": "5Gi"}, 1, id="own watermark: (8 - 5) / 2"),
        pytest.param([card(8)], {}, {"lowWatermark": "1Gi"}, 3, id="a looser own watermark is void"),
        pytest.param([card(8)], {}, {"vramPerReplica": "7Gi"}, 0, id="7 do not go into 6.5"),
        pytest.param([card(14, slots=1), NO_SLOT], {}, {"vramPerReplica": "13Gi"}, 1, id="one place: all of it"),
        pytest.param(
            [card(14, slots=1)], {}, {"vramPerReplica": "10Gi", "lowWatermark": "5Gi"}, 0, id="one place: own 5 GiB"
        ),
        pytest.param(
            [], {"blind": "allow"}, {}, 8, id="blind allow: as if there were room"
        ),
        pytest.param(
            [card(8, age_s=300)], {"blind": "allow"}, {}, 8, id="blind allow: a stale card"
        ),
        pytest.param(
            [card(14), replace(card(2), total_bytes=None)], LOW_1_GIB, {}, 0, id="2 - 1 on a card of unknown size"
        ),
        pytest.param(
            [replace(card(8), total_bytes=None)], LOW_1_GIB, {}, 3, id="(8 - 1) / 2 on a card of unknown size"
        ),
    ],
)  # fmt: skip
def test_how_many_fit(cards: list[CardReading], pool: dict[str, object], metadata: dict[str, str], more: int) -> None:
    decision = one_tick(cards, pool_with(**pool), {**TWO_GIB, **metadata})
    assert decision.granted == 1 + more
    assert decision.verdict == {0: "veto", 8: "scale-up"}.get(more, "limited")
    assert decision.reasons[0] == ("demand" if more == 8 else "no-fit")


def test_a_veto_for_want_of_slots_says_so() -> None:
    step = next(step for step in one_tick([NO_SLOT], pool_with(), TWO_GIB).steps if step.name == "fitting")
    assert (step.value, step.text) == (0, "no free slot on 1 cards (placement worst)")


def on(node: str, free_gib: float, pods: dict[str, int], slots: int | None = 4) -> CardReading:
    return replace(card(free_gib, pods=pods, slots=slots), node=node)


OWN = on("n0", 13.0, {"a": 1}, 1)  # the replica that runs, on a card without a further place
EMPTY = on("n1", 14.0, {})
TIGHT = on("n2", 2.0, {"x": 3})  # half a GiB above the watermark, where nothing fits


@pytest.mark.parametrize(
    ("cards", "more"),
    [
        pytest.param([OWN, EMPTY, TIGHT], 3, id="three fill n1 to the three pods of n2; the fourth may land there"),
        pytest.param([OWN, on("n1", 14.0, {}, 2), TIGHT], 2, id="n1 is full after two, and then comes n2"),
        pytest.param([OWN, on("n1", 6.0, {}), TIGHT], 2, id="of the three, (6 - 1.5) / 2 fit on n1"),
        pytest.param([OWN, on("n1", 14.0, {"x": 2}), TIGHT], 1, id="n1 has two already: one makes three"),
        pytest.param([OWN, on("n1", 14.0, {"x": 4}), TIGHT], 0, id="n1 is full: n2 is next"),
        pytest.param([OWN, EMPTY, on("n3", 14.0, {}), TIGHT], 6, id="two nodes are filled to three each"),
        pytest.param([OWN, on("n2", 14.0, {}), TIGHT], 3, id="on one node, too, the emptiest card comes first"),
        pytest.param([OWN, EMPTY, on("n1", 14.0, {}), TIGHT], 3, id="three fill n1, whichever of its cards they take"),
        pytest.param([OWN, on("n1", 14.0, {}, None), TIGHT], 3, id="unknown slots on n1: filled to three as well"),
        pytest.param([EMPTY, TIGHT], 2, id="no card names a's own pod: it may be one of the three on n1"),
        pytest.param([OWN, on("", 14.0, {}), TIGHT], 0, id="a node without a name: n2 may be the emptiest of all"),
        pytest.param([OWN, EMPTY, replace(TIGHT, node="")], 0, id="a card without a node's name may be next"),
    ],
)  # fmt: skip
def test_spread_reaches_a_card_when_the_emptier_ones_are_filled(cards: list[CardReading], more: int) -> None:
    """Placement worst grants none in any of these."""
    assert one_tick(cards, pool_with(placement="spread"), TWO_GIB).granted == 1 + more
    assert one_tick(cards, pool_with(placement="worst"), TWO_GIB).granted == 1


def test_spread_names_the_card_that_it_reaches() -> None:
    """All three that fill n1 are granted; a fourth would reach the tight card."""
    decision = one_tick([OWN, EMPTY, TIGHT], pool_with(placement="spread"), TWO_GIB)
    step = next(step for step in decision.steps if step.name == "fitting")
    assert step.text == (
        "card GPU-2, the tightest of 2 with a slot that 4 on their way can reach, is 512 MiB above the watermark "
        "(placement spread)"
    )


def test_spread_is_worst_where_a_replica_takes_two_cards() -> None:
    """How many pods a node has cannot be read off its cards then: the tight card with its one place counts at once."""
    own = [replace(card(9.0, pods={"a": 1}, held_gib={"a": (6.0,)}, slots=1), node="n1") for _ in range(2)]
    others = [on("n2", 14.0, {}, 2), on("n2", 14.0, {}, 2), on("n3", 3.0, {"x": 1}, 2)]
    history = [snapshot(START_S + TICK_S * i, {"a": asking(1, 8 * i - 7)}, *own, *others) for i in (1, 2)]
    decision = decide(history, policy(pool_with(placement="spread"), a={}), "a")
    assert decision.granted == 1
    assert "(placement worst)" in next(step.text for step in decision.steps if step.name == "fitting")


def test_mig_instances_are_cards_of_their_own() -> None:
    """Two instances of 10 GiB on one GPU, 4 and 9 GiB free, of which 1 GiB is the watermark: (4 - 1) / 2 is one, and
    not what the 13 of the whole GPU would hold."""
    instance = replace(card(4.0, slots=7), total_bytes=10.0 * GIB)
    cards = {CardKey("GPU-0", "1"): instance, CardKey("GPU-0", "2"): replace(instance, free_bytes=9.0 * GIB)}
    seen = Snapshot(START_S + TICK_S, {workload("a"): asking(1, 9)}, cards)
    assert decide([seen], policy(pool_with(), a=TWO_GIB), "a").granted == 2


@pytest.mark.parametrize(
    ("free_slots", "pending", "more"),
    [
        pytest.param(3, 0, 1, id="three places: one of two cards each"),
        pytest.param(4, 0, 2, id="four places: two"),
        pytest.param(0, 2, 2, id="both wait for a node"),
        pytest.param(
            0, 1, 1, id="pendingReplicas counts replicas"
        ),
    ],
)  # fmt: skip
def test_a_replica_on_two_cards_takes_two_places(free_slots: int, pending: int, more: int) -> None:
    """It holds 2 GiB of each of its two cards; every other card has one place and 14 GiB free."""
    own = [card(13.0, pods={"a": 1}, held_gib={"a": (2.0,)}, slots=1) for _ in range(2)]
    others = [card(14.0, slots=1) for _ in range(free_slots)]
    history = [snapshot(START_S + TICK_S * i, {"a": asking(1, 8 * i - 7)}, *own, *others) for i in (1, 2)]
    assert decide(history, policy(pool_with(pendingReplicas=pending), a={}), "a").granted == 1 + more


@pytest.mark.parametrize(
    ("free_slots", "more"),
    [
        pytest.param(2, 0, id="two places: both are its"),
        pytest.param(3, 1, id="three"),
        pytest.param(4, 2, id="four"),
    ],
)
def test_a_replica_on_two_cards_that_starts_takes_two_places(free_slots: int, more: int) -> None:
    """One of b runs on two cards, and a second one starts somewhere: its two places are not a's."""
    taken = [card(13.0, pods={name: 1}, held_gib={name: (2.0,)}, slots=1) for name in ("b", "b", "a")]
    cards = [*taken, *(card(14.0, slots=1) for _ in range(free_slots))]
    history = [
        snapshot(START_S, {"a": asking(1, 1), "b": asking(1, 1)}, *cards),
        snapshot(START_S + TICK_S, {"a": asking(1, 9), "b": asking(2, 2, ready=1)}, *cards),
    ]
    assert decide(history, policy(pool_with(), a=TWO_GIB, b={}), "a").granted == 1 + more


@pytest.mark.parametrize(
    ("wanted", "granted"),
    [
        pytest.param(2, 2, id="nobody leaves: only the roomy card is open"),
        pytest.param(1, 1, id="one leaves: 7 GiB and a place beside the other"),
    ],
)
def test_a_place_that_falls_free_may_be_taken(wanted: int, granted: int) -> None:
    """Two of a fill a card, 2 GiB of 15 free: 6.5 each. b takes 8, has 12.5 on another card, and may land here once one
    of a goes: (2 + 6.5) - 1.5 is 7."""
    cards = [card(2.0, pods={"a": 2}, slots=2), card(14.0)]
    history = [
        snapshot(START_S + TICK_S * tick, {"a": asking(2, wanted), "b": asking(1, 1 + tick // 25)}, *cards)
        for tick in range(1, 26)  # 6 minutes: past the window of 5
    ]
    fleet = policy(pool_with(), a=TWO_GIB, b={"vramPerReplica": "8Gi"})
    assert decide(history, fleet, "b").granted == granted


@pytest.mark.parametrize("free_gib", [7.0, 9.0, 11.0, 13.0])
def test_a_place_that_falls_free_is_worth_no_less_beside_more_free_vram(free_gib: float) -> None:
    """Two of b sit on a card, 5 GiB each at their highest, and both go: whatever they hold, 4 GiB are left beside
    them above the watermark (15 - 1 - 10), 9 beside one of them, 14 without. So as many of a's 4 GiB fit as there are
    places then, and two on the empty card: only the three places that are open now bind."""
    cards = [card(free_gib, slots=3, pods={"b": 2}), card(11.0, slots=1, pods={"a": 1}), card(15.0, slots=2)]
    quiet = [
        snapshot(START_S - TICK_S * tick, {"a": asking(1, 1), "b": asking(2, 2)}, *cards) for tick in range(40, 0, -1)
    ]
    asked = snapshot(START_S, {"a": asking(1, 6), "b": asking(2, 0)}, *cards)
    pool = pool_with(lowWatermark="1Gi", highWatermark="1Gi", scaleDownWindow="0s")
    fleet = policy(pool, a={"vramPerReplica": "4Gi"}, b={"vramPerReplica": "5Gi"})
    assert decide([*quiet, asked], fleet, "a").granted == 4


# --- growth of what runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "metadata", "more"),
    [
        pytest.param((5.0,), card(8, pods={"b": 1}, held_gib={"b": (2.0,)}), {}, 1, id="5 before, 2 now: 3 to grow"),
        pytest.param(None, HAS_HELD_5, {}, 1, id="5 by the agent's high-water, 2 now: 3 to grow"),
        pytest.param((5.0,), card(8, pods={"b": 1}, held_gib={"b": (5.0,)}), {}, 3, id="at its highest: none"),
        pytest.param((5.0,), card(8, pods={"b": 1}, held_gib={"b": (6.0,)}), {}, 3, id="above it: none"),
        pytest.param(
            (3.0,),
            card(9, pods={"b": 2}, held_gib={"b": (1.0, 2.0)}),
            {},
            2,
            id="two pods: 2 x 3 - 3 is 3; (7.5 - 3) / 2",
        ),
        pytest.param(
            None, card(8, pods={"b": 2}, held_gib={"b": (1.0, 3.0)}), {}, 2, id="nothing learnt: as its largest, 2"
        ),
        pytest.param(
            None, card(10, pods={"b": 2}), {"vramPerReplica": "4Gi"}, 2, id="not shown: 2 x 4 less the 5 in use is 3"
        ),
        pytest.param(None, card(10, pods={"b": 2}), {}, 4, id="not shown and not known: no growth is claimed"),
    ],
)
def test_neighbours_grow_as_they_have_before(
    before: tuple[float, ...] | None, now: CardReading, metadata: dict[str, str], more: int
) -> None:
    """Room is free VRAM - 1.5 GiB - growth of b, in replicas of 2 GiB."""
    history = []
    if before is not None:
        lesson = card(5.0, pods={"b": 1}, held_gib={"b": before})
        history.append(snapshot(START_S, {"a": asking(1, 1), "b": asking(1, 1)}, lesson))
    pods = now.pods[workload("b")]
    history.append(snapshot(START_S + TICK_S, {"a": asking(1, 9), "b": asking(pods, pods)}, now))
    assert decide(history, policy(pool_with(), a=TWO_GIB, b=metadata), "a").granted == 1 + more


@pytest.mark.parametrize(
    ("b", "now", "more"),
    [
        pytest.param(asking(2, 2), card(8, pods={"b": 1}), 3, id="both ready: 4 GiB in use, nothing to come"),
        pytest.param(asking(2, 2, ready=1), card(8, pods={"b": 1}), 1, id="one lands anywhere: 3 less of 6.5"),
        pytest.param(asking(2, 2, ready=1), card(8, pods={"b": 2}), 1, id="it has landed: 3 less of 6.5"),
        pytest.param(asking(2, 2, existing=3), card(8, pods={"b": 2}), 0, id="a surge pod anywhere: 2 to grow and 3"),
        pytest.param(
            asking(2, 2, existing=3), card(8, pods={"b": 3}), 0, id="a surge pod that landed: 9 less 4 of 6.5"
        ),
    ],
)
def test_what_starts_holds_its_room(b: WorkloadReading, now: CardReading, more: int) -> None:
    """Service b takes 3 GiB a replica; 4 of the card's 12 GiB are in use, so room is 8 - 1.5 less what b takes yet."""
    history = [snapshot(START_S + TICK_S, {"a": asking(1, 9), "b": b}, replace(now, total_bytes=12.0 * GIB))]
    operator = pool_with(lowWatermark="1536Mi", highWatermark="1536Mi")
    assert decide(history, policy(operator, a=TWO_GIB, b={"vramPerReplica": "3Gi"}), "a").granted == 1 + more


@pytest.mark.parametrize(
    "placement",
    [
        pytest.param("worst", id="worst"),
        pytest.param(
            "roomiest", id="roomiest"
        ),
    ],
)  # fmt: skip
def test_an_own_watermark_holds_where_the_pool_s_would_let_all_pass(placement: Placement) -> None:
    """8 GiB free, two more of 3 GiB each: the pool's 1.5 GiB stay free, and the service's own 5 only after one."""
    history = [snapshot(START_S + TICK_S, {"a": asking(1, 3)}, card(8))]
    fleet = policy(pool_with(placement=placement), a={"vramPerReplica": "3Gi", "lowWatermark": "5Gi"})
    assert decide(history, fleet, "a").granted == 2


# --- every landing, by enumeration ------------------------------------------------------------------------------------

BIG, SMALL = CardClass("big", 40), CardClass("small", 15)
ROOMS = st.builds(
    lambda card, room, slots: Room(card, float(room), slots, slots),
    st.sampled_from([BIG, SMALL]), st.integers(-1, 9), st.integers(0, 3),
)  # fmt: skip
NEEDS = st.builds(
    lambda big, small, cards: Need({BIG: float(big), SMALL: float(small)}, cards, {}),
    st.integers(0, 4), st.integers(0, 4), st.integers(1, 2),
)  # fmt: skip


def landings(rooms: Sequence[Room], units: int) -> list[tuple[int, ...]]:
    """Every way to put the units on cards with slots, or (last index) nowhere: not all may have a place."""
    places = range(len(rooms) + 1)
    limits = [room.slots for room in rooms] + [units]
    ways = itertools.product(places, repeat=units)
    return [way for way in ways if all(way.count(place) <= limits[place] for place in places)]


def holds_everywhere(rooms: Sequence[Room], pending: int, outstanding: Sequence[Need]) -> bool:
    slots, waiting = sum(room.slots for room in rooms), 0
    for need in outstanding:  # whoever finds too few slots left waits for a node
        waiting, slots = (waiting, slots - need.cards) if slots >= need.cards else (waiting + 1, slots)
    units = [need for need in outstanding for _ in range(need.cards)]
    return waiting <= pending and all(
        sum(unit.held_bytes[room.card] for unit, at in zip(units, way, strict=True) if at == index) <= room.room_bytes
        for way in landings(rooms, len(units))
        for index, room in enumerate(rooms)
        if room.slots
    )


@given(st.lists(ROOMS, max_size=3), st.integers(0, 2), st.lists(NEEDS, max_size=2), NEEDS)
def test_worst_fits_what_fits_wherever_it_lands(
    rooms: list[Room], pending: int, outstanding: list[Need], need: Need
) -> None:
    worst = Worst.of(rooms, pending)
    for each in outstanding:
        worst.add(each)
    assert worst.is_whole() == holds_everywhere(rooms, pending, outstanding)
    assert worst.fits(need) == holds_everywhere(rooms, pending, [*outstanding, need])
    added = worst.copy()
    added.add(need)
    assert added.is_whole() == worst.fits(need)


@given(st.lists(ROOMS, max_size=3), st.lists(NEEDS, max_size=2), NEEDS, st.integers(1, 6))
def test_unknown_slots_are_as_many_as_there_are_replicas(
    rooms: list[Room], outstanding: list[Need], need: Need, replicas: int
) -> None:
    found = []
    for slots in (UNLIMITED, 40):
        worst = Worst.of([structs.replace(room, slots=slots, open_slots=slots) for room in rooms], 0)
        for each in outstanding:
            worst.add(each)
        found.append(worst.fits(need, replicas))
    assert found[0] == found[1]


@given(st.lists(ROOMS, max_size=4), st.integers(0, 2), st.lists(NEEDS, max_size=4), NEEDS, st.integers(1, 4))
def test_roomiest_fits_all_at_once_as_one_by_one(
    rooms: list[Room], pending: int, outstanding: list[Need], need: Need, replicas: int
) -> None:
    """What fits is whole afterwards, and never more than each card has."""
    roomiest = Roomiest.of(rooms, pending)
    for each in outstanding:
        roomiest.add(each)
    one_by_one = roomiest.copy()
    fits = True
    for _ in range(replicas):
        fits = fits and one_by_one.fits(need)
        one_by_one.add(need)
    assert roomiest.fits(need, replicas) == fits
    assert not fits or one_by_one.is_whole()


# --- every landing of a scheduler that counts pods, by enumeration ----------------------------------------------------


class Spot(NamedTuple):
    """A card: its node, its room, its free slots, and its pods, of which some may go."""

    node: str
    room: int
    slots: int
    pods: int
    leaving: int


SPOTS = st.builds(
    lambda node, room, slots, pods, leaving: Spot(node, room, slots, pods, min(pods, leaving)),
    st.sampled_from("mn"), st.integers(-1, 6), st.integers(0, 2), st.integers(0, 2), st.integers(0, 1),
)  # fmt: skip


def nodes_of(spots: Sequence[Spot], unseen: int) -> Nodes:
    """Two nodes' figures, as sums of those of their cards."""
    cards = {CardKey(str(i)): Pods(spot.pods, spot.pods - spot.leaving, spot.slots) for i, spot in enumerate(spots)}
    found = {}
    for name in {spot.node for spot in spots}:
        here = {key: each for key, each in cards.items() if spots[int(key.uuid)].node == name}
        found[name] = Node(Pods(*map(sum, zip(*here.values(), strict=True))), here)
    return Nodes(found, unseen)


def spread_of(spots: Sequence[Spot], pending: int, unseen: int) -> Spread:
    found = [
        Room(BIG, float(spot.room), spot.slots, spot.slots, key=CardKey(str(index)), node=spot.node)
        for index, spot in enumerate(spots)
    ]
    return Spread.of(found, pending, nodes_of(spots, unseen))


@cache
def is_safe(spots: tuple[Spot, ...], sizes: tuple[int, ...], unseen: int) -> bool:
    """Whether no order of landings and leavings takes more than a card's room. A pod that leaves keeps its slot until
    the end, and neither the scheduler nor the device plugin counts it. An unseen pod has taken any slot before."""

    def after(index: int, slots: int = 0, pods: int = 0, leaving: int = 0, room: int = 0) -> tuple[Spot, ...]:
        node, old_room, *old = spots[index]
        changed = Spot(node, old_room + room, old[0] + slots, old[1] + pods, old[2] + leaving)
        return (*spots[:index], changed, *spots[index + 1 :])

    for index, spot in enumerate(spots):
        if unseen and spot.slots and not is_safe(after(index, slots=-1, pods=1), sizes, unseen - 1):
            return False
        if spot.leaving and not is_safe(after(index, pods=-1, leaving=-1), sizes, unseen):
            return False
    return all(
        spots[index].room >= size
        and is_safe(after(index, slots=-1, pods=1, room=-size), (*sizes[:at], *sizes[at + 1 :]), unseen)
        for index in emptiest(spots)
        for at, size in enumerate(sizes)
    )


def emptiest(spots: Sequence[Spot]) -> list[int]:
    """The open cards with the fewest pods of the nodes with the fewest that have one."""
    open_spots = [index for index, spot in enumerate(spots) if spot.slots]
    on_node = {name: sum(spot.pods for spot in spots if spot.node == name) for name in "mn"}
    fewest = min((on_node[spots[index].node] for index in open_spots), default=0)
    found = [index for index in open_spots if on_node[spots[index].node] == fewest]
    least = {name: min((spots[i].pods for i in found if spots[i].node == name), default=0) for name in "mn"}
    return [index for index in found if spots[index].pods == least[spots[index].node]]


SPREADS = given(st.lists(SPOTS, max_size=4), st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 1))


def fits_what_is_safe(spots: list[Spot], sizes: list[int], unseen: int) -> None:
    spread = spread_of(spots, 9, unseen)
    needs = [Need({BIG: float(size)}, 1, {}) for size in sizes]
    for need in needs[:-1]:
        spread.add(need)
    fits, safe = spread.fits(needs[-1]), is_safe(tuple(spots), tuple(sizes), unseen)
    assert safe or not fits
    if not unseen and not any(spot.leaving for spot in spots):
        assert fits == safe
    spread.add(needs[-1])
    assert spread.is_whole() == fits


@settings(max_examples=200, deadline=None)
@SPREADS
def test_spread_fits_what_fits_wherever_such_a_scheduler_puts_it(
    spots: list[Spot], sizes: list[int], unseen: int
) -> None:
    """And no less, where all pods are seen and stay."""
    fits_what_is_safe(spots, sizes, unseen)


def pods_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes and cards that pods may leave are taken to be as full as they are."""
    real = spreading._Fill.landing
    monkeypatch.setattr(
        spreading._Fill, "landing", lambda fill, place, k: real(fill, place._replace(staying=place.there), k)
    )


def all_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods that no card names are taken to sit nowhere."""
    real = Nodes.outstanding
    monkeypatch.setattr(Nodes, "outstanding", lambda nodes, *rest: real(Nodes(nodes._nodes, 0), *rest))


@pytest.mark.parametrize(
    "plant", [pytest.param(pods_stay, id="pods stay"), pytest.param(all_are_seen, id="all are seen")]
)
def test_the_enumeration_finds_it(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    hunt = settings(max_examples=2000, database=None, derandomize=True, phases=[Phase.generate], deadline=None)
    with pytest.raises(AssertionError):
        hunt(SPREADS(fits_what_is_safe))()


@given(st.lists(SPOTS, min_size=1, max_size=5), st.lists(st.integers(0, 4), max_size=5), st.integers(1, 5), st.data())
def test_spread_fits_more_where_there_is_more_room(
    spots: list[Spot], sizes: list[int], more: int, data: st.DataObject
) -> None:
    """And what fits at once is what fits one by one."""
    index = data.draw(st.integers(0, len(spots) - 1))
    roomier = [*spots[:index], spots[index]._replace(room=spots[index].room + more), *spots[index + 1 :]]
    before, after = spread_of(spots, 0, 0), spread_of(roomier, 0, 0)
    for size in sizes:
        need = Need({BIG: float(size)}, 1, {})
        assert after.fits(need) or not before.fits(need)
        before.add(need)
        after.add(need)
    need = Need({BIG: 1.0}, 1, {})
    one_by_one = before.copy()
    fits = []
    for _ in range(more):
        fits.append(one_by_one.fits(need))
        one_by_one.add(need)
    assert before.fits(need, more) == all(fits)


@pytest.mark.parametrize("placement", ["worst", "spread", "roomiest"])
def test_more_free_vram_never_means_fewer(placement: Placement) -> None:
    granted = []
    for quarter in range(8, 60):
        cards = card(quarter / 4), card(7.0, slots=2)
        decision = one_tick(cards, pool_with(placement=placement), TWO_GIB)
        granted.append(decision.granted or 0)
    assert granted == sorted(granted)
    assert granted[0] < granted[-1]


def test_a_grant_changes_nothing_of_what_was_seen() -> None:
    """The same snapshot and memory give the same plan twice: nothing of a plan stays in what it was made from."""
    history = [snapshot(START_S + TICK_S * i, {"a": asking(1, 9)}, card(8)) for i in range(3)]
    fleet = policy(pool_with(), a=TWO_GIB)
    _, memory = run(history[:2], fleet)
    first, second = (run(history[2:], fleet, memory)[0][0].decisions[key("a")] for _ in range(2))
    assert first == second
