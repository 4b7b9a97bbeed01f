"""Text to numbers: what Kubernetes accepts and nothing else; lightkube's parser is the oracle."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightkube.utils.quantity import parse_quantity

from scaler.duration import parse_duration
from scaler.quantity import (
    GIB,
    Level,
    format_bytes,
    parse_bytes,
    parse_count,
    parse_level,
    parse_number,
)

SUFFIXES = ["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "m", "e3"]


@given(st.integers(0, 9999), st.sampled_from(["", ".5", ".25", ".125"]), st.sampled_from(SUFFIXES))
def test_bytes_are_kubernetes_quantities_rounded_up(whole: int, part: str, suffix: str) -> None:
    text = f"{whole}{part}{suffix}"
    oracle = parse_quantity(text)
    assert oracle is not None
    assert parse_bytes(text) == math.ceil(oracle)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1Gi",
        "1Gi ",
        "1Gib",
        "1gi",
        "-1Gi",
        "+1Gi",
        "1_000",
        "NaN",
        "inf",
        "1e400",
        "９",
        "1,5Gi",
        "16Ei",
        "1" * 40,
    ],
)
def test_not_a_quantity(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a quantity|63 bits"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15s", 15), ("500ms", 0.5), ("5m", 300), ("1m30s", 90), ("24h", 86400), ("7d", 604800), ("1.5h", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "15", "15 s", "s", "-5s", "1e3s", "5m x", "٥m", 15, None, True])
def test_not_a_duration(text: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "nan", "inf", "-1", "+1", "1e3", "1_0", " 7 ", "0x10", "٣", True, None, [], 1e16])
def test_not_a_plain_number(text: object) -> None:
    with pytest.raises(ValueError, match="not a plain number"):
        parse_number(text)


def test_a_count_is_whole() -> None:
    assert parse_count("7") == 7
    with pytest.raises(ValueError, match="not a whole number"):
        parse_count("1.5")


@pytest.mark.parametrize(
    ("text", "level", "of_15_gib"),
    [
        pytest.param("10%", Level(ratio=0.1), 1.5 * GIB, id="percent of the card"),
        pytest.param("2Gi", Level(bytes=2 * GIB), 2.0 * GIB, id="bytes of any card"),
        pytest.param("0", Level(bytes=0), 0.0, id="none"),
    ],
)
def test_levels(text: str, level: Level, of_15_gib: float) -> None:
    assert parse_level(text) == level
    assert level.of(15 * GIB) == of_15_gib


@pytest.mark.parametrize("text", ["101%", "-1%", "%", "10 %", "ten"])
def test_not_a_level(text: str) -> None:
    with pytest.raises(ValueError, match=r"100%|not a"):
        parse_level(text)


@given(st.text(max_size=40))
def test_any_text_is_a_number_or_a_value_error(text: str) -> None:
    """Metadata comes from tenants: whatever they write ends in a number or in one clear error."""
    for parse in (parse_number, parse_count, parse_bytes, parse_duration, parse_level):
        with contextlib.suppress(ValueError):
            assert parse(text) is not None


def test_bytes_for_people() -> None:
    assert (format_bytes(318 * 2**20), format_bytes(5.5 * GIB)) == ("318 MiB", "5.5 GiB")
