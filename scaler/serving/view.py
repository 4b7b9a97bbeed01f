"""What the status page says, as values in the order of their weight: what is held back before what is well, the
tightest card before the roomiest. Texts only; what they look like is the templates' concern."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from scaler.decision import Decision, Reason, Verdict
from scaler.explain import REASON_TEXT, Explanation, at, explanation
from scaler.policy import ServiceKey
from scaler.serving.bars import pool_bars, sits_on
from scaler.serving.board import Epoch
from scaler.serving.hour import LastHour
from scaler.serving.lines import Chart, service_chart
from scaler.serving.pool_view import OPEN_CARDS, CardRow, PoolPart, Since, card_row, pool_part
from scaler.serving.shadow import ShadowAccount
from scaler.snapshot import Problem

# A fleet beyond these is folded: a page of 1,000 rows with lines would take 2 MB, and nobody reads it.
OPEN_ROWS = 24
OPEN_PROBLEMS = 5
MOST_PROBLEMS = 100


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
    """One service's page; `told` is its decision in words, as `vram-scaler explain` prints it."""

    at: str
    told: Explanation
    row: ServiceRow
    active: bool
    pool: PoolPart | None
    cards: Sequence[CardRow]
    shadow: ShadowAccount | None


def overview(epoch: Epoch, hour: LastHour, vetoed: Mapping[str, Since]) -> Overview:
    """All pools and services of an epoch."""
    plan, bars = epoch.plan, pool_bars(epoch.grounds) if epoch.grounds is not None else {}
    decisions = epoch.decisions()
    folds = _folds(epoch, decisions, hour)
    pools = [pool_part(state, bars.get(name), hour, vetoed.get(name), plan.time_s, OPEN_CARDS)
             for name, state in plan.pools.items()]  # fmt: skip
    pools.sort(key=lambda each: each.tone != "bad")
    verdict, tone = _in_a_sentence(decisions.values(), [state.name for state in plan.pools.values() if state.vetoed])
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
    service = None
    if epoch.grounds is not None:
        service = epoch.grounds.policy(decision.key)
    mine = list(sits_on(bars, service.workload(decision.key))) if service is not None else []
    told = explanation(decision.as_json())
    return ServicePage(
        at=at(decision.time_s),
        told=told._replace(headline=told.headline.split(": ", 1)[1]),
        row=_row(decision, epoch, hour),
        active=decision.active,
        pool=pool_part(state, None, hour, vetoed.get(state.name), epoch.plan.time_s, 0) if state else None,
        cards=[card_row(bar) for bar in sorted(mine, key=lambda bar: (bar.margin_bytes, bar.key))],
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


def _in_a_sentence(decisions: Collection[Decision], barred: Sequence[str]) -> tuple[str, str]:
    """How the services fare, and the tone of it; in the pools `barred` nothing may scale up."""
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
    if not parts and barred:
        return f"Every service has what it needs ({len(decisions)}); no scale-up in {', '.join(barred)}.", "bad"
    if not parts:
        return f"Every service gets what it needs ({len(decisions)}).", "good"
    return "; ".join(parts) + ".", "bad"


def _reasons(decisions: Iterable[Decision]) -> list[tuple[str, int]]:
    """First reasons with how often each is one, the most frequent one first."""
    counts = Counter(str(decision.reasons[0]) for decision in decisions if decision.reasons)
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def clock(time_s: float) -> str:
    """Unix seconds as the time of day in UTC: 02:30Z."""
    return f"{at(time_s)[11:16]}Z"
