"""What a Deployment's present triggers ask for: KEDA's prometheus triggers, evaluated over time, as replicas.

As KEDA and the HPA reckon it: ceil(value / threshold) for AverageValue, the ready replicas times that for Value, the
most of several triggers, within the ScaledObject's bounds. Without what the HPA does to it later: tolerance,
stabilisation, scaling policies; and without KEDA's activation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scaler.snapshot import Problem, WorkloadKey, WorkloadReading
from scaler.sources.checked_session import QueryFailed
from scaler.sources.query_client import Answer


class PrometheusTrigger(NamedTuple):
    """A trigger of type prometheus.

    Attributes:
        name: where it stands, for problems: "trigger 0 of kserve-models/e5".
        threshold: the query's value that one replica should carry, above 0.
        is_average: metricType AverageValue, which the HPA divides by the replicas; else Value.
        empty_is_zero: ignoreNullValues, KEDA's default: no series, NaN and Inf count as 0.
    """

    name: str
    promql: str
    threshold: float
    is_average: bool = True
    empty_is_zero: bool = True


class Baseline(NamedTuple):
    """The triggers of one ScaledObject that ask for its Deployment's replicas, and its bounds."""

    workload: WorkloadKey
    triggers: tuple[PrometheusTrigger, ...]
    least: int
    most: int


def asked_replicas(
    baselines: Sequence[Baseline],
    outcomes: Mapping[str, Answer | QueryFailed],
    readings: Mapping[WorkloadKey, WorkloadReading],
    at_ms: int,
) -> tuple[dict[WorkloadKey, int], list[Problem]]:
    """The replicas asked for at that instant (Unix milliseconds), and what could not be evaluated.

    A Deployment of which a trigger cannot be evaluated is left out: the most of the others may be too low.
    """
    asked: dict[WorkloadKey, int] = {}
    problems: list[Problem] = []
    for baseline in baselines:
        reading = readings.get(baseline.workload)
        wanted = [_wanted(trigger, outcomes[trigger.name], reading, at_ms) for trigger in baseline.triggers]
        for trigger, found in zip(baseline.triggers, wanted, strict=True):
            if isinstance(found, str):
                problems.append(Problem(trigger.name, found))
        numbers = [found for found in wanted if isinstance(found, int)]
        if numbers and len(numbers) == len(wanted):
            asked[baseline.workload] = max(baseline.least, min(baseline.most, max(numbers)))
    return asked, problems


def _wanted(
    trigger: PrometheusTrigger, outcome: Answer | QueryFailed, reading: WorkloadReading | None, at_ms: int
) -> int | str:
    """The replicas that one trigger asks for, or why that is not known."""
    if isinstance(outcome, QueryFailed):
        return str(outcome)
    values = [series.values[at_ms] for series in outcome.series if at_ms in series.values]
    if len(values) > 1:
        return f"{len(values)} series; KEDA takes one, as sum(...) gives"
    value = values[0] if values else math.nan
    if not math.isfinite(value):
        if not trigger.empty_is_zero:
            return "no series, or NaN or Inf, which ignoreNullValues false refuses"
        value = 0.0
    # KEDA hands value and target on in thousandths: 3.0000001 of 1 is 3 replicas, not 4.
    ratio = int(value * 1000) / round(trigger.threshold * 1000)
    if trigger.is_average:
        return max(0, math.ceil(ratio))
    if reading is None or reading.ready_replicas is None:
        return "ready replicas are not known, which metricType Value multiplies"
    return max(0, math.ceil(ratio * reading.ready_replicas))
