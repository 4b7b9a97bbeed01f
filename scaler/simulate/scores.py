"""What a run comes to, by the model's truth: harm, cost, and how right the estimates were."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import median
from typing import NamedTuple

from scaler.quantity import MIB
from scaler.simulate.autoscaler import Autoscaler
from scaler.simulate.deployment import TRUTH_WINDOW_S, Deployment
from scaler.simulate.fleet import Fleet
from scaler.simulate.scenario import STEP_S
from scaler.snapshot import WorkloadKey

TICK_S = 15.0
SETTLED_S = 60.0  # after a replica is ready its first executions have set its arena
STORM_RATIO = 0.01  # of the attempts fail for lack of VRAM: from here on the fresh demand is an estimate worth judging
BUSY_LEAST = 0.05  # of a card: below it nobody's share says anything


@dataclass(frozen=True, slots=True)
class Scores:
    """One run's. Less is better in all but `worst_free_mib`.

    Attributes:
        unsafe_grants: replicas that a scale-up made and of whose cards one was below the low watermark at some moment
            from their landing until a minute after they were ready.
        lost_requests: fresh requests that were never answered, retries included. failed_attempts: all that failed.
        fresh_requests: what clients wanted, for comparison.
        replica_hours: of the pods that exist.
        unmet_s: seconds, summed over services, with fewer ready replicas than the fresh load needs, each of them over
            10 % above what it should carry.
        reversals: changes of direction of the replicas, summed over services.
        worst_free_mib: the least free VRAM of any card. below_low_s: seconds with a card below the low watermark.
        fresh_error_ratio: median over services and ticks of an out-of-memory storm of
            |estimate / truth - 1|; None without either.
        share_error_points: median over services and ticks on shared cards, in percentage points; None without.
        neighbour_share_points: by how much all of the cards' work would be too much there, likewise: the error of no
            attribution at all.
    """

    unsafe_grants: int
    lost_requests: float
    failed_attempts: float
    fresh_requests: float
    replica_hours: float
    unmet_s: float
    reversals: int
    worst_free_mib: float
    below_low_s: float
    fresh_error_ratio: float | None
    share_error_points: float | None
    neighbour_share_points: float | None


SCORE_NAMES = tuple(each.name for each in fields(Scores))


class Minute(NamedTuple):
    """The timeline: a row a minute. `withheld` has the reason for each service that gets less than it asks for, where
    the policy gives reasons."""

    at_s: float
    replicas: dict[str, int]
    ready: dict[str, int]
    needed: dict[str, int]
    failed_ratio: dict[str, float]
    used_gib: float
    tightest_free_mib: float
    withheld: dict[str, str]


@dataclass
class Account:
    """Adds up one run; `scores` holds after `finish`."""

    low_bytes: float
    timeline: list[Minute] = field(default_factory=list)
    scores: Scores | None = None
    _unsafe: int = 0
    _pod_s: float = 0.0
    _unmet_s: float = 0.0
    _below_s: float = 0.0
    _worst_free_bytes: float = float("inf")
    _fresh_errors: list[float] = field(default_factory=list)
    _share_errors: list[float] = field(default_factory=list)
    _neighbour_shares: list[float] = field(default_factory=list)
    _work: dict[WorkloadKey, deque[tuple[float, float]]] = field(default_factory=dict)

    def add(self, at_s: float, fleet: Fleet, deployments: Sequence[Deployment], autoscaler: Autoscaler) -> None:
        """One step."""
        tightest = min([card.free_bytes for card in fleet.cards])
        self._worst_free_bytes = min(self._worst_free_bytes, tightest)
        self._below_s += STEP_S * (tightest < self.low_bytes and any(c.is_below(self.low_bytes) for c in fleet.cards))
        for deployment in deployments:
            ready = 0
            for pod in deployment.pods:
                if pod.leaves_s is not None:
                    continue
                self._pod_s += STEP_S
                is_ready = pod.ready_s is not None
                ready += is_ready
                if pod.was_granted and not pod.was_unsafe:
                    if is_ready and pod.settling_s > SETTLED_S:
                        continue
                    pod.settling_s += STEP_S * is_ready
                    if any(card.is_below(self.low_bytes) for card in pod.cards):
                        pod.was_unsafe = True
                        self._unsafe += 1
            if deployment.is_short(ready, at_s):
                self._unmet_s += STEP_S
        if at_s % TICK_S == 0:
            self._judge(deployments, autoscaler)
        if at_s % 60.0 == 0:
            self.timeline.append(_minute(at_s, fleet, deployments, tightest, autoscaler.withheld()))

    def _judge(self, deployments: Iterable[Deployment], autoscaler: Autoscaler) -> None:
        estimates = autoscaler.estimates()
        for deployment in deployments:
            estimate = estimates.get(deployment.workload)
            if estimate is None:
                continue
            if deployment.storm_ratio() > STORM_RATIO:
                fresh_per_s, estimated = deployment.fresh_per_s(), estimate.fresh_per_s()
                if estimated is not None and fresh_per_s > 0:
                    self._fresh_errors.append(abs(estimated / fresh_per_s - 1.0))
            own_share = self._own_share(deployment)
            if own_share is not None:
                self._neighbour_shares.append(100.0 * (1.0 - own_share))
                estimated = estimate.own_share()
                if estimated is not None:
                    self._share_errors.append(100.0 * abs(estimated - own_share))

    def _own_share(self, deployment: Deployment) -> float | None:
        """Of the GPU time of the service's cards, over the last minute; None while no card is shared or hardly any
        works. As for the fresh demand: a single step of clumped arrivals is not what anybody could have seen."""
        ready = deployment.ready()
        cards = list(dict.fromkeys([card for pod in ready for card in pod.cards]))
        history = self._work.get(deployment.workload)
        if history is None:
            history = self._work[deployment.workload] = deque(maxlen=round(TRUTH_WINDOW_S / TICK_S))
        history.append((sum([pod.gpu_busy * len(pod.cards) for pod in ready]), sum([card.busy for card in cards])))
        busy = sum([each for _, each in history]) / len(history)
        if busy <= BUSY_LEAST * len(cards) or not any(len(card.pods) > 1 for card in cards):
            return None
        return sum([each for each, _ in history]) / len(history) / busy

    def finish(self, deployments: Iterable[Deployment]) -> None:
        """The run is over."""
        all_of = list(deployments)
        self.scores = Scores(
            unsafe_grants=self._unsafe,
            lost_requests=sum(each.clients.lost for each in all_of),
            failed_attempts=sum(each.clients.attempts_failed for each in all_of),
            fresh_requests=sum(each.clients.fresh for each in all_of),
            replica_hours=self._pod_s / 3600,
            unmet_s=self._unmet_s,
            reversals=sum(each.reversals for each in all_of),
            worst_free_mib=self._worst_free_bytes / MIB,
            below_low_s=self._below_s,
            fresh_error_ratio=median(self._fresh_errors) if self._fresh_errors else None,
            share_error_points=median(self._share_errors) if self._share_errors else None,
            neighbour_share_points=median(self._neighbour_shares) if self._neighbour_shares else None,
        )


def _minute(
    at_s: float,
    fleet: Fleet,
    deployments: Iterable[Deployment],
    tightest: float,
    withheld: Mapping[WorkloadKey, str],
) -> Minute:
    named = {each.service.name: each for each in deployments}
    return Minute(
        at_s,
        {name: each.hpa.replicas for name, each in named.items()},
        {name: len(each.ready()) for name, each in named.items()},
        {name: each.needed(at_s) for name, each in named.items()},
        {name: each.failed_ratio() for name, each in named.items()},
        fleet.used_gib(),
        tightest / MIB,
        {name: withheld[each.workload] for name, each in named.items() if each.workload in withheld},
    )
