"""Small lines: an hour's points as paths of an SVG, one unit a point, drawn as steps since that is what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from scaler.serving.hour import PoolHour, ServiceHour

HEIGHT = 32


class Line(NamedTuple):
    """One line: its name, which is its class in the style sheet, and its path."""

    name: str
    path: str


class Chart(NamedTuple):
    """Lines over `width` points, of 0 at the bottom to `top`; `bands` are stretches (first point, points) that are
    marked beneath; `text` says it in words."""

    width: int
    top: float
    lines: tuple[Line, ...]
    bands: tuple[tuple[int, int], ...]
    text: str
    begin_s: float
    end_s: float


def service_chart(hour: ServiceHour) -> Chart:
    """Replicas, demand and granted; marked where demand was held back, or nothing was answered."""
    top = max((value for line in hour[2:] for value in line if value is not None), default=0) or 1
    named = (("replicas", hour.replicas), ("demand", hour.demand), ("granted", hour.granted))
    held_back = [
        demand is not None and granted is not None and demand > granted
        for demand, granted in zip(hour.demand, hour.granted, strict=True)
    ]
    minutes = sum(held_back) * hour.step_s / 60
    words = [f"{name} {_span(line, '{:g}'.format)}" for name, line in named]
    text = f"{', '.join(words)}; held back {minutes:.0f} min"
    lines = tuple(Line(name, steps_path(line, top)) for name, line in named)
    return _chart(len(hour.replicas), top, lines, held_back, text, hour.end_s, hour.step_s)


def pool_chart(hour: PoolHour, low_bytes: float | None, words: Callable[[float], str]) -> Chart:
    """Free VRAM and the low watermark of now; marked where no scale-up passed."""
    seen = [value for value in hour.free_bytes if value is not None]
    top = max([*seen, 2 * (low_bytes or 0.0)]) or 1.0  # the watermark is never the picture's edge
    lines = [Line("free", steps_path(hour.free_bytes, top))]
    if low_bytes is not None:
        lines.append(Line("low", steps_path([low_bytes] * len(hour.free_bytes), top)))
    minutes = sum(hour.barred) * hour.step_s / 60
    text = f"free VRAM {_span(hour.free_bytes, words)}; no scale-up for {minutes:.0f} min of it"
    return _chart(len(hour.barred), top, tuple(lines), hour.barred, text, hour.end_s, hour.step_s)


def across(free: Sequence[float | None], low: Sequence[float | None], text: str) -> Chart:
    """Free VRAM and the low watermark of one card after the other; no time in it."""
    top = max((value for line in (free, low) for value in line if value is not None), default=0.0) or 1.0
    lines = (Line("free", steps_path(free, top)), Line("low", steps_path(low, top)))
    return Chart(max(1, len(free)), top, lines, (), text, 0.0, 0.0)


def steps_path(values: Sequence[float | None], top: float) -> str:
    """An SVG path: horizontal through each point, vertical between them, and a gap where a value is unknown."""
    parts: list[str] = []
    before: str | None = None
    for index, value in enumerate(values):
        y = None if value is None else f"{HEIGHT * (1 - value / top):.4g}"
        if y != before:
            if before is not None:
                parts.append(f"H{index}")
            if y is not None:
                parts.append(f"V{y}" if before is not None else f"M{index} {y}")
        before = y
    if before is not None:
        parts.append(f"H{len(values)}")
    return "".join(parts)


def stretches(marked: Iterable[bool]) -> tuple[tuple[int, int], ...]:
    """The stretches that are marked: where each begins and how long it is."""
    found: list[tuple[int, int]] = []
    for index, is_marked in enumerate(marked):
        if not is_marked:
            continue
        if found and sum(found[-1]) == index:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((index, 1))
    return tuple(found)


def _chart(
    width: int, top: float, lines: tuple[Line, ...], marked: list[bool], text: str, end_s: float, step_s: float
) -> Chart:
    end_s += step_s  # the newest point is that of a step that has begun
    return Chart(width, top, lines, stretches(marked), text, end_s - width * step_s, end_s)


def _span(values: Sequence[float | None], words: Callable[[float], str]) -> str:
    """The least and the most in words."""
    seen = [value for value in values if value is not None]
    if not seen:
        return "unknown"
    least, most = words(min(seen)), words(max(seen))
    return least if least == most else f"{least} to {most}"
