"""Policies x seeds of one scenario, on all processors; and what they come to."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import parent_process
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from scaler.simulate.policies import named
from scaler.simulate.scenario import Attribution, Scenario, load_scenario
from scaler.simulate.scores import SCORE_NAMES, Minute, Scores
from scaler.simulate.world import World

MORE_IS_BETTER = frozenset({"worst_free_mib"})


class Run(NamedTuple):
    """One run's outcome."""

    policy: str
    seed: int
    scores: Scores
    timeline: list[Minute]

    def as_json(self, scenario: str) -> dict[str, Any]:
        return {
            "scenario": scenario,
            "policy": self.policy,
            "seed": self.seed,
            "scores": {name: getattr(self.scores, name) for name in SCORE_NAMES},
            "timeline": [minute._asdict() for minute in self.timeline],
        }


class Summary(NamedTuple):
    """One policy over its seeds: the median and the worst of each score; None where no run has it."""

    policy: str
    median: dict[str, float | None]
    worst: dict[str, float | None]


def run_one(
    scenario: Scenario,
    policy: str,
    seed: int,
    traces: Path | None = None,
    each_minute: Callable[[float], None] = lambda at_s: None,
) -> Run:
    """Raises TraceMissing, BadPolicy."""
    world = World(scenario, named(policy), seed, traces)
    for at_s in world.run():
        each_minute(at_s)
    assert world.account.scores is not None
    return Run(policy, seed, world.account.scores, world.account.timeline)


class Job(NamedTuple):
    """One run that is asked for: the scenario by its name or path; another attribution than its own where given."""

    scenario: str
    policy: str
    seed: int
    attribution: Attribution | None = None

    def load(self) -> Scenario:
        """Raises BadPolicy."""
        scenario = load_scenario(self.scenario).scenario
        return scenario.model_copy(update={"attribution": self.attribution}) if self.attribution else scenario


def run_all(jobs: Sequence[Job], traces: Path | None = None, workers: int | None = None) -> Iterator[tuple[Job, Run]]:
    """All runs, as they finish; as many at once as there are processors, or `workers`. Who stops asking, by Ctrl-C say,
    waits for no run that has not begun."""
    if not jobs:
        return
    pool = ProcessPoolExecutor(min(workers or os.cpu_count() or 1, len(jobs)), initializer=_ends_with_its_parent)
    try:
        futures = {pool.submit(_run, job, traces): job for job in jobs}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()  # popped: a timeline is large
    finally:
        pool.shutdown(cancel_futures=True)


def _ends_with_its_parent() -> None:
    """Of a worker: Ctrl-C ends it in the middle of its run, where Python would take it for the run's outcome and begin
    the next. And it ends with who started it, terminated or killed, where it would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_wait_for_its_end, daemon=True).start()


def _wait_for_its_end() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(job: Job, traces: Path | None) -> Run:
    return run_one(job.load(), job.policy, job.seed, traces)


def summaries(runs: Sequence[Run], policies: Sequence[str]) -> list[Summary]:
    """In the order of the policies."""
    found = []
    for policy in policies:
        scores = [{name: getattr(run.scores, name) for name in SCORE_NAMES} for run in runs if run.policy == policy]
        found.append(Summary(policy, *over_seeds(scores)))
    return found


def over_seeds(scores: Sequence[Mapping[str, float | None]]) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """The median and the worst of each score over a policy's seeds, one mapping a seed; None where no run has it."""
    medians: dict[str, float | None] = {}
    worst: dict[str, float | None] = {}
    for name in scores[0]:
        values = [float(value) for each in scores if (value := each[name]) is not None]
        medians[name] = median(values) if values else None
        worst[name] = (min if name in MORE_IS_BETTER else max)(values) if values else None
    return medians, worst
