"""Memory rebuilt from the source's history by the same plan() that serves: a restart forgets nothing."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from scaler.decision import FleetPlan
from scaler.planning.memory import Memory, horizon_s
from scaler.policy import FleetPolicy, OperatorPolicy
from scaler.snapshot import Snapshot
from scaler.sources.source import Source, SourceUnavailable

# By default a plan is in force for two missed ticks. Within them the next plan can wait for two readings of at most
# 5 s each, but not for a range's deadline of a minute.
ONE_BY_ONE = 2
# Multiples of a step such as 700ms are rounded: at today's Unix time by a millionth of a step, at most.
_SAME_STEP = 0.001

Planner = Callable[[Snapshot, FleetPolicy, Memory], tuple[FleetPlan, Memory]]


class Span(NamedTuple):
    """Instants to read: start, start + step, ... up to and including end (Unix seconds)."""

    start_s: float
    end_s: float
    step_s: float


class Learnt(NamedTuple):
    """A memory as far as history could be read, from so many snapshots; `faults` say what could not, a line each."""

    memory: Memory
    snapshots: int
    faults: tuple[str, ...]


def spans(operator: OperatorPolicy, until_s: float, after_s: float | None, earliest_s: float) -> list[Span]:
    """The instants that a memory last fed at `after_s` (None: never) lacks at `until_s`, none before `earliest_s`.

    Coarse steps at multiples of learnEvery where only lessons reach, every tick over the horizon. Both are aligned
    to the wall clock, so two instances that start at different moments read the same instants.
    """
    timing, horizon = operator.timing, horizon_s(operator)
    fine_from_s = _up(max(until_s - horizon, earliest_s), timing.tick_s)
    if after_s is not None and after_s >= until_s - horizon:
        fine_from_s = max(fine_from_s, _up(after_s, timing.tick_s, beyond=True))
        return [span for span in (Span(fine_from_s, until_s, timing.tick_s),) if _is_some(span)]
    # The oldest moment of the horizon was held against the lessons of a whole window, too.
    coarse_from_s = _up(max(fine_from_s - timing.learn_window_s, earliest_s), timing.learn_every_s)
    coarse_to_s = _up(fine_from_s, timing.learn_every_s) - timing.learn_every_s
    wanted = (Span(coarse_from_s, coarse_to_s, timing.learn_every_s), Span(fine_from_s, until_s, timing.tick_s))
    return [span for span in wanted if _is_some(span)]


def _is_some(span: Span) -> bool:
    return span.start_s <= span.end_s + _SAME_STEP * span.step_s


def _up(at_s: float, step_s: float, beyond: bool = False) -> float:
    """The first multiple of the step at that time or later; with `beyond` later than it."""
    steps = at_s / step_s
    return (math.floor(steps + _SAME_STEP) + 1 if beyond else math.ceil(steps - _SAME_STEP)) * step_s


def _read(source: Source, span: Span) -> Iterator[Snapshot]:
    """The span's snapshots. A few are asked one by one, each within the deadline of a tick."""
    count = round((span.end_s - span.start_s) / span.step_s) + 1
    if count > ONE_BY_ONE:
        return source.snapshots(*span)
    return (source.snapshot_at(span.start_s + number * span.step_s) for number in range(count))


def learn(
    source: Source,
    planner: Planner,
    operator: OperatorPolicy,
    memory: Memory,
    wanted: list[Span],
    stop: threading.Event,
) -> Learnt:
    """Feeds the memory. Never raises: what cannot be read, or not be planned, is left out and named.

    It plans for no service: the memory holds readings of all workloads, whoever asks about them. Blocks; `stop` ends
    it at the next snapshot.
    """
    fleet, count = FleetPolicy(operator, {}), 0
    faults: list[str] = []
    for span in wanted:
        where = f"from {span.start_s:.0f} to {span.end_s:.0f} every {span.step_s:g} s"
        try:
            for snapshot in _read(source, span):
                if stop.is_set():
                    return Learnt(memory, count, (*faults, f"{where}: stopped"))
                _, memory = planner(snapshot, fleet, memory)
                count += 1
        except SourceUnavailable as fault:
            faults.append(f"{where}: {fault}")
        except Exception as fault:  # one bad stretch of history must not keep the service from starting
            faults.append(f"{where}: {type(fault).__name__}: {fault}")
    return Learnt(memory, count, tuple(faults))
