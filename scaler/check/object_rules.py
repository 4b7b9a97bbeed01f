"""Rules on the object itself: KEDA's shape, names, replica bounds, and what only one ScaledObject can have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from scaler.check.finding import Given, Hit, Owner, dotted, quoted, shown
from scaler.check.manifest import Manifest, Path, as_text
from scaler.check.shape import elsewhere, shape_faults

_LONGEST_LABEL = 63
_OR = "\n# or at "
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_HPA_NAME: Path = ("spec", "advanced", "horizontalPodAutoscalerConfig", "name")


def unknown_field(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """A field that KEDA's CRD does not have."""
    for fault in shape_faults(manifest.value):
        if not fault.is_unknown:
            continue
        yield unknown_key(fault.path, dotted(fault.path), fault.text, fault.near, manifest.raw(fault.path))


def unknown_key(path: Path, name: str, text: str, near: str | None, value: Any) -> Hit:
    """The hit for a key that is not known where it stands: what it is taken for, or where it belongs."""
    place = elsewhere(str(path[-1])) if near is None else None
    if place is not None:
        return Hit(path, f"{name}: unknown key; KEDA has it at {place}", f"# at {place.replace(' or ', _OR)}")
    if near is None:
        return Hit(path, text, "# nothing: remove it")
    is_scalar = isinstance(value, (str, int, float))
    shown_value = quoted(value) if isinstance(value, str) else as_text(value)
    return Hit(path, text, f"{near}: {shown_value}" if is_scalar else f"{near}: # and what stands below it")


def wrong_value(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """A field that is missing, or of a type or range that the API server refuses."""
    for fault in shape_faults(manifest.value):
        if fault.is_unknown:
            continue
        key = next((part for part in reversed(fault.path) if isinstance(part, str)), "")
        value = manifest.raw(fault.path)
        is_metadata = fault.path[-2:-1] in (("metadata",), ("labels",), ("annotations",))
        if is_metadata and isinstance(value, (bool, int, float)):
            write = f"{key}: {quoted(as_text(value))}"
        elif isinstance(value, str) and value.isascii() and value.isdigit() and "whole" in fault.takes:
            write = f"{key}: {value[:20]}"
        else:
            write = f"{key}: # {fault.takes or 'see above'}"
        yield Hit(fault.path, fault.text, write)


def names(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """Names that Kubernetes or KEDA's webhook refuses."""
    name = manifest.get(str, "metadata", "name") or ""
    given_hpa = manifest.get(str, *_HPA_NAME)
    if name and not _DNS_NAME.fullmatch(name):
        what = f"metadata.name: {shown(name)} is not a name; it takes lower-case letters, digits, - and ."
        yield Hit(("metadata", "name"), what, "name: e5")
    elif len(name) > _LONGEST_LABEL or (not given_hpa and len(hpa_name(manifest)) > _LONGEST_LABEL):
        most = _LONGEST_LABEL if given_hpa else _LONGEST_LABEL - len("keda-hpa-")
        what = f"metadata.name: {len(name)} characters; it takes at most {most}"
        yield Hit(("metadata", "name"), what, f"name: # at most {most} characters")
    if given_hpa and (len(given_hpa) > _LONGEST_LABEL or not _DNS_NAME.fullmatch(given_hpa)):
        what = f"horizontalPodAutoscalerConfig.name: {shown(given_hpa)} is not a name of at most {_LONGEST_LABEL}"
        yield Hit(_HPA_NAME, what, f"name: # at most {_LONGEST_LABEL} lower-case letters, digits, - and .")
    seen: set[str] = set()
    for trigger in manifest.triggers:
        if trigger.name in seen:
            what = f"two triggers are named {shown(trigger.name)}"
            yield Hit(trigger.path("name"), what, f"name: {quoted(f'{trigger.name}-{trigger.index}')}")
        seen |= {trigger.name} - {""}


def replica_bounds(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """Bounds that contradict each other."""
    floor, ceiling = manifest.min_replicas, manifest.max_replicas
    idle = manifest.get(int, "spec", "idleReplicaCount")
    if floor > ceiling:
        what = f"minReplicaCount {floor} is above maxReplicaCount {ceiling}"
        yield Hit(("spec", "minReplicaCount"), what, f"minReplicaCount: {ceiling}")
    if idle is not None and idle >= floor:
        what = f"idleReplicaCount {idle} is not below minReplicaCount {floor}"
        yield Hit(("spec", "idleReplicaCount"), what, "# no idleReplicaCount: minReplicaCount 0 goes to zero by itself")


def same_name(manifest: Manifest, given: Given) -> Iterator[Hit]:
    """Two documents of one ScaledObject."""
    first = given.owners[_object(manifest)]
    if first is not manifest:
        what = f"{shown(manifest.name)} stands already in {place(first)}"
        yield Hit(("metadata", "name"), what, "# one of the two")


def same_target(manifest: Manifest, given: Given) -> Iterator[Hit]:
    """Two ScaledObjects that share a workload or an HPA."""
    for owner in owned(manifest):
        first = given.owners[owner]
        if owner.kind == "ScaledObject" or _object(first) == _object(manifest):
            continue
        is_target = owner.kind != "HPA"
        what = f"{owner.kind} {shown(owner.name)} has already the ScaledObject {shown(first.name)} of {place(first)}"
        write = "# one ScaledObject a workload" if is_target else "name: # another one for each ScaledObject"
        yield Hit(("spec", "scaleTargetRef", "name") if is_target else _HPA_NAME, what, write)


def owned(manifest: Manifest) -> Iterator[Owner]:
    """What no other ScaledObject can have beside this one; raises Misshapen."""
    yield _object(manifest)
    target = manifest.get(str, "spec", "scaleTargetRef", "name")
    if target:
        kind = manifest.get(str, "spec", "scaleTargetRef", "kind") or "Deployment"
        yield Owner(kind, manifest.namespace, target)
    yield Owner("HPA", manifest.namespace, hpa_name(manifest))


def hpa_name(manifest: Manifest) -> str:
    """The HPA that KEDA makes of it; raises Misshapen."""
    return manifest.get(str, *_HPA_NAME) or f"keda-hpa-{manifest.name}"


def place(manifest: Manifest) -> str:
    """Where it stands, for another one's finding."""
    return f"{manifest.file}, line {manifest.line(())}"


def _object(manifest: Manifest) -> Owner:
    return Owner("ScaledObject", manifest.namespace, manifest.name)
