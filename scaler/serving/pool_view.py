"""What the status page says of a pool: its state in a sentence, its hour, and its cards, the tightest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from scaler.decision import PoolState
from scaler.explain import REASON_TEXT, at
from scaler.quantity import format_bytes
from scaler.serving.bars import CardBar, PoolBars
from scaler.serving.hour import LastHour
from scaler.serving.lines import Chart, across, pool_chart

OPEN_CARDS = 8
MOST_POINTS = 400  # of the profile of all cards


class CardRow(NamedTuple):
    """A card's bar in parts of its total (0 to 1), and the same in words; `tone` is its class in the style sheet."""

    name: str
    where: str
    used: float
    promised: float
    low: float | None
    high: float | None
    tone: str
    words: str
    slots: str
    holders: str


class PoolPart(NamedTuple):
    """A pool: its state in a sentence, its free VRAM over the hour, and its cards, of many also a `profile`."""

    name: str
    tone: str
    sentence: str
    underway: str
    hour: Chart | None
    profile: Chart | None
    open: Sequence[CardRow]
    folded: Sequence[CardRow]


class Since(NamedTuple):
    """Since when a pool's veto stands (Unix seconds), or longer still: as far back as this instance looked."""

    time_s: float
    or_longer: bool


def pool_part(
    state: PoolState,
    bars: PoolBars | None,
    hour: LastHour,
    vetoed: Since | None,
    time_s: float,
    most_open: int,
) -> PoolPart:
    lines = hour.pool(state.name)
    cards = bars.bars if bars is not None else []
    # One card more than fits is shown, too, rather than folded by itself.
    opened = most_open if len(cards) > most_open + 1 else len(cards)
    is_barred = state.vetoed or state.barrier is not None
    return PoolPart(
        name=state.name,
        tone="bad" if is_barred else "good",
        sentence=_pool_sentence(state, vetoed, time_s),
        underway=_underway(bars) if bars is not None else "",
        hour=pool_chart(lines, state.low_bytes, format_bytes) if lines is not None else None,
        profile=_profile(cards) if opened < len(cards) else None,
        open=[card_row(bar) for bar in cards[:opened]],
        folded=[card_row(bar) for bar in cards[opened:]],
    )


def _pool_sentence(state: PoolState, vetoed: Since | None, time_s: float) -> str:
    cards = f"{state.cards} card{'' if state.cards == 1 else 's'}"
    if state.free_bytes is None or state.low_bytes is None:
        seen = f"Free VRAM of {cards} cannot be seen"
    else:
        where = f"on the card that counts, {state.card}" if state.card is not None else "together"
        side = "below" if state.free_bytes < state.low_bytes else "above"
        seen = (
            f"{format_bytes(state.free_bytes)} free {where}, {side} the low watermark of "
            f"{format_bytes(state.low_bytes)} ({cards})"
        )
    if state.vetoed:
        since = ""
        if vetoed is not None:
            longer = " or longer" if vetoed.or_longer else ""
            since = f" since {at(vetoed.time_s)}{longer} ({span(time_s - vetoed.time_s)})"
        return f"No scale-up{since}. {seen}."
    if state.barrier is not None:
        return f"No scale-up: {REASON_TEXT.get(state.barrier, str(state.barrier))}. {seen}."
    return f"{seen}."


def _profile(cards: Sequence[CardBar]) -> Chart:
    """All cards beside each other, the tightest first, by their free VRAM."""
    shown = sorted((bar for bar in cards if bar.free_bytes is not None), key=lambda bar: bar.free_bytes or 0.0)
    shown = (
        [shown[index * len(shown) // MOST_POINTS] for index in range(MOST_POINTS)]
        if len(shown) > MOST_POINTS
        else shown
    )
    below = sum(
        bar.free_bytes < bar.low_bytes for bar in cards if bar.free_bytes is not None and bar.low_bytes is not None
    )
    unseen = sum(bar.free_bytes is None for bar in cards)
    text = f"Free VRAM of {len(cards)} cards, the tightest first: {below} below the low watermark, {unseen} not seen"
    return across([bar.free_bytes for bar in shown], [bar.low_bytes for bar in shown], text)


def _underway(bars: PoolBars) -> str:
    starting, told = sum(bars.underway.starting.values()), sum(bars.underway.told.values())
    return f"{starting} starting, {told} granted and not seen yet" if starting or told else ""


def span(seconds: float) -> str:
    """A time for people: 45 s, 12 min, 2 h 21 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def card_row(bar: CardBar) -> CardRow:
    total, free = bar.total_bytes or 0.0, bar.free_bytes
    where = ", ".join(each for each in (bar.card.node, bar.card.model) if each)
    slots = "" if bar.slots is None or bar.open_slots is None else f"{bar.open_slots} of {bar.slots} slots free"
    held = {workload: vram.total_bytes for workload, vram in bar.card.held.items()}
    holders = ", ".join(
        f"{workload.deployment} {format_bytes(held[workload]) if workload in held else ''}".strip()
        for workload in sorted(bar.card.pods.keys() | held.keys(), key=lambda each: (-held.get(each, 0.0), each))
    )
    if free is None or not total:
        words = "not seen, or too old" if free is None else f"{format_bytes(free)} free, total unknown"
        return CardRow(str(bar.key), where, 0, 0, None, None, "unknown", words, slots, holders)
    free = min(free, total)
    promised = min(bar.promised_bytes, free)
    low, high = bar.low_bytes, bar.high_bytes
    words = f"{format_bytes(free)} of {format_bytes(total)} free"
    if bar.promised_bytes > 0:
        words += f", {format_bytes(bar.promised_bytes)} of it promised"
    tone = "good"
    if low is not None and free < low:
        tone, words = "bad", f"{words}, below the low watermark ({format_bytes(low)})"
    elif low is not None and bar.margin_bytes < 0:
        tone, words = "warn", f"{words}: the low watermark ({format_bytes(low)}) needs the rest"
    elif high is not None and free < high:
        tone, words = "warn", f"{words}, below the high watermark ({format_bytes(high)})"
    return CardRow(
        name=str(bar.key),
        where=where,
        used=(total - free) / total,
        promised=promised / total,
        low=None if low is None else min(1.0, low / total),
        high=None if high is None else min(1.0, high / total),
        tone=tone,
        words=words,
        slots=slots,
        holders=holders,
    )
