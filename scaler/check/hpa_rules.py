"""Rules on what stands between the answer and the replicas: the HPA's behavior, KEDA's fallback, other triggers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from scaler.check.finding import Given, Hit, quoted, shown
from scaler.check.manifest import BEHAVIOR, MODIFIERS, Manifest, Trigger

_DIRECTIONS = ("scaleUp", "scaleDown")
_NEEDED = ("stabilizationWindowSeconds", "selectPolicy", "policies")
_FORCED = ("metadata", "annotations", "autoscaling.keda.sh/force-activation")
_NOT_FORCED = ("0", "f", "F", "false", "FALSE", "False")  # what Go's ParseBool takes for false; KEDA takes all else
_UTILIZATION_WHAT = "KEDA refuses it for external triggers"
_VALUE_WHAT = "the HPA multiplies the answer by the ready pods; while models load there are none"

FULL_BEHAVIOR = """\
advanced:
  horizontalPodAutoscalerConfig:
    behavior:
      scaleUp:
        stabilizationWindowSeconds: 0
        tolerance: "0"
        selectPolicy: Max
        policies:
          - type: Pods
            value: 2
            periodSeconds: 60
      scaleDown:
        stabilizationWindowSeconds: 300
        tolerance: "0"
        selectPolicy: Max
        policies:
          - type: Percent
            value: 100
            periodSeconds: 15"""


def behavior_missing(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """No behavior at all."""
    if not manifest.has(*BEHAVIOR):
        yield Hit(BEHAVIOR, "no behavior: after a veto the HPA goes on scaling up for 5 minutes", FULL_BEHAVIOR)


def behavior_partial(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """A behavior whose rest the API server fills in."""
    if not manifest.has(*BEHAVIOR):
        return
    lacking: list[str] = []
    for direction in _DIRECTIONS:
        rules = manifest.get(dict, *BEHAVIOR, direction)
        if rules is None:
            lacking.append(direction)
        else:
            lacking.extend(f"{direction}.{field}" for field in _NEEDED if rules.get(field) in (None, []))
    if lacking:
        what = f"behavior lacks {', '.join(lacking)}: KEDA rewrites the HPA at every reconcile, and defaults decide"
        yield Hit(BEHAVIOR, what, FULL_BEHAVIOR)


def tolerance(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """A direction without a tolerance of 0. One that stands in a policy is an unknown field, and told as that."""
    lacking: list[str] = []
    for direction in _DIRECTIONS:
        rules = manifest.get(dict, *BEHAVIOR, direction)
        if not rules or _is_in_a_policy(rules):
            continue
        found = rules.get("tolerance")
        if found is None:
            lacking.append(direction)
        elif not _is_zero(found):
            what = f"{direction}.tolerance is {shown(found)}: a step within that ratio of the replicas is swallowed"
            yield Hit((*BEHAVIOR, direction, "tolerance"), what, 'tolerance: "0"')
    if lacking:
        what = f"no tolerance in {' and '.join(lacking)}: a step from 10 to 11 replicas, or from 20 to 18, is swallowed"
        write = "\n".join(f'{direction}:\n  tolerance: "0"' for direction in lacking)
        yield Hit((*BEHAVIOR, lacking[0]), what, write)


def _is_in_a_policy(rules: dict[str, object]) -> bool:
    policies = rules.get("policies")
    return isinstance(policies, list) and any(isinstance(each, dict) and "tolerance" in each for each in policies)


def _is_zero(found: object) -> bool:
    """0, "0", "0.0", "0m"; what is no quantity is the shape's to tell."""
    digits = re.match(r"\+?([0-9.]+)", str(found), re.ASCII)
    return digits is None or not digits[1].strip("0.")


def fallback(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """A fallback that changes replicas while the scaler says unknown."""
    if not manifest.has("spec", "fallback") or _holds(manifest):
        return
    replicas = manifest.get(int, "spec", "fallback", "replicas")
    behavior = manifest.get(str, "spec", "fallback", "behavior") or "static"
    what = f"fallback ({shown(behavior)}) acts where the scaler says unknown, which would hold"
    if replicas == 0:
        what = "fallback.replicas 0 scales to zero where the scaler says unknown, which would hold"
    yield Hit(("spec", "fallback"), what, "# no fallback: without it the HPA holds exactly what it has")


def fallback_holds(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """The one fallback that freezes: currentReplicas where nothing can be woken or put to sleep."""
    if manifest.has("spec", "fallback") and _holds(manifest):
        what = "fallback with currentReplicas holds less exactly than no fallback"
        yield Hit(("spec", "fallback"), what, "# no fallback")


def _holds(manifest: Manifest) -> bool:
    return (
        manifest.get(str, "spec", "fallback", "behavior") == "currentReplicas"
        and (manifest.get(int, "spec", "fallback", "replicas") or 0) >= 1
        and manifest.min_replicas >= 1
        and not manifest.has("spec", "idleReplicaCount")
    )


def several_triggers(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """Another trigger whose value reaches the HPA beside ours."""
    ours = manifest.ours
    if ours is None:
        return
    has_formula = bool(manifest.get(str, *MODIFIERS, "formula"))
    for trigger in manifest.triggers:
        if trigger is ours:
            continue
        is_resource = trigger.type in ("cpu", "memory")
        if is_resource and has_formula:
            what = f"a {trigger.type} trigger stands outside of scalingModifiers.formula: the HPA takes the higher"
            yield Hit(trigger.path(), what, "# one trigger; cpu and memory are never part of the formula")
        elif not has_formula:
            what = f"a second trigger, {shown(trigger.type)}: the HPA takes the highest, and passes a veto by"
            yield Hit(trigger.path(), what, "# one trigger" if is_resource else _modifiers(ours, trigger))


def _modifiers(ours: Trigger, other: Trigger) -> str:
    own, beside = ours.name or "vram", other.name or "other"
    return f"""\
# one trigger; or, with a name for each, and the other one counting replicas:
advanced:
  scalingModifiers:
    formula: {quoted(f"min({own}, {beside})")}
    target: "1"
    metricType: AverageValue"""


def formula(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """A formula that can exceed our answer."""
    text, ours = manifest.get(str, *MODIFIERS, "formula") or "", manifest.ours
    if ours is None or not _names(text, ours.name) or text.strip() == ours.name:
        return
    if not _is_min_with(ours.name, text):
        what = f"scalingModifiers.formula {shown(text)} is not a min(): it may be above the answer of {ours.name}"
        yield Hit((*MODIFIERS, "formula"), what, f"formula: {quoted(f'min({ours.name}, ...)')}")


def _is_min_with(name: str, text: str) -> bool:
    """Whether the whole formula is min(...) with that name for an argument."""
    inside = re.fullmatch(r"\s*min\((.*)\)\s*", text, re.DOTALL)
    arguments, depth = [""], 0
    for letter in inside[1] if inside else "":
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return False
        if letter == "," and depth == 0:
            arguments.append("")
        else:
            arguments[-1] += letter
    return name in (argument.strip() for argument in arguments)


def modifiers_target(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """scalingModifiers that divide our answer, or leave it out."""
    text, ours = manifest.get(str, *MODIFIERS, "formula"), manifest.ours
    if ours is None or not text:
        return
    target = manifest.get(str, *MODIFIERS, "target") or ""
    if not re.fullmatch(r"1(\.0*)?", target, re.ASCII):
        what = f"scalingModifiers.target is {shown(target)}: the HPA divides the replicas that are answered by it"
        yield Hit((*MODIFIERS, "target"), what, 'target: "1"')
    if not _names(text, ours.name):
        whose = f"of trigger {shown(ours.name)}" if ours.name else "of the external trigger, which has no name"
        what = f"scalingModifiers.formula has no answer {whose} in it"
        name = ours.name or "vram"
        write = f"name: {quoted(name)} # the trigger's\nformula: {quoted(name)}"
        yield Hit((*MODIFIERS, "formula"), what, write)


def _names(text: str, name: str) -> bool:
    return bool(name) and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.ASCII) is not None


def cached_metrics(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """An answer that the HPA may read after the veto."""
    ours = manifest.ours
    if ours is not None and manifest.get(bool, *ours.path("useCachedMetrics")):
        seconds = manifest.get(int, "spec", "pollingInterval") or 30
        what = f"useCachedMetrics: the HPA reads an answer of up to {seconds} s ago or older, beyond a veto"
        yield Hit(ours.path("useCachedMetrics"), what, "useCachedMetrics: false")


def metric_type(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """A metric type under which the number of replicas is read as something else."""
    ours = manifest.ours
    if ours is None:
        return
    for path in (ours.path("metricType"), (*MODIFIERS, "metricType")):
        found = manifest.get(str, *path)
        if found and found != "AverageValue":
            harm = {"Value": _VALUE_WHAT, "Utilization": _UTILIZATION_WHAT}.get(found, "the API server refuses the HPA")
            yield Hit(path, f"metricType is {shown(found)}: {harm}", "metricType: AverageValue")


def forced(manifest: Manifest, _: Given) -> Iterator[Hit]:
    """The annotation that makes KEDA ignore IsActive."""
    found = manifest.get(str, *_FORCED)
    if found is not None and found not in _NOT_FORCED:
        what = "force-activation starts the first replicas whatever the scaler answers"
        yield Hit(_FORCED, what, "# no such annotation")
