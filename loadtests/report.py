"""The report of a day of 100 services on 200 cards at 15 s: time, size of the file, and memory of the replay."""

from __future__ import annotations

import math
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from scaler.policy import FleetPolicy, OperatorPolicy, ServiceKey, ServicePolicy
from scaler.quantity import GIB
from scaler.replay.drawing import Drawing
from scaler.replay.flow import flows
from scaler.replay.report_page import replay_page
from scaler.replay.rerun import Rerun
from scaler.replay.summary import Replay
from scaler.report.write import write_page
from scaler.snapshot import CardKey, CardReading, Snapshot, WorkloadKey, WorkloadReading

SERVICES, CARDS, STEP_S, HOURS = 100, 200, 15.0, 24.0
START_S = 1750204800.0


def measure(hours: float = HOURS) -> list[tuple[str, str]]:
    """Rows of a table: what, and the figure."""
    steps = int(hours * 3600 / STEP_S)
    keys = [ServiceKey("models", f"service-{index:03}") for index in range(SERVICES)]
    policy = FleetPolicy(OperatorPolicy(), {key: ServicePolicy(deployment=key.name) for key in keys})
    run, replay, drawing = Rerun(policy), Replay(100), Drawing([policy], steps)
    planned_s = drawn_s = 0.0
    for snapshot in day(steps):
        began_s = time.process_time()
        plan = run.at(snapshot)
        replay.add(plan, flows(snapshot, policy))
        between_s = time.process_time()
        drawing.add(snapshot, [plan], run.memory)
        planned_s, drawn_s = planned_s + between_s - began_s, drawn_s + time.process_time() - between_s
    replayed_mib = _peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        began_s = time.process_time()
        page = replay_page(replay, drawing, "a day", STEP_S, None, ["the default settings"])
        size = write_page(Path(folder) / "report.html", page)
        written_s = time.process_time() - began_s
    what = f"{SERVICES} services on {CARDS} cards, {hours:g} h at {STEP_S:g} s"
    return [
        (f"replay of {what}", f"{planned_s:.0f} s planning, {drawn_s:.0f} s keeping what the report draws"),
        ("peak resident memory of the replay, then with the report", f"{replayed_mib:.0f} MiB, {_peak_mib():.0f} MiB"),
        ("the report", f"{size / 1e6:.1f} MB, written in {written_s:.1f} s"),
    ]


def day(steps: int) -> Iterator[Snapshot]:
    """Loads that rise and fall over the day with noise of their own, replicas that follow with a quarter of an hour's
    delay, and cards whose free VRAM wanders; the tightest dip below the watermark now and then."""
    dice = random.Random(1)
    workloads = [WorkloadKey("models", f"service-{index:03}") for index in range(SERVICES)]
    replicas = [2] * SERVICES
    free_gib = [dice.uniform(2.0, 12.0) for _ in range(CARDS)]
    names = [CardKey(f"GPU-{index:08x}-0000-0000-0000-000000000000") for index in range(CARDS)]
    for step in range(steps):
        readings = {}
        for index, workload in enumerate(workloads):
            daily = 1.2 + math.sin(2 * math.pi * (step * STEP_S / 86400 + index / SERVICES))
            per_s = max(0.1, 40 * daily * dice.gauss(1.0, 0.1))
            executing = per_s * 0.15
            if step % 60 == index % 60:
                replicas[index] = max(1, math.ceil(executing / 4 + dice.uniform(-0.5, 0.5)))
            count = replicas[index]
            readings[workload] = WorkloadReading(
                spec_replicas=count, ready_replicas=count, status_replicas=count, replicas_age_s=5.0,
                scraped_pods=count, signals_age_s=5.0, queued=max(0.0, dice.gauss(0.2, 0.2)), executing=executing,
                inflight_growth_per_s=0.0, success_per_s=per_s, failure_per_s=0.5 if dice.random() < 0.002 else 0.0,
                success_time_s=0.15, gpu_busy=min(float(count), 0.01 * per_s), gpu_busy_source="triton-wall-time",
            )  # fmt: skip
        cards = {}
        for index, name in enumerate(names):
            free_gib[index] = min(14.0, max(0.5, free_gib[index] + dice.gauss(0.0, 0.05)))
            pods = {workloads[(index + shift) % SERVICES]: 1 for shift in (0, 37)}
            cards[name] = CardReading(
                free_gib[index] * GIB, 15 * GIB, 0.3, age_s=10.0, node=f"node-{index // 4}", slots=4, pods=pods
            )
        yield Snapshot(START_S + step * STEP_S, readings, cards)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    for what, figure in measure(float(sys.argv[1]) if len(sys.argv) > 1 else HOURS):
        print(f"{what}: {figure}")
