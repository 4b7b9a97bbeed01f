"""Query answers -> Snapshot: the gate at which NaN, Inf, negatives and contradictions stop.

Whatever does not pass is None, and a Problem names the signal, the number of series and one of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args

from scaler.snapshot import (
    CardKey,
    CardReading,
    GpuBusySource,
    HeldSource,
    HeldVram,
    PlaceSource,
    Problem,
    Snapshot,
    WorkloadKey,
    WorkloadReading,
)
from scaler.sources.checked_session import QueryFailed
from scaler.sources.queries import Query
from scaler.sources.query_client import Answer

_WHOLE = {"spec_replicas", "ready_replicas", "status_replicas", "scraped_pods", "slots", "pods"}
_SIGNED = {"inflight_growth_per_s"}
_HELD_SIGNALS = ("held_total_bytes", "held_largest_bytes")
_PLACE_SIGNALS = {"pods", *_HELD_SIGNALS}
_CARD_SIGNALS = {"free_bytes", "total_bytes", "age_s", "utilization_ratio", "slots"}
_SERVICE_SIGNALS = {field.name for field in fields(WorkloadReading)} - {"gpu_busy_source"}
_BUSY_SOURCES: tuple[str, ...] = get_args(GpuBusySource)  # the most exact first
_HELD_SOURCES: tuple[str, ...] = get_args(HeldSource)
_PLACE_SOURCES: tuple[str, ...] = get_args(PlaceSource)
_ROUNDING = 1e-6  # two sums of the same counters may differ in the last digits


def assemble(at_ms: int, queries: Sequence[Query], outcomes: Mapping[str, Answer | QueryFailed]) -> Snapshot:
    """The fleet at one instant (Unix milliseconds) from each query's outcome.

    A failed query leaves its signals None, with a Problem.
    """
    return _Assembly(at_ms).snapshot(queries, outcomes)


class _Assembly:
    def __init__(self, at_ms: int) -> None:
        self._at_ms = at_ms
        self._services: dict[WorkloadKey, dict[str, Any]] = defaultdict(dict)
        self._cards: dict[CardKey, dict[str, Any]] = {}
        self._problems: list[Problem] = []
        self._refused: dict[tuple[str, str], list[str]] = defaultdict(list)  # (signal, why) -> the series

    def snapshot(self, queries: Sequence[Query], outcomes: Mapping[str, Answer | QueryFailed]) -> Snapshot:
        for query in queries:
            outcome = outcomes[query.name]
            if isinstance(outcome, QueryFailed):
                self._problems.append(Problem(query.name, str(outcome)))
                continue
            self._problems += [Problem(query.name, f"the server warns: {warning}") for warning in outcome.warnings]
            points = [(s.values[self._at_ms], s.labels) for s in outcome.series if self._at_ms in s.values]
            if not points and query.if_empty:
                self._problems.append(Problem(query.name, f"no series; {query.if_empty}"))
            for value, labels in points:
                self._take(query.name, value, labels)
        workloads = {key: self._workload(key, values) for key, values in sorted(self._services.items())}
        cards = {key: self._card(key, values) for key, values in sorted(self._cards.items())}
        refused = [
            Problem(signal, f"{why}: {len(series)} series, e.g. {min(series)}; read as unknown")
            for (signal, why), series in self._refused.items()
        ]
        return Snapshot(self._at_ms / 1000, workloads, cards, tuple(sorted([*self._problems, *refused])))

    def _take(self, query: str, value: float, labels: Mapping[str, str]) -> None:
        signal = labels.get("signal", "")
        workload = WorkloadKey(labels.get("namespace", ""), labels.get("deployment", ""))
        card = CardKey(labels.get("UUID", ""), labels.get("GPU_I_ID", ""))
        service_named, card_named = all(workload), bool(card.uuid)
        if signal in _SERVICE_SIGNALS and service_named:
            if signal == "gpu_memory_utilization":
                value = _in_label(signal, labels, value)
            self._take_service(signal, self._usable(signal, value, workload), labels, self._services[workload])
        elif signal in _CARD_SIGNALS and card_named:
            if query == "vram":  # only a card whose VRAM is told of is a card
                self._cards.setdefault(card, {})
            if card in self._cards:
                self._take_card(signal, self._usable(signal, value, card), labels, self._cards[card])
        elif signal in _PLACE_SIGNALS and service_named and card_named:
            usable = self._usable(signal, value, workload)
            if usable is not None and card in self._cards:
                self._take_place(signal, usable, workload, labels.get("source", ""), self._cards[card])
        else:
            self._refused[signal, "labels missing"].append(f"{value:g} of {dict(sorted(labels.items()))}"[:120])

    @staticmethod
    def _take_service(signal: str, value: float | None, labels: Mapping[str, str], into: dict[str, Any]) -> None:
        if value is None:
            return
        if signal == "gpu_busy":
            source = labels.get("source")
            known = source if source in _BUSY_SOURCES else None  # an operator's own query may name none
            before = into.get("gpu_busy_source")
            if before is not None and _BUSY_SOURCES.index(before) <= _BUSY_SOURCES.index(known or _BUSY_SOURCES[-1]):
                return
            into["gpu_busy_source"] = known
        # Pods of two revisions may have two.
        into[signal] = max(value, into.get(signal, value)) if signal == "gpu_memory_utilization" else value

    @staticmethod
    def _take_card(signal: str, value: float | None, labels: Mapping[str, str], into: dict[str, Any]) -> None:
        if signal == "free_bytes":
            place = (labels.get("node", ""), labels.get("modelName", ""))
            into["node"], into["model"] = max(place, (into.get("node", ""), into.get("model", "")))
        if value is not None:
            # One card under two names, as while an exporter's labels change: the lower value is the safer one.
            into[signal] = min(value, into.get(signal, value))

    @staticmethod
    def _take_place(signal: str, value: float, workload: WorkloadKey, source: str, into: dict[str, Any]) -> None:
        """An operator's own query names no source."""
        if signal in _HELD_SIGNALS:
            into.setdefault(signal, {})[workload] = value
            into.setdefault("held_source", set()).add(source if source in _HELD_SOURCES else None)
            return
        pods, by = into.setdefault("pods", {}), into.setdefault("placed_by", {})
        pods[workload] = pods.get(workload, 0) + int(value)  # each source names pods that none before it did
        if source in _PLACE_SOURCES:
            by[workload] = max(source, by.get(workload, source), key=_PLACE_SOURCES.index)

    def _usable(self, signal: str, value: float, where: WorkloadKey | CardKey) -> float | None:
        if not math.isfinite(value):
            why = "not finite"
        elif value < 0 and signal not in _SIGNED:
            why = "negative"
        elif signal in _WHOLE and not value.is_integer():
            why = "not a whole number"
        elif signal == "gpu_memory_utilization" and not 0 < value <= 1:
            why = "not above 0 and up to 1"
        else:
            return value
        self._refuse(signal, why, where, value)
        return None

    def _refuse(self, signal: str, why: str, where: WorkloadKey | CardKey, value: float) -> None:
        self._refused[signal, why].append(f"{'/'.join(part for part in where if part)} {value:g}")

    def _workload(self, key: WorkloadKey, values: dict[str, Any]) -> WorkloadReading:
        oom, failure = values.get("oom_failure_per_s"), values.get("failure_per_s")
        if oom is not None and failure is not None:
            values["oom_failure_per_s"] = min(oom, failure)
            if oom > failure * (1 + _ROUNDING) + _ROUNDING:
                self._refuse("oom_failure_per_s", "above failure_per_s", key, oom)
                values["oom_failure_per_s"] = None
        return WorkloadReading(**_whole(values))

    def _card(self, key: CardKey, values: dict[str, Any]) -> CardReading:
        free, total = values.setdefault("free_bytes", None), values.get("total_bytes")
        if free is not None and total is not None and free > total:
            self._refuse("free_bytes", "above total_bytes", key, free)
            values["free_bytes"] = values["total_bytes"] = None
        utilization = values.get("utilization_ratio")
        if utilization is not None:
            values["utilization_ratio"] = min(utilization, 1.0)
            if utilization > 1.01:
                self._refuse("utilization_ratio", "above 1", key, utilization)
                values["utilization_ratio"] = None
        values["held"], sources = self._held(key, values), values.pop("held_source", {None})
        values["held_source"] = next(iter(sources)) if values["held"] and len(sources) == 1 else None
        return CardReading(**_whole(values))

    def _held(self, key: CardKey, values: dict[str, Any]) -> dict[WorkloadKey, HeldVram]:
        totals, largest = (values.pop(signal, {}) for signal in _HELD_SIGNALS)
        card_bytes = values.get("total_bytes")
        held = {}
        for workload in sorted(totals | largest):
            pair = HeldVram(totals.get(workload, math.nan), largest.get(workload, math.nan))
            # What a pod has held may be above what all of them hold now, never above the card.
            if math.isfinite(sum(pair)) and (card_bytes is None or pair.largest_bytes <= card_bytes * 1.01):
                held[workload] = pair
            else:
                what = f"{key.uuid} {'/'.join(workload)} {pair.largest_bytes:g} of {pair.total_bytes:g}"
                self._refused["held", "no total with a largest within the card"].append(what)
        together = sum(vram.total_bytes for vram in held.values())
        if card_bytes is not None and together > card_bytes:
            self._refuse("held", "together above total_bytes", key, together)
            held = {}
        return held


def _in_label(signal: str, labels: Mapping[str, str], value: float) -> float:
    """The number in the label of the signal's own name, NaN if it holds none; without such a label the value."""
    try:
        return float(labels.get(signal, value))
    except ValueError:
        return math.nan


def _whole(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: int(value) if name in _WHOLE - {"pods"} else value for name, value in values.items()}
