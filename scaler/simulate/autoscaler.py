"""What every policy is to the model: it looks every 15 s, and answers each HPA sync and each poll of KEDA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from scaler.simulate.deployment import Deployment
from scaler.simulate.fleet import Fleet
from scaler.simulate.hpa import Answer, Behavior
from scaler.simulate.metric_path import Seen
from scaler.simulate.scenario import ScenarioService
from scaler.snapshot import WorkloadKey


class Estimate(NamedTuple):
    """What a policy believes of one service: fresh requests per second, and its own part of its cards' GPU time. Worked
    out when asked for: hardly any moment is one to judge them by."""

    fresh_per_s: Callable[[], float | None]
    own_share: Callable[[], float | None]


@dataclass(frozen=True, slots=True)
class Truth:
    """What only the model knows; the oracle may look, and the scores do."""

    at_s: float
    fleet: Fleet
    deployments: Mapping[WorkloadKey, Deployment]
    low_bytes: float


class Autoscaler(Protocol):
    """One policy in one run. It keeps what it remembers to itself."""

    @property
    def behavior(self) -> Behavior | None:
        """Of its HPAs; None is an HPA without that field."""

    @property
    def reads_spots(self) -> bool:
        """Whether it queries instant readings, as KEDA's own triggers do."""

    def look(self, seen: Seen, truth: Truth) -> None:
        """Every 15 s, on the whole quarter of a minute."""

    def answer(self, service: ScenarioService) -> Answer:
        """What is in force now."""

    def estimates(self) -> Mapping[WorkloadKey, Estimate]:
        """What it believes since the last look; empty where it makes no estimates."""

    def withheld(self) -> Mapping[WorkloadKey, str]:
        """Whom it gives less than the service's own load asks for, and in a word why; empty without reasons."""

    def restart(self, back_at_s: float) -> None:
        """It is away until then, and comes back without its memory."""
