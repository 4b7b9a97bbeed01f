"""Free VRAM of a pool against its watermarks: the veto that stops scale-ups before a card is full.

On the morning that this project exists for, free VRAM reached zero 32 minutes before the first failed request.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

from scaler.planning.cards import PoolCard
from scaler.planning.forecast import Falling
from scaler.policy import PoolPolicy
from scaler.quantity import Level
from scaler.snapshot import CardKey


class PoolMoment(NamedTuple):
    """The free VRAM that counts for a pool at one moment; `free_bytes` is None while it cannot be seen.

    `short` are the cards below the high watermark; `lost` are those that were, and have vanished since so many Unix
    seconds: an exporter that dies beside a full card must not look like room. `storm` are the cards on which services
    fail for lack of VRAM; `falling` is the card that will be short before a replica granted now holds its VRAM.
    """

    time_s: float
    free_bytes: float | None
    total_bytes: float
    card: CardKey | None
    cards: int
    short: frozenset[CardKey] = frozenset()
    lost: tuple[tuple[CardKey, float], ...] = ()
    storm: tuple[CardKey, ...] = ()
    falling: Falling | None = None


class Watch(NamedTuple):
    """The state of a watermark: `since_s` is the moment from which the veto has stood without a break, or longer still
    (`or_longer`): it stood in the first moment that is remembered."""

    vetoed: bool
    since_s: float | None
    or_longer: bool = False


def observe(
    time_s: float,
    cards: Sequence[PoolCard],
    placeable: Sequence[PoolCard],
    pool: PoolPolicy,
    before: PoolMoment | None,
) -> PoolMoment:
    """The pool's free VRAM by the policy's `watermarkOf`, of the `placeable` cards.

    Where no card has a free slot, all cards count: the next slot to fall free may be on any of them.
    One card that cannot be seen makes the whole unknown, unless it could not take a replica anyway.
    """
    was_short = before.short if before is not None else frozenset[CardKey]()
    # A short card that cannot be seen is short still: exporters often go stale before they vanish.
    short = frozenset(card.key for card in cards if card.is_short or (card.key in was_short and _room(card) is None))
    lost = _lost(time_s, {card.key for card in cards}, before)
    counted = placeable or cards
    rooms = [(room, card.key) for card in counted if (room := _room(card)) is not None]
    if not rooms or len(rooms) < len(counted) or lost:
        return PoolMoment(time_s, None, 0.0, None, len(cards), short, lost)
    if pool.watermark_of == "sum":
        rooms.sort()  # a sum of floats depends on their order
        free = sum(room.free_bytes for room, _ in rooms)
        total = sum(room.total_bytes for room, _ in rooms)
        return PoolMoment(time_s, free, total, None, len(cards), short, lost)
    if pool.watermark_of == "percentile":
        room, key = sorted(rooms)[int(pool.percentile / 100 * (len(rooms) - 1))]
    else:
        room, key = min(rooms)
    return PoolMoment(time_s, room.free_bytes, room.total_bytes, key, len(cards), short, lost)


# So long a card that vanished while it was short may come back; then it is taken for gone, with its node.
LOST_CARD_S = 900.0


class _Room(NamedTuple):
    margin_bytes: float
    free_bytes: float
    total_bytes: float


def _room(card: PoolCard) -> _Room | None:
    free, low, total_bytes = card.free_bytes, card.low_bytes, card.reading.total_bytes
    if free is not None and card.slots == 1 and total_bytes is not None:
        free = total_bytes  # when its one place falls free, all of it does
    return None if free is None or low is None else _Room(free - low, free, total_bytes or 0.0)


def _lost(time_s: float, present: Container[CardKey], before: PoolMoment | None) -> tuple[tuple[CardKey, float], ...]:
    if before is None:
        return ()
    missed = {**dict.fromkeys(before.short, time_s), **dict(before.lost)}
    return tuple(
        sorted((key, since) for key, since in missed.items() if key not in present and time_s - since < LOST_CARD_S)
    )


def watch(moments: tuple[PoolMoment, ...], low: Level, high: Level, pool: PoolPolicy) -> Watch:
    """Whether the veto stands after these moments (oldest first, the newest is now).

    Free VRAM below `low` arms it; it ends when free VRAM has stayed at or above `high` for releaseAfter, or when the
    last crossing has left the window. A moment that cannot be seen vetoes by itself (blind: hold) and is no quiet.
    The state follows from the window alone, so instances agree on it whenever they started.
    """
    armed_since: float | None = None
    quiet_since: float | None = None
    blind_since: float | None = None
    for moment in moments:
        if moment.free_bytes is None:
            quiet_since = None
            blind_since = blind_since if blind_since is not None else moment.time_s
            continue
        blind_since = None
        if moment.free_bytes < low.of(moment.total_bytes):
            armed_since = armed_since if armed_since is not None else moment.time_s
            quiet_since = None
        elif moment.free_bytes >= high.of(moment.total_bytes):
            quiet_since = quiet_since if quiet_since is not None else moment.time_s
            if moment.time_s - quiet_since >= pool.release_after_s:
                armed_since = None
        else:
            quiet_since = None
    if blind_since is not None and pool.blind == "hold" and armed_since is None:
        return Watch(True, blind_since, blind_since == moments[0].time_s)
    return Watch(armed_since is not None, armed_since, armed_since == moments[0].time_s)


def tighter(pool: PoolPolicy, wanted: Level | None, total_bytes: float) -> tuple[Level, Level]:
    """Low and high watermark for a service: its own low one where that leaves more VRAM free, else the pool's.

    The high one keeps its distance to the low one in proportion.
    """
    if wanted is None or wanted.of(total_bytes) <= pool.low_watermark.of(total_bytes):
        return pool.low_watermark, pool.high_watermark
    low = pool.low_watermark.of(total_bytes)
    ratio = pool.high_watermark.of(total_bytes) / low if low > 0 else 1.0
    if wanted.bytes is not None:
        return wanted, Level(bytes=int(wanted.bytes * ratio))
    return wanted, Level(ratio=min(1.0, (wanted.ratio or 0.0) * ratio))
