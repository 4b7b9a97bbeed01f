"""The Horizontal Pod Autoscaler as far as it decides: one External metric of type AverageValue, all of its arithmetic.

Quantities are whole thousandths, as in Kubernetes. A missing metric changes nothing and is not remembered.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

SYNC_S = 15.0
DOWNSCALE_STABILISATION_S = 300.0  # without behavior: --horizontal-pod-autoscaler-downscale-stabilization
DEFAULT_TOLERANCE = 0.1


class Answer(NamedTuple):
    """What KEDA hears: the metric's value against a target of 1, None for an error, and whether there is demand."""

    value: float | None
    active: bool


HOLD = Answer(None, False)


class Policy(NamedTuple):
    """At most so many pods, or percent of the pods at the period's start, within a period."""

    type: Literal["Pods", "Percent"]
    value: int
    period_s: float


@dataclass(frozen=True)
class Rules:
    """One direction of `behavior`; the policies are joined by selectPolicy Max, the largest change."""

    window_s: float
    policies: tuple[Policy, ...]
    tolerance: float = DEFAULT_TOLERANCE


@dataclass(frozen=True)
class Behavior:
    up: Rules
    down: Rules


# What Kubernetes fills in where `behavior` is given without these fields.
DEFAULT_BEHAVIOR = Behavior(
    up=Rules(0.0, (Policy("Pods", 4, 15.0), Policy("Percent", 100, 15.0))),
    down=Rules(300.0, (Policy("Percent", 100, 15.0),)),
)
# The example ScaledObject's.
EXAMPLE_BEHAVIOR = Behavior(
    up=Rules(0.0, (Policy("Pods", 2, 30.0),), tolerance=0.0),
    down=Rules(300.0, (Policy("Percent", 100, 15.0),), tolerance=0.0),
)


class _Past(NamedTuple):
    time_s: float
    replicas: int


@dataclass
class Hpa:
    """One autoscaler and the Deployment's spec.replicas that it writes."""

    replicas: int
    behavior: Behavior | None = EXAMPLE_BEHAVIOR
    least: int = 1
    most: int = 100
    target: float = 1.0
    _longest_s: float = field(init=False, default=0.0)
    _longest_period_s: float = field(init=False, default=0.0)
    _recommendations: deque[_Past] = field(default_factory=deque)
    _changes: list[_Past] = field(default_factory=list)

    def __post_init__(self) -> None:
        behavior = self.behavior
        windows_s = (behavior.up.window_s, behavior.down.window_s) if behavior is not None else ()
        policies = (*behavior.up.policies, *behavior.down.policies) if behavior is not None else ()
        self._longest_s = max((DOWNSCALE_STABILISATION_S, *windows_s))
        self._longest_period_s = max((policy.period_s for policy in policies), default=0.0)

    def sync(self, now_s: float, value: float | None, status_replicas: int | None = None) -> int:
        """One reconciliation at that time: the new spec.replicas. `value` None = the metric could not be read.

        `status_replicas` is what the Deployment reports, by default what it was told.
        """
        if self.replicas == 0:
            return 0  # scaling is disabled; only KEDA brings the first replicas up
        if not self.least <= self.replicas <= self.most:
            wanted = min(max(self.replicas, self.least), self.most)
        elif value is None:
            return self.replicas
        else:
            status = self.replicas if status_replicas is None else status_replicas
            proposed = self._proposed(value, status)
            wanted = self._stabilised(now_s, proposed)
            wanted = self._limited(now_s, wanted)
        if wanted != self.replicas:
            self._changes = [each for each in self._changes if each.time_s > now_s - self._longest_period_s]
            self._changes.append(_Past(now_s, wanted - self.replicas))
            self.replicas = wanted
        return self.replicas

    def _proposed(self, value: float, status: int) -> int:
        """ceil(value / target), or the replicas of the status while they are within the tolerance of it."""
        milli_value, milli_target = round(value * 1000), round(self.target * 1000)
        if status == 0:
            return math.ceil(milli_value / milli_target)
        up = self.behavior.up.tolerance if self.behavior else DEFAULT_TOLERANCE
        down = self.behavior.down.tolerance if self.behavior else DEFAULT_TOLERANCE
        if 1 - down <= milli_value / (milli_target * status) <= 1 + up:
            return status
        return math.ceil(milli_value / milli_target)

    def _stabilised(self, now_s: float, proposed: int) -> int:
        """With behavior: up by no more than the least, down by no less than the highest of each window. Without it:
        the highest of five minutes, also upward, which is the trap."""
        past = self._recommendations
        while past and past[0].time_s <= now_s - self._longest_s:
            past.popleft()
        past.append(_Past(now_s, proposed))
        if self.behavior is None:
            return max(_since(past, now_s - DOWNSCALE_STABILISATION_S, proposed))
        highest_up = min(_since(past, now_s - self.behavior.up.window_s, proposed))
        lowest_down = max(_since(past, now_s - self.behavior.down.window_s, proposed))
        return min(max(self.replicas, highest_up), lowest_down)

    def _limited(self, now_s: float, wanted: int) -> int:
        if self.behavior is None:
            ceiling = min(self.most, max(2 * self.replicas, 4))
            return min(max(wanted, self.least), ceiling)
        if wanted > self.replicas:
            limits = [self._limit(now_s, policy, sign=1) for policy in self.behavior.up.policies]
            return min(wanted, self.most, max(self.replicas, *limits))
        if wanted < self.replicas:
            limits = [self._limit(now_s, policy, sign=-1) for policy in self.behavior.down.policies]
            return max(wanted, self.least, min(self.replicas, *limits))
        return wanted

    def _limit(self, now_s: float, policy: Policy, sign: Literal[1, -1]) -> int:
        """The replicas that a policy allows now, counted from those at the beginning of its period."""
        begin = self.replicas - sum(each.replicas for each in self._changes if each.time_s > now_s - policy.period_s)
        if policy.type == "Pods":
            return begin + sign * policy.value
        share = begin * (1 + sign * policy.value / 100)
        return math.ceil(share) if sign > 0 else int(share)


def _since(past: Iterable[_Past], since_s: float, now: int) -> list[int]:
    """What was recommended after that, and now, which a window of no length has, too."""
    return [now, *[replicas for time_s, replicas in past if time_s > since_s]]
