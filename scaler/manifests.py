"""ScaledObject manifests -> the services that they ask for, read as KEDA would send them.

KEDA sends a scaler the ScaledObject's namespace, name and trigger metadata and nothing else: neither scaleTargetRef
nor the replica bounds. So neither is taken from here, or a replay would decide otherwise than the service.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from scaler.documents import STDIN, read_documents
from scaler.policy import BadPolicy, OperatorPolicy, ServiceKey, ServicePolicy, service_policy


class Services(NamedTuple):
    """What the manifests ask for, as read and as KEDA sends it, and a line for each thing that will not do what it
    seems to."""

    policies: dict[ServiceKey, ServicePolicy]
    metadata: dict[ServiceKey, dict[str, str]]
    warnings: list[str]


class _ScaledObject(NamedTuple):
    origin: str
    key: ServiceKey
    target: str
    metadata: dict[str, str]


def read_services(paths: Sequence[str], operator: OperatorPolicy) -> Services:
    """The services of all ScaledObjects in these files (`-` is standard input), Lists and several documents included.

    Raises:
        BadPolicy: in one line: file, document, ScaledObject, key, value and range.
    """
    found: dict[ServiceKey, str] = {}
    services = Services({}, {}, [])
    for path in paths:
        for scaled_object in _scaled_objects(path):
            origin, key = scaled_object.origin, scaled_object.key
            if key in found:
                raise BadPolicy(f"{origin}: {key.namespace}/{key.name} stands already in {found[key]}")
            found[key] = origin
            try:
                policy = service_policy(key, scaled_object.metadata, operator)
            except BadPolicy as fault:
                raise BadPolicy(f"{origin}, {key.namespace}/{key.name}: {fault}") from None
            services.policies[key], services.metadata[key] = policy, scaled_object.metadata
            if policy.deployment != scaled_object.target:
                services.warnings.append(
                    f"{origin}, {key.namespace}/{key.name}: metadata.deployment should be {scaled_object.target!r}, as "
                    f"spec.scaleTargetRef.name is; KEDA does not send that, so {policy.deployment!r} is looked at"
                )
    return services


def _scaled_objects(path: str) -> Iterator[_ScaledObject]:
    name = "standard input" if path == STDIN else path
    found = False
    for number, document in enumerate(read_documents(path), start=1):
        origin = f"{name}, document {number}"
        for manifest in _flat(document, origin):
            if manifest.get("kind") == "ScaledObject":
                found = True
                yield _read(manifest, origin)
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


def _read(manifest: Mapping[str, Any], origin: str) -> _ScaledObject:
    about = _mapping(manifest.get("metadata"), origin, "metadata")
    name = _text(about.get("name"), origin, "metadata.name")
    origin_named = f"{origin}, ScaledObject {name}"
    namespace = _text(about.get("namespace"), origin_named, "metadata.namespace")
    spec = _mapping(manifest.get("spec"), origin_named, "spec")
    target = _mapping(spec.get("scaleTargetRef"), origin_named, "spec.scaleTargetRef")
    triggers = spec.get("triggers")
    if not isinstance(triggers, list):
        raise BadPolicy(f"{origin_named}: spec.triggers: {_shown(triggers)}: not a list of triggers")

    ours: list[tuple[str, Mapping[str, Any]]] = []
    for index, item in enumerate(triggers):
        trigger = _mapping(item, origin_named, f"spec.triggers[{index}]")
        if trigger.get("type") in ("external", "external-push"):
            path = f"spec.triggers[{index}].metadata"
            ours.append((path, _mapping(trigger.get("metadata"), origin_named, path)))
    if len(ours) != 1:
        raise BadPolicy(
            f"{origin_named}: spec.triggers: {len(ours)} of type external or external-push; it takes exactly one"
        )
    path, metadata = ours[0]
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise BadPolicy(
                f"{origin_named}: {path}.{key}: {_shown(value)}: not a string; KEDA takes quoted values only"
            )
    return _ScaledObject(
        origin=origin,
        key=ServiceKey(namespace, name),
        target=_text(target.get("name"), origin_named, "spec.scaleTargetRef.name"),
        metadata={str(key): value for key, value in metadata.items()},
    )


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
