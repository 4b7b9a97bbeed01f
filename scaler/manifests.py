"""ScaledObject manifests -> the services that they ask for, read as KEDA would send them.

KEDA sends a scaler the ScaledObject's namespace, name and trigger metadata and nothing else: neither scaleTargetRef
nor the replica bounds. So neither is taken from here, or a replay would decide otherwise than the service. Only where
there is no trigger of ours yet, they are what a first one would say.

Triggers of type prometheus are the baseline: what the Deployment's autoscaler is told today.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from scaler.documents import STDIN, read_documents
from scaler.policy import BadPolicy, OperatorPolicy, ServiceKey, ServicePolicy, service_policy
from scaler.snapshot import WorkloadKey
from scaler.sources.baseline import Baseline, PrometheusTrigger

_OURS = ("external", "external-push")
_LEAST, _MOST = 0, 100  # KEDA's defaults of minReplicaCount and maxReplicaCount


class Services(NamedTuple):
    """What the manifests ask for, as read and as KEDA sends it; a line for each thing that will not do what it seems
    to; their other triggers, as far as a Prometheus can evaluate them, and a line for each that it cannot."""

    policies: dict[ServiceKey, ServicePolicy]
    metadata: dict[ServiceKey, dict[str, str]]
    warnings: list[str]
    baselines: list[Baseline]
    unplayable: list[str]


class _ScaledObject(NamedTuple):
    origin: str
    key: ServiceKey
    target: str
    metadata: dict[str, str]
    has_ours: bool
    baseline: Baseline | None
    unplayable: str | None


def read_services(
    paths: Sequence[str],
    operator: OperatorPolicy,
    namespace: str | None = None,
    refusal: Callable[[dict[str, Any]], str | None] = lambda _: None,
) -> Services:
    """The services of all ScaledObjects in these files (`-` is standard input), Lists and several documents included.
    Those that name no namespace, as where kustomize gives it, are in `namespace`. `refusal` says what else is wrong
    with a ScaledObject, None for nothing.

    Raises:
        BadPolicy: in one line: file, document, ScaledObject, key, value and range.
    """
    found: dict[ServiceKey, str] = {}
    services = Services({}, {}, [], [], [])
    for path in paths:
        for scaled_object in _scaled_objects(path, namespace, refusal):
            origin, key = scaled_object.origin, scaled_object.key
            if key in found:
                raise BadPolicy(f"{origin}: {key.namespace}/{key.name} stands already in {found[key]}")
            found[key] = origin
            try:
                policy = service_policy(key, scaled_object.metadata, operator)
            except BadPolicy as fault:
                raise BadPolicy(f"{origin}, {key.namespace}/{key.name}: {fault}") from None
            services.policies[key], services.metadata[key] = policy, scaled_object.metadata
            named = f"{origin}, {key.namespace}/{key.name}"
            if scaled_object.baseline is not None:
                services.baselines.append(scaled_object.baseline)
            if scaled_object.unplayable is not None:
                services.unplayable.append(f"{named}: {scaled_object.unplayable}")
            if not scaled_object.has_ours:
                as_if = ", ".join(f"{field} {value}" for field, value in scaled_object.metadata.items())
                services.warnings.append(f"{named}: no trigger of type external; planned as if it had one with {as_if}")
            if policy.deployment != scaled_object.target:
                services.warnings.append(
                    f"{named}: metadata.deployment should be {scaled_object.target!r}, as "
                    f"spec.scaleTargetRef.name is; KEDA does not send that, so {policy.deployment!r} is looked at"
                )
    return services


def _scaled_objects(
    path: str, namespace: str | None, refusal: Callable[[dict[str, Any]], str | None]
) -> Iterator[_ScaledObject]:
    name = "standard input" if path == STDIN else path
    found = False
    for number, document in enumerate(read_documents(path), start=1):
        origin = f"{name}, document {number}"
        for manifest in _flat(document, origin):
            if manifest.get("kind") == "ScaledObject":
                found = True
                read = _read(manifest, origin, namespace)
                fault = refusal(dict(manifest))
                if fault is not None:
                    raise BadPolicy(f"{origin}, {'/'.join(read.key)}: {fault}")
                yield read
    if not found:
        raise BadPolicy(f"{name}: no ScaledObject in it")


def _flat(document: Any, origin: str) -> list[Mapping[str, Any]]:
    """The manifests of a document: itself, or the items of a List."""
    if document is None:
        return []
    manifest = _mapping(document, origin, "a manifest")
    if not str(manifest.get("kind", "")).endswith("List"):
        return [manifest]
    items = manifest.get("items")
    if not isinstance(items, list):
        raise BadPolicy(f"{origin}: items: {_shown(items)}: not a list of manifests")
    return [_mapping(item, origin, f"items[{index}]") for index, item in enumerate(items)]


def _read(manifest: Mapping[str, Any], origin: str, default_namespace: str | None) -> _ScaledObject:
    about = _mapping(manifest.get("metadata"), origin, "metadata")
    name = _text(about.get("name"), origin, "metadata.name")
    origin_named = f"{origin}, ScaledObject {name}"
    if about.get("namespace") is None and default_namespace is None:
        raise BadPolicy(f"{origin_named}: metadata.namespace: missing; give it with -n NAMESPACE")
    namespace = _text(about.get("namespace", default_namespace), origin_named, "metadata.namespace")
    spec = _mapping(manifest.get("spec"), origin_named, "spec")
    target = _mapping(spec.get("scaleTargetRef"), origin_named, "spec.scaleTargetRef")
    triggers = spec.get("triggers")
    if not isinstance(triggers, list):
        raise BadPolicy(f"{origin_named}: spec.triggers: {_shown(triggers)}: not a list of triggers")

    ours: list[tuple[str, Mapping[str, Any]]] = []
    for index, item in enumerate(triggers):
        trigger = _mapping(item, origin_named, f"spec.triggers[{index}]")
        if trigger.get("type") in _OURS:
            path = f"spec.triggers[{index}].metadata"
            ours.append((path, _mapping(trigger.get("metadata"), origin_named, path)))
    if len(ours) > 1:
        raise BadPolicy(
            f"{origin_named}: spec.triggers: {len(ours)} of type external or external-push; it takes one of them"
        )
    key, deployment = ServiceKey(namespace, name), _text(target.get("name"), origin_named, "spec.scaleTargetRef.name")
    bounds = [
        _replicas(spec.get(field), default, origin_named, f"spec.{field}")
        for field, default in (("minReplicaCount", _LEAST), ("maxReplicaCount", _MOST))
    ]
    path, metadata = ours[0] if ours else ("", _first_metadata(deployment, *bounds))
    for field, value in metadata.items():
        if not isinstance(value, str):
            raise BadPolicy(
                f"{origin_named}: {path}.{field}: {_shown(value)}: not a string; KEDA takes quoted values only"
            )
    baseline, unplayable = _baseline(key, WorkloadKey(namespace, deployment), spec, bounds)
    return _ScaledObject(
        origin=origin,
        key=key,
        target=deployment,
        metadata={str(field): value for field, value in metadata.items()},
        has_ours=bool(ours),
        baseline=baseline,
        unplayable=unplayable,
    )


def _first_metadata(deployment: str, least: int, most: int) -> dict[str, str]:
    """The metadata that a first trigger of ours would have."""
    return {"deployment": deployment, "minReplicas": str(least), "maxReplicas": str(most)}


def _baseline(
    key: ServiceKey, workload: WorkloadKey, spec: Mapping[str, Any], bounds: Sequence[int]
) -> tuple[Baseline | None, str | None]:
    """What the triggers other than ours ask for; or why that cannot be evaluated, where there are any."""
    others = [(index, item) for index, item in enumerate(spec["triggers"]) if item.get("type") not in _OURS]
    if not others:
        return None, None
    refused = "; the baseline is what ran"
    advanced = spec.get("advanced")
    modifiers = advanced.get("scalingModifiers") if isinstance(advanced, dict) else None
    if isinstance(modifiers, dict) and modifiers.get("formula"):
        return None, f"spec.advanced.scalingModifiers.formula cannot be replayed{refused}"
    triggers = []
    for index, item in others:
        path = f"spec.triggers[{index}]"
        try:
            triggers.append(_trigger(f"trigger {index} of {key.namespace}/{key.name}", item))
        except ValueError as fault:
            return None, f"{path}{fault}{refused}"
    least, most = bounds
    return Baseline(workload, tuple(triggers), least, most), None


def _trigger(name: str, item: Mapping[str, Any]) -> PrometheusTrigger:
    """A trigger that a Prometheus can evaluate; else raises ValueError with the key in it and why."""
    if item.get("type") != "prometheus":
        raise ValueError(f".type {_shown(item.get('type'))} cannot be replayed, prometheus can")
    metadata = item.get("metadata")
    fields = metadata if isinstance(metadata, dict) else {}
    query, metric_type = fields.get("query"), item.get("metricType", "AverageValue")
    if not isinstance(query, str) or not query.strip():
        raise ValueError(f".metadata.query: {_shown(query)}: not a query")
    try:
        threshold = float(fields.get("threshold", ""))
    except (TypeError, ValueError):
        threshold = math.nan
    if not (math.isfinite(threshold) and threshold >= 0.001):  # KEDA hands it on in thousandths
        raise ValueError(f".metadata.threshold: {_shown(fields.get('threshold'))}: not a number from 0.001")
    if metric_type not in ("AverageValue", "Value"):
        raise ValueError(f".metricType: {_shown(metric_type)}: not AverageValue or Value")
    empty_is_zero = str(fields.get("ignoreNullValues", "true")).lower() in ("true", "t", "1")
    return PrometheusTrigger(name, query, threshold, metric_type == "AverageValue", empty_is_zero)


def _replicas(value: Any, default: int, origin: str, path: str) -> int:
    if value is None:
        return default
    if type(value) is not int or not 0 <= value <= 10_000:
        raise BadPolicy(f"{origin}: {path}: {_shown(value)}: not a whole number from 0 to 10000")
    return value


def _mapping(value: Any, origin: str, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadPolicy(f"{origin}: {path}: {_shown(value)}: not a mapping")
    return value


def _text(value: Any, origin: str, path: str) -> str:
    if not isinstance(value, str) or not value:
        raise BadPolicy(f"{origin}: {path}: {_shown(value)}: not a name")
    return value


def _shown(value: Any) -> str:
    """The value as a fault shows it: short and in one line."""
    if value is None:
        return "missing"
    return repr(value)[:80] if isinstance(value, (str, int, float)) else type(value).__name__
