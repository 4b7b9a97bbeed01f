"""Who gets the room: one pass a tick over all services of a pool, replica by replica.

Floors first, then priority x unmet demand by Sainte-Laguë's divisors: the next replica goes to the claim with the
highest priority x unmet / (2 x granted + 1), ties by name. Largest remainder gives the same shares to within one
replica, but can take one away when there is more room, equal footprints or not (the Alabama paradox).
A replica that does not fit ends its own claim, not the others'.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec import Struct

from scaler.planning.headroom import Headroom, Need
from scaler.policy import ServiceKey


class Claim(Struct, frozen=True):
    """A service that wants more replicas than run.

    Attributes:
        replicas: what runs. wanted: what it wants, above that. floor: what it is to have before others get more.
        first: replicas that come together or not at all: from zero KEDA starts minReplicaCount at once; else 1.
        promised: replicas beyond those that run that it may have been told already.
    """

    key: ServiceKey
    replicas: int
    wanted: int
    floor: int
    priority: float
    first: int
    need: Need
    promised: int


class Share(Struct, frozen=True, gc=False):
    """What a claim gets: `granted` replicas in all. `others`: more would have fitted but for what others want."""

    granted: int
    others: bool


class Arbitrated(NamedTuple):
    """The shares, and what each would have been if nothing had been promised: the most that KEDA can be told."""

    shares: Mapping[ServiceKey, Share]
    at_most: Mapping[ServiceKey, int]


def arbitrate(claims: Iterable[Claim], started: Headroom, promises: Iterable[tuple[Need, int]]) -> Arbitrated:
    """Shares out the room that `started` replicas leave.

    What services may have been told before, and have not shown yet, is outstanding too (`promises`, of all services):
    within its own promise a claim takes no more room. First the room is shared out as if nothing had been promised;
    nobody gets more than that, so what was told follows from the last readings alone, whoever answers.
    """
    claims = list(claims)
    promises = [(need, replicas) for need, replicas in promises if replicas > 0]
    shared = _share_out(claims, started.copy(), None)
    granted = shared
    if promises:
        promised = started.copy()
        for need, replicas in promises:
            promised.add(need, replicas)
        granted = _share_out(claims, promised, shared)
    shares = {}
    for claim in claims:
        got = granted[claim.key]
        next_replicas = claim.first if got == claim.replicas else got - claim.replicas + 1
        others = got < claim.wanted and started.fits(claim.need, next_replicas)
        shares[claim.key] = Share(got, others)
    return Arbitrated(shares, shared)


def _share_out(
    claims: list[Claim], headroom: Headroom, at_most: Mapping[ServiceKey, int] | None
) -> dict[ServiceKey, int]:
    """Replicas in all for each claim, none above `at_most`. With `at_most` given, the promises are in the headroom."""
    wanted = {claim.key: claim.wanted if at_most is None else at_most[claim.key] for claim in claims}
    if at_most is None and _take_all(claims, headroom):
        return wanted
    granted = {claim.key: claim.replicas for claim in claims}
    if at_most is not None and all(_is_promised(claim, at_most[claim.key]) for claim in claims):
        return wanted if headroom.is_whole() else granted  # what was told stands, whoever's turn it is
    waiting = [_turn(claim, claim.replicas) for claim in claims if wanted[claim.key] > claim.replicas]
    heapq.heapify(waiting)
    while waiting:
        claim = heapq.heappop(waiting)[-1]
        had = granted[claim.key]
        more = claim.first if had == claim.replicas else 1
        credit = 0 if at_most is None else max(0, claim.replicas + claim.promised - had)
        new = max(0, more - credit)
        if not (headroom.fits(claim.need, new) if new else headroom.is_whole()):
            continue
        if new:
            headroom.add(claim.need, new)
        granted[claim.key] = min(had + more, wanted[claim.key])
        if granted[claim.key] < wanted[claim.key]:
            heapq.heappush(waiting, _turn(claim, granted[claim.key]))
    return granted


def _is_promised(claim: Claim, replicas: int) -> bool:
    """Whether the claim may have been told so many already: from one tick to the next, mostly all have."""
    return replicas == claim.replicas or max(claim.first, replicas - claim.replicas) <= claim.promised


def _take_all(claims: list[Claim], headroom: Headroom) -> bool:
    """Whether all fits: the usual case, and no question of whose turn it is."""
    if any(claim.need.extra_bytes for claim in claims):
        return False  # a watermark of its own is judged when its turn comes
    tried = headroom.copy()
    for claim in claims:
        tried.add(claim.need, max(claim.first, claim.wanted - claim.replicas))
        if not tried.is_whole():
            return False
    return True


def _turn(claim: Claim, granted: int) -> tuple[bool, float, ServiceKey, Claim]:
    """The order of turns: floors, then the largest quotient, then the name."""
    got = granted - claim.replicas
    return (
        granted >= claim.floor,
        -claim.priority * (claim.wanted - claim.replicas) / (2 * got + 1),
        claim.key,
        claim,
    )
