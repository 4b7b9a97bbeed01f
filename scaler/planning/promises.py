"""What KEDA was or may have been told, and has not been seen to act on yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct

from scaler.policy import ServiceKey

# So late what KEDA was told may be acted on: the plan is in force for a tick (15 s), KEDA may hold what it got for a
# pollingInterval (30 s), and the HPA acts every 15 s.
ACTED_ON_S = 60.0
# So late that may be seen: kube-state-metrics shows it one scrape later (30 s at most).
PROMISE_S = ACTED_ON_S + 30.0
# Where as many ran for so long of that time as were read, whatever was told, the HPA does not follow.
IGNORED_S = 60.0


class Promise(Struct, frozen=True, gc=False):
    """At `time_s`, with `replicas` as they were read, KEDA was told `told` (None: no number), and at most `at_most` by
    an instance that did not know of promises older than its own start."""

    time_s: float
    replicas: int
    told: int | None
    at_most: int


Promises = Mapping[ServiceKey, tuple[Promise, ...]]


def kept(promises: Promises, time_s: float) -> dict[ServiceKey, tuple[Promise, ...]]:
    """The promises that may still be acted on."""
    kept = {}
    for key, made in promises.items():
        while made and made[0].time_s <= time_s - PROMISE_S:  # the oldest: one a tick, as a rule
            made = made[1:]
        if made:
            kept[key] = made
    return kept


def with_new(promises: Promises, new: Mapping[ServiceKey, Promise]) -> dict[ServiceKey, tuple[Promise, ...]]:
    """With what is told now. The replicas as read are no news, unless others were told lately: who was told 1 and then
    2 again may have gone from 2 to 1 when the second answer comes."""
    made = dict(promises)
    for key, promise in new.items():
        before = made.get(key, ())
        if not before and promise.told == promise.replicas >= promise.at_most:
            continue
        if any(each.told not in (None, each.replicas) or each.at_most > each.replicas for each in (promise, *before)):
            made[key] = (*before, promise)
    return made


def promised(promises: Sequence[Promise], replicas: int) -> int:
    """Replicas that may have been told, beyond the least that may run now of those that were read."""
    least = told_less(promises, replicas, -math.inf)
    return max(0, max((each.at_most for each in promises), default=0) - least)


def told_more(promises: Sequence[Promise], replicas: int, time_s: float) -> int:
    """The replicas that may run by now because they were told, or `replicas`.

    Where more was told, and as many ran as now, for nearly all of the time, the HPA does not follow: it is at its own
    maximum, say, and what was read is what runs.
    """
    above = [each for each in promises if (each.told or 0) > replicas] if promises else ()
    if not above:
        return replicas
    is_ignored = all(each.replicas == replicas for each in promises) and above[0].time_s <= time_s - IGNORED_S
    return replicas if is_ignored else max(each.told or 0 for each in above)


def told_less(promises: Sequence[Promise], replicas: int, since_s: float) -> int:
    """The least that was told since, or `replicas`.

    What was told while fewer ran than now has been overtaken where as many were told later, and not before. Else they
    may run by an older answer, and the younger one of less is yet to be acted on: an HPA that is told 3, 1 and 3 again
    while it is 35 s late goes 3, 1, 3.
    """
    least, was_told_more = replicas, False
    for index, each in enumerate(promises):
        if each.told is None:
            continue
        if each.told >= replicas:
            was_told_more = True
        elif each.told < least and each.time_s > since_s:
            is_later = not was_told_more and any((later.told or 0) >= replicas for later in promises[index + 1 :])
            if each.replicas >= replicas or not is_later:
                least = each.told
    return least
