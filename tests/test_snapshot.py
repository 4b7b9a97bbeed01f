"""Readings hold what was measured, however they are built."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.snapshot import CardReading, HeldVram, WorkloadKey, WorkloadReading, from_columns

A, B = WorkloadKey("models", "a"), WorkloadKey("models", "b")
numbers = st.none() | st.floats()  # NaN and infinities, too
workload_rows = st.tuples(
    *(st.none() | st.just("agent") if item.name == "gpu_busy_source" else numbers for item in fields(WorkloadReading))
)
held = st.dictionaries(st.sampled_from([A, B]), st.builds(HeldVram, st.floats(), st.floats()))
card_rows = st.tuples(
    *(numbers for _ in range(4)), st.text(max_size=3), st.just("Tesla T4"), st.none() | st.integers(1, 4),
    st.just({A: 1}), held, st.sampled_from([None, "agent"]), st.just({}),
)  # fmt: skip


@given(st.sampled_from([(WorkloadReading, workload_rows), (CardReading, card_rows)]), st.data())
def test_columns_give_what_the_rows_give_one_by_one(
    kind_and_rows: tuple[type[WorkloadReading], st.SearchStrategy[tuple[object, ...]]], data: st.DataObject
) -> None:
    kind, rows_of_kind = kind_and_rows
    rows = data.draw(st.lists(rows_of_kind, min_size=1, max_size=3))
    columns = list(zip(*rows, strict=True))
    one_by_one = _or_refusal(lambda: [kind(*row) for row in rows])  # type: ignore[arg-type]
    assert _or_refusal(lambda: from_columns(kind, columns)) == one_by_one


def _or_refusal(built: Callable[[], Sequence[object]]) -> str:
    try:
        return repr(built())  # repr also tells -0.0 from 0.0
    except ValueError as refusal:
        return f"refused: {refusal}"


NUMBERS = [item.name for item in fields(WorkloadReading) if item.name != "gpu_busy_source"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_column_of_a_service_is_left_out(name: str, value: float) -> None:
    sound, unsound = astuple(WorkloadReading(queued=1.0)), [None] * len(fields(WorkloadReading))
    columns = [list(pair) for pair in zip(sound, unsound, strict=True)]
    columns[[item.name for item in fields(WorkloadReading)].index(name)][1] = value
    with pytest.raises(ValueError, match=f"^{name}: {value} is not a reading"):
        from_columns(WorkloadReading, columns)


@pytest.mark.parametrize(
    ("free_bytes", "vram", "expected"),
    [
        pytest.param([1.0, math.nan], HeldVram(2.0, 2.0), "free_bytes: nan is not", id="free VRAM of the second"),
        pytest.param([1.0, 1.0], HeldVram(math.inf, 2.0), "held: .* of models/a is no reading", id="held in total"),
        pytest.param([1.0, 1.0], HeldVram(2.0, math.nan), "held: .* of models/a is no reading", id="the largest held"),
        pytest.param([1.0, 1.0, 1.0], HeldVram(2.0, 2.0), "columns of one length, not of 3, 2, 2", id="a row too many"),
    ],
)
def test_columns_are_guarded_as_rows_are(free_bytes: list[float], vram: HeldVram, expected: str) -> None:
    others = [list(pair) for pair in zip(*2 * [astuple(CardReading(None))], strict=True)]
    others[8] = [{}, {A: vram}]
    with pytest.raises(ValueError, match=expected):
        from_columns(CardReading, [free_bytes, *others[1:]])


def test_large_numbers_whose_sum_is_too_large_are_readings() -> None:
    columns = [[1.7e308, 1.7e308], *([value] * 2 for value in astuple(CardReading(None))[1:])]
    assert [card.free_bytes for card in from_columns(CardReading, columns)] == [1.7e308, 1.7e308]


def test_readings_from_columns_stay_as_they_are() -> None:
    (reading,) = from_columns(WorkloadReading, [[value] for value in astuple(WorkloadReading(queued=1.0))])
    assert reading == WorkloadReading(queued=1.0)
    with pytest.raises(AttributeError):
        reading.queued = 2.0  # type: ignore[misc]
