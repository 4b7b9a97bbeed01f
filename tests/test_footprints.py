"""What a replica takes of a card: where that is known from, which source wins, and what the decision says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from scaler.decision import Step
from scaler.policy import OperatorPolicy
from scaler.quantity import GIB
from scaler.signals.footprint import CardClass, Footprints, Kind, VramLesson, card_class
from scaler.snapshot import CardReading, HeldVram, Snapshot, WorkloadReading
from tests.fleet import START_S, TICK_S, asking, card, decide, policy, pool_with, reading, snapshot, workload

MARK_S = 600.0  # learnEvery; START_S is such a moment
DEFAULT = pool_with()
T4 = CardClass("Tesla T4", 15)


def told(
    history: Sequence[Snapshot], operator: OperatorPolicy = DEFAULT, metadata: dict[str, str] | None = None
) -> Step:
    """The footprint step of service a at the end of the history, where it asks for more than runs."""
    decision = decide(list(history), policy(operator, a=metadata or {}), "a")
    return next(step for step in decision.steps if step.name == "footprint")


def marks(*at_marks: CardReading, then: WorkloadReading | None = None) -> list[Snapshot]:
    """Service a runs quietly at the lessons' moments, the last of them at START_S; a tick later it asks for one more.
    The last card is what is seen then, too."""
    first_s = START_S - MARK_S * (len(at_marks) - 1)
    history = [snapshot(first_s + MARK_S * i, {"a": asking(1, 1)}, each) for i, each in enumerate(at_marks)]
    return [*history, snapshot(START_S + TICK_S, {"a": then or asking(1, 2)}, at_marks[-1])]


def a_holds(*gib: float, slots: int = 4) -> CardReading:
    return card(15 - sum(gib), pods={"a": len(gib)}, held_gib={"a": gib}, slots=slots)


HAS_HELD_5 = replace(a_holds(2.0), held={workload("a"): HeldVram(2.0 * GIB, 5.0 * GIB)})
FULL = replace(asking(1, 2), queued=6.0, executing=4.0)
FULL_LATELY = replace(asking(1, 2), queued=3.0, executing=5.0, queued_burst=6.0, executing_burst=4.0)
VLLM = replace(asking(1, 2), gpu_memory_utilization=0.5)
BESIDE_B = card(11.0, pods={"b": 2}, slots=4)


@pytest.mark.parametrize(
    ("history", "metadata", "gib", "source"),
    [
        pytest.param(marks(a_holds(2.0)), {}, 2.0, "measured", id="what its pod was seen to hold"),
        pytest.param(marks(a_holds(2.0, 3.5)), {}, 3.5, "measured", id="the largest pod, not the mean of 2.75"),
        pytest.param(
            marks(a_holds(5.0), a_holds(3.0), a_holds(2.0)), {}, 5.0, "measured", id="the highest of 5, 3 and 2"
        ),
        pytest.param(marks(HAS_HELD_5), {}, 5.0, "measured", id="2 now, 5 at its highest between the lessons"),
        pytest.param(marks(HAS_HELD_5, a_holds(2.0)), {}, 5.0, "measured", id="and who tells of that is gone"),
        pytest.param(marks(card(9.0, pods={"a": 2}, slots=4)), {}, 3.0, "learnt", id="alone: (15 - 9) / 2 pods"),
        pytest.param(marks(card(9.0, pods={"a": 1}, slots=1)), {}, 6.0, "learnt", id="alone in the only place: 15 - 9"),
        pytest.param(
            marks(card(9.0, pods={"a": 1}, slots=4)), {}, 2.25, "default", id="one name a card hides others: 15% of 15"
        ),
        pytest.param(
            marks(BESIDE_B, card(8.0, pods={"b": 2, "a": 1}, slots=4)), {}, 3.0, "learnt", id="one came: 11 - 8"
        ),
        pytest.param(
            marks(BESIDE_B, card(4.0, pods={"b": 2, "a": 2}, slots=4)), {}, 3.5, "learnt", id="11 less b's 4, halved"
        ),
        pytest.param(
            marks(BESIDE_B, card(8.0, pods={"b": 1, "a": 1}, slots=4)), {}, 5.0, "learnt", id="7 less b's 2"
        ),
        pytest.param(
            marks(BESIDE_B, card(10.0, pods={"b": 1, "a": 1}, slots=4)), {}, 3.0, "learnt", id="5 less b's 2"
        ),
        pytest.param(
            marks(BESIDE_B, card(11.0, pods={"b": 1, "a": 1}, slots=4)), {}, 2.25, "default", id="2 left: below 15%"
        ),
        pytest.param(
            marks(card(9.0, pods={"c": 2, "a": 2}, slots=4)), {}, 2.25, "default", id="6 / 4: no proof"
        ),
        pytest.param(
            marks(card(9.0, pods={"a": 2}, slots=4), a_holds(2.0)), {}, 2.0, "measured", id="measured 2 beats learnt 3"
        ),
        pytest.param(
            marks(card(9.0, pods={"a": 2}, slots=4), then=FULL), {}, 3.75, "learnt", id="6 wait, 4 execute: 3 x 1.25"
        ),
        pytest.param(
            marks(card(9.0, pods={"a": 2}, slots=4), then=FULL_LATELY), {}, 3.75, "learnt", id="the same within 30 s"
        ),
        pytest.param(marks(a_holds(2.0), then=FULL), {}, 2.0, "measured", id="measured is not raised for that"),
        pytest.param(marks(a_holds(0.0)), {}, 2.25, "default", id="a pod that holds nothing was not seen"),
        pytest.param(marks(card(9.0, slots=4)), {}, 2.25, "default", id="nothing known: 15% of 15, said aloud"),
        pytest.param(
            marks(card(9.0, slots=4), then=VLLM), {}, 7.5, "gpu-memory-utilization", id="vLLM: 0.5 of 15, whatever else"
        ),
        pytest.param(
            marks(a_holds(7.0), then=VLLM), {}, 7.5, "gpu-memory-utilization", id="vLLM's 7.5, above the 7 seen"
        ),
        pytest.param(marks(a_holds(8.0), then=VLLM), {}, 8.0, "measured", id="8 seen, above vLLM's 7.5"),
        pytest.param(
            marks(a_holds(2.0)), {"vramPerReplica": "3Gi"}, 3.0, "vramPerReplica", id="vramPerReplica is a floor"
        ),
        pytest.param(marks(a_holds(2.0)), {"vramPerReplica": "1Gi"}, 2.0, "measured", id="and no ceiling"),
        pytest.param(
            marks(card(9.0, slots=4)), {"vramPerReplica": "1Gi"}, 1.0, "vramPerReplica", id="declared, not the default"
        ),
    ],
)  # fmt: skip
def test_which_source_counts(history: list[Snapshot], metadata: dict[str, str], gib: float, source: str) -> None:
    step = told(history, metadata=metadata)
    assert step.value == pytest.approx(gib * GIB)
    assert step.text.split(":")[0] == source
    if source == "default":
        assert "nothing is known of this service" in step.text


@pytest.mark.parametrize(
    ("arrivals_per_s", "gib"),
    [
        pytest.param(52.0, 3.0, id="52/s, where 50 and a margin of 5 % were carried"),
        pytest.param(100.0, 3.75, id="100/s: fuller batches than at any lesson, 3 x 1.25"),
    ],
)
def test_more_than_was_ever_carried_raises_what_was_learnt(arrivals_per_s: float, gib: float) -> None:
    two = card(9.0, pods={"a": 2}, slots=4)
    more = reading(1, 8.0, arrivals_per_s)
    history = [snapshot(START_S, {"a": reading(1, 3.0, 50.0)}, two), snapshot(START_S + TICK_S, {"a": more}, two)]
    assert told(history, metadata={"targetConcurrency": "1"}).value == pytest.approx(gib * GIB)


def test_the_operator_says_what_the_unknown_take() -> None:
    assert told(marks(card(9.0)), pool_with(defaultFootprint="4Gi")).value == 4 * GIB


# --- failures for lack of VRAM ----------------------------------------------------------------------------------------


def after_failures(gib: float, from_s: float, until_s: float, asks_s: float) -> list[Snapshot]:
    """One replica holds `gib` of a card without a free place; it fails in that time while 2 GiB (below the high 2.25)
    are free. A roomy card waits beside. Lessons at START_S and every 600 s from there."""
    history = []
    for tick in range(int(asks_s // TICK_S) + 1):
        fails = from_s <= tick * TICK_S <= until_s
        load = asking(1, 2 if tick * TICK_S == asks_s else 1, failure_per_s=0.5 if fails else 0.0)
        free_gib = 2.0 if fails else 15.0 - gib
        cards = card(free_gib, pods={"a": 1, "x": 3}, held_gib={"a": (gib,)}, slots=4), card(15.0)
        history.append(snapshot(START_S + tick * TICK_S, {"a": load}, *cards))
    return history


@pytest.mark.parametrize(
    ("gib", "span_s", "asks_s", "raised_gib"),
    [
        pytest.param(4.0, (15, 60), 300, 5.0, id="4 and a quarter, before the next lesson"),
        pytest.param(4.0, (15, 615), 1500, 5.0, id="and long after, since a lesson met the failures"),
        pytest.param(12.0, (15, 60), 300, 13.5, id="12 x 1.25 is 15, capped at an empty card less its watermark"),
        pytest.param(14.0, (15, 60), 300, 14.0, id="never below what was seen"),
        pytest.param(4.0, (15, 300), 1230, 4.0, id="not long after, where no lesson met them"),
    ],
)  # fmt: skip
def test_confirmed_failures_raise_it(gib: float, span_s: tuple[float, float], asks_s: float, raised_gib: float) -> None:
    step = told(after_failures(gib, *span_s, asks_s))
    assert step.value == pytest.approx(raised_gib * GIB)
    assert ("raised after out-of-memory failures" in step.text) == (raised_gib > gib)


# --- lessons, revisions, classes of cards -----------------------------------------------------------------------------


def lesson(at_s: float, gib: float, card: CardClass = T4, kind: Kind = "measured", cards: int = 1) -> VramLesson:
    return VramLesson(at_s, "default", card, gib * GIB, kind, cards, False)


def test_a_service_that_a_card_names_with_no_pods_teaches_nothing() -> None:
    """A recording made by hand may say so. What is used there is nobody's: 15 % of 15."""
    cards = card(9.0, pods={"a": 0}, slots=4), card(9.0, pods={"b": 2}, slots=4)
    history = [snapshot(START_S, {"a": asking(1, 1)}, *cards), snapshot(START_S + TICK_S, {"a": asking(1, 2)}, *cards)]
    assert (told(history).value, told(history).text.split(":")[0]) == (2.25 * GIB, "default")


def test_a_new_revision_is_believed_after_three_lessons() -> None:
    """The old one held 6 GiB; the new one, created at 1500, holds 2."""
    known = Footprints().and_learnt([lesson(600, 6.0)], 0.0).and_learnt([lesson(1200, 6.0)], 0.0)
    seen = []
    for at_s in (1800.0, 2400.0, 3000.0):
        known = known.and_learnt([lesson(at_s, 2.0)], 1500.0)
        seen.append(known.highest[T4].held_bytes / GIB)
    assert seen == [6.0, 6.0, 2.0]


def test_a_lesson_counts_for_the_learning_window() -> None:
    known = Footprints().and_learnt([lesson(600, 6.0)], 0.0).and_learnt([lesson(1200, 2.0)], 0.0)
    assert [known.since(at_s).highest[T4].held_bytes / GIB for at_s in (599.0, 600.0)] == [6.0, 2.0]


ON_T4 = card(13.0, pods={"a": 1}, held_gib={"a": (2.0,)}, slots=4)
ON_L4 = replace(card(21.0, pods={"a": 1}, held_gib={"a": (3.0,)}, slots=4), total_bytes=24.0 * GIB, model="NVIDIA L4")
FREE_L4 = replace(ON_L4, pods={}, held={})


@pytest.mark.parametrize(
    ("seen", "now", "gib", "says"),
    [
        pytest.param([ON_T4, ON_L4], card(13.0, slots=4), 2.0, "1 times", id="each class for itself: T4"),
        pytest.param([ON_T4, ON_L4], FREE_L4, 3.0, "1 times", id="each class for itself: L4"),
        pytest.param([ON_T4], FREE_L4, 2.0, "seen on other cards only", id="never seen there: as elsewhere"),
    ],
)
def test_each_class_of_cards_has_its_own(seen: list[CardReading], now: CardReading, gib: float, says: str) -> None:
    """The pool has other cards when it asks than when it was seen."""
    history = [snapshot(START_S, {"a": asking(2, 2)}, *seen), snapshot(START_S + TICK_S, {"a": asking(2, 3)}, now)]
    step = told(history)
    assert step.value == gib * GIB
    assert says in step.text


def test_mig_instances_of_two_sizes_are_two_classes() -> None:
    assert card_class("A100", 9.75 * GIB) == card_class("A100", 10.2 * GIB) != card_class("A100", 19.6 * GIB)


def test_a_replica_that_spans_two_cards_is_seen_to() -> None:
    """One replica names both cards, so its place on each is half of it: 3 GiB of either."""
    both = a_holds(3.0, slots=2), a_holds(3.0, slots=2)
    history = [snapshot(START_S, {"a": asking(1, 1)}, *both), snapshot(START_S + TICK_S, {"a": asking(1, 2)}, *both)]
    step = told(history)
    assert step.value == 3.0 * GIB
    assert "on each of 2 cards" in step.text


# --- what does not hold -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before_gib", [pytest.param(2.0, id="2 at the last lesson"), pytest.param(None, id="no lesson")]
)
def test_what_a_pod_holds_now_counts_now(before_gib: float | None) -> None:
    """It holds 6 GiB in plain sight, 9 are free: (9 - 1.5) / 6 is one more, not three."""
    history = [] if before_gib is None else marks(a_holds(before_gib, slots=40))[:1]
    history.append(snapshot(START_S + TICK_S, {"a": asking(1, 4)}, a_holds(6.0, slots=40)))
    decision = decide(history, policy(DEFAULT, a={}), "a")
    assert decision.granted == 2


@pytest.mark.parametrize(
    "loading",
    [
        pytest.param(card(14.8, pods={"a": 1}, slots=1), id="learnt: 15 - 14.8"),
        pytest.param(a_holds(0.3, slots=1), id="measured: a context of 0.3"),
    ],
)
def test_a_replica_that_is_not_ready_teaches_nothing(loading: CardReading) -> None:
    history = [snapshot(START_S, {"a": asking(1, 1, ready=0)}, loading, card(15.0))]
    loaded = card(9.0, pods={"a": 1}, slots=1)
    history.append(snapshot(START_S + TICK_S, {"a": asking(1, 4)}, loaded, card(15.0)))
    assert told(history).text.startswith("default")


def test_a_pod_that_ends_does_not_make_the_others_span_cards() -> None:
    """At the lesson one of two pods was told to end and is on its card still. Later: (7 - 1.5) / 2 is two more."""
    two, one = (a_holds(2.0, slots=4), a_holds(2.0, slots=4)), (replace(a_holds(2.0, slots=4), free_bytes=7.0 * GIB),)
    history = [snapshot(START_S - TICK_S, {"a": asking(2, 2)}, *two), snapshot(START_S, {"a": asking(1, 1)}, *two)]
    history += [snapshot(START_S + TICK_S * tick, {"a": asking(1, 1)}, *one) for tick in range(1, 40)]
    history.append(snapshot(START_S + 40 * TICK_S, {"a": asking(1, 3)}, *one))
    assert decide(history, policy(DEFAULT, a={}), "a").granted == 3


def test_pods_whose_replicas_have_yet_to_be_seen_do_not_span_cards() -> None:
    """At the first lesson the exporter shows three pods, and kube-state-metrics no Deployment of that name."""
    three = [a_holds(2.0, slots=2)] * 3
    history = [snapshot(START_S, {}, *three), snapshot(START_S + TICK_S, {"a": asking(3, 4)}, *three)]
    assert "on each of" not in told(history).text


def test_vllm_takes_its_share_of_a_card_of_another_size() -> None:
    """0.9 of 40 GiB is 36, seen on the A100; on an L4 of 24 GiB it is 21.6, and 23.5 - 1 are free."""
    large = replace(card(3.0, pods={"a": 1}, held_gib={"a": (36.0,)}, slots=1), total_bytes=40.0 * GIB, model="A100")
    small = replace(card(23.5, slots=1), total_bytes=24.0 * GIB, model="NVIDIA L4")
    calm, more = (replace(asking(1, n), gpu_memory_utilization=0.9) for n in (1, 2))
    history = [snapshot(START_S, {"a": calm}, large, small), snapshot(START_S + TICK_S, {"a": more}, large, small)]
    assert decide(history, policy(pool_with(lowWatermark="1Gi", highWatermark="1Gi"), a={}), "a").granted == 2


@pytest.mark.parametrize(
    ("rolled_out_s", "gib", "source"),
    [
        pytest.param(None, 2.0, "learnt", id="10 - 8, the neighbour as ever"),
        pytest.param(START_S - MARK_S / 2, 2.25, "default", id="its new pods hold less, which hides what came"),
    ],
)
def test_a_rise_beside_a_neighbour_that_was_rolled_out_teaches_nothing(
    rolled_out_s: float | None, gib: float, source: str
) -> None:
    b = replace(asking(1, 1), revision_created_s=rolled_out_s)
    alone, with_a = card(10.0, pods={"b": 1}, slots=4), card(8.0, pods={"b": 1, "a": 1}, slots=4)
    elsewhere = card(13.0, pods={"c": 2}, slots=4)
    step = told(
        [
            snapshot(START_S - MARK_S, {"a": asking(1, 1), "b": b}, alone, elsewhere),
            snapshot(START_S, {"a": asking(1, 1), "b": b}, with_a, elsewhere),
            snapshot(START_S + TICK_S, {"a": asking(1, 2), "b": b}, with_a, elsewhere),
        ]
    )
    assert step.value == pytest.approx(gib * GIB)
    assert step.text.split(":")[0] == source
