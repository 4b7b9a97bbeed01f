"""The breaker: while services fail for lack of VRAM on a pool's cards, nobody on the pool scales up.

Who fails need not be who grew, so it is the cards that are named and not the services.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from scaler.planning.cards import PoolCard
from scaler.planning.watermark import PoolMoment
from scaler.signals.derive import OOM_EVIDENCE_S, Derivation
from scaler.snapshot import CardKey, WorkloadKey

# Below that part of the attempts, failures are the everyday ones of a backend that happens to sit on a tight card.
STORM_RATIO = 0.01


def failing(derived: Mapping[WorkloadKey, Derivation]) -> set[WorkloadKey]:
    """The services of which at least 1 % of the attempts fail for lack of VRAM, by confirmed evidence."""
    return {
        workload
        for workload, derivation in derived.items()
        if derivation.moment.oom_confirmed
        and derivation.arrivals is not None
        and derivation.arrivals.failed_ratio >= STORM_RATIO
    }


def storm_cards(
    now: PoolMoment,
    past: Sequence[PoolMoment],
    cards: Sequence[PoolCard],
    failing_workloads: Collection[WorkloadKey],
    named: Collection[WorkloadKey],
) -> tuple[CardKey, ...]:
    """The pool's cards that the failures point at: the short ones under the failing services, or all that these sit on
    where none is short any more; for a service that no card names, those that were short when it began."""
    found: set[CardKey] = set()
    for workload in failing_workloads:
        under = {card.key for card in cards if workload in card.reading.pods}
        if workload not in named:
            lately = (m.short for m in reversed(past) if m.short and m.time_s > now.time_s - OOM_EVIDENCE_S)
            under = set(now.short or next(lately, frozenset()))
        found |= under & now.short or under
    return tuple(sorted(found))
