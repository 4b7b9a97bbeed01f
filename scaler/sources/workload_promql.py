"""The PromQL of a workload's signals: kube-state-metrics, Triton and vLLM (any version), GPU time per process.

Metric names and their traps are those of Triton 23.x to 26.07, vLLM 0.6 to 0.33, kube-state-metrics 2.x and the DCGM
exporter 3.x to 4.8.3.
"""

from __future__ import annotations

from collections.abc import Mapping

from scaler.policy import Timing
from scaler.sources import agent_promql
from scaler.sources.promql import (
    CARD,
    POD,
    SERVICE,
    by_pod,
    duration,
    first_of,
    of_replica_sets,
    unexported,
    union,
    with_deployment,
)

_PENDING = "nv_inference_pending_request_count"  # Triton since 23.09
_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_SUCCESS = "nv_inference_request_success"
_FAILURE = "nv_inference_request_failure"
_FINISHED = "vllm:request_success_total"  # counts all that finished, by finished_reason
_LATENCY = "vllm:e2e_request_latency_seconds"
_COMPUTE = tuple(f"nv_inference_compute_{part}_duration_us" for part in ("input", "infer", "output"))


def replicas() -> Mapping[str, str]:
    """Per Deployment: what is wanted, what is ready, what exists, and how old that is. Of several answers the least
    counts, except of what exists: that holds VRAM."""
    spec = "kube_deployment_spec_replicas"
    exists, ready = "kube_deployment_status_replicas", "kube_deployment_status_replicas_ready"
    wanted = f"min by ({SERVICE}) ({unexported(spec, 'namespace')})"
    created = f"max by ({SERVICE}) ({of_replica_sets('kube_replicaset_created')})"
    return {
        "spec_replicas": wanted,
        "ready_replicas": f"min by ({SERVICE}) ({unexported(ready, 'namespace')})",
        "status_replicas": f"max by ({SERVICE}) ({unexported(exists, 'namespace')})",
        "replicas_age_s": f"time() - min by ({SERVICE}) ({unexported(f'timestamp({spec})', 'namespace')})",
        # A ReplicaSet without a Deployment would make one up by its name.
        "revision_created_s": f"{created} and on ({SERVICE}) {wanted}",
    }


def scraped_pods() -> str:
    """1 for each pod that shows all that queued and executing are made of, at the instant itself."""
    return first_of(
        f"group by ({POD}) ({_SUCCESS}) and group by ({POD}) ({_COMPUTE[1]})",
        f"group by ({POD}) ({_RUNNING}) and group by ({POD}) ({_WAITING})",
    )


def signals_age_s() -> str:
    """Per Deployment: the age of the oldest pod's newest sample."""
    newest = f"max by ({POD}) ({first_of(f'timestamp({_SUCCESS})', f'timestamp({_RUNNING})')})"
    return f"time() - min by ({SERVICE}) ({with_deployment(newest)})"


def gpu_memory_utilization() -> str:
    """Per Deployment and value: PromQL cannot turn a label into a value, so each series carries the label.

    vLLM asks for this part of a card's total when it starts, even where kv_cache_memory_bytes sizes its cache.
    """
    values = f'group by ({POD}, gpu_memory_utilization) (vllm:cache_config_info{{gpu_memory_utilization!=""}})'
    return f"group by ({SERVICE}, gpu_memory_utilization) ({with_deployment(values)})"


def queued(window: str) -> str:
    """Per pod. Triton before 23.09 has no gauge: the queue time of the completed requests by Little's law instead."""
    return first_of(
        by_pod(f"avg_over_time({_PENDING}[{window}])"),
        by_pod(f"rate(nv_inference_queue_duration_us[{window}])") + " / 1e6",
        by_pod(f"avg_over_time({_WAITING}[{window}])"),
    )


def executing(window: str) -> str:
    """Per pod. Triton by Little's law: request-seconds of compute per second."""
    compute = " + ".join(by_pod(f"rate({metric}[{window}])") for metric in _COMPUTE)
    return first_of(f"({compute}) / 1e6", by_pod(f"avg_over_time({_RUNNING}[{window}])"))


def inflight_growth_per_s(window: str) -> str:
    """Per pod: the slope of the live gauges. Triton's execution has none, so there the queue alone counts."""
    running, waiting = by_pod(f"deriv({_RUNNING}[{window}])"), by_pod(f"deriv({_WAITING}[{window}])")
    return first_of(by_pod(f"deriv({_PENDING}[{window}])"), f"{running} + {waiting}")


def completions(window: str) -> Mapping[str, str]:
    """Per pod and second. vLLM's aborts stand with the failures, as Triton's CANCELED do."""

    def finished(reasons: str) -> str:
        return by_pod(f"rate({_FINISHED}{{{reasons}}}[{window}])")

    return {
        "success_per_s": first_of(by_pod(f"rate({_SUCCESS}[{window}])"), finished('finished_reason!~"error|abort"')),
        "failure_per_s": first_of(by_pod(f"rate({_FAILURE}[{window}])"), finished('finished_reason=~"error|abort"')),
        # Triton before 24.08 gives no reason; the empty alternative takes all its failures as candidates.
        "oom_failure_per_s": first_of(
            by_pod(f'rate({_FAILURE}{{reason=~"BACKEND|"}}[{window}])'), finished('finished_reason="error"')
        ),
    }


def success_time_s(window: str) -> str:
    """Per Deployment, from sums: request-seconds over requests. No value while nothing succeeds."""
    spent = first_of(
        by_pod(f"rate(nv_inference_request_duration_us[{window}])") + " / 1e6",
        by_pod(f"rate({_LATENCY}_sum[{window}])"),
    )
    requests = first_of(by_pod(f"rate({_SUCCESS}[{window}])"), by_pod(f"rate({_LATENCY}_count[{window}])"))
    return f"sum by ({SERVICE}) ({with_deployment(spent)}) / (sum by ({SERVICE}) ({with_deployment(requests)}) > 0)"


def gpu_busy(timing: Timing) -> str:
    """Per Deployment and source; a source that sees fewer pods than are scraped is left out."""
    sources = {
        "agent": agent_promql.busy(duration(timing.stable_window_s)),
        "exporter-per-process": _busy_by_exporter(duration(utilization_window_s(timing))),
        "triton-wall-time": _busy_by_triton(duration(timing.stable_window_s)),
        "vllm-running": _busy_by_vllm(timing.stable_window_s),
    }
    pods = with_deployment(union("source", sources))
    scraped = f"count by ({SERVICE}) ({with_deployment(scraped_pods())})"
    seen = f"count by ({SERVICE}, source) ({pods})"
    return (
        f"sum by ({SERVICE}, source) ({pods}) unless on ({SERVICE}, source) "
        f"({seen} < on ({SERVICE}) group_left () {scraped})"
    )


def utilization_window_s(timing: Timing) -> float:
    """DCGM samples the utilisation once in 30 s, a spot value: four of them at least."""
    return max(120.0, timing.stable_window_s)


def _busy_by_exporter(window: str) -> str:
    """Per pod, summed over cards: NVML's time per process, where the exporter is set up so that it is that.

    Since 4.5.3-4.8.2, with virtual GPUs, hostPID and pod UIDs, the device has a series of its own and each pod one with
    its pod_uid. Before, each pod's series repeats the device's value; without hostPID or pod UIDs each pod's is 0.
    """
    pod, device = '{pod_uid!=""}', '{vgpu="",pod_uid=""}'
    utilization, memory = "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED"

    def zeros_while_in_use(of_pods: str, of_device: str) -> str:
        return f"(max by ({CARD}) ({of_device}) > 0 unless on ({CARD}) sum by ({CARD}) ({of_pods}) > 0)"

    # max: a pod that holds two places on a card has two series of the same value.
    per_card = (
        f"max by ({POD}, {CARD}) ({unexported(f'avg_over_time({utilization}{pod}[{window}])', 'namespace', 'pod')})"
    )
    used = [f"avg_over_time({utilization}{level}[{window}])" for level in (pod, device)]
    return by_pod(
        f"{per_card} / 100 and on ({CARD}) {utilization}{device} "
        f"unless on ({CARD}) {zeros_while_in_use(*used)} "
        f"unless on ({CARD}) {zeros_while_in_use(memory + pod, memory + device)}"
    )


def _busy_by_triton(window: str) -> str:
    """Per pod, at most 1 per card: wall time of executions, neighbours' slices included.

    Every request of a batch reports the batch's time, hence times executions over requests; an idle model is 0.
    """

    def of_model(metric: str) -> str:
        return f'sum by ({POD}, model, version, gpu_uuid) (rate({metric}{{gpu_uuid!=""}}[{window}]))'

    inside = of_model(_COMPUTE[1])
    batched = f"{inside} / 1e6 * {of_model('nv_inference_exec_count')} / ({of_model(_SUCCESS)} > 0)"
    of_card = f"sum by ({POD}, gpu_uuid) ({first_of(batched, f'{inside} * 0')})"
    return by_pod(f"clamp_max({of_card}, 1)")


def _busy_by_vllm(window_s: float) -> str:
    """Per pod: the fraction of time in which an engine has requests running; it counts no execution time."""
    subquery = f"[{duration(window_s)}:{duration(window_s / 12)}]"
    return by_pod(f"avg_over_time((max by ({POD}, engine) ({_RUNNING}) > bool 0){subquery})")
