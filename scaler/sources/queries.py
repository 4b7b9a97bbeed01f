"""The fixed set of PromQL queries: one series per (service, signal) or (card, signal), whatever the fleet's size.

Every series carries a label `signal`, the name of the field of WorkloadReading or CardReading that it fills
(held_total_bytes and held_largest_bytes fill `held`). Pod-level expressions are united first and joined once to the
Deployment. Rules that hold throughout: rate before sum (counter resets are per series), sum over gpu_uuid (Triton
reports each model twice), max or min over copies of one thing (two kube-state-metrics, one DCGM copy per sharing pod),
never `sum by (UUID)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import Field, StringConstraints

from scaler.policy import Section, Timing
from scaler.sources import card_promql, workload_promql
from scaler.sources.promql import CARD, SERVICE, duration, union, with_deployment

PromQL = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4096)]
_OF_SERVICE = "PromQL, one series per namespace and deployment: "
_OF_CARD = "PromQL, one series per UUID and GPU_I_ID: "
_OF_PLACE = "PromQL, one series per UUID, GPU_I_ID, namespace and deployment: "


class QueryOverrides(Section):
    """PromQL of the operator's own in place of a built-in signal, in the unit of the field that it fills."""

    spec_replicas: PromQL | None = Field(None, description=_OF_SERVICE + "replicas wanted, a whole number")
    ready_replicas: PromQL | None = Field(None, description=_OF_SERVICE + "replicas ready, a whole number")
    status_replicas: PromQL | None = Field(
        None, description=_OF_SERVICE + "replicas that exist, surge pods included, a whole number"
    )
    replicas_age_s: PromQL | None = Field(None, description=_OF_SERVICE + "age of specReplicas in seconds")
    revision_created_s: PromQL | None = Field(None, description=_OF_SERVICE + "Unix seconds of the newest revision")
    scraped_pods: PromQL | None = Field(None, description=_OF_SERVICE + "pods that were seen, a whole number")
    signals_age_s: PromQL | None = Field(None, description=_OF_SERVICE + "age of the oldest pod's sample in seconds")
    queued: PromQL | None = Field(None, description=_OF_SERVICE + "mean requests waiting, stable window")
    executing: PromQL | None = Field(None, description=_OF_SERVICE + "mean requests in execution, stable window")
    inflight_growth_per_s: PromQL | None = Field(
        None, description=_OF_SERVICE + "growth of requests in flight per second"
    )
    queued_burst: PromQL | None = Field(None, description=_OF_SERVICE + "mean requests waiting, burst window")
    executing_burst: PromQL | None = Field(None, description=_OF_SERVICE + "mean requests in execution, burst window")
    success_per_s: PromQL | None = Field(None, description=_OF_SERVICE + "requests that succeeded per second")
    failure_per_s: PromQL | None = Field(None, description=_OF_SERVICE + "requests that failed per second")
    oom_failure_per_s: PromQL | None = Field(None, description=_OF_SERVICE + "of them for lack of memory, per second")
    success_time_s: PromQL | None = Field(None, description=_OF_SERVICE + "mean seconds of a successful request")
    gpu_busy: PromQL | None = Field(
        None,
        description=_OF_SERVICE
        + "busy cards, 0.5 is half of one; a label source=agent or exporter-per-process says it is exact",
    )
    gpu_memory_utilization: PromQL | None = Field(
        None, description=_OF_SERVICE + "part of a card's VRAM that a vLLM replica takes, above 0 to 1"
    )
    free_bytes: PromQL | None = Field(
        None, description=_OF_CARD + "free VRAM in bytes; labels node and modelName place it"
    )
    total_bytes: PromQL | None = Field(None, description=_OF_CARD + "VRAM in bytes")
    age_s: PromQL | None = Field(None, description=_OF_CARD + "age of freeBytes in seconds")
    utilization_ratio: PromQL | None = Field(None, description=_OF_CARD + "utilisation of the whole card, 0 to 1")
    slots: PromQL | None = Field(None, description=_OF_CARD + "time-slice places, a whole number")
    pods: PromQL | None = Field(None, description=_OF_PLACE + "pods there, a whole number")
    held_total_bytes: PromQL | None = Field(
        None, description=_OF_PLACE + "VRAM that its pods hold there, in bytes; with heldLargestBytes"
    )
    held_largest_bytes: PromQL | None = Field(
        None, description=_OF_PLACE + "the most VRAM that one of its pods holds there, or has held, in bytes"
    )


class Query(NamedTuple):
    """One query of the set: its name, its text, and what it means if it finds nothing ("" = nothing special)."""

    name: str
    promql: str
    if_empty: str = ""


def build_queries(timing: Timing, overrides: QueryOverrides | None = None) -> tuple[Query, ...]:
    """The queries of one tick, with the windows of `timing` in their range selectors."""
    stable, burst = duration(timing.stable_window_s), duration(timing.burst_window_s)
    given = (overrides or QueryOverrides()).model_dump(exclude_none=True)

    def query(
        name: str,
        labels: str,
        direct: Mapping[str, str] | None = None,
        per_pod: Mapping[str, str] | None = None,
        if_empty: str = "",
    ) -> Query:
        """`direct` has one series per `labels` already; `per_pod` is united, joined and summed."""
        built_in = {signal: text for signal, text in (per_pod or {}).items() if signal not in given}
        parts = [f"sum by ({SERVICE}, signal) ({with_deployment(union('signal', built_in))})"] if built_in else []
        whole = {signal: text for signal, text in (direct or {}).items() if signal not in given}
        # The line breaks end a comment of the operator's.
        whole |= {
            signal: f"max by ({labels}) (\n{given[signal]}\n)"
            for signal in [*(direct or {}), *(per_pod or {})]
            if signal in given
        }
        parts += [union("signal", whole)] if whole else []
        return Query(name, " or ".join(parts), if_empty)

    return (
        query("replicas", SERVICE, workload_promql.replicas(), if_empty="is kube-state-metrics scraped?"),
        query(
            "scrape",
            SERVICE,
            {
                "signals_age_s": workload_promql.signals_age_s(),
                "gpu_memory_utilization": workload_promql.gpu_memory_utilization(),
            },
            {"scraped_pods": workload_promql.scraped_pods()},
            "no pod of a Deployment shows Triton's or vLLM's metrics, or kube_pod_owner is missing",
        ),
        query(
            "stable",
            SERVICE,
            per_pod={
                "queued": workload_promql.queued(stable),
                "executing": workload_promql.executing(stable),
                "inflight_growth_per_s": workload_promql.inflight_growth_per_s(stable),
            },
        ),
        query(
            "burst",
            SERVICE,
            per_pod={
                "queued_burst": workload_promql.queued(burst),
                "executing_burst": workload_promql.executing(burst),
            },
        ),
        query("completions", SERVICE, per_pod=workload_promql.completions(stable)),
        query("success-time", SERVICE, {"success_time_s": workload_promql.success_time_s(stable)}),
        query("gpu-busy", f"{SERVICE}, source", {"gpu_busy": workload_promql.gpu_busy(timing)}),
        query("vram", f"{CARD}, node, modelName", card_promql.vram(), if_empty="is the DCGM exporter scraped?"),
        query("utilization", CARD, {"utilization_ratio": card_promql.utilization_ratio(timing)}),
        query("slots", CARD, {"slots": card_promql.slots()}),
        query("placement", f"{SERVICE}, {CARD}", {"pods": card_promql.placement(), **card_promql.held()}),
    )
