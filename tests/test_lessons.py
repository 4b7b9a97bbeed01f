"""Lessons that come and go one by one leave what the kept ones alone would say: a memory that was rebuilt, and one that
has run for a day, know the same (law 7)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.signals.carried import Carried, Lesson
from scaler.signals.footprint import CardClass, Footprints, Kind, VramLesson

WINDOW_S = 50.0
T4, A10 = CardClass("Tesla T4", 15), CardClass("A10", 24)
# Few values, so that equal loads and equal times are common.
VALUES = st.sampled_from([1.0, 2.0, 2.5, 4.0])
KINDS: list[Kind] = ["measured", "learnt"]


@given(st.lists(st.none() | st.tuples(VALUES, VALUES), max_size=25))
@settings(max_examples=200)
def test_what_was_carried_follows_from_the_lessons_of_the_window(taught: list[tuple[float, float] | None]) -> None:
    lessons = [Lesson(10.0 * tick, *each) if each is not None else None for tick, each in enumerate(taught)]
    one_by_one = Carried()
    for tick, lesson in enumerate(lessons):
        since_s = 10.0 * tick - WINDOW_S
        one_by_one = one_by_one.and_learnt(lesson, since_s)
        afresh = Carried()
        for kept in lessons[: tick + 1]:
            if kept is not None and kept.time_s > since_s:
                afresh = afresh.and_learnt(kept, -WINDOW_S - 1.0)
        assert one_by_one == afresh
        assert list(zip(one_by_one.loads, one_by_one.seen_s, strict=True)) == sorted(
            (kept.load_per_s, kept.time_in_server_s)
            for kept in lessons[: tick + 1]
            if kept is not None and kept.time_s > since_s
        )


@st.composite
def vram_lessons(draw: st.DrawFn, time_s: float) -> list[VramLesson]:
    pools, cards = st.sampled_from(["default", "tight"]), st.sampled_from([None, 1, 1, 2])
    return [
        VramLesson(
            time_s,
            draw(pools),
            draw(st.sampled_from([T4, A10])),
            draw(VALUES),
            draw(st.sampled_from(KINDS)),
            draw(cards),
            draw(st.integers(0, 9)) == 0,
            draw(st.sampled_from(["", "agent"])),
        )
        for _ in range(draw(st.integers(0, 3)))
    ]


@given(st.data())
@settings(max_examples=100)
def test_footprints_follow_from_the_lessons_of_the_window(data: st.DataObject) -> None:
    taught = [data.draw(vram_lessons(10.0 * tick)) for tick in range(data.draw(st.integers(1, 12)))]
    one_by_one = Footprints()
    for tick, lessons in enumerate(taught):
        since_s = 10.0 * tick - WINDOW_S
        one_by_one = one_by_one.and_learnt(lessons, -1.0, since_s)
        kept = [lesson for before in taught[: tick + 1] for lesson in before if lesson.time_s > since_s]
        afresh = Footprints()
        for moment in taught[: tick + 1]:
            if moment and moment[0].time_s > since_s:
                afresh = afresh.and_learnt(moment, -1.0, -WINDOW_S - 1.0)
        assert one_by_one == afresh
        assert one_by_one.pools.keys() == {lesson.pool for lesson in kept}
        for card in (T4, A10):
            measured = [lesson.held_bytes for lesson in kept if (lesson.card, lesson.kind) == (card, "measured")]
            highest = max(measured or [lesson.held_bytes for lesson in kept if lesson.card == card], default=None)
            known = one_by_one.highest.get(card)
            assert (known.highest_bytes if known is not None else None) == highest
