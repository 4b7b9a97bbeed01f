"""The loop: clients, pods, exporters, the policy, KEDA and the HPA, in steps of 5 s."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from scaler.quantity import Level
from scaler.simulate.autoscaler import Autoscaler, Truth
from scaler.simulate.deployment import Deployment, Recent, by_workload
from scaler.simulate.execution import serve, share_cards
from scaler.simulate.fleet import Fleet
from scaler.simulate.hpa import HOLD, SYNC_S
from scaler.simulate.metric_path import MetricPath, Replicas
from scaler.simulate.scenario import STEP_S, Event, Scenario
from scaler.simulate.scores import Account
from scaler.snapshot import WorkloadKey

TICK_S = 15.0
POLL_S = 30.0
ALIGN_S = 60.0


class World:
    """One run of one scenario under one policy with one seed."""

    def __init__(
        self, scenario: Scenario, make: Callable[[Scenario], Autoscaler], seed: int, traces: Path | None = None
    ) -> None:
        self.scenario = scenario
        self._start_s = scenario.start_s // ALIGN_S * ALIGN_S
        self.autoscaler = make(scenario)
        self.fleet = Fleet(scenario.pool, random.Random(f"{seed} cards"))
        timing = scenario.policy().operator.timing
        self._path = MetricPath(scenario.attribution, timing, random.Random(f"{seed} metrics"))
        self._path.know(self.fleet.cards)
        self._deployments = [
            Deployment(
                service, self.autoscaler.behavior, random.Random(f"{seed} {service.name}"), self._start_s, traces
            )
            for service in scenario.services
        ]
        self._by_workload = by_workload(self._deployments)
        self._noise = random.Random(f"{seed} executions")
        self._events = sorted(scenario.events, key=lambda event: event.at_s)
        self._found_at_s: float | None = None
        self._low_bytes = _on_card(scenario.pool.low_watermark, scenario)
        self.account = Account(self._low_bytes)

    def run(self) -> Iterator[float]:
        """To the end, yielding the time from the start every scored minute."""
        at_s = -(self.scenario.warm_up_s // ALIGN_S) * ALIGN_S
        self._place_first(at_s)
        while at_s < self.scenario.duration_s:
            self._step(at_s)
            at_s += STEP_S
            if at_s >= 0 and at_s % 60.0 == 0:
                yield at_s
        self.account.finish(self._deployments)

    def _place_first(self, at_s: float) -> None:
        """What ran before: the largest services first, everything loaded that has room."""
        for deployment in sorted(self._deployments, key=lambda each: -each.service.weights):
            deployment.reconcile(self._start_s + at_s, self.fleet)
            for pod in deployment.pods:
                if pod.full_bytes - pod.resident_bytes > pod.free_bytes:
                    continue  # it dies in its load, now as then
                pod.load_left_s, pod.ready_s = None, self._start_s + at_s
                pod.resident_bytes = pod.full_bytes

    def _step(self, at_s: float) -> None:
        now_s, scored = self._start_s + at_s, at_s >= 0
        if at_s == 0:
            for deployment in self._deployments:
                deployment.clients.forget()
        while self._events and self._events[0].at_s <= at_s:
            self._happen(self._events.pop(0), now_s)
        if self._found_at_s is not None and now_s >= self._found_at_s:
            self._found_at_s, self._path.lost = None, None
        for deployment in self._deployments:
            if scored and deployment.service.autoscaled:
                self._ask(deployment, now_s)
            deployment.reconcile(now_s, self.fleet)
        self._serve(at_s, now_s)
        self._path.scrape(now_s, self.fleet.cards, self._counts)
        if now_s % TICK_S == 0:
            pods = {deployment.workload: deployment.living() for deployment in self._deployments}
            self.autoscaler.look(self._path.seen(now_s, pods, self.autoscaler.reads_spots), self._truth(at_s))
        if scored:
            self.account.add(at_s, self.fleet, self._deployments, self.autoscaler)

    def _counts(self) -> dict[WorkloadKey, Replicas]:
        return {deployment.workload: deployment.counts() for deployment in self._deployments}

    def _ask(self, deployment: Deployment, now_s: float) -> None:
        if now_s % POLL_S == deployment.poll_phase_s:
            deployment.poll(now_s, self.autoscaler.answer(deployment.service))
        if now_s % SYNC_S == deployment.sync_phase_s:
            answer = self.autoscaler.answer(deployment.service) if deployment.hpa.replicas > 0 else HOLD
            deployment.sync(now_s, answer)

    def _serve(self, at_s: float, now_s: float) -> None:
        gpu_parts = share_cards(self.fleet.cards)
        for deployment in self._deployments:
            attempts = deployment.clients.arrive(at_s)
            setting, ready = deployment.setting(at_s), []
            for pod in deployment.pods:
                if pod.leaves_s is not None:
                    pod.gpu_busy = 0.0
                elif pod.ready_s is None:
                    pod.load(now_s)
                else:
                    ready.append(pod)
                    if deployment.service.leak_per_hour:
                        pod.leak()
            failed, short_of_vram = 0.0 if ready else attempts.total, 0.0  # without an endpoint all are refused
            arrivals = attempts.total / len(ready) if ready else 0.0
            for pod in ready:
                served = serve(pod, setting, arrivals, deployment.clients.clump, gpu_parts.get(pod, 1.0), self._noise)
                failed += served.failed + served.given_up
                short_of_vram += served.failed
            deployment.clients.fail(attempts, failed)
            deployment.recent.append(Recent(deployment.clients.fresh_now, attempts.total, failed, short_of_vram))
        for card in self.fleet.cards:
            card.busy = sum([pod.gpu_busy for pod in card.pods])

    def _truth(self, at_s: float) -> Truth:
        return Truth(at_s, self.fleet, self._by_workload, self._low_bytes)

    def _happen(self, event: Event, now_s: float) -> None:
        if event.restart is not None:
            for deployment in self._deployments:
                name = deployment.service.name
                if not event.restart.services or name in event.restart.services:
                    deployment.restart(now_s, event.restart.arena, event.restart.replicas.get(name))
        if event.cards_lost:
            gone = self.fleet.lose(event.cards_lost)
            for deployment in self._deployments:
                deployment.pods = [pod for pod in deployment.pods if pod not in gone]
            self._path.keep_only(card.key for card in self.fleet.cards)
        if event.metrics_lost is not None:
            self._path.lose(event.metrics_lost.what, self.fleet.pods())
            self._found_at_s = now_s + event.metrics_lost.lasting_s
        if event.scaler_restart_s is not None:
            self.autoscaler.restart(now_s + event.scaler_restart_s)


def _on_card(level: Level, scenario: Scenario) -> float:
    return level.of(float(scenario.pool.total))
