"""What was seen of the fleet at one moment. Readings are as measured; None means "could not be seen", never zero.

A failed query is data too: its signals are None and a Problem says why. Sources build Snapshots and nothing else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeVar

GpuBusySource = Literal["agent", "exporter-per-process", "triton-wall-time", "vllm-running"]
HeldSource = Literal["agent", "exporter-per-process"]
PlaceSource = Literal["agent", "kubelet", "exporter", "triton"]  # the most exact first


class WorkloadKey(NamedTuple):
    """A Deployment, as kube-state-metrics names it."""

    namespace: str
    deployment: str


class HeldVram(NamedTuple):
    """VRAM that one Deployment's pods hold on one card, in bytes: all of them together now, and the most that one of
    them holds, or has held since it came, where the agent tells: an arena that shrank may grow again."""

    total_bytes: float
    largest_bytes: float


class CardKey(NamedTuple):
    """One VRAM space: a GPU, or on MIG one GPU instance of it (`GPU_I_ID`, else "")."""

    uuid: str
    gpu_instance_id: str = ""

    def __str__(self) -> str:
        return f"{self.uuid} (MIG {self.gpu_instance_id})" if self.gpu_instance_id else self.uuid


@dataclass(frozen=True, slots=True)
class WorkloadReading:
    """One Deployment's own signals, summed over its pods: totals, never means per replica.

    Attributes:
        spec_replicas: `kube_deployment_spec_replicas`; the least where several kube-state-metrics answer.
        ready_replicas: `kube_deployment_status_replicas_ready`.
        status_replicas: `kube_deployment_status_replicas`, the pods that exist, surge pods of a rolling update
            included, terminating ones not; the most where several kube-state-metrics answer.
        replicas_age_s: age of the sample behind spec_replicas.
        scraped_pods: pods whose inference server exposed its request counters.
        signals_age_s: age of the oldest of those pods' newest samples.
        queued / queued_burst: mean requests waiting, over the stable and the burst window
            (Triton pending, vLLM waiting).
        executing / executing_burst: mean requests in execution (Triton by Little's law from the compute durations;
            vLLM running).
        inflight_growth_per_s: least-squares slope of the live in-flight gauges over the stable window; arrivals that
            have not completed yet (negative: a queue that drains).
        success_per_s / failure_per_s / oom_failure_per_s: completed requests over the stable window. Out-of-memory
            candidates are Triton's reason="BACKEND" and vLLM's finished_reason="error", a part of failure_per_s.
        success_time_s: mean time that a successful request spent in the server, its queue included.
        gpu_busy: GPU time that the workload's pods used, in busy cards (0.5 = half of one card), by gpu_busy_source:
            by the agent, and per process, it is exact; Triton's wall time contains neighbours' slices and is an upper
            bound.
        gpu_memory_utilization: vLLM's setting of that name, above 0 to 1: the part of a card's total that a replica
            takes on each of its cards, and that must be free when it starts; the largest where pods differ.
        revision_created_s: creation time (Unix) of the newest ReplicaSet; what was learnt of an older one is void.
    """

    spec_replicas: int | None = None
    ready_replicas: int | None = None
    status_replicas: int | None = None
    replicas_age_s: float | None = None
    scraped_pods: int | None = None
    signals_age_s: float | None = None
    queued: float | None = None
    queued_burst: float | None = None
    executing: float | None = None
    executing_burst: float | None = None
    inflight_growth_per_s: float | None = None
    success_per_s: float | None = None
    failure_per_s: float | None = None
    oom_failure_per_s: float | None = None
    success_time_s: float | None = None
    gpu_busy: float | None = None
    gpu_busy_source: GpuBusySource | None = None
    gpu_memory_utilization: float | None = None
    revision_created_s: float | None = None

    def __post_init__(self) -> None:
        _refuse_non_finite(self, _WORKLOAD_NUMBERS)


@dataclass(frozen=True, slots=True)
class CardReading:
    """One card's VRAM and who sits on it.

    Attributes:
        free_bytes / total_bytes: `DCGM_FI_DEV_FB_FREE` and FREE + USED + RESERVED, in bytes.
        utilization_ratio: 0 to 1, the whole card's, neighbours included.
        age_s: age of the sample behind free_bytes.
        slots: time-slice places, from the node's allocatable GPUs over its cards; None = not known.
        pods: pods per Deployment on this card, as far as the agent, an exporter or Triton's gpu_uuid names them.
        held: VRAM per Deployment on this card, from the agent, else from the exporter's series per pod where they can
            be trusted (see `card_promql.held`). A Deployment without an entry holds what is not known, never nothing;
            without any entry nothing is known of the whole card.
        held_source: who told `held`, all of it; None: nothing was told, or by whom is not known.
        placed_by: who named a Deployment's pods here, the least exact where several did; no entry: not known.
    """

    free_bytes: float | None
    total_bytes: float | None = None
    utilization_ratio: float | None = None
    age_s: float | None = None
    node: str = ""
    model: str = ""
    slots: int | None = None
    pods: Mapping[WorkloadKey, int] = field(default_factory=dict)
    held: Mapping[WorkloadKey, HeldVram] = field(default_factory=dict)
    held_source: HeldSource | None = None
    placed_by: Mapping[WorkloadKey, PlaceSource] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse_non_finite(self, _CARD_NUMBERS)
        for workload, vram in self.held.items():
            if not (math.isfinite(vram.total_bytes) and math.isfinite(vram.largest_bytes)):
                raise ValueError(
                    f"held: {vram} of {'/'.join(workload)} is no reading; what cannot be seen has no entry"
                )


class Problem(NamedTuple):
    """Something that the source could not see, or doubts: `signal` names the query, `text` says why in one line."""

    signal: str
    text: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet at `taken_at_s` (Unix seconds, the aligned instant at which the source was asked).

    Attributes:
        asked: replicas that a Deployment's own triggers asked for then, where a replay was told of them
            (scaler.sources.baseline). To compare with; no plan reads it.
    """

    taken_at_s: float
    workloads: Mapping[WorkloadKey, WorkloadReading] = field(default_factory=dict)
    cards: Mapping[CardKey, CardReading] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    asked: Mapping[WorkloadKey, int] = field(default_factory=dict)


_WORKLOAD_NUMBER_NAMES = tuple(name for name in WorkloadReading.__slots__ if name != "gpu_busy_source")
_CARD_NUMBER_NAMES = ("free_bytes", "total_bytes", "utilization_ratio", "age_s")
_WORKLOAD_NUMBERS, _CARD_NUMBERS = attrgetter(*_WORKLOAD_NUMBER_NAMES), attrgetter(*_CARD_NUMBER_NAMES)


def _refuse_non_finite(reading: WorkloadReading | CardReading, numbers: attrgetter[tuple[float | None, ...]]) -> None:
    """KEDA turns NaN and infinities into 0, which scales down: they end here, whatever a source lets through."""
    if _is_finite(numbers(reading)):
        return
    for name in reading.__slots__:
        value = getattr(reading, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}: {value} is not a reading; what cannot be seen is None")


def _is_finite(values: Sequence[float | None]) -> bool:
    """Whether all of them are, by their sum: each by itself takes thrice the time."""
    return math.isfinite(sum(filter(None, values)))


Reading = TypeVar("Reading", WorkloadReading, CardReading)


def from_columns(kind: type[Reading], columns: Sequence[Sequence[Any]]) -> list[Reading]:
    """Readings from the values of each field, in the order of the fields: what `kind(*row)` gives for every row.

    A frozen dataclass is slow to build, 3 us: a day of 300 readings a moment has 1.7 million of them. Here each field
    is set for all readings at once, in a quarter of that, and looked through for what is not finite.

    Raises:
        ValueError: as the first reading that is none, or if one column is longer than another.
    """
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"expected columns of one length, not of {', '.join(str(len(column)) for column in columns)}")
    by_name = dict(zip(kind.__slots__, columns, strict=True))
    names = _WORKLOAD_NUMBER_NAMES if kind is WorkloadReading else _CARD_NUMBER_NAMES
    held = [vram for of_card in filter(None, by_name.get("held", ())) for vram in of_card.values()]
    if not (all(_is_finite(by_name[name]) for name in names) and _is_finite(tuple(chain.from_iterable(held)))):
        return [kind(*row) for row in zip(*columns, strict=True)]  # says which of them
    readings = [object.__new__(kind) for _ in columns[0]]
    for name, column in by_name.items():
        set_field = getattr(kind, name).__set__
        deque(map(set_field, readings, column), maxlen=0)  # only runs through it: half the time of a loop
    return readings
