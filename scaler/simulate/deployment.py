"""One service in the model: its clients, its replicas, its HPA, and the ReplicaSet that makes pods of them."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from scaler.simulate.arena import ArenaKind
from scaler.simulate.clients import ClientPool
from scaler.simulate.curves import Curve
from scaler.simulate.execution import Setting, waiting_by_chance
from scaler.simulate.fleet import TERMINATION_S, Fleet, Pod
from scaler.simulate.hpa import Answer, Behavior, Hpa
from scaler.simulate.metric_path import Replicas
from scaler.simulate.scenario import NAMESPACE, STEP_S, ScenarioService
from scaler.snapshot import WorkloadKey

COOLDOWN_S = 300.0  # KEDA's, before it scales to zero
FULL_GPU_RATIO = 0.8  # of a card that one replica may keep busy before requests queue: what truth calls enough
TOLERANCE_REPLICAS = 0.05
# More than that above what a replica should carry, and it is short: the HPA's own tolerance, below which no autoscaler
# on it would act.
SHORT_RATIO = 0.1
TRUTH_WINDOW_S = 60.0


class Recent(NamedTuple):
    """One step's requests: fresh ones, attempts, of them failed for whatever reason, and for lack of VRAM."""

    fresh: float
    attempts: float
    failed: float
    short_of_vram: float


class Deployment:
    """Its pods follow `hpa.replicas`. `reversals` counts the changes of direction of its replicas."""

    def __init__(
        self,
        service: ScenarioService,
        behavior: Behavior | None,
        noise: random.Random,
        start_s: float,
        traces: Path | None,
    ) -> None:
        self.service = service
        self.workload = WorkloadKey(NAMESPACE, service.name)
        self.demand = service.load.curve(traces)
        self.clients = ClientPool(self.demand, service.clients, noise)
        self.least, self.most = service.bounds
        self._target_concurrency = service.target_concurrency
        self.hpa = Hpa(service.replicas, behavior, max(self.least, 1), max(self.most, 1))
        self.sync_phase_s = STEP_S * noise.randrange(3)
        self.poll_phase_s = STEP_S * noise.randrange(6)
        self.pods: list[Pod] = []
        self.revision, self.revision_created_s = 0, start_s - 9 * 86400.0
        self.arena_kind: ArenaKind = service.arena.kind
        self.recent: deque[Recent] = deque(maxlen=round(TRUTH_WINDOW_S / STEP_S))
        self.reversals = 0
        self._last_up: bool | None = None
        self._granted_left = 0
        self._last_active_s: float | None = None
        self._service_time, self._concurrent = Curve(service.service_time_s), Curve(service.max_concurrent)
        self._setting = -math.inf, Setting(0.0, 0.0)
        self._needed = -math.inf, 0

    def setting(self, at_s: float) -> Setting:
        """Asked for several times in a step, so the last one is kept."""
        if at_s != self._setting[0]:
            self._setting = at_s, Setting(self._service_time.at(at_s), self._concurrent.at(at_s))
        return self._setting[1]

    def needed(self, at_s: float) -> int:
        """Replicas that the fresh load of this moment needs, by what the model knows."""
        if at_s != self._needed[0]:
            self._needed = at_s, self._needed_at(at_s)
        return self._needed[1]

    def is_short(self, ready: int, at_s: float) -> bool:
        """Whether so many replicas are fewer than needed, and carry more than the tolerance above what they should."""
        return ready < self.needed(at_s) and (ready == 0 or self._load_ratio(ready, at_s) > 1.0 + SHORT_RATIO)

    def _needed_at(self, at_s: float) -> int:
        if self.demand.at(at_s) <= 0.0:
            return self.least
        # More replicas carry less each: from the last answer on it is a step or none.
        least = max(1, self.least)
        replicas = min(max(least, self._needed[1]), self.most)
        while replicas < self.most and self._is_too_few(replicas, at_s):
            replicas += 1
        while replicas > least and not self._is_too_few(replicas - 1, at_s):
            replicas -= 1
        return replicas

    def _is_too_few(self, replicas: int, at_s: float) -> bool:
        return self._load_ratio(replicas, at_s) > 1.0 + TOLERANCE_REPLICAS / replicas

    def _load_ratio(self, replicas: int, at_s: float) -> float:
        """What each of so many replicas, alone on its cards, carries of the fresh load over what it should: the target
        in flight, with the mean queue of single arrivals, and 80 % of the card, or of its concurrency, busy."""
        setting, per_s = self.setting(at_s), self.demand.at(at_s)
        busy_ratio = self._work(per_s, setting) / replicas
        inflight = per_s * (setting.service_time_s + self.service.queue_delay_s) / replicas
        inflight += waiting_by_chance(busy_ratio, clump=1.0)
        return max(inflight / self._target_concurrency, busy_ratio / FULL_GPU_RATIO)

    def work(self, at_s: float) -> float:
        """What the fresh load of this moment keeps busy, in whole replicas with their cards to themselves: beyond that
        it queues."""
        return self._work(self.demand.at(at_s), self.setting(at_s))

    def _work(self, per_s: float, setting: Setting) -> float:
        return per_s * max(self.service.gpu_time_s, setting.service_time_s / setting.max_concurrent)

    def fresh_per_s(self) -> float:
        """Fresh arrivals of the last minute."""
        return sum([step.fresh for step in self.recent]) / max(STEP_S, STEP_S * len(self.recent))

    def failed_ratio(self) -> float:
        """The part of the last minute's attempts that failed, for whatever reason."""
        return _ratio(sum([step.failed for step in self.recent]), self.recent)

    def storm_ratio(self) -> float:
        """The part of the last minute's attempts that failed for lack of VRAM."""
        return _ratio(sum([step.short_of_vram for step in self.recent]), self.recent)

    def living(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.leaves_s is None]

    def ready(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.ready_s is not None and pod.leaves_s is None]

    def counts(self) -> Replicas:
        """As kube-state-metrics shows them."""
        return Replicas(self.hpa.replicas, len(self.ready()), len(self.living()), self.revision_created_s)

    def sync(self, at_s: float, answer: Answer) -> None:
        """The HPA's 15 s."""
        before = self.hpa.replicas
        self.hpa.sync(at_s, answer.value, len(self.living()))
        self._changed(before)

    def poll(self, at_s: float, answer: Answer) -> None:
        """KEDA's 30 s: only from and to zero."""
        before = self.hpa.replicas
        if answer.active:
            self._last_active_s = at_s
            if before == 0:
                self.hpa.replicas = max(self.least, 1)
        elif answer.value is not None and before > 0 and self.least == 0:
            self._last_active_s = self._last_active_s if self._last_active_s is not None else at_s
            if at_s - self._last_active_s >= COOLDOWN_S:
                self.hpa.replicas = 0
        self._changed(before)

    def _changed(self, before: int) -> None:
        change = self.hpa.replicas - before
        if change == 0:
            return
        if self._last_up is not None and self._last_up != (change > 0):
            self.reversals += 1
        self._last_up = change > 0
        self._granted_left = max(0, self._granted_left + change)

    def restart(self, at_s: float, arena: ArenaKind | None, replicas: int | None) -> None:
        """A new revision; an operator may set the replicas with it."""
        self.revision, self.revision_created_s = self.revision + 1, at_s
        self.arena_kind = arena or self.arena_kind
        if replicas is not None:
            self.hpa.replicas = replicas
            self._granted_left = 0

    def reconcile(self, at_s: float, fleet: Fleet) -> None:
        """Pods follow the replicas. A new revision takes over with surge 25 % and nothing unavailable."""
        spec = self.hpa.replicas
        if len(self.pods) == spec:  # as at nearly every step: nothing comes and nothing goes
            for each in self.pods:
                if each.leaves_s is not None or each.revision != self.revision:
                    break
            else:
                return
        living = self.living()
        old = [pod for pod in living if pod.revision != self.revision]
        surge = math.ceil(spec / 4) if old else 0
        new = len(living) - len(old)
        while new < spec and new + len(old) < spec + surge:
            arena = self.service.new_arena(self.arena_kind)
            pod = fleet.create(self.service, self.workload, at_s, arena, self.revision)
            if pod is None:
                break
            if not old and self._granted_left > 0:
                pod.was_granted = True
                self._granted_left -= 1
            self.pods.append(pod)
            new += 1
        if old:
            spare = sum(pod.ready_s is not None for pod in living) - spec
            for pod in sorted(old, key=lambda pod: pod.ready_s is not None):
                if pod.ready_s is None or spare > 0:
                    pod.leaves_s = at_s + TERMINATION_S
                    spare -= pod.ready_s is not None
        elif len(living) > spec:
            # Those that are not ready first, then the newest.
            order = sorted(living, key=lambda pod: (pod.ready_s is None, pod.created_s), reverse=True)
            for pod in order[: len(living) - spec]:
                pod.leaves_s = at_s + TERMINATION_S
        for pod in [pod for pod in self.pods if pod.leaves_s is not None and pod.leaves_s <= at_s]:
            self.pods.remove(pod)
            fleet.remove(pod)


def by_workload(deployments: Iterable[Deployment]) -> dict[WorkloadKey, Deployment]:
    """The deployments by their key."""
    return {deployment.workload: deployment for deployment in deployments}


def _ratio(failed: float, recent: Iterable[Recent]) -> float:
    if failed <= 0.0:
        return 0.0
    attempts = sum([step.attempts for step in recent])
    return min(1.0, failed / attempts) if attempts else 0.0
