"""What an allocator holds, on sizes whose arithmetic can be redone by hand (MiB)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.quantity import MIB
from scaler.simulate.arena import LEFT_BYTES, Arena, ArenaKind

LEFT_MIB = LEFT_BYTES / MIB


@pytest.mark.parametrize(
    ("kind", "cap", "needs", "free", "held", "can"),
    [
        pytest.param("power-of-two", None, [10], 1000, 16, 16, id="2 doubled until it fits"),
        pytest.param("power-of-two", None, [10, 5], 1000, 16, 16, id="never shrinks"),
        pytest.param("power-of-two", None, [10, 17, 33], 1000, 64, 64, id="16, 16 more, then twice that"),
        pytest.param("power-of-two", None, [100], 1000, 128, 128, id="a first need of 100 takes 128"),
        pytest.param("same-as-requested", None, [100, 40], 1000, 40, 40, id="gives back what is not needed"),
        pytest.param("capped", 20, [30], 1000, 20, 20, id="the cap is less than the need"),
        pytest.param("fixed", None, [5000], 10, 0, 5000, id="vLLM took its share before"),
    ],
)
def test_an_arena_holds(
    kind: ArenaKind, cap: float | None, needs: list[float], free: float, held: float, can: float
) -> None:
    arena, left, answer = Arena(kind, cap * MIB if cap else None), free * MIB, 0.0
    for need in needs:
        before = arena.held_bytes
        answer = arena.hold(need * MIB, left)
        left -= arena.held_bytes - before
    assert arena.held_bytes / MIB == pytest.approx(held)
    assert answer / MIB == pytest.approx(can)


def test_near_the_end_it_takes_nearly_all_for_one_small_request() -> None:
    arena = Arena("power-of-two")
    arena.hold(1000 * MIB, 5000 * MIB)
    assert arena.held_bytes == 1024 * MIB
    free_mib = 900.0
    assert arena.hold(1032 * MIB, free_mib * MIB) >= 1032 * MIB
    # The next region would be 1024; x 0.9 twice is 829.4, the first that fits: 70 MiB are left of 900 for 8 asked.
    assert arena.held_bytes / MIB == pytest.approx(1024 + 1024 * 0.9**2)


def test_the_neighbour_of_the_one_that_grew_fails() -> None:
    free = 100.0 * MIB
    grew, neighbour = Arena("power-of-two"), Arena("power-of-two")
    neighbour.hold(30 * MIB, free)
    free -= neighbour.held_bytes
    grew.hold(65 * MIB, free)
    free -= grew.held_bytes
    assert neighbour.hold(40 * MIB, free) < 40 * MIB  # 10 more than it holds: out of memory


@given(
    kind=st.sampled_from(["power-of-two", "same-as-requested", "capped"]),
    needs=st.lists(st.floats(0, 5000), min_size=1, max_size=20),
    room=st.floats(0, 20_000),
)
def test_it_never_takes_more_than_there_is(kind: ArenaKind, needs: list[float], room: float) -> None:
    arena = Arena(kind, cap_bytes=3000 * MIB)
    for need in needs:
        can = arena.hold(need * MIB, room * MIB - arena.held_bytes)
        assert arena.held_bytes <= room * MIB + 1
        assert can <= max(arena.held_bytes, need * MIB) + 1
    if kind == "capped":
        assert arena.held_bytes <= 3000 * MIB + 1
