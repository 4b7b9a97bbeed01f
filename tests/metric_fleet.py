"""A small fleet as exporters show it: every mode of the DCGM exporter, Triton and vLLM old and new, kube-state-metrics.

Series are written as `name{labels}` -> a constant or a function of time; `fleet()` gives them all. Counters rise
linearly from START_S, so that a rate is their slope.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.prometheus_server import Value

START_S = 1_750_204_800.0
END_S = START_S + 600
# 5 s after the last of the 15 s samples: the 60 s window then holds 4 samples, the 30 s window 2, in any Prometheus.
AT_S = END_S + 5
NAMESPACE = "models"
Series = dict[str, Value]


def rising(per_s: float) -> Callable[[float], float]:
    return lambda at_s: per_s * (at_s - START_S)


def labels(**names: str) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in names.items()) + "}"


def deployment(name: str, pods: tuple[str, ...], replicas: int, *, collectors: tuple[str, ...] = ("ksm-0",)) -> Series:
    """kube-state-metrics' view, once per collector: a Deployment, its ReplicaSets and its pods."""
    series: Series = {}
    for number, collector in enumerate(collectors):
        own = {"namespace": NAMESPACE, "instance": collector}
        of = labels(**own, deployment=name)
        series[f"kube_deployment_spec_replicas{of}"] = replicas + number
        series[f"kube_deployment_status_replicas{of}"] = replicas + number
        series[f"kube_deployment_status_replicas_ready{of}"] = len(pods)
        for replica_set, created_s in (("6d5c7f9b8", START_S - 500), ("5b6f7d8c9", START_S - 9000)):
            of = labels(**own, replicaset=f"{name}-{replica_set}")
            series[f"kube_replicaset_created{of}"] = created_s
        for pod in pods:
            owner = {"owner_kind": "ReplicaSet", "owner_name": f"{name}-6d5c7f9b8", "owner_is_controller": "true"}
            series[f"kube_pod_owner{labels(**own, pod=pod, **owner)}"] = 1
    return series


def triton(
    pod: str,
    gpu_uuid: str,
    *,
    success: float = 10.0,
    queue: Value = 0.0,
    infer: float = 0.4,
    executions: float | None = None,
    failures: dict[str, float] | None = None,
    request_s: float = 0.06,
    pending_gauge: bool = True,
    reasons: bool = True,
) -> Series:
    """Two reporters per model: the card's counts executions, the model's (without gpu_uuid) what waits and is refused.

    Args:
        success: requests that succeed per second; `infer` request-seconds of inference per second; `executions` per
            second (default: no batching); `request_s` seconds per request; `queue` requests waiting.
        failures: per second by reason.
    """
    target = {"namespace": NAMESPACE, "pod": pod, "model": "m", "version": "1"}
    card, model = labels(gpu_uuid=gpu_uuid, **target), labels(**target)
    series: Series = {
        f"nv_inference_request_success{model}": 0,
        f"nv_inference_request_success{card}": rising(success),
        f"nv_inference_count{card}": rising(success),
        f"nv_inference_exec_count{card}": rising(success if executions is None else executions),
        f"nv_inference_request_duration_us{card}": rising(success * request_s * 1e6),
        f"nv_inference_compute_input_duration_us{card}": rising(0.05e6),
        f"nv_inference_compute_infer_duration_us{card}": rising(infer * 1e6),
        f"nv_inference_compute_output_duration_us{card}": rising(0.01e6),
    }
    if pending_gauge:
        series[f"nv_inference_pending_request_count{model}"] = queue
        series[f"nv_inference_pending_request_count{card}"] = 0
    elif isinstance(queue, (int, float)):
        series[f"nv_inference_queue_duration_us{card}"] = rising(queue * 1e6)
    for reason, per_s in (failures or {}).items():
        of = labels(**target, **({"reason": reason} if reasons else {}))
        series[f"nv_inference_request_failure{of}"] = rising(per_s)
    return series


def vllm(pod: str, *, running: Value, waiting: Value, finished: dict[str, float], reserved: str) -> Series:
    """`finished`: requests per second by finished_reason; each takes 2 s. `reserved`: of a card's VRAM, 0 to 1."""
    engine = {"namespace": NAMESPACE, "pod": pod, "engine": "0", "model_name": "llama"}
    series: Series = {
        f"vllm:num_requests_running{labels(**engine)}": running,
        f"vllm:num_requests_waiting{labels(**engine)}": waiting,
        f"vllm:e2e_request_latency_seconds_sum{labels(**engine)}": rising(2 * sum(finished.values())),
        f"vllm:e2e_request_latency_seconds_count{labels(**engine)}": rising(sum(finished.values())),
    }
    config = {"namespace": NAMESPACE, "pod": pod, "engine": "0", "block_size": "16", "kv_cache_memory_bytes": "None"}
    series[f"vllm:cache_config_info{labels(**config, gpu_memory_utilization=reserved)}"] = 1
    for reason, per_s in finished.items():
        series[f"vllm:request_success_total{labels(**engine, finished_reason=reason)}"] = rising(per_s)
    return series


Copies = list[tuple[dict[str, str], float, float]]


def dcgm(
    uuid: str,
    node: str,
    *,
    free: Value,
    used: Value,
    copies: Copies | None = None,
    per_process: bool = False,
    utilization: float = 50,
    profiled: float | None = None,
    host_label: str = "Hostname",
    reserved: bool = True,
    mig: dict[str, str] | None = None,
    target: dict[str, str] | None = None,
) -> Series:
    """One card. `copies`: the extra labels of each pod's series with its GPU_UTIL and FB_USED; none: no pod labels.

    With per_process the two have a series of the device besides; else every copy repeats the device's value.
    """
    card = {"UUID": uuid, "gpu": "0", "modelName": "NVIDIA L4", host_label: node, **(mig or {}), **(target or {})}
    pods = copies or [({}, utilization, 0.0)]
    series: Series = {}
    for extra, pod_utilization, pod_used in pods:
        of = labels(**{**card, **extra})
        series[f"DCGM_FI_DEV_FB_FREE{of}"] = free
        if reserved:
            series[f"DCGM_FI_DEV_FB_RESERVED{of}"] = 468
        if profiled is not None:
            series[f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{of}"] = profiled
        series[f"DCGM_FI_DEV_FB_USED{of}"] = pod_used if per_process else used
        if mig is None:
            series[f"DCGM_FI_DEV_GPU_UTIL{of}"] = pod_utilization if per_process else utilization
    if per_process:
        series[f"DCGM_FI_DEV_GPU_UTIL{labels(**card)}"] = utilization
        series[f"DCGM_FI_DEV_FB_USED{labels(**card)}"] = used
    return series


def on_card(pod: str, **more: str) -> dict[str, str]:
    return {"namespace": NAMESPACE, "pod": pod, "container": "kserve-container", **more}


def exported(pod: str, **more: str) -> dict[str, str]:
    """The same as stored with honorLabels: false."""
    return {"exported_namespace": NAMESPACE, "exported_pod": pod, "exported_container": "kserve-container", **more}


RESNET_0 = f'namespace="{NAMESPACE}",pod="resnet-0",model="m",version="1"'
EXPORTER = {"namespace": "gpu-operator", "pod": "dcgm-exporter-x7k2p", "container": "nvidia-dcgm-exporter"}


def fleet() -> Series:
    """All of it; the tests say what each part is for."""
    return {
        **_services(),
        **_cards(),
        f"kube_pod_owner{labels(**EXPORTER, owner_kind='DaemonSet', owner_name='dcgm-exporter')}": 1,
        'kube_node_status_allocatable{node="node-1",resource="nvidia_com_gpu",unit="integer"}': 4,
        'kube_node_status_allocatable{node="node-2",resource="nvidia_com_gpu",unit="integer"}': 0,
        'kube_node_status_allocatable{node="node-2",resource="nvidia_com_gpu_shared",unit="integer"}': 6,
        'kube_node_status_allocatable{node="node-3",resource="nvidia_com_gpu",unit="integer"}': 2,
        'kube_node_status_allocatable{node="node-5",resource="nvidia_com_gpu",unit="integer"}': 0,
        'kube_node_status_allocatable{node="node-4",resource="nvidia_com_gpu",unit="integer"}': 3,
    }


def _services() -> Series:
    return {
        **deployment("resnet", ("resnet-0", "resnet-1"), 2, collectors=("ksm-0", "ksm-1")),
        **triton("resnet-0", "GPU-process", success=10, queue=rising(0.1), infer=0.8, executions=2.5),
        # Out of memory is reported by the card's reporter, everything else by the model's.
        f'nv_inference_request_failure{{{RESNET_0},gpu_uuid="GPU-process",reason="BACKEND"}}': rising(1.0),
        **triton(
            "resnet-1", "GPU-process", success=5, queue=3, failures={"BACKEND": 0, "REJECTED": 0.5, "CANCELED": 0}
        ),
        **deployment("old", ("old-0",), 1),
        **triton("old-0", "GPU-zeros", queue=7, executions=5, failures={"": 2}, pending_gauge=False, reasons=False),
        **deployment("llama", ("llama-0",), 1),
        **vllm(
            "llama-0",
            running=8,
            waiting=rising(0.02),
            finished={"stop": 3, "length": 1, "abort": 0.5, "error": 0.25},
            reserved="0.45",
        ),
        **deployment("mistral", ("mistral-0", "mistral-1"), 2),
        **vllm("mistral-0", running=0, waiting=0, finished={"stop": 0, "length": 0, "abort": 0}, reserved="0.65"),
        **vllm("mistral-1", running=0, waiting=0, finished={"stop": 0, "length": 0, "abort": 0}, reserved="0.4"),
        **deployment("idle", ("idle-0",), 1),
        **triton("idle-0", "GPU-copies", success=0, infer=0, failures={"BACKEND": 0}),
        **deployment("reset", ("reset-0",), 1),
        **{name: _restarted(value) for name, value in triton("reset-0", "GPU-default").items()},
        **deployment("partial", ("partial-0", "partial-1", "partial-2"), 3),
        **triton("partial-0", "GPU-default", infer=1.7),
        f'nv_inference_request_success{{namespace="{NAMESPACE}",pod="partial-1",model="m",version="1"}}': rising(1),
        **deployment("mixed", ("mixed-0", "mixed-1"), 2),
        **triton("mixed-0", "GPU-process", infer=0.3),
        **triton("mixed-1", "GPU-free", infer=0.2),
        **deployment("late", ("late-0", "late-1"), 2),
        **triton("late-1", "GPU-free"),
        **_ending(triton("late-0", "GPU-free"), END_S - 30),
        **deployment("hidden", ("hidden-0",), 1),
        **deployment("bert", ("bert-0",), 1),
        **deployment("empty", (), 0),
        "kube_replicaset_created" + labels(namespace=NAMESPACE, replicaset="lonely-6d5c7f9b8"): START_S,
    }


def _cards() -> Series:
    return {
        # Per process, as since 4.5.3-4.8.2 with hostPID and pod UIDs.
        **dcgm(
            "GPU-process",
            "node-1",
            free=2210,
            used=20356,
            utilization=87,
            profiled=0.84,
            per_process=True,
            copies=[
                (on_card("resnet-0", pod_uid="u1", vgpu="0"), 21, 5980),
                (on_card("resnet-1", pod_uid="u2", vgpu="1"), 40, 10000),
                (on_card("resnet-1", pod_uid="u2", vgpu="3"), 40, 10000),  # two places on one card, one value
                (on_card("mixed-0", pod_uid="u3", vgpu="2"), 20, 4020),
            ],
        ),
        # A pod that has gone; its series stayed without a marker.
        **_ending(
            {"DCGM_FI_DEV_FB_USED" + labels(UUID="GPU-process", **on_card("late-1", pod_uid="u9")): 512}, END_S - 60
        ),
        # One of two pods has no UID yet, and so no value.
        **dcgm(
            "GPU-partly",
            "node-7",
            free=16000,
            used=7000,
            utilization=0,
            per_process=True,
            copies=[
                (on_card("late-0", pod_uid="u7", vgpu="0"), 0, 3000),
                (on_card("idle-0", vgpu="1"), 0, 0),
            ],
        ),
        # The same without pod UIDs: zeros. `hostname` as since 4.6.0-4.8.3; one of two cards of its node.
        **dcgm(
            "GPU-zeros",
            "node-2",
            free=4555,
            used=18011,
            utilization=55,
            host_label="hostname",
            per_process=True,
            copies=[
                (on_card("old-0", vgpu="2"), 0, 0),
                (on_card("llama-0", vgpu="0"), 0, 0),
            ],
        ),
        # With pod UIDs, but without hostPID: zeros that name their pods.
        **dcgm(
            "GPU-half",
            "node-2",
            free=9000,
            used=14000,
            utilization=0,
            reserved=False,
            per_process=True,
            copies=[
                (on_card("bert-0", pod_uid="u4", vgpu="0"), 0, 0),
            ],
        ),
        # Virtual GPUs before 4.8.2: every copy carries the device's value; there is no series of the device.
        **dcgm(
            "GPU-copies",
            "node-4",
            free=8000,
            used=15000,
            utilization=90,
            copies=[
                (on_card("idle-0", pod_uid="u5", vgpu="0"), 90, 15000),
                (on_card("hidden-0", pod_uid="u6", vgpu="1"), 90, 15000),
            ],
        ),
        # No virtual GPUs: one pod's label on a shared card; it moved, and the old series stayed without a marker.
        **dcgm("GPU-default", "node-4", free=3000, used=20000, copies=[(on_card("reset-0"), 50, 0)]),
        **_ending(dcgm("GPU-default", "node-4", free=1, used=1, copies=[(on_card("hidden-0"), 0, 0)]), END_S - 60),
        # honorLabels: false, per process.
        **dcgm(
            "GPU-exported",
            "node-5",
            free=12000,
            used=11000,
            utilization=30,
            per_process=True,
            target=EXPORTER,
            copies=[
                (exported("hidden-0", pod_uid="u6", vgpu="0"), 25, 11000),
            ],
        ),
        # honorLabels: false, no workload on the card.
        **dcgm("GPU-free", "node-5", free=22566, used=0, utilization=0, target=EXPORTER),
        # MIG: two instances of one card; the memory is told per process, the utilisation not at all.
        **dcgm(
            "GPU-mig",
            "node-3",
            free=30112,
            used=9000,
            profiled=0.31,
            mig={"GPU_I_ID": "1", "GPU_I_PROFILE": "3g.40gb"},
            per_process=True,
            copies=[(on_card("bert-0", pod_uid="u4"), 0, 8960)],
        ),
        **dcgm(
            "GPU-mig", "node-3", free=40310, used=100, profiled=0.0, mig={"GPU_I_ID": "2", "GPU_I_PROFILE": "4g.40gb"}
        ),
        # Its target hangs since 150 s before the end.
        **_ending(dcgm("GPU-gone", "node-6", free=777, used=1), END_S - 150),
    }


def _restarted(value: Value) -> Value:
    """A counter that fell to zero 20 s before the end."""
    if not callable(value):
        return value

    def after(at_s: float) -> float | None:
        return value(at_s) if at_s < END_S - 20 else value(at_s - (END_S - 20) + START_S)

    return after


def _ending(series: Series, end_s: float) -> Series:
    """Without samples after that time, and without a staleness marker."""

    def ending(value: Value) -> Value:
        return lambda at_s: None if at_s > end_s else value(at_s) if callable(value) else value

    return {name: ending(value) for name, value in series.items()}
