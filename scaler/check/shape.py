"""What KEDA's CRD (keda.sh/v1alpha1, August 2026) and the HPA take of a ScaledObject, as closed models.

The bounds of `behavior` are the HPA's: KEDA's CRD lets them pass and the API server then refuses the HPA. An explicit
null stands for an absent field, as the API server prunes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, PlainValidator, ValidationError

from scaler.check.manifest import Path
from scaler.policy import Section, key_faults

_MOST = 2**31 - 1  # int32
_QUANTITY = re.compile(r"\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?", re.ASCII)


class Shape(Section):
    """Nothing beyond what is named; no text for a number and no number for a text."""

    model_config = ConfigDict(strict=True)


def _quantity(value: Any) -> Any:
    if (
        value is None
        or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
        or (isinstance(value, str) and _QUANTITY.fullmatch(value))
    ):
        return value
    raise ValueError("not a quantity")


_Seconds = Annotated[int | None, Field(ge=0, le=_MOST, description="whole seconds from 0 on")]
_Text = Annotated[str | None, Field(description="text")]
_Flag = Annotated[bool | None, Field(description="true or false")]
_Texts = Annotated[dict[str, str] | None, Field(description="text; numbers, true and false in quotes")]


class Policy(Shape):
    type: Literal["Pods", "Percent"] = Field(description="Pods or Percent")
    value: int = Field(ge=1, le=_MOST, description="a whole number from 1 on")
    period_seconds: int = Field(ge=1, le=1800, description="whole seconds, 1 to 1800")


class ScalingRules(Shape):
    stabilization_window_seconds: int | None = Field(None, ge=0, le=3600, description="whole seconds, 0 to 3600")
    select_policy: Literal["Max", "Min", "Disabled"] | None = Field(None, description="Max, Min or Disabled")
    policies: list[Policy] | None = Field(None, description="a list of policies")
    tolerance: Annotated[Any, PlainValidator(_quantity)] = Field(
        "0", description='a whole number or a quantity in quotes, not negative, such as "0" or "0.05"'
    )


class Behavior(Shape):
    scale_up: ScalingRules | None = Field(None, description="a mapping")
    scale_down: ScalingRules | None = Field(None, description="a mapping")


class HpaConfig(Shape):
    name: _Text = None
    behavior: Behavior | None = Field(None, description="a mapping")


class Modifiers(Shape):
    formula: _Text = None
    target: _Text = None
    activation_target: _Text = None
    metric_type: Literal["AverageValue", "Value"] | None = Field(None, description="AverageValue or Value")


class Advanced(Shape):
    horizontal_pod_autoscaler_config: HpaConfig | None = Field(None, description="a mapping")
    restore_to_original_replica_count: _Flag = None
    scaling_modifiers: Modifiers | None = Field(None, description="a mapping")


class Target(Shape):
    name: str = Field(min_length=1, description="the name of the workload")
    kind: _Text = None
    api_version: _Text = None
    env_source_container_name: _Text = None


class Fallback(Shape):
    failure_threshold: int = Field(ge=0, le=_MOST, description="a whole number from 0 on")
    replicas: int = Field(ge=0, le=_MOST, description="a whole number from 0 on")
    behavior: (
        Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower", "scalingModifiers"]
        | None
    ) = Field(
        None,
        description="static, currentReplicas, currentReplicasIfHigher, currentReplicasIfLower or scalingModifiers",
    )


class Authentication(Shape):
    name: str = Field(description="the name of a TriggerAuthentication")
    kind: Literal["TriggerAuthentication", "ClusterTriggerAuthentication"] | None = Field(
        None, description="TriggerAuthentication or ClusterTriggerAuthentication"
    )


class TriggerShape(Shape):
    type: str = Field(min_length=1, description="the type of a scaler, such as external")
    name: _Text = None
    metric_type: _Text = None
    use_cached_metrics: _Flag = None
    metadata: dict[str, str] = Field(description="text; numbers, true and false in quotes")
    authentication_ref: Authentication | None = Field(None, description="a mapping")


class Spec(Shape):
    scale_target_ref: Target = Field(description="a mapping with the workload's name")
    polling_interval: int | None = Field(None, ge=1, le=_MOST, description="whole seconds from 1 on")
    cooldown_period: _Seconds = None
    initial_cooldown_period: _Seconds = None
    idle_replica_count: int | None = Field(None, ge=0, le=_MOST, description="a whole number from 0 on")
    min_replica_count: int | None = Field(None, ge=0, le=_MOST, description="a whole number from 0 on")
    max_replica_count: int | None = Field(None, ge=1, le=_MOST, description="a whole number from 1 on")
    advanced: Advanced | None = Field(None, description="a mapping")
    fallback: Fallback | None = Field(None, description="a mapping")
    triggers: list[TriggerShape] = Field(min_length=1, description="a list of at least one trigger")


class ObjectMeta(Shape):
    """What people write is typed; the rest is what a server adds, as in `kubectl get -o yaml`."""

    name: str = Field(min_length=1, description="the ScaledObject's name")
    namespace: _Text = None
    labels: _Texts = None
    annotations: _Texts = None
    generate_name: Any = None
    finalizers: Any = None
    owner_references: Any = None
    uid: Any = None
    resource_version: Any = None
    generation: Any = None
    creation_timestamp: Any = None
    deletion_timestamp: Any = None
    deletion_grace_period_seconds: Any = None
    self_link: Any = None
    managed_fields: Any = None


class ScaledObjectShape(Shape):
    api_version: Literal["keda.sh/v1alpha1"] = Field(description="keda.sh/v1alpha1")
    kind: Literal["ScaledObject"] = Field(description="ScaledObject")
    metadata: ObjectMeta = Field(description="a mapping with the ScaledObject's name")
    spec: Spec = Field(description="a mapping with scaleTargetRef and triggers")
    status: Any = None


class ShapeFault(NamedTuple):
    """One departure from the shape; `is_unknown` for a field that is not in it, `near` for the field of nearly that
    name there."""

    path: Path
    text: str
    is_unknown: bool
    near: str | None
    takes: str


def shape_faults(value: Any) -> Iterator[ShapeFault]:
    """All departures of a manifest from KEDA's shape."""
    try:
        ScaledObjectShape.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as error:
        for raw, fault in zip(error.errors(), key_faults(error, ScaledObjectShape), strict=True):
            yield ShapeFault(fault.loc, fault.text, raw["type"] == "extra_forbidden", fault.near, fault.takes)


def elsewhere(key: str) -> str | None:
    """Where KEDA has a field of exactly that name; None for names such as `name`, which are everywhere."""
    found = [place for name, place in _PLACES if name == key]
    return " or ".join(found) if 1 <= len(found) <= 2 else None


def _fields(section: type[Section], path: str) -> Iterator[tuple[str, str]]:
    for field in section.model_fields.values():
        place = f"{path}{field.alias}"
        yield str(field.alias), place
        for inner in _models(field.annotation):
            yield from _fields(inner, f"{place}[]." if inner is TriggerShape or inner is Policy else f"{place}.")


def _models(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [each for part in getattr(annotation, "__args__", ()) for each in _models(part)]


_PLACES = tuple(_fields(ScaledObjectShape, ""))
