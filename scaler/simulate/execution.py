"""One step of one ready pod: what it serves, how long that takes beside its neighbours, what fails for lack of VRAM.

A fluid model: requests are amounts. Time-slicing gives each busy pod of a card its turn, so a pod gets what its
neighbours leave, at least an equal share. Batches grow with the rate and are full while a queue stands; their memory
need follows their rows, whose number is geometric, so the arena's high-water is reached over hours, not at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import NamedTuple

from scaler.simulate.fleet import Card, Pod
from scaler.simulate.scenario import STEP_S

STRETCH_MOST = 20.0
_WAIT_RATIO_MOST = 0.97  # of the capacity: beyond it the queue itself is what waits


class Setting(NamedTuple):
    """What holds for all pods of a service in this step."""

    service_time_s: float
    max_concurrent: float


class Served(NamedTuple):
    """One pod's step, in requests: tried to execute, of them failed for lack of VRAM, given up while waiting."""

    tried: float
    failed: float
    given_up: float


def share_gpu(pods: list[Pod]) -> list[float]:
    """The part of the card that each pod may use: what the others leave, at least its equal share of the busy ones."""
    if len(pods) == 1:
        return [1.0]
    busy, active = 0.0, 0
    for pod in pods:
        busy += pod.gpu_busy
        active += pod.gpu_busy > 0.01
    least = 1.0 / max(active, 1)
    return [max(least, 1.0 - (busy - pod.gpu_busy)) for pod in pods]


def share_cards(cards: Iterable[Card]) -> dict[Pod, float]:
    """The part that each pod may use of its card, of several the least, since ranks wait for each other; without an
    entry all of it."""
    parts: dict[Pod, float] = {}
    for card in cards:
        pods = card.pods
        for pod, part in zip(pods, share_gpu(pods), strict=True) if len(pods) > 1 else ():
            if part < parts.get(pod, 1.0):
                parts[pod] = part
    return parts


def serve(pod: Pod, setting: Setting, arrivals: float, clump: float, gpu_part: float, noise: random.Random) -> Served:
    """Moves the pod by one step; its counters and gauges move with it. Arrivals come `clump` at a time."""
    service = pod.service
    stretch = min(STRETCH_MOST, 1.0 / gpu_part) if gpu_part != 1.0 else 1.0
    wall_s = setting.service_time_s * (1.0 - service.gpu_part + service.gpu_part * stretch)
    per_s = setting.max_concurrent / wall_s
    gpu_time_s = service.gpu_time_s
    if gpu_time_s > 0.0:
        per_s = min(per_s, gpu_part / gpu_time_s)
    capacity = per_s * STEP_S
    offered = pod.queue + arrivals
    if offered <= capacity:  # as at nearly every step
        tried, given_up, pod.queue = offered, 0.0, 0.0
    else:
        tried, queue = capacity, offered - capacity
        given_up = max(0.0, queue - per_s * service.clients.patience_s)
        pod.queue = queue - given_up

    rate = tried / STEP_S
    chance = waiting_by_chance(tried / capacity if capacity > 0.0 else 0.0, clump)
    waiting = pod.queue + rate * service.queue_delay_s + chance
    failed = tried * _failing_ratio(pod, clump, rate, tried, noise) if tried > 0.0 else 0.0
    succeeded = tried - failed
    pod.gpu_busy = min(1.0, succeeded * gpu_time_s / STEP_S)
    scrapes = pod.scrapes
    counters = scrapes.counters
    counters.success += succeeded
    counters.failure += failed + given_up
    counters.oom += failed
    counters.compute_s += succeeded * wall_s
    counters.duration_s += succeeded * (wall_s + (waiting / rate if rate > 0.0 else 0.0))
    counters.gpu_wall_s += min(succeeded * gpu_time_s * stretch, STEP_S)
    running = rate * wall_s
    scrapes.waiting, scrapes.clump = waiting, (1.0 + clump) / 2.0
    scrapes.running = min(running, setting.max_concurrent)
    pod.kv_ratio = min(1.0, running / setting.max_concurrent)
    return Served(tried, failed, given_up)


def waiting_by_chance(busy_ratio: float, clump: float) -> float:
    """The mean queue of a pod where clumps of requests arrive at random and are served evenly (M[X]/D/1)."""
    ratio = min(busy_ratio, _WAIT_RATIO_MOST)
    return ratio * (ratio + clump - 1.0) / (2.0 * (1.0 - ratio))


def _failing_ratio(pod: Pod, clump: float, rate: float, tried: float, noise: random.Random) -> float:
    """The part of the executions whose memory need the arena cannot meet.

    Rows of a batch are geometric with the mean that is there together; while a queue stands batches are full.
    """
    if pod.arena.kind == "fixed":
        return 0.0
    service = pod.service
    shape, max_batch = service.arena, float(service.max_batch)
    mean_rows = max_batch
    if pod.queue < max_batch:
        mean_rows = min(max_batch, service.rows * (1.0 + clump) / 2.0 + rate * service.queue_delay_s + pod.queue)
    more = 1.0 - 1.0 / mean_rows  # chance that a batch holds one row more
    if mean_rows >= max_batch or more >= 0.999:
        rows = max_batch
    elif more <= 0.0:
        rows = 1.0
    else:
        executions = max(1.0, tried / mean_rows)
        highest = noise.random() ** (1.0 / executions)  # of so many draws
        rows = min(max_batch, 1.0 + math.floor(math.log(max(1.0 - highest, 1e-15)) / math.log(more)))
    need = (shape.base + shape.per_row * rows) / service.cards
    if need <= pod.arena.held_bytes and pod.arena.kind != "same-as-requested":
        return 0.0
    can = pod.arena.hold(need, pod.free_bytes)
    if can >= need:
        return 0.0
    rows_that_fit = math.floor((can * service.cards - shape.base) / shape.per_row) if shape.per_row else 0
    if rows_that_fit < 1 or mean_rows >= max_batch:
        return 1.0
    return more**rows_that_fit
