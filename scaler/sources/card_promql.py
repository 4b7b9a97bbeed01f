"""The PromQL of a card's signals: the DCGM exporter with either spelling of Hostname, honorLabels on or off, MIG.

Whose VRAM and whose place it is, the node agent says first.
"""

from __future__ import annotations

from collections.abc import Mapping

from scaler.policy import Timing
from scaler.sources import agent_promql
from scaler.sources.promql import (
    CARD,
    POD,
    SERVICE,
    duration,
    first_of,
    first_told,
    newest,
    unexported,
    union,
    with_deployment,
)
from scaler.sources.workload_promql import utilization_window_s

_FREE, _USED, _RESERVED = (f"DCGM_FI_DEV_FB_{part}" for part in ("FREE", "USED", "RESERVED"))
_HOST = "Hostname, hostname"
_MIB = "1048576"


def _with_node(text: str) -> str:
    """Hostname became hostname with 4.6.0-4.8.3; a fleet shows both while it is upgraded."""
    for label in ("hostname", "Hostname"):
        text = f'label_replace({text}, "node", "$1", "{label}", "(.+)")'
    return text


def vram() -> Mapping[str, str]:
    """Per card, in bytes. USED leaves RESERVED out; a per-process series of a pod is below its device's, hence max."""
    free = f"min by ({CARD}) ({newest(_FREE)})"
    used = f"max by ({CARD}) ({newest(_USED)})"
    reserved = first_of(f"max by ({CARD}) ({_RESERVED})", f"max by ({CARD}) ({_FREE}) * 0")  # constant; or not shown
    placed = _with_node(f"min by ({CARD}, {_HOST}, modelName) ({newest(_FREE)})")
    return {
        "free_bytes": f"min by ({CARD}, node, modelName) ({placed}) * {_MIB}",
        "total_bytes": f"({free} + {used} + ({reserved})) * {_MIB}",
        "age_s": f"time() - max by ({CARD}) (timestamp({_FREE}))",
    }


def utilization_ratio(timing: Timing) -> str:
    """Per card: the agent's, else DCGM's. max before the average: the pod label of a card's series may move within the
    window."""

    def mean(metric: str) -> str:
        return f"avg_over_time((max by ({CARD}) ({metric}))[{duration(utilization_window_s(timing))}:15s])"

    return first_of(
        agent_promql.utilization_ratio(duration(timing.stable_window_s)),
        mean("DCGM_FI_PROF_GR_ENGINE_ACTIVE"),
        mean("DCGM_FI_DEV_GPU_UTIL") + " / 100",
    )


def slots() -> str:
    """Per card that is not MIG: what its node allots over the node's cards. 0 allotted says nothing of time-slicing."""
    whole_cards = _FREE + '{GPU_I_ID=""}'
    cards = f"group by (node, {CARD}) ({_with_node(f'group by ({CARD}, {_HOST}) ({whole_cards})')})"
    allotted = unexported('kube_node_status_allocatable{resource=~"nvidia_com_gpu(_shared)?"}', "node")
    per_node = f"sum by (node) (max by (node, resource) ({allotted}))"
    return f"{cards} * on (node) group_left () ({per_node} / count by (node) ({cards}) > 0)"


def placement() -> str:
    """Pods per Deployment, card and source. Without virtual GPUs DCGM names one pod of a card; Triton its own card.

    A pod that the agent sees is where its processes are; the others, the kubelet first, may name the card that it was
    allotted and not the one that it runs on, or the first that it sees of several.
    """
    by_dcgm = f"group by ({POD}, {CARD}) ({unexported(newest(_FREE), 'namespace', 'pod')})"
    own_card = 'label_replace(nv_inference_count{gpu_uuid!=""}, "UUID", "$1", "gpu_uuid", "(.+)")'
    by_triton = f"group by ({POD}, {CARD}) ({own_card})"
    by_agent = agent_promql.placement()
    others = {"kubelet": agent_promql.allotment(), "exporter": by_dcgm, "triton": by_triton}
    behind = f"({first_told('source', f'{POD}, {CARD}', others)}) unless on ({POD}) {by_agent}"
    pods = first_of(union("source", {"agent": by_agent}), behind)
    return f"count by ({SERVICE}, {CARD}, source) ({with_deployment(pods)})"


def held() -> Mapping[str, str]:
    """Per Deployment, card and source, in bytes: what its pods hold together, and the most that one of them holds, or
    has held where the agent tells.

    By the agent, card by card; else by the exporter. That one is believed of a card only where the same scrape shows
    the device by itself (else each pod's series repeats the device's value), every virtual GPU's series names its pod's
    UID, and the pods' sum is not 0 while the device is in use (without hostPID or pod UIDs each pod's value is 0).
    """
    pod, device, nameless = (_USED + of for of in ('{pod_uid!=""}', '{vgpu="",pod_uid=""}', '{vgpu!="",pod_uid=""}'))
    with_device = f"{pod} and timestamp({pod}) == on ({CARD}) group_left () max by ({CARD}) (timestamp({device}))"
    # max: a pod that holds two places on a card has two series of the same value.
    per_card = f"max by ({POD}, {CARD}) ({unexported(f'({with_device})', 'namespace', 'pod')})"
    zeros_while_in_use = f"(max by ({CARD}) ({device}) > 0 unless on ({CARD}) sum by ({CARD}) ({pod}) > 0)"
    by_exporter = f"{per_card} * {_MIB} unless on ({CARD}) {nameless} unless on ({CARD}) {zeros_while_in_use}"
    by_agent = agent_promql.held_bytes()
    sources = {"agent": by_agent, "exporter-per-process": f"{by_exporter} unless on ({CARD}) {by_agent}"}
    pods = with_deployment(union("source", sources))
    peaks = with_deployment(union("source", {"agent": agent_promql.peak_bytes()}))
    per_service = f"by ({SERVICE}, {CARD}, source)"
    return {
        "held_total_bytes": f"sum {per_service} ({pods})",
        "held_largest_bytes": first_of(f"max {per_service} ({peaks})", f"max {per_service} ({pods})"),
    }
