"""What is answered: a decision per service with the steps that led to it, and the fleet's plan of one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from scaler.policy import ServiceKey
from scaler.snapshot import CardKey, Problem


class Verdict(StrEnum):
    """What a decision does with the replicas; `docs/decisions.md` describes each."""

    HOLD = "hold"
    SCALE_UP = "scale-up"
    SCALE_DOWN = "scale-down"
    VETO = "veto"  # demand above replicas, granted = replicas
    LIMITED = "limited"  # demand above replicas, granted between
    UNKNOWN = "unknown"  # no answer: KEDA gets UNAVAILABLE and holds


class Reason(StrEnum):
    """Why; the binding one stands first in a decision. `docs/decisions.md` describes each."""

    DEMAND = "demand"
    LOW_VRAM = "low-vram"
    NO_FIT = "no-fit"
    FLEET_SHARE = "fleet-share"
    OOM_STORM = "oom-storm"
    EXHAUSTION_FORECAST = "exhaustion-forecast"
    STALLED = "stalled"
    DEGRADED = "degraded"
    CONTENDED = "contended"
    STALE = "stale"
    MISSING = "missing"
    WARMING = "warming"
    SCALE_DOWN_WINDOW = "scale-down-window"
    RECLAIMED = "reclaimed"
    FLOOR = "floor"
    CEILING = "ceiling"


class Step(NamedTuple):
    """One number on the way to a decision: what it is, how much, in which unit, and in words why."""

    name: str
    value: float | None
    unit: str
    text: str


StepMaker = Step | Callable[[], Iterable[Step]]


class Steps(Sequence[Step]):
    """The steps of a decision, put in words when somebody reads them. Most are never read: of 1,000 decisions a tick,
    KEDA asks for the numbers alone."""

    __slots__ = ("_made", "_makers")

    def __init__(self, makers: Iterable[StepMaker]) -> None:
        self._makers: Iterable[StepMaker] = makers
        self._made: tuple[Step, ...] | None = None

    def _all(self) -> tuple[Step, ...]:
        if self._made is None:
            made: list[Step] = []
            for maker in self._makers:
                if isinstance(maker, Step):
                    made.append(maker)
                else:
                    made.extend(maker())
            self._made, self._makers = tuple(made), ()
        return self._made

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Steps, tuple)) and self._all() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._all())


class Decision(NamedTuple):
    """The answer for one ScaledObject. `granted` is None only with verdict `unknown`."""

    time_s: float
    key: ServiceKey
    pool: str
    replicas: int | None
    demand: int | None
    granted: int | None
    active: bool
    verdict: Verdict
    reasons: tuple[Reason, ...]
    steps: Sequence[Step]

    def as_json(self) -> dict[str, Any]:
        """The contract's JSON object (`docs/decisions.md`)."""
        return {
            "time": self.time_s,
            "namespace": self.key.namespace,
            "name": self.key.name,
            "pool": self.pool,
            "replicas": self.replicas,
            "demand": self.demand,
            "granted": self.granted,
            "active": self.active,
            "verdict": str(self.verdict),
            "reasons": [str(reason) for reason in self.reasons],
            "steps": [step._asdict() for step in self.steps],
        }


def met(before: Decision | None, now: Decision) -> Decision:
    """The decision that a real scale-up met which is first seen in `now`.

    What runs is held: a replica that came against a veto, or that nobody asked for while the scale-down window is
    still unknown, is granted in the tick in which it is seen. Where `now` grants more for that alone, it is `before`.
    """
    if before is None or before.granted is None or now.granted is None or before.granted >= now.granted:
        return now
    was_barred = before.verdict in (Verdict.VETO, Verdict.LIMITED)
    is_asked_for = now.demand is None or now.demand >= now.granted
    return now if is_asked_for and not was_barred else before


@dataclass(frozen=True, slots=True)
class PoolState:
    """One pool's VRAM at the plan's moment.

    `free_bytes` and `low_bytes` are those of the tightest card (or of the percentile or sum that the policy names);
    both are None while the VRAM cannot be seen, and then `vetoed` is True. `barrier` bars the pool from scaling up
    besides its watermark: oom-storm or exhaustion-forecast. `alarm_after_s` is set once either has stood so long.
    """

    name: str
    free_bytes: float | None
    low_bytes: float | None
    high_bytes: float | None
    card: CardKey | None
    vetoed: bool
    vetoed_since_s: float | None
    cards: int
    barrier: Reason | None = None
    alarm_after_s: float | None = None

    @property
    def alarm(self) -> bool:
        """Whether nobody has scaled up for so long that somebody should look."""
        return self.alarm_after_s is not None


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """All answers of one moment: GetMetrics, IsActive, the streams and the explanation come from one FleetPlan."""

    time_s: float
    decisions: Mapping[ServiceKey, Decision] = field(default_factory=dict)
    pools: Mapping[str, PoolState] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
