"""The bundled incident as its exporters would have shown it: Triton, DCGM and kube-state-metrics by their real names.

A recording holds windows, not samples. Here each window becomes the sample at its end, so that a query over these
samples gives the recorded value again, smoothed once more. What the recording leaves out is what any cluster has: pods
by name, counters that begin at 0 with their pod, a revision per rollout.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from scaler.quantity import MIB
from scaler.snapshot import CardKey, Snapshot, WorkloadKey, WorkloadReading
from tests.metric_fleet import labels

SCRAPED_BEFORE_S = 5.0  # the samples are 5 s old at each instant that is asked about
SCRAPE_S = 15.0
RESERVED_MIB = 284
COUNTERS = (
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
)


@dataclass
class _Pod:
    name: str
    card: CardKey
    counters: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0.0))


class Exporters:
    """Call `scrape` for every snapshot, in order; then `openmetrics` has all samples."""

    def __init__(self) -> None:
        self._samples: dict[str, list[str]] = defaultdict(list)
        self._pods: dict[WorkloadKey, list[_Pod]] = defaultdict(list)
        self._named = 0

    def scrape(self, snapshot: Snapshot) -> None:
        at = f"{snapshot.taken_at_s - SCRAPED_BEFORE_S:.3f}"
        for name, value in (*self._cards(snapshot), *self._workloads(snapshot)):
            self._samples[name].append(f"{name} {value:.10g} {at}")

    def openmetrics(self) -> str:
        """Sorted by name, so that each metric's lines stand together."""
        lines = [line for name in sorted(self._samples) for line in self._samples[name]]
        return "\n".join([*lines, "# EOF", ""])

    def _cards(self, snapshot: Snapshot) -> Iterator[tuple[str, float]]:
        slots: dict[str, int] = defaultdict(int)
        for key, card in snapshot.cards.items():
            assert card.free_bytes is not None
            assert card.total_bytes is not None
            of = labels(UUID=key.uuid, gpu="0", modelName=card.model, Hostname=card.node)
            free_mib = card.free_bytes / MIB
            yield f"DCGM_FI_DEV_FB_FREE{of}", free_mib
            yield f"DCGM_FI_DEV_FB_USED{of}", card.total_bytes / MIB - RESERVED_MIB - free_mib
            yield f"DCGM_FI_DEV_FB_RESERVED{of}", RESERVED_MIB
            yield f"DCGM_FI_DEV_GPU_UTIL{of}", 100 * (card.utilization_ratio or 0.0)
            slots[card.node] += card.slots or 0
        for node, places in slots.items():
            yield f"kube_node_status_allocatable{labels(node=node, resource='nvidia_com_gpu', unit='integer')}", places

    def _workloads(self, snapshot: Snapshot) -> Iterator[tuple[str, float]]:
        for workload, reading in snapshot.workloads.items():
            self._follow(workload, snapshot)
            namespace, deployment = workload
            of = labels(namespace=namespace, deployment=deployment)
            yield f"kube_deployment_spec_replicas{of}", _known(reading.spec_replicas)
            yield f"kube_deployment_status_replicas{of}", _known(reading.status_replicas)
            yield f"kube_deployment_status_replicas_ready{of}", _known(reading.ready_replicas)
            created_s = _known(reading.revision_created_s)
            revision = f"{deployment}-{int(created_s):x}"
            yield f"kube_replicaset_created{labels(namespace=namespace, replicaset=revision)}", created_s
            for pod in self._pods[workload]:
                owner = {"owner_kind": "ReplicaSet", "owner_name": f"{deployment}-6d5c7f9b8"}
                yield f"kube_pod_owner{labels(namespace=namespace, pod=pod.name, **owner)}", 1
            ready = self._pods[workload][: int(_known(reading.ready_replicas))]  # the newest load yet
            for pod in ready:
                yield from _triton(namespace, pod, reading, len(ready))

    def _follow(self, workload: WorkloadKey, snapshot: Snapshot) -> None:
        """Pods come and go as the cards' counts do; the newest of a card goes first."""
        for key, card in snapshot.cards.items():
            here = [pod for pod in self._pods[workload] if pod.card == key]
            wanted = card.pods.get(workload, 0)
            for pod in here[wanted:]:
                self._pods[workload].remove(pod)
            for _ in range(wanted - len(here)):
                self._named += 1
                self._pods[workload].append(_Pod(f"{workload.deployment}-6d5c7f9b8-{self._named:05d}", key))


def _triton(namespace: str, pod: _Pod, reading: WorkloadReading, pods: int) -> Iterator[tuple[str, float]]:
    """One pod's share of its service."""
    success_per_s = _known(reading.success_per_s)
    per_s = {
        "nv_inference_request_success": success_per_s,
        "nv_inference_request_failure": _known(reading.failure_per_s),
        "nv_inference_count": success_per_s,
        "nv_inference_exec_count": success_per_s,
        "nv_inference_request_duration_us": 1e6 * success_per_s * (reading.success_time_s or 0.0),
        "nv_inference_compute_infer_duration_us": 1e6 * _known(reading.executing),
    }
    target = {"namespace": namespace, "pod": pod.name, "model": "m", "version": "1"}
    yield f"nv_inference_pending_request_count{labels(**target)}", _known(reading.queued) / pods
    for name in COUNTERS:
        pod.counters[name] += SCRAPE_S * per_s.get(name, 0.0) / pods
        more = {"reason": "BACKEND"} if name == "nv_inference_request_failure" else {}
        yield f"{name}{labels(**target, gpu_uuid=pod.card.uuid, **more)}", pod.counters[name]


def incident_openmetrics(snapshots: Iterable[Snapshot]) -> str:
    """OpenMetrics text of these snapshots."""
    exporters = Exporters()
    for snapshot in snapshots:
        exporters.scrape(snapshot)
    return exporters.openmetrics()


def _known(value: float | None) -> float:
    """The incident's recording has no holes."""
    assert value is not None
    return value
