"""What a replay comes to, in sentences: computed from the accounts, each with the figures that it rests on."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from scaler.decision import Reason
from scaler.policy import ServiceKey
from scaler.quantity import format_bytes
from scaler.replay.against import Comparison
from scaler.replay.clock import Clock
from scaler.replay.divergence import Ahead, Withheld
from scaler.replay.summary import PoolAccount, Replay
from scaler.replay.tables import minutes

NAMED = 5
LEAST_GROWTH = 0.1  # of the traffic after a veto: less is an ordinary day


def verdict(replay: Replay) -> list[str]:
    """The first thing that is read: when VRAM ran short, what came of it, what would have been withheld and granted."""
    pool = worst_pool(replay)
    if pool is None or replay.steps == 0:
        return ["Nothing was replayed."]
    return [_vram(pool, replay.start_s, len(replay.pools) > 1), _scaling(replay), *_growth(replay, pool)]


def against(comparison: Comparison) -> str:
    """What B would have made of the same time, and where it grants something else first."""
    withheld = _count(len(withheld_of(comparison.b)), "scale-up")
    if not comparison.first_s:
        return f"B grants the same at every moment ({withheld} withheld)."
    key = min(comparison.first_s, key=lambda each: comparison.first_s[each])
    at = comparison.a.clock.at(comparison.first_s[key])
    return f"B would have withheld {withheld}, and grants something else first at {at} ({key.name})."


def details(replay: Replay) -> list[str]:
    """The same with its seconds and sums, pool by pool."""
    clock = replay.clock
    texts = []
    for pool in replay.pools.values():
        texts += _pool_details(pool, clock, len(replay.pools) > 1)
    withheld = [each for _, each in withheld_of(replay)]
    if withheld:
        more = sum(each.after - max(each.before, each.granted) for each in withheld)
        by_reason = Counter(_WITHHELD_FOR.get(each.reason, f"for {each.reason}") for each in withheld)
        whys = ", ".join(
            f"{'all' if count == len(withheld) else count} {why}" for why, count in by_reason.most_common()
        )
        number = _count(len(withheld), "scale-up")
        texts.append(f"{number} by {_count(more, 'replica')} would have been withheld: {whys}.")
    ahead = ahead_of(replay)
    followed = [(key, each) for key, each in ahead if each.outcome == "followed"]
    if followed:
        names = "; ".join(
            f"{key.name} {each.before}→{each.after} at {clock.at(each.time_s)}, {minutes(each.earlier_s)} min earlier"
            for key, each in followed[:NAMED]
        )
        more_text = f"; and {len(followed) - NAMED} more" if len(followed) > NAMED else ""
        texts.append(f"{_count(len(followed), 'scale-up')} would have come sooner: {names}{more_text}.")
    if len(ahead) > len(followed):
        number = _count(len(ahead) - len(followed), "scale-up")
        texts.append(f"{number} that the real autoscaler did not make would have been granted for a while.")
    unknown = sum(each.unknown_steps for each in replay.services.values())
    if unknown:
        share = unknown / (replay.steps * len(replay.services))
        texts.append(
            f"{percent(share, 1)} of the decisions would have been no answer, for want of readings; KEDA then holds."
        )
    return texts


_WITHHELD_FOR = {
    Reason.DEMAND: "because the service's own load did not ask for them",
    Reason.SCALE_DOWN_WINDOW: "because the service's own load did not ask for them",
    Reason.CONTENDED: "because the service's own load did not ask for them",
    Reason.LOW_VRAM: "for low VRAM",
    Reason.NO_FIT: "because they would not have fitted",
}


def worst_pool(replay: Replay) -> PoolAccount | None:
    """The pool of which there is most to tell: one that was short, then failures, then the time below the watermark."""

    def much(pool: PoolAccount) -> tuple[float, ...]:
        return pool.first_below_s is not None, pool.failed_requests, pool.below_hours, pool.cards

    return max(replay.pools.values(), key=much, default=None)


def is_blind(replay: Replay) -> bool:
    """Whether no service could be answered at any moment: then nothing can be said of scale-ups."""
    return all(each.unknown_steps == replay.steps for each in replay.services.values())


def withheld_of(replay: Replay) -> list[tuple[ServiceKey, Withheld]]:
    """Of all services, in the order of time."""
    found = [(key, each) for key, account in replay.services.items() for each in account.withheld]
    return sorted(found, key=lambda pair: pair[1].time_s)


def ahead_of(replay: Replay) -> list[tuple[ServiceKey, Ahead]]:
    """Of all services, in the order of time."""
    found = [(key, each) for key, account in replay.services.items() for each in account.ahead]
    return sorted(found, key=lambda pair: pair[1].time_s)


def _vram(pool: PoolAccount, start_s: float | None, is_named: bool) -> str:
    free = f"Free VRAM of pool {pool.name}" if is_named else "Free VRAM"
    if pool.least_free_bytes is None:
        return f"Free VRAM of pool {pool.name} could not be seen."
    if pool.first_below_s is None:
        return f"{free} never fell below the low watermark ({format_bytes(pool.least_free_bytes)} at the least)."
    if pool.first_below_s == start_s:
        text = f"{free} was below the low watermark from the beginning"
    elif pool.first_out_s is not None:
        text = f"{free} ran out at {_hm(pool.first_out_s)}"
    else:
        text = f"{free} fell below the low watermark at {_hm(pool.first_below_s)}"
    warning_s = pool.warning_s
    if not pool.flow_steps:
        return f"{text}; whether requests failed for it could not be seen."
    if warning_s is None:
        return f"{text}; no request failed for it."
    stood = f"{text}; our veto stood from {_hm(pool.vetoes[0].start_s)}"
    if warning_s > 0:
        return f"{stood}, {_minutes(warning_s)} before the first request failed."
    if warning_s == 0:
        return f"{stood}, the moment at which requests began to fail."
    return f"{stood}, {_minutes(-warning_s)} after requests had begun to fail."


def _scaling(replay: Replay) -> str:
    if is_blind(replay):
        return "No service could be decided on at any moment: its readings are missing."
    real = sum(each.real_ups for each in replay.services.values())
    withheld = len(withheld_of(replay))
    if not real:
        return "The real autoscaler scaled nothing up."
    if not withheld:
        return (
            f"All {real} real scale-ups would have been granted."
            if real > 1
            else "The real scale-up would have been granted."
        )
    unasked, why = sum(each.reason is Reason.DEMAND for _, each in withheld_of(replay)), ""
    if unasked:
        which = f"{unasked} of these " if unasked < withheld else ""
        why = f", {which}because the service's own load did not ask"
    return f"{withheld} of {_count(real, 'real scale-up')} would have been withheld{why}."


def _growth(replay: Replay, pool: PoolAccount) -> list[str]:
    """The first scale-up after the last veto that came sooner than the real one; without a veto, the one that came
    soonest."""
    followed = [(key, each) for key, each in ahead_of(replay) if each.outcome == "followed"]
    if not followed:
        return []
    growth = pool.growth()
    later = [pair for pair in followed if growth is not None and pair[1].time_s >= growth.since_s]
    key, first = later[0] if later else max(followed, key=lambda pair: pair[1].earlier_s or 0.0)
    at = datetime.fromtimestamp(first.time_s, UTC).strftime("%H:%M:%S")
    what = f"{key.name} {first.before}→{first.after}"
    sooner = f"{_minutes(first.earlier_s or 0.0)} before the real autoscaler"
    if later and growth is not None and growth.ratio >= LEAST_GROWTH:
        grew = f"When traffic grew by {percent(growth.ratio)} afterwards"
        return [f"{grew}, {what} would have been granted at {at}, {sooner}."]
    return [f"{what} would have been granted at {at}, {sooner}."]


def _pool_details(pool: PoolAccount, clock: Clock, is_named: bool) -> list[str]:
    name = f"Pool {pool.name}: f" if is_named else "F"
    texts = []
    if pool.first_below_s is not None and pool.least_free_bytes is not None:
        texts.append(
            f"{name}ree VRAM was below the low watermark from {clock.at(pool.first_below_s)}, for "
            f"{pool.below_hours:.1f} h altogether; the least was {format_bytes(pool.least_free_bytes)} at "
            f"{clock.at(pool.least_at_s)}."
        )
    if pool.failed_requests:
        share = pool.failed_requests / pool.requests if pool.requests else 0.0
        texts.append(
            f"{pool.failed_requests:,.0f} of {pool.requests:,.0f} requests{' of its services' if is_named else ''} "
            f"failed ({percent(share, 1)}), the first at {clock.at(pool.first_failure_s)}."
        )
    return texts


def percent(ratio: float, digits: int = 0) -> str:
    """0.57: 57 %."""
    return f"{100 * ratio:.{digits}f}\N{NO-BREAK SPACE}%"


def _hm(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%H:%M")


def _minutes(duration_s: float) -> str:
    """33 minutes; below two, seconds."""
    return f"{duration_s:.0f} seconds" if duration_s < 120 else f"{duration_s / 60:.0f} minutes"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
