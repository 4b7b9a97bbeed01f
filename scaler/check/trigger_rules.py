"""Rules on the trigger: its metadata as the scaler reads it, against the pool, against KEDA's own fields."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator

from pydantic import ValidationError

from scaler.check.finding import Given, Hit, quoted, shown
from scaler.check.manifest import EXTERNAL_TYPES, Manifest, Trigger
from scaler.check.object_rules import unknown_key
from scaler.policy import PoolPolicy, ServicePolicy, key_faults
from scaler.quantity import Level, parse_count, parse_level
from scaler.settings import parse_address

# What other scalers call their target. Ours is always 1, and the value is the number of replicas.
_TARGET_WORDS = ("metricname", "targetsize", "targetsizefloat", "targetvalue", "threshold", "value")
_KNOWN_KEYS = {str(field.alias) for field in ServicePolicy.model_fields.values()}
_DEFAULT_COOLDOWN_S = 300
_OWN_HOSTS = ("localhost", "127.0.0.1", "::1")


def not_ours(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """No trigger that asks an external scaler."""
    if manifest.triggers and manifest.ours is None:
        trigger = manifest.triggers[0]
        for each in manifest.triggers:
            if difflib.get_close_matches(each.type.lower(), EXTERNAL_TYPES, n=1, cutoff=0.7):
                trigger = each
        what = f"no trigger of type external; the type here is {shown(trigger.type)}"
        yield Hit(trigger.path("type"), what, "type: external")


def metadata(manifest: Manifest, given: Given) -> Iterator[Hit]:
    """Metadata that the scaler refuses."""
    ours = manifest.ours
    if ours is None:
        return
    sent = {key: value for key, value in ours.metadata.items() if key.lower() not in _TARGET_WORDS}
    try:
        policy = ServicePolicy.model_validate(sent, by_alias=True, by_name=False)
    except ValidationError as error:
        for fault in key_faults(error, ServicePolicy, "metadata."):
            path = ours.path("metadata", *map(str, fault.loc))
            key = str(fault.loc[-1]) if fault.loc else ""
            if not fault.loc:
                yield Hit(path, fault.text, "# minReplicas of at most maxReplicas")
            elif key in _KNOWN_KEYS:
                yield Hit(path, fault.text, f"{key}: # {fault.takes}")
            else:
                yield unknown_key(path, f"metadata.{key}", fault.text, fault.near, sent[key])
        return
    known = [pool.name for pool in given.operator.pools]
    if policy.pool not in known:
        what = f"metadata.pool: {shown(policy.pool)} is not a configured pool; it takes one of {', '.join(known)}"
        yield Hit(ours.path("metadata", "pool"), what, f"pool: {quoted(known[0])}")


def target_words(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """Metadata that tries to set the HPA's target."""
    ours = manifest.ours
    for key in ours.metadata if ours is not None else ():
        if ours is not None and key.lower() in _TARGET_WORDS:
            what = f"metadata.{key} sets no target: the target is 1, and the value is the number of replicas"
            yield Hit(ours.path("metadata", key), what, 'targetConcurrency: "4" # requests in flight per replica')


def looser_than_pool(manifest: Manifest, given: Given) -> Iterator[Hit]:
    """Metadata that asks for more than the pool allows, and so has no effect."""
    ours, pool = manifest.ours, _pool(manifest, given)
    if ours is None or pool is None:
        return
    low, ceiling = _level(ours, "lowWatermark"), _count(ours, "maxReplicas")
    if low is not None and _is_below(low, pool.low_watermark):
        what = f"metadata.lowWatermark {low} is below the pool's {pool.low_watermark}, which counts"
        yield Hit(ours.path("metadata", "lowWatermark"), what, f"lowWatermark: {_in_yaml(pool.low_watermark)}")
    if ceiling is not None and ceiling > pool.max_replicas:
        what = f"metadata.maxReplicas {ceiling} is above the pool's {pool.max_replicas}, which counts"
        yield Hit(ours.path("metadata", "maxReplicas"), what, f'maxReplicas: "{pool.max_replicas}"')


def floor(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """KEDA's floor and the scaler's: two numbers for one thing."""
    ours, kedas = manifest.ours, manifest.min_replicas
    if ours is None:
        return
    own = _count(ours, "minReplicas") if "minReplicas" in ours.metadata else 0
    if own is None or own == kedas:
        return
    if kedas > own:
        what = (
            f"minReplicaCount {kedas} is above metadata.minReplicas {own}: "
            "while not every pod is scraped, the answer is unknown, again and again"
        )
    else:
        what = (
            f"metadata.minReplicas {own} is above minReplicaCount {kedas}: at fewer replicas KEDA does not raise them"
        )
    where = ours.path("metadata", "minReplicas") if own else ("spec", "minReplicaCount")
    yield Hit(where, what, f'minReplicas: "{kedas}" # in metadata, the same as minReplicaCount')


def ceiling(manifest: Manifest, given: Given) -> Iterator[Hit]:
    """Replicas that are granted and that the HPA cuts off."""
    ours, pool, kedas = manifest.ours, _pool(manifest, given), manifest.max_replicas
    own = _count(ours, "maxReplicas") if ours is not None else None
    if ours is None or pool is None or own is None or min(own, pool.max_replicas) <= kedas:
        return
    what = f"metadata.maxReplicas {own} is above maxReplicaCount {kedas}: what is granted beyond it never runs"
    yield Hit(ours.path("metadata", "maxReplicas"), what, f'maxReplicas: "{kedas}"')


def scale_target(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """A workload that is not the one that the scaler looks at."""
    ours = manifest.ours
    kind = manifest.get(str, "spec", "scaleTargetRef", "kind")
    api = manifest.get(str, "spec", "scaleTargetRef", "apiVersion")
    name = manifest.get(str, "spec", "scaleTargetRef", "name")
    if ours is None:
        return
    if (kind and kind != "Deployment") or (api and not api.startswith("apps/")):
        key, value = ("kind", kind) if kind and kind != "Deployment" else ("apiVersion", api)
        what = f"scaleTargetRef.{key} is {shown(value)}: the scaler sees Deployments only, so it stays at unknown"
        write = "apiVersion: apps/v1\nkind: Deployment"
        yield Hit(("spec", "scaleTargetRef", key), what, write)
        return
    deployment = ours.metadata.get("deployment") or manifest.name
    if name and deployment and deployment != name:
        what = f"the scaler looks at Deployment {shown(deployment)}, and KEDA scales {shown(name)}"
        is_said = "deployment" in ours.metadata
        path = ours.path("metadata", "deployment") if is_said else ours.path("metadata")
        yield Hit(path, what, f"deployment: {quoted(name)} # in metadata")


def scaler_address(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """An address that KEDA cannot ask."""
    ours = manifest.ours
    if ours is None:
        return
    found = ours.metadata.get("scalerAddress", "")
    fault = _address_fault(found)
    if fault:
        what = f"metadata.scalerAddress: {shown(found)}: {fault}" if found else f"metadata.scalerAddress: {fault}"
        path = ours.path("metadata", "scalerAddress") if "scalerAddress" in ours.metadata else ours.path("metadata")
        yield Hit(path, what, "scalerAddress: vram-scaler.keda.svc.cluster.local:6000")


def _address_fault(text: str) -> str:
    if not text:
        return "missing"
    try:
        address = parse_address(text.removeprefix("dns:///"))
    except ValueError:
        return "not HOST:PORT, without a scheme or a path"
    if address.port == 0:
        return "port 0; it takes 1 to 65535"
    if text.removeprefix("dns:///").startswith(":"):
        return "no host"
    return "KEDA's own pod, not the scaler's" if address.host in _OWN_HOSTS else ""


def push_for_nothing(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """Push, where no zero is left to wake from."""
    ours = manifest.ours
    if ours is None or ours.type != "external-push" or manifest.has("spec", "idleReplicaCount"):
        return
    if manifest.min_replicas >= 1:
        what = f"external-push with minReplicaCount {manifest.min_replicas}: streams are kept open for nothing"
        yield Hit(ours.path("type"), what, "type: external")


def cooldown(manifest: Manifest, given: Given) -> Iterator[Hit]:
    """Zero sooner than a model loads."""
    pool = _pool(manifest, given)
    if pool is None or (manifest.min_replicas >= 1 and not manifest.has("spec", "idleReplicaCount")):
        return
    found = manifest.get(int, "spec", "cooldownPeriod")
    cooldown_s = _DEFAULT_COOLDOWN_S if found is None else found
    if cooldown_s < pool.startup_s:
        what = f"cooldownPeriod {cooldown_s} s is below the pool's startupTime, {pool.startup_s:g} s"
        write = f"cooldownPeriod: {max(_DEFAULT_COOLDOWN_S, math.ceil(pool.startup_s))}"
        yield Hit(("spec", "cooldownPeriod"), what, write)


def _pool(manifest: Manifest, given: Given) -> PoolPolicy | None:
    ours = manifest.ours
    name = ours.metadata.get("pool", "default") if ours is not None else ""
    return next((pool for pool in given.operator.pools if pool.name == name), None)


def _count(trigger: Trigger, key: str) -> int | None:
    """A count that the scaler would take; what it would not is for the rule on metadata."""
    try:
        return parse_count(trigger.metadata[key])
    except (KeyError, ValueError):
        return None


def _level(trigger: Trigger, key: str) -> Level | None:
    try:
        return parse_level(trigger.metadata[key])
    except (KeyError, ValueError):
        return None


def _is_below(level: Level, other: Level) -> bool:
    """Bytes against percent cannot be told without a card."""
    if level.bytes is not None and other.bytes is not None:
        return level.bytes < other.bytes
    if level.ratio is not None and other.ratio is not None:
        return level.ratio < other.ratio
    return False


def _in_yaml(level: Level) -> str:
    return quoted(str(level) if level.bytes is None else f"{-(-level.bytes // 2**20)}Mi")
