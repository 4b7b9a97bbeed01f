"""A scenario: the pool, its services, what happens to them and when. One YAML file each; times count from the start."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from scaler.documents import read_documents
from scaler.policy import (
    BadPolicy,
    FleetPolicy,
    OperatorPolicy,
    Section,
    ServiceKey,
    ServicePolicy,
    describe,
    service_policy,
)
from scaler.quantity import Bytes, Count, FreeLevel, Level, Number, Seconds, format_bytes
from scaler.simulate.arena import Arena, ArenaKind
from scaler.simulate.curves import Load, Points

NAMESPACE = "models"
Attribution = Literal["agent", "exporter", "triton", "none"]
STEP_S = 5.0  # of the model: divides the scrapes' 15 s, the exporter's 30 s, the HPA's 15 s and KEDA's 30 s


class ScenarioPool(Section):
    """The cards, all alike, and the watermarks that every policy is judged by."""

    cards: Count = Field(ge=1, le=10_000, description="1 to 10000")
    total: Bytes = Field(ge=2**20, le=2**50, description="VRAM of a card, e.g. 14687Mi")
    reserved: Bytes = Field(0, ge=0, le=2**50, description="of it what the driver keeps, e.g. 284Mi")
    slots: Count = Field(2, ge=1, le=256, description="pods a card, 1 to 256")
    instances: Count = Field(
        1, ge=1, le=16, description="MIG instances a card, 1 to 16; total, reserved and slots are then each one's"
    )
    cards_per_node: Count = Field(4, ge=1, le=256, description="1 to 256")
    low_watermark: FreeLevel = Level(ratio=0.10)
    high_watermark: FreeLevel = Level(ratio=0.15)
    policy: dict[str, Any] = Field(
        default_factory=dict, description="more of the pool's keys, for ours only, e.g. placement: roomiest"
    )

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.reserved >= self.total:
            reserved, total = format_bytes(self.reserved), format_bytes(self.total)
            raise ValueError(f"reserved {reserved} leaves nothing of total {total}; it takes less than that")
        return self


class ArenaShape(Section):
    """What executions need beside the weights: `base` for any, `perRow` for each row of a batch."""

    kind: ArenaKind = Field("power-of-two", description="power-of-two, same-as-requested, capped or fixed")
    base: Bytes = Field(64 * 2**20, ge=0, le=2**50, description="need of the smallest execution, e.g. 64Mi")
    per_row: Bytes = Field(16 * 2**20, ge=0, le=2**50, description="need of each row of a batch, e.g. 16Mi")
    cap: Bytes | None = Field(None, ge=2**20, le=2**50, description="of kind capped: the most it may hold")
    share: Number = Field(0.0, ge=0, le=1, description="of kind fixed: vLLM's part of the card's total, 0 to 1")


class Clients(Section):
    """How clients behave when a request fails."""

    retries: Count = Field(2, ge=0, le=10, description="most retries of one request, 0 to 10")
    share: Number = Field(1.0, ge=0, le=1, description="part of the failures that is tried again, 0 to 1")
    back_off_s: Seconds = Field(2.0, alias="backOff", ge=0, le=600, description="before the first retry, then doubled")
    patience_s: Seconds = Field(30.0, alias="patience", ge=1, le=3600, description="wait after which a client gives up")
    clump: Points = Field(
        default_factory=lambda: {0.0: 1.0}, description="requests that come together, by time: 1 is Poisson's arrivals"
    )


class Naive(Section):
    """Thresholds of the three triggers of the incident, per replica."""

    concurrency: Number = Field(16.0, ge=0.01, le=1e6, description="own requests in flight")
    pending: Number = Field(8.0, ge=0.01, le=1e6, description="pending requests")
    gpu: Number = Field(80.0, ge=1, le=1000, description="utilisation of the cards of the service's pods, percent")


def _at_least(least: float, points: dict[float, float]) -> dict[float, float]:
    lowest = min(points.values())
    if lowest < least:
        raise ValueError(f"{lowest:g} is below {least:g}")
    return points


class ScenarioService(Section):
    """One service. `scaling` is its trigger's metadata, as in a ScaledObject."""

    name: str = Field(min_length=1, max_length=54, description="a lower-case DNS label")
    server: Literal["triton", "vllm"] = "triton"
    load: Load
    service_time_s: Points = Field(
        alias="serviceTime", description="seconds in execution alone on a card, by time, 0.001 and more"
    )
    gpu_time_s: Number = Field(
        alias="gpuTime", ge=0, le=3600, description="GPU seconds of a request, batching included"
    )
    gpu_part: Number = Field(
        0.8, alias="gpuPart", ge=0, le=1, description="part of the time in execution that a neighbour stretches, 0 to 1"
    )
    max_concurrent: Points = Field(
        default_factory=lambda: {0.0: 1e6}, description="requests that a replica executes at once, by time, 1 and more"
    )
    rows: Number = Field(1.5, ge=1, le=4096, description="rows of a mean batch while nothing waits, 1 to 4096")
    max_batch: Count = Field(32, ge=1, le=4096, description="rows of the largest batch, 1 to 4096")
    queue_delay_s: Number = Field(0.01, alias="queueDelay", ge=0, le=10, description="seconds that a batch is gathered")
    cards: Count = Field(
        1,
        ge=1,
        le=16,
        description="cards of one node that a replica sits on, 1 to 16: its weights, its arena and a leak are split "
        "evenly, gpuTime is on each of them",
    )
    weights: Bytes = Field(ge=0, le=2**50, description="VRAM of the loaded models, e.g. 1600Mi")
    leak_per_hour: Bytes = Field(0, ge=0, le=2**50, description="VRAM that a pod loses each hour, e.g. 200Mi")
    arena: ArenaShape = ArenaShape()
    load_time_s: Seconds = Field(150.0, alias="loadTime", ge=0, le=3600, description="from a pod's start to ready")
    clients: Clients = Clients()
    replicas: Count = Field(1, ge=0, le=10_000, description="at the start")
    scaling: dict[str, str] = Field(default_factory=dict)
    naive: Naive = Naive()
    autoscaled: bool = True

    @field_validator("service_time_s")
    @classmethod
    def _takes_time(cls, points: dict[float, float]) -> dict[float, float]:
        return _at_least(0.001, points)

    @field_validator("max_concurrent")
    @classmethod
    def _executes(cls, points: dict[float, float]) -> dict[float, float]:
        return _at_least(1.0, points)

    @property
    def bounds(self) -> tuple[int, int]:
        """minReplicas and maxReplicas of the trigger's metadata."""
        return int(self.scaling.get("minReplicas", "0")), int(self.scaling.get("maxReplicas", "100"))

    @property
    def target_concurrency(self) -> float:
        """Of the trigger's metadata; 4 is the pool's default."""
        return float(self.scaling.get("targetConcurrency", "4"))

    def new_arena(self, kind: ArenaKind) -> Arena:
        """Of a replica that starts, on each of its cards."""
        return Arena(kind, float(self.arena.cap) / self.cards if self.arena.cap else None)


class Restart(Section):
    """Pods are replaced, a quarter at a time with surge; before it an operator may set replicas."""

    services: list[str] = Field(default_factory=list, description="names; empty: all")
    replicas: dict[str, Count] = Field(default_factory=dict, description="replicas by service, set first")
    arena: ArenaKind | None = None  # the new revision's


class Lost(Section):
    """Metrics that Prometheus does not get."""

    lasting_s: Seconds = Field(alias="for", ge=5, le=86400, description="5s to 24h")
    what: Literal["all", "cards", "servers"] = "all"


class Event(Section):
    """One thing that happens."""

    at_s: Seconds = Field(alias="at", ge=0, le=7 * 86400, description="time from the start")
    restart: Restart | None = None
    cards_lost: Count = Field(0, ge=0, le=1000, description="cards that fail, pods and all")
    metrics_lost: Lost | None = None
    scaler_restart_s: Seconds | None = Field(
        None,
        alias="scalerRestart",
        ge=0,
        le=3600,
        description="the scaler is away so long and comes back without memory",
    )


def _moment(value: Any) -> Any:
    """YAML reads an unquoted time by itself; both are taken, with their offset."""
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    if moment.tzinfo is None:
        raise ValueError("a time without its offset")
    return moment.timestamp()


class Scenario(Section):
    """Everything that a run needs but its policy and its seed."""

    about: str = Field(min_length=1, description="what it is, in a sentence or two")
    start_s: Annotated[float, BeforeValidator(_moment)] = Field(
        default=1_750_204_800.0, alias="start", description="RFC 3339"
    )
    duration_s: Seconds = Field(alias="duration", ge=60, le=7 * 86400, description="1m to 7d")
    warm_up_s: Seconds = Field(
        1200.0, alias="warmUp", ge=0, le=2 * 86400, description="before the start: nothing scales, nothing is scored"
    )
    attribution: Attribution = Field(
        "exporter", description="what tells pods on a card apart: agent, exporter, triton or none"
    )
    pool: ScenarioPool
    defaults: dict[str, Any] = Field(default_factory=dict)
    services: tuple[ScenarioService, ...]
    events: tuple[Event, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.services:
            raise ValueError("services: none; it takes at least one")
        names = [service.name for service in self.services]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"services: the name {', '.join(twice)} stands twice; each takes a name of its own")
        widest = self.pool.cards_per_node if self.pool.instances == 1 else 1
        for service in self.services:
            if service.cards > widest:
                raise ValueError(
                    f"services, {service.name}: cards: {service.cards}; it takes 1 to {widest}, whole cards of a node"
                )
        for event in self.events:
            if event.model_fields_set == {"at_s"}:
                raise ValueError(f"events: nothing happens at {event.at_s:g} s")
            if event.at_s >= self.duration_s:
                raise ValueError(f"events: at {event.at_s:g} s the scenario is over; it lasts {self.duration_s:g} s")
            asked = {*event.restart.services, *event.restart.replicas} if event.restart else set()
            if asked - set(names):
                raise ValueError(f"events: restart of {', '.join(sorted(asked - set(names)))}: not a service")
        return self

    def policy(self) -> FleetPolicy:
        """What the operator and the ScaledObjects say; raises BadPolicy."""
        settings = {
            "pools": [
                {
                    "name": "default",
                    "lowWatermark": self.pool.low_watermark,
                    "highWatermark": self.pool.high_watermark,
                    **self.pool.policy,
                }
            ],
            "clientRetries": max(service.clients.retries for service in self.services),
        }
        try:
            operator = OperatorPolicy.model_validate(settings, by_alias=True)
        except ValidationError as error:
            # In the scenario the one pool has no list around it, and its keys stand in two places.
            raise BadPolicy("; ".join(describe(error, OperatorPolicy)).replace("pools[0]", "pool")) from None
        services: dict[ServiceKey, ServicePolicy] = {}
        for service in self.services:
            if service.autoscaled:
                key = ServiceKey(NAMESPACE, service.name)
                try:
                    services[key] = service_policy(key, service.scaling, operator)
                except BadPolicy as fault:
                    raise BadPolicy(f"services, {service.name}: {fault}") from None
        return FleetPolicy(operator, services)


class Named(NamedTuple):
    """A scenario with the name that it was asked for by."""

    name: str
    scenario: Scenario


BUNDLED = Path(str(files("scaler.simulate") / "scenarios"))


def bundled_names() -> list[str]:
    """The scenarios that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def load_scenario(name_or_path: str) -> Named:
    """A bundled scenario by its name, or a YAML file.

    Raises:
        BadPolicy: in one line: file, key, value and range.
    """
    if name_or_path in bundled_names():
        path, name = str(BUNDLED / f"{name_or_path}.yaml"), name_or_path
    elif name_or_path.endswith((".yaml", ".yml")):
        path, name = name_or_path, Path(name_or_path).stem
    else:
        known = ", ".join(bundled_names())
        raise BadPolicy(f"scenario {name_or_path!r}: it takes a YAML file or one of {known}")
    document = _document(path)
    try:
        scenario = Scenario.model_validate(_with_defaults(document), by_alias=True, by_name=False)
        scenario.policy()
    except ValidationError as error:
        raise BadPolicy(f"{path}: {'; '.join(describe(error, Scenario))}") from None
    except BadPolicy as fault:
        raise BadPolicy(f"{path}: {fault}") from None
    return Named(name, scenario)


def _document(path: str) -> dict[str, Any]:
    """The file's mapping; with `basedOn: NAME` the keys of that bundled scenario that it does not give itself, those
    within `pool` and `defaults` one by one."""
    documents = read_documents(path)
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise BadPolicy(f"{path}: not one mapping of keys")
    document: dict[str, Any] = documents[0]
    base_name = document.pop("basedOn", None)
    if base_name is None:
        return document
    if base_name not in bundled_names() or str(BUNDLED / f"{base_name}.yaml") == path:
        raise BadPolicy(f"{path}: basedOn: {base_name!r}; it takes another of {', '.join(bundled_names())}")
    base = _document(str(BUNDLED / f"{base_name}.yaml"))
    whole = {**base, **document}
    for key in ("pool", "defaults"):
        if isinstance(base.get(key), dict) and isinstance(document.get(key), dict):
            whole[key] = {**base[key], **document[key]}
    return whole


def _with_defaults(document: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` holds what the services have in common; `services` may stand for several with `copies: N`. What has
    another shape is left as it is, for the scenario to refuse."""
    defaults, given = document.get("defaults") or {}, document.get("services")
    if not isinstance(defaults, dict):
        raise BadPolicy(f"defaults: {defaults!r}: not a mapping of keys")
    if not isinstance(given, list):
        return dict(document)
    services: list[Any] = []
    for service in given:
        if not isinstance(service, dict):
            services.append(service)
            continue
        whole = {**defaults, **service}
        copies = whole.pop("copies", 1)
        if not isinstance(copies, int) or not 1 <= copies <= 1000:
            raise BadPolicy(f"services, {whole.get('name')}: copies: {copies!r}; it takes 1 to 1000")
        services += (
            [{**whole, "name": f"{whole.get('name')}-{n}"} for n in range(1, copies + 1)] if copies > 1 else [whole]
        )
    return {**document, "services": services}
