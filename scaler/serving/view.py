"""What the status page says, as values in the order of their weight: what is held back before what is well, the
tightest card before the roomiest. Texts only; what they look like is the templates' concern."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from scaler.decision import Decision, PoolState, Reason, Verdict
from scaler.explain import REASON_TEXT, at, headline, quantity
from scaler.policy import ServiceKey
from scaler.quantity import format_bytes
from scaler.serving.bars import CardBar, PoolBars, pool_bars, sits_on
from scaler.serving.board import Epoch
from scaler.serving.hour import LastHour
from scaler.serving.lines import Chart, across, pool_chart, service_chart
from scaler.serving.shadow import ShadowAccount
from scaler.snapshot import Problem

# A fleet beyond these is folded: a page of 1,000 rows with lines would take 2 MB, and nobody reads it.
OPEN_ROWS = 24
OPEN_CARDS = 8
OPEN_PROBLEMS = 5
MOST_PROBLEMS = 100
MOST_POINTS = 400


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


class ServiceRow(NamedTuple):
    """A service in a line; `reason` is its first reason's word."""

    key: ServiceKey
    pool: str
    is_shadow: bool
    verdict: str
    reason: str
    replicas: str
    demand: str
    granted: str
    hour: Chart | None


class Fold(NamedTuple):
    """Rows of one kind: those that stand open, and those that are folded. `reasons` are their first reasons but
    `demand`, with count and text, the most frequent one first."""

    id: str
    title: str
    reasons: Sequence[tuple[str, int, str]]
    open: Sequence[ServiceRow]
    folded: Sequence[ServiceRow]


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


class Overview(NamedTuple):
    """The first page."""

    at: str
    title: str
    verdict: str
    tone: str
    pools: Sequence[PoolPart]
    folds: Sequence[Fold]
    services: int
    has_shadows: bool
    several_pools: bool
    problems: Sequence[Problem]
    more_problems: Sequence[Problem]
    problems_in_all: int


class ServicePage(NamedTuple):
    """One service's page."""

    at: str
    headline: str
    row: ServiceRow
    active: bool
    reasons: Sequence[tuple[str, str]]
    without: Sequence[str]
    steps: Sequence[tuple[str, str, str]]
    pool: PoolPart | None
    cards: Sequence[CardRow]
    shadow: ShadowAccount | None


class Since(NamedTuple):
    """Since when a pool's veto stands (Unix seconds), or longer still: as far back as this instance looked."""

    time_s: float
    or_longer: bool


def overview(epoch: Epoch, hour: LastHour, vetoed: Mapping[str, Since]) -> Overview:
    """All pools and services of an epoch."""
    plan, bars = epoch.plan, pool_bars(epoch.grounds) if epoch.grounds is not None else {}
    decisions = epoch.decisions()
    folds = _folds(epoch, decisions, hour)
    pools = [_pool(state, bars.get(name), hour, vetoed.get(name), plan.time_s, OPEN_CARDS)
             for name, state in plan.pools.items()]  # fmt: skip
    pools.sort(key=lambda each: each.tone != "bad")
    verdict, tone = _in_a_sentence(decisions.values())
    held = sum(decision.verdict in _HELD_BACK for decision in decisions.values())
    asked = epoch.grounds.asked_shadows if epoch.grounds is not None else ()
    texts = (f"{'/'.join(key)} is listed as a shadow, but KEDA asks about it: it is answered" for key in asked)
    problems = (*(Problem("shadow", text) for text in texts), *plan.problems)
    return Overview(
        at=at(plan.time_s),
        title=f"{held} held back" if held else "all granted",
        verdict=verdict,
        tone=tone,
        pools=pools,
        folds=folds,
        services=len(decisions),
        has_shadows=any(key not in plan.decisions for key in epoch.shadow),
        several_pools=len(plan.pools) > 1,
        problems=problems[:OPEN_PROBLEMS],
        more_problems=problems[OPEN_PROBLEMS:MOST_PROBLEMS],
        problems_in_all=len(problems),
    )


def service_page(
    epoch: Epoch,
    decision: Decision,
    hour: LastHour,
    vetoed: Mapping[str, Since],
    account: ShadowAccount | None,
) -> ServicePage:
    """All that is known of one service's decision."""
    bars = pool_bars(epoch.grounds) if epoch.grounds is not None else {}
    state = epoch.plan.pools.get(decision.pool)
    row = _row(decision, epoch, hour)
    service = None
    if epoch.grounds is not None:
        service = epoch.grounds.policy(decision.key)
    mine = list(sits_on(bars, service.workload(decision.key))) if service is not None else []
    return ServicePage(
        at=at(decision.time_s),
        headline=headline(decision.as_json()).split(": ", 1)[1],
        row=row,
        active=decision.active,
        reasons=[(str(word), REASON_TEXT.get(word, "")) for word in decision.reasons],
        without=[step.text for step in decision.steps if step.name in ("without-limit", "with-contention")],
        steps=[(step.name, quantity(step.value, step.unit), step.text) for step in decision.steps],
        pool=_pool(state, None, hour, vetoed.get(state.name), epoch.plan.time_s, 0) if state else None,
        cards=[_card(bar) for bar in sorted(mine, key=lambda bar: (bar.margin_bytes, bar.key))],
        shadow=account,
    )


_HELD_BACK = (Verdict.VETO, Verdict.LIMITED)
_FOLDS = (
    ("unknown", "No answer", (Verdict.UNKNOWN,)),
    ("held-back", "Held back", _HELD_BACK),
    ("moving", "Moving", (Verdict.SCALE_UP, Verdict.SCALE_DOWN)),
    ("steady", "Steady", (Verdict.HOLD,)),
)


def _folds(epoch: Epoch, decisions: Mapping[ServiceKey, Decision], hour: LastHour) -> list[Fold]:
    """Services by what is done with them, those that lack most first. The rows that stand open are shared out in that
    order, so what is well is folded first."""
    left, found = OPEN_ROWS, []
    for id_, title, verdicts in _FOLDS:
        rows = sorted((d for d in decisions.values() if d.verdict in verdicts), key=lambda d: (-_lacking(d), d.key))
        if not rows:
            continue
        opened, left = rows[:left], max(0, left - len(rows))
        found.append(
            Fold(
                id_,
                title,
                [(word, count, REASON_TEXT.get(word, "")) for word, count in _reasons(rows) if word != Reason.DEMAND],
                [_row(each, epoch, hour) for each in opened],
                [_row(each, epoch, None) for each in rows[len(opened) :]],
            )
        )
    return found


def _lacking(decision: Decision) -> int:
    return (decision.demand or 0) - (decision.granted or 0)


def _row(decision: Decision, epoch: Epoch, hour: LastHour | None) -> ServiceRow:
    reason = str(decision.reasons[0]) if decision.reasons else ""
    lines = hour.service(decision.key) if hour is not None else None
    return ServiceRow(
        key=decision.key,
        pool=decision.pool,
        is_shadow=decision.key not in epoch.plan.decisions,
        verdict=str(decision.verdict),
        reason=reason,
        replicas=_count(decision.replicas),
        demand=_count(decision.demand),
        granted=_count(decision.granted),
        hour=service_chart(lines) if lines is not None else None,
    )


def _count(replicas: int | None) -> str:
    return "unknown" if replicas is None else str(replicas)


def _in_a_sentence(decisions: Collection[Decision]) -> tuple[str, str]:
    """How the services fare, and the tone of it."""
    if not decisions:
        return "No service is known yet. KEDA's first call for a ScaledObject makes it known.", "quiet"
    of = f"of {len(decisions)} services"
    held = [decision for decision in decisions if decision.verdict in _HELD_BACK]
    silent = [decision for decision in decisions if decision.verdict is Verdict.UNKNOWN]
    parts = [
        f"{len(each)} {of} {what} ({', '.join(f'{word} {count}' for word, count in _reasons(each))})"
        for each, what in ((held, "held back"), (silent, "without an answer"))
        if each
    ]
    if not parts:
        return f"Every service gets what it needs ({len(decisions)}).", "good"
    return "; ".join(parts) + ".", "bad"


def _reasons(decisions: Iterable[Decision]) -> list[tuple[str, int]]:
    """First reasons with how often each is one, the most frequent one first."""
    counts = Counter(str(decision.reasons[0]) for decision in decisions if decision.reasons)
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def _pool(
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
        open=[_card(bar) for bar in cards[:opened]],
        folded=[_card(bar) for bar in cards[opened:]],
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


def clock(time_s: float) -> str:
    """Unix seconds as the time of day in UTC: 02:30Z."""
    return f"{at(time_s)[11:16]}Z"


def span(seconds: float) -> str:
    """A time for people: 45 s, 12 min, 2 h 21 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _card(bar: CardBar) -> CardRow:
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
