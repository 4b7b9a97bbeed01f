"""What bars a whole pool from scaling up: failures for lack of VRAM, or a card that is about to be short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from scaler.decision import Reason, Step
from scaler.planning.storm import storm
from scaler.planning.watermark import PoolMoment
from scaler.policy import PoolPolicy
from scaler.quantity import format_bytes


class Barrier(NamedTuple):
    """Why nobody on the pool gets more replicas than run, with the step that says so."""

    reason: Reason
    step: Step


def pool_barrier(moments: Sequence[PoolMoment], pool: PoolPolicy) -> Barrier | None:
    """The pool's barrier now, besides its watermark; each stands until releaseAfter has passed without its cause."""
    now = moments[-1]
    found = storm(moments, pool)
    if found is not None:
        ago = now.time_s - found.seen_s
        cards = ", ".join(card.uuid for card in found.cards) or "cards that no exporter names"
        text = f"requests fail for lack of VRAM on {cards}, seen {ago:.0f} s ago: no scale-up until it is quiet"
        return Barrier(Reason.OOM_STORM, Step("oom-storm", len(found.cards), "cards", text))
    if now.falling is not None:
        card = now.falling
        text = (
            f"{format_bytes(card.free_bytes)} on card {card.card.uuid} fall by {format_bytes(card.per_s * 60)} a "
            f"minute: below the low watermark in {card.crosses_in_s:.0f} s, before a new replica holds its VRAM"
        )
        return Barrier(Reason.EXHAUSTION_FORECAST, Step("forecast", card.crosses_in_s, "s", text))
    for moment in reversed(moments):
        if now.time_s - moment.time_s >= pool.release_after_s:
            break
        if moment.falling is not None:
            ago = now.time_s - moment.time_s
            text = (
                f"card {moment.falling.card.uuid} was about to be short {ago:.0f} s ago: no scale-up until it is quiet"
            )
            return Barrier(Reason.EXHAUSTION_FORECAST, Step("forecast", None, "s", text))
    return None
