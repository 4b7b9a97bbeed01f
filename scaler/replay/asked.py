"""What the Deployments' present triggers asked for, beside what was granted: the baseline of a replay.

Snapshot.asked holds it where prometheus triggers were evaluated; elsewhere the recorded replicas are the baseline.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from rich.table import Table

from scaler.decision import FleetPlan
from scaler.policy import FleetPolicy, ServiceKey
from scaler.replay.summary import Replay
from scaler.replay.tables import SHOWN_MOMENTS, table
from scaler.snapshot import Snapshot


class Beyond(NamedTuple):
    """The first moment of a time in which the triggers asked for more than was granted, and both numbers then."""

    time_s: float
    asked: int
    granted: int


@dataclass(slots=True)
class AskedAccount:
    """One service over the replay; hours are replica-hours over the moments in which both are known."""

    asked_max: int = 0
    asked_hours: float = 0.0
    granted_hours: float = 0.0
    beyond: list[Beyond] = field(default_factory=list)
    _last: tuple[float, int, int] | None = None

    def add(self, time_s: float, asked: int, granted: int) -> None:
        """One more moment; they come in the order of time."""
        if self._last is not None:
            last_s, was_asked, was_granted = self._last
            gap_h = (time_s - last_s) / 3600
            self.asked_hours += gap_h * was_asked
            self.granted_hours += gap_h * was_granted
        if asked > granted and not (self._last is not None and self._last[1] > self._last[2]):
            self.beyond.append(Beyond(time_s, asked, granted))
        self.asked_max = max(self.asked_max, asked)
        self._last = time_s, asked, granted

    def gap(self) -> None:
        """A moment without both."""
        self._last = None


@dataclass(slots=True)
class Asked:
    """The accounts of all services whose triggers were evaluated."""

    services: dict[ServiceKey, AskedAccount] = field(default_factory=dict)

    def add(self, snapshot: Snapshot, plan: FleetPlan, policy: FleetPolicy) -> dict[ServiceKey, int]:
        """One more moment; returns what was asked for then, by service."""
        found: dict[ServiceKey, int] = {}
        if not snapshot.asked and not self.services:
            return found
        for key, workload in policy.workloads.items():
            asked, decision = snapshot.asked.get(workload), plan.decisions.get(key)
            if asked is not None:
                found[key] = asked
            if asked is not None and decision is not None and decision.granted is not None:
                self.services.setdefault(key, AskedAccount()).add(snapshot.taken_at_s, asked, decision.granted)
            elif key in self.services:
                self.services[key].gap()
        return found


def asked_table(asked: Asked, replay: Replay) -> Table:
    """The baseline as a table; moments as the other tables show them."""
    clock = replay.clock
    made = table(
        "\nWhat the present triggers asked for",
        ("service", False),
        ("max\nasked", True),
        ("hours\nasked", True),
        ("hours\ngranted", True),
        ("asked for more than is granted", False),
    )
    for key, account in asked.services.items():
        moments = [
            f"{clock.at(each.time_s)} {each.asked}, not {each.granted}" for each in account.beyond[:SHOWN_MOMENTS]
        ]
        more = len(account.beyond) - len(moments)
        made.add_row(
            f"{key.namespace}/{key.name}",
            str(account.asked_max),
            f"{account.asked_hours:.1f}",
            f"{account.granted_hours:.1f}",
            "\n".join([*moments, *([f"and {more} more"] if more else [])]) or "-",
        )
    return made
