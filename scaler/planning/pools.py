"""A pool's part of the plan: its free VRAM, what bars it, and whether that has stood for too long."""

from __future__ import annotations

from scaler.decision import PoolState
from scaler.planning.barriers import Barrier
from scaler.planning.watermark import PoolMoment, Watch
from scaler.policy import PoolPolicy, Timing
from scaler.snapshot import Problem


def pool_state(now: PoolMoment, state: Watch, barrier: Barrier | None, pool: PoolPolicy, timing: Timing) -> PoolState:
    """The pool by its own watermarks."""
    seen = now.free_bytes is not None
    since_s = min(
        state.since_s if state.vetoed and state.since_s is not None else now.time_s,
        barrier.since_s if barrier is not None else now.time_s,
    )
    # No veto is remembered for longer than the window.
    alarm_after_s = min(pool.alarm_after_s, max(timing.tick_s, timing.watermark_window_s - timing.tick_s))
    return PoolState(
        name=pool.name,
        free_bytes=now.free_bytes,
        low_bytes=pool.low_watermark.of(now.total_bytes) if seen else None,
        high_bytes=pool.high_watermark.of(now.total_bytes) if seen else None,
        card=now.card,
        vetoed=state.vetoed,
        vetoed_since_s=state.since_s,
        cards=now.cards,
        barrier=barrier.reason if barrier is not None else None,
        alarm_after_s=alarm_after_s if now.time_s - since_s >= alarm_after_s else None,
    )


def alarms(state: PoolState) -> list[Problem]:
    """A line for a veto that has stood for alarmAfter: nobody scales up, and nobody may have noticed."""
    if state.alarm_after_s is None:
        return []
    why = "free VRAM has been short"
    if state.barrier is not None and not state.vetoed:
        why = str(state.barrier)
    elif state.free_bytes is None:
        why = "free VRAM cannot be seen"
    return [Problem("veto", f"pool {state.name}: no scale-up for {state.alarm_after_s / 60:g} minutes and more: {why}")]
