"""What is wanted: the operator's pools and windows, and what each ScaledObject asks for within them.

These models are the YAML file's sections and the trigger's metadata themselves: camelCase outside, units in the names
inside, unknown keys refused, every key with a default, a unit and a range.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from scaler.quantity import Bytes, Count, FreeLevel, Level, Number, Seconds
from scaler.snapshot import WorkloadKey

METRIC_NAME = "vram-scaler-replicas"  # constant for every ScaledObject: a change of name rewrites the HPA


class BadPolicy(ValueError):
    """A setting or a metadata key that cannot be used; each line names the key, its value and the allowed range."""


class ServiceKey(NamedTuple):
    """A ScaledObject."""

    namespace: str
    name: str


class Section(BaseModel):
    """Frozen, camelCase outside, unknown keys refused. A field's description is its unit and range."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False
    )


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return value


def _name(kind: str, longest: int, dots: str) -> AfterValidator:
    letters = re.compile(rf"[a-z0-9]([-a-z0-9{dots}]{{0,{longest - 2}}}[a-z0-9])?", re.ASCII)

    def check(value: str) -> str:
        if value and not letters.fullmatch(value):
            raise ValueError(f"not {kind}")
        return value

    return AfterValidator(check)


Pattern = Annotated[str, AfterValidator(_pattern)]
PoolName = Annotated[str, _name("the name of a pool", 63, "")]
KubernetesName = Annotated[str, _name("a Kubernetes name", 253, ".")]
DeploymentName = Annotated[str, _name("the name of a Deployment", 253, ".")]
WatermarkOf = Literal["tightest-placeable", "tightest", "percentile", "sum"]
Placement = Literal["worst", "spread", "roomiest"]


class Timing(Section):
    """Windows and ages. The queries use the same windows, so a recording is bound to those it was made with."""

    tick_s: Seconds = Field(15.0, alias="tick", ge=0.5, le=300, description="time between two plans, 500ms to 5m")
    stable_window_s: Seconds = Field(
        60.0,
        alias="stableWindow",
        ge=1,
        le=600,
        description="window of the stable signals, at least 4 scrapes, 1s to 10m",
    )
    burst_window_s: Seconds = Field(
        30.0,
        alias="burstWindow",
        ge=1,
        le=600,
        description="window of the burst signals, at least 2 scrapes, 1s to 10m",
    )
    stale_after_s: Seconds = Field(
        45.0, alias="staleAfter", ge=1, le=600, description="age from which a reading is no longer used, 1s to 10m"
    )
    learn_every_s: Seconds = Field(
        600.0,
        alias="learnEvery",
        ge=1,
        le=3600,
        description="time between two lessons on what load a replica carries, 1s to 1h",
    )
    learn_window_s: Seconds = Field(
        86400.0, alias="learnWindow", ge=60, le=7 * 86400, description="how long such a lesson counts, 1m to 7d"
    )
    watermark_window_s: Seconds = Field(
        3600.0,
        alias="watermarkWindow",
        ge=60,
        le=86400,
        description="how far back a watermark crossing is remembered, 1m to 24h",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.stale_after_s < self.tick_s:
            raise ValueError(
                f"staleAfter {self.stale_after_s:g}s is below tick {self.tick_s:g}s; it takes at least that"
            )
        if self.burst_window_s > self.stable_window_s:
            raise ValueError(
                f"burstWindow {self.burst_window_s:g}s is above stableWindow {self.stable_window_s:g}s; "
                "it takes at most that"
            )
        return self


class PoolPolicy(Section):
    """One pool: which cards it covers, and how scarce their VRAM may become. A card belongs to the first pool that
    matches it; a pool without patterns matches every card."""

    name: PoolName = Field("default", min_length=1, description="a lower-case DNS label, 1 to 63 characters")
    nodes: Pattern = Field(".*", description="regular expression for the whole node name")
    models: Pattern = Field(".*", description="regular expression for the whole card model, e.g. Tesla T4")
    low_watermark: FreeLevel = Field(
        Level(ratio=0.10), description="free VRAM below which no scale-up passes, e.g. 1536Mi or 10%"
    )
    high_watermark: FreeLevel = Field(
        Level(ratio=0.15), description="free VRAM at which a veto may end, at least the low one, e.g. 2304Mi or 15%"
    )
    release_after_s: Seconds = Field(
        120.0,
        alias="releaseAfter",
        ge=0,
        le=3600,
        description="time at the high watermark before a veto ends, 0s to 1h",
    )
    watermark_of: WatermarkOf = Field(
        "tightest-placeable", description="which free VRAM counts: tightest-placeable, tightest, percentile or sum"
    )
    percentile: Number = Field(
        10.0, ge=0, le=100, description="with watermarkOf percentile: which, 0 (tightest) to 100"
    )
    slots_per_card: Count | None = Field(
        None, ge=1, le=256, description="time-slice places per card, 1 to 256; default: what the nodes advertise"
    )
    placement: Placement = Field(
        "worst",
        description="where a new replica is taken to land: worst (any card with a free slot), spread (the nodes with "
        "the fewest pods first, and on them such cards) or roomiest (a scheduler that sees VRAM)",
    )
    pending_replicas: Count = Field(
        0, ge=0, le=10_000, description="replicas granted beyond the free slots, for nodes to be added; 0 to 10000"
    )
    default_footprint: FreeLevel = Field(
        Level(ratio=0.15), description="VRAM of a replica of which nothing is known, e.g. 2Gi or 15%"
    )
    startup_s: Seconds = Field(
        180.0,
        alias="startupTime",
        ge=0,
        le=3600,
        description="time from a grant until its replica holds its VRAM, 0s to 1h",
    )
    reclaim_after_s: Seconds | None = Field(
        None,
        alias="reclaimAfter",
        ge=0,
        le=3600,
        description="time without own demand after which a starved neighbour may have the replicas above minReplicas, "
        "0s to 1h; default: never",
    )
    alarm_after_s: Seconds = Field(
        1800.0,
        alias="alarmAfter",
        ge=60,
        le=86400,
        description="time after which a standing veto is an alarm, 1m to 24h; at most watermarkWindow",
    )
    target_concurrency: Number = Field(
        4.0, ge=0.01, le=100_000, description="requests in flight per replica unless the trigger says, 0.01 to 100000"
    )
    max_replicas: Count = Field(
        100, ge=1, le=10_000, description="most replicas of any service of the pool, 1 to 10000"
    )
    scale_down_window_s: Seconds = Field(
        300.0, alias="scaleDownWindow", ge=0, le=3600, description="demand must have been lower this long, 0s to 1h"
    )
    blind: Literal["hold", "allow"] = Field(
        "hold", description="while free VRAM cannot be seen: hold (no scale-up) or allow (as if there were room)"
    )
    contention_counts: bool = Field(
        False, description="true: waiting that neighbours cause on a shared card counts as own demand"
    )

    @model_validator(mode="after")
    def _watermarks_in_order(self) -> Self:
        low, high = self.low_watermark, self.high_watermark
        if (low.bytes is None) != (high.bytes is None):
            raise ValueError(f"lowWatermark {low} and highWatermark {high}: both in bytes or both in percent")
        if (low.bytes or low.ratio or 0) > (high.bytes or high.ratio or 0):
            raise ValueError(f"highWatermark {high} is below lowWatermark {low}; it takes at least the low one")
        return self


class OperatorPolicy(Section):
    """What the operator decides for the whole fleet."""

    timing: Timing = Timing()
    pools: tuple[PoolPolicy, ...] = Field((PoolPolicy(),), description="at least one pool, each with a name of its own")
    settle_s: Seconds = Field(
        90.0,
        alias="settle",
        ge=0,
        le=600,
        description="time after KEDA's first call to an instance in which nobody scales up, since another one may have "
        "promised VRAM, 0s to 10m",
    )
    client_retries: Count = Field(
        2, ge=0, le=10, description="most retries that a client makes of one failed request, 0 to 10"
    )

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        names = [pool.name for pool in self.pools]
        if not names:
            raise ValueError("pools: empty; it takes at least one pool")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"pools: the name {', '.join(twice)} stands twice; each pool takes a name of its own")
        return self

    @cached_property
    def pool_by_name(self) -> dict[str, PoolPolicy]:
        """The pools by their names."""
        return {pool.name: pool for pool in self.pools}

    def pool(self, name: str) -> PoolPolicy:
        """The pool of that name; raises KeyError."""
        return self.pool_by_name[name]


class ServicePolicy(Section):
    """One ScaledObject's trigger metadata, every value a string. It may tighten its pool's policy, never loosen it."""

    scaler_address: str = Field("", description="KEDA's own; not read here")
    deployment: DeploymentName = Field("", description="a Deployment of the same namespace")
    pool: str = Field("default", description="the name of a configured pool")
    target_concurrency: Number | None = Field(
        None, ge=0.01, le=100_000, description="requests in flight per replica, 0.01 to 100000"
    )
    target_queue: Number | None = Field(
        None, ge=0.01, le=100_000, description="own waiting requests per replica, 0.01 to 100000"
    )
    target_gpu_utilization: Number | None = Field(
        None, ge=1, le=100, description="own share of a card per replica in percent, 1 to 100"
    )
    activation_concurrency: Number = Field(
        0.0, ge=0, le=100_000, description="requests in flight above which there is demand at all, 0 to 100000"
    )
    vram_per_replica: Bytes | None = Field(
        None, ge=2**20, le=2**50, description="VRAM that one replica takes at its highest, e.g. 2200Mi; 1Mi to 1Pi"
    )
    low_watermark: FreeLevel | None = Field(
        None, description="free VRAM such as 3Gi or 20%; counts where it is above the pool's"
    )
    priority: Number = Field(
        1.0, ge=0.01, le=100, description="weight among services that compete for VRAM, 0.01 to 100"
    )
    min_replicas: Count = Field(0, ge=0, le=10_000, description="0 to 10000")
    max_replicas: Count = Field(
        10_000, ge=1, le=10_000, description="1 to 10000; the pool's limit counts where it is lower"
    )

    def workload(self, key: ServiceKey) -> WorkloadKey:
        """The Deployment of the ScaledObject of that name."""
        return WorkloadKey(key.namespace, self.deployment)

    @model_validator(mode="after")
    def _floor_below_ceiling(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"minReplicas {self.min_replicas} is above maxReplicas {self.max_replicas}")
        return self


@dataclass(frozen=True, slots=True)
class Terms:
    """What a ScaledObject's keys and its pool's come to, for the arithmetic: looked up at every tick, several times.

    Attributes:
        target_concurrency / target_queue: requests per replica, in flight and waiting. target_gpu_ratio: busy cards.
        floor / ceiling: minReplicas and maxReplicas; the pool's ceiling is above both.
    """

    activation_concurrency: float
    target_concurrency: float
    target_queue: float | None
    target_gpu_ratio: float | None
    floor: int
    ceiling: int
    scale_down_window_s: float
    contention_counts: bool

    @classmethod
    def of(cls, service: ServicePolicy, pool: PoolPolicy) -> Terms:
        """The service's own where it has one, else the pool's; never beyond the pool's."""
        percent, ceiling = service.target_gpu_utilization, min(service.max_replicas, pool.max_replicas)
        return cls(
            service.activation_concurrency,
            service.target_concurrency or pool.target_concurrency,
            service.target_queue,
            percent / 100 if percent is not None else None,
            min(service.min_replicas, ceiling),
            ceiling,
            pool.scale_down_window_s,
            pool.contention_counts,
        )

    def bounded(self, replicas: int) -> int:
        """The replicas within floor and ceiling."""
        return self.floor if replicas < self.floor else min(replicas, self.ceiling)


@dataclass(frozen=True, slots=True)
class FleetPolicy:
    """The operator's policy and all ScaledObjects that are planned for, with the Deployment and the terms of each. Not
    settled: others may be asked about, and may have been told of VRAM by another instance."""

    operator: OperatorPolicy
    services: Mapping[ServiceKey, ServicePolicy]
    is_settled: bool = True
    workloads: Mapping[ServiceKey, WorkloadKey] = field(init=False, repr=False, compare=False)
    terms: Mapping[ServiceKey, Terms] = field(init=False, repr=False, compare=False)
    _by_pool: Mapping[str, Mapping[ServiceKey, ServicePolicy]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Named once: a key that is the same object is found in a dict without being compared.
        workloads, by_pool = dict[ServiceKey, WorkloadKey](), dict[str, dict[ServiceKey, ServicePolicy]]()
        for key, service in self.services.items():
            workloads[key] = service.workload(key)
            by_pool.setdefault(service.pool, {})[key] = service
        pools = self.operator.pool_by_name
        terms = {key: Terms.of(service, pools[service.pool]) for key, service in self.services.items()}
        object.__setattr__(self, "workloads", workloads)
        object.__setattr__(self, "terms", terms)
        object.__setattr__(self, "_by_pool", by_pool)

    def in_pool(self, name: str) -> Mapping[ServiceKey, ServicePolicy]:
        """The services of the pool of that name."""
        return self._by_pool.get(name, {})


def service_policy(key: ServiceKey, metadata: Mapping[str, str], operator: OperatorPolicy) -> ServicePolicy:
    """Reads a trigger's metadata.

    Raises:
        BadPolicy: with one line a fault: key, value, allowed range, and for an unknown key the near miss.
    """
    try:
        policy = ServicePolicy.model_validate(dict(metadata), by_alias=True, by_name=False)
    except ValidationError as error:
        raise BadPolicy("; ".join(describe(error, ServicePolicy, "metadata."))) from None
    names = [pool.name for pool in operator.pools]
    if policy.pool not in names:
        raise BadPolicy(f"metadata.pool: {policy.pool!r} is not a configured pool; it takes one of {', '.join(names)}")
    return policy if policy.deployment else policy.model_copy(update={"deployment": key.name})


class KeyFault(NamedTuple):
    """A key that cannot be used: where it stands, one line about it, what it takes, and for an unknown key the known
    one that is nearest."""

    loc: tuple[str | int, ...]
    text: str
    takes: str = ""
    near: str | None = None


def describe(error: ValidationError, section: type[Section], prefix: str = "") -> list[str]:
    """One line a fault: the key's path, the value that was given, and what the key takes."""
    return [fault.text for fault in key_faults(error, section, prefix)]


def key_faults(error: ValidationError, section: type[Section], prefix: str = "") -> list[KeyFault]:
    """The same with its parts, for those that point at the key's line."""
    return [_key_fault(dict(fault), section, prefix) for fault in error.errors()]


def _key_fault(fault: dict[str, Any], section: type[Section], prefix: str) -> KeyFault:
    loc, path, owner, takes = fault["loc"], "", section, ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        field = _field(owner, str(part))
        path += f".{part}" if path else str(part)
        if field is None:
            if fault["type"] == "extra_forbidden":
                known = [str(info.alias) for info in owner.model_fields.values()]
                near = difflib.get_close_matches(str(part), known, n=1, cutoff=0.6)
                meant = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(known))}"
                return KeyFault(loc, f"{prefix}{path}: unknown key; {meant}", near=near[0] if near else None)
            continue
        takes = field.description or ""
        owner = next((kind for kind in _sections(field.annotation)), owner)
    given = fault["input"]
    problem = _PROBLEMS.get(fault["type"]) or str(fault.get("ctx", {}).get("error", fault["msg"]))
    where = f"{prefix}{path}".rstrip(".")
    if isinstance(given, dict) and fault["type"] == "value_error":  # a rule between keys: it names them itself
        return KeyFault(loc, f"{where}: {problem}" if where else problem)
    shown = "" if fault["type"] == "missing" else f" {_in_yaml(given)}:"
    return KeyFault(loc, f"{where}:{shown} {problem}" + (f"; it takes {takes}" if takes else ""), takes)


# pydantic's words for these are Python's; a YAML file has mappings, lists and text.
_PROBLEMS = {
    "model_type": "not a mapping of keys",
    "dict_type": "not a mapping of keys",
    "mapping_type": "not a mapping of keys",
    "model_attributes_type": "not a mapping of keys",
    "tuple_type": "not a list",
    "list_type": "not a list",
    "string_type": "not text",
    "int_type": "not a whole number",
    "bool_type": "not true or false",
    "bool_parsing": "not true or false",
    "missing": "missing",
}


def _in_yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "a mapping"
    return f"{value!r}"[:80] if isinstance(value, (str, int, float)) else "a list"


def _field(section: type[Section], alias: str) -> Any:
    return next((info for info in section.model_fields.values() if alias == info.alias), None)


def _sections(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in _sections(part)]
