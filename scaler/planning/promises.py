"""What KEDA may have been told, and has not been seen to act on yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scaler.policy import ServiceKey

# What KEDA was told may be acted on until then: the plan is in force for a tick (15 s), KEDA may hold what it got for a
# pollingInterval (30 s), the HPA acts every 15 s, and kube-state-metrics shows it one scrape later (30 s at most).
PROMISE_S = 90.0


class Promise(NamedTuple):
    """At `time_s`, with `replicas` running, KEDA may have been told up to `told`, more than those."""

    time_s: float
    replicas: int
    told: int


Promises = Mapping[ServiceKey, tuple[Promise, ...]]


def kept(promises: Promises, time_s: float) -> dict[ServiceKey, tuple[Promise, ...]]:
    """The promises that may still be acted on."""
    kept = {key: tuple(each for each in made if each.time_s > time_s - PROMISE_S) for key, made in promises.items()}
    return {key: made for key, made in kept.items() if made}


def with_new(
    promises: Promises, time_s: float, told: Mapping[ServiceKey, tuple[int, int]]
) -> dict[ServiceKey, tuple[Promise, ...]]:
    """With what may be told now: replicas and the most that is told, by service."""
    made = dict(promises)
    for key, (replicas, most) in told.items():
        if most > replicas:
            made[key] = (*made.get(key, ()), Promise(time_s, replicas, most))
    return made


def promised(promises: Sequence[Promise], replicas: int) -> int:
    """Replicas beyond those that run now that may have been told."""
    return max((each.told for each in promises), default=replicas) - replicas if promises else 0


def told_more(promises: Sequence[Promise], replicas: int, time_s: float) -> int:
    """The replicas that may run by now because they were told, or `replicas`.

    Where the same was told, and as many ran, for nearly all of the time, the HPA does not follow: it is at its own
    maximum, say, and what was read is what runs.
    """
    above = [each for each in promises if each.told > replicas]
    if not above:
        return replicas
    is_ignored = all(each.replicas == replicas for each in promises) and promises[0].time_s <= time_s - PROMISE_S + 30.0
    return replicas if is_ignored and len(above) == len(promises) else max(each.told for each in above)
