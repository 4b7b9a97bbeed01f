"""The PromQL of the node agent's series (scaler/agent, docs/agent.md): pods by UID, named by kube-state-metrics.

They rank above every exporter's: NVML by process, with what could not be read absent and never 0. A card, or a pod, of
which the agent could not read all falls to the next source.
"""

from __future__ import annotations

from scaler.sources.promql import CARD, POD, by_pod, unexported

_PROCESSES, _HELD, _PEAK, _BUSY = (
    f"vram_agent_pod_{what}" for what in ("processes", "memory_held_bytes", "memory_peak_bytes", "busy_ratio")
)
_UTILIZATION = "vram_agent_card_utilization_ratio"
_HELD_IS_WHOLE = 'vram_agent_card_capability{capability="held"} == 1'


def _named(of_uids: str) -> str:
    """Per pod and card. max: kube-state-metrics may be there twice, and so may a node's agent while it is replaced."""
    names = unexported('kube_pod_info{uid!=""}', "namespace", "pod")
    by_uid = f'max by ({POD}, pod_uid) (label_replace({names}, "pod_uid", "$1", "uid", "(.+)"))'
    return f"max by ({POD}, {CARD}) (({of_uids}) * on (pod_uid) group_left (namespace, pod) {by_uid})"


def placement() -> str:
    """Some number per pod and card: where its processes have a context. A pod that has none yet is nowhere."""
    return _named(_PROCESSES)


def allotment() -> str:
    """Some number per pod and card: where the kubelet has allotted a place, a process or not."""
    text = "vram_agent_pod_places"
    for label, told in (("namespace", "pod_namespace"), ("pod", "pod_name")):
        text = f'label_replace({text}, "{label}", "$1", "{told}", "(.+)")'
    return f"max by ({POD}, {CARD}) ({text})"


def held_bytes() -> str:
    """Per pod and card, for cards of which the agent could read every pod's."""
    return _named(f"{_HELD} and on ({CARD}) ({_HELD_IS_WHOLE})")


def peak_bytes() -> str:
    """The most that each pod has held there since it came, for the same cards: an arena that shrank may grow again."""
    return _named(f"{_PEAK} and on ({CARD}) ({_HELD_IS_WHOLE})")


def utilization_ratio(window: str) -> str:
    """Per card, of the same rounds as its pods' busy ratios: by another exporter's spot values, an own part that is
    exact would be a share that is not."""
    # and: as in `busy`. max: two agents, as in `_named`.
    return f"max by ({CARD}) (avg_over_time({_UTILIZATION}[{window}]) and {_UTILIZATION})"


def busy(window: str) -> str:
    """Per pod, summed over its cards, in busy cards; no value for a pod with a card where it is not known."""
    not_known = f"{_PROCESSES} unless on (pod_uid, {CARD}) {_BUSY}"
    # and: the range selector still sees what was before a staleness marker, and the agent may be gone.
    return by_pod(_named(f"avg_over_time({_BUSY}[{window}]) and {_BUSY} unless on (pod_uid) ({not_known})"))
