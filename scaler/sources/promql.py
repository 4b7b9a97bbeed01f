"""Building blocks of the queries: windows, labels, and the way from a pod to its Deployment."""

from __future__ import annotations

from collections.abc import Mapping

SERVICE = "namespace, deployment"
POD = "namespace, pod"
CARD = "UUID, GPU_I_ID"  # on MIG the UUID is the parent card's; without MIG GPU_I_ID is absent, which equals ""


def duration(seconds: float) -> str:
    """A PromQL duration, to the millisecond: 60 -> "60s", 0.5 -> "500ms"."""
    milliseconds = round(seconds * 1000)
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"


def union(label: str, parts: Mapping[str, str]) -> str:
    """All parts in one vector, told apart by a label that holds each part's name."""
    return " or ".join(f'label_replace({text}, "{label}", "{name}", "", "")' for name, text in parts.items())


def first_of(*alternatives: str) -> str:
    """The first alternative that has a series, label set by label set."""
    return " or ".join(f"({text})" for text in alternatives)


def first_told(label: str, key: str, parts: Mapping[str, str]) -> str:
    """For each `key` (labels) the first part that has a series, with that part's name in the label."""
    return f" or on ({key}) ".join(union(label, {name: text}) for name, text in parts.items())


def by_pod(text: str) -> str:
    """The sum over a pod's models, engines and cards."""
    return f"sum by ({POD}) ({text})"


def unexported(text: str, *labels: str) -> str:
    """honorLabels: false stores a workload's labels as exported_*, and those of the target in their place."""
    for label in labels:
        text = f'label_replace({text}, "{label}", "$1", "exported_{label}", "(.+)")'
    return text


def _strip_hash(text: str, replica_set_label: str) -> str:
    """A ReplicaSet is named after its Deployment and a hash without a dash: resnet-predictor-6d5c7f9b8."""
    return f'label_replace({text}, "deployment", "$1", "{replica_set_label}", "(.+)-[a-z0-9]+")'


def of_replica_sets(metric: str) -> str:
    """A kube_replicaset_* metric with the label deployment."""
    return _strip_hash(unexported(metric, "namespace"), "replicaset")


# max by: two kube-state-metrics, in a pair or during a rollout, show every pod twice.
_DEPLOYMENT_OF_POD = (
    f"max by ({POD}, deployment) ("
    + _strip_hash(unexported('kube_pod_owner{owner_kind="ReplicaSet"}', "namespace", "pod"), "owner_name")
    + ")"
)


def with_deployment(pod_level: str) -> str:
    """Joins pods to their Deployment; a pod that has none, such as an exporter's own, drops out."""
    return f"({pod_level}) * on ({POD}) group_left (deployment) {_DEPLOYMENT_OF_POD}"


def newest(metric: str) -> str:
    """Only the series of the card's last scrape.

    Exporters move the pod label of a card's series; a series left behind without a staleness marker would be seen for
    5 minutes, with a value and an age that are no longer the card's.
    """
    return f"({metric} and (timestamp({metric}) == on ({CARD}) group_left () max by ({CARD}) (timestamp({metric}))))"
