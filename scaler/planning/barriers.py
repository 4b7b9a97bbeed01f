"""What bars a whole pool from scaling up: failures for lack of VRAM, or a card that is about to be short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from scaler.decision import Reason, Step
from scaler.planning.watermark import PoolMoment
from scaler.policy import PoolPolicy
from scaler.quantity import format_bytes


class Barrier(NamedTuple):
    """Why nobody on the pool gets more replicas than run, since when (Unix seconds), and the step that says so."""

    reason: Reason
    since_s: float
    step: Step


def pool_barrier(moments: Sequence[PoolMoment], pool: PoolPolicy) -> Barrier | None:
    """The pool's barrier now, besides its watermark; each stands until releaseAfter has passed without its cause."""
    now_s = moments[-1].time_s
    standing = _standing(moments, lambda moment: bool(moment.storm), pool.release_after_s)
    if standing is not None:
        storm, since_s = standing
        cards = ", ".join(map(str, storm.storm))
        text = f"requests fail for lack of VRAM on {cards}, seen {now_s - storm.time_s:.0f} s ago"
        step = Step("oom-storm", len(storm.storm), "cards", f"{text}: no scale-up until it is quiet")
        return Barrier(Reason.OOM_STORM, since_s, step)
    standing = _standing(moments, lambda moment: moment.falling is not None, pool.release_after_s)
    if standing is not None and (card := standing[0].falling) is not None:
        text = (
            f"{now_s - standing[0].time_s:.0f} s ago {format_bytes(card.free_bytes)} on card {card.card} fell by "
            f"{format_bytes(card.per_s * 60)} a minute: below the low watermark in {card.crosses_in_s:.0f} s, before a "
            "new replica would hold its VRAM"
        )
        return Barrier(Reason.EXHAUSTION_FORECAST, standing[1], Step("forecast", card.crosses_in_s, "s", text))
    return None


def _standing(
    moments: Sequence[PoolMoment], is_cause: Callable[[PoolMoment], bool], release_after_s: float
) -> tuple[PoolMoment, float] | None:
    """The newest moment with the cause, and since when there was no quiet time without it; None if it is quiet."""
    newest: PoolMoment | None = None
    since_s = moments[-1].time_s
    for moment in reversed(moments):
        if 0 < since_s - moment.time_s >= release_after_s:
            break
        if is_cause(moment):
            newest, since_s = newest or moment, moment.time_s
    return (newest, since_s) if newest is not None else None
