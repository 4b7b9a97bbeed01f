"""One service over the replay: what the recorded autoscaler did, beside what KEDA would have been told.

A recording cannot show what our answers would have changed: each is the answer at that moment, given the replicas that
the recorded autoscaler had made until then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from scaler.decision import Decision, Reason, Verdict, met
from scaler.policy import ServiceKey

Outcome = Literal["followed", "withdrawn", "open"]


class Withheld(NamedTuple):
    """A scale-up of the recorded autoscaler from `before` to `after` replicas, more than was `granted` at that moment.

    `free_bytes` is the free VRAM that counts for the pool then, None where it could not be seen; `reason` is the
    decision's first: `demand` says that the service's own load did not ask for it.
    """

    time_s: float
    before: int
    after: int
    granted: int
    free_bytes: float | None
    reason: Reason


class Ahead(NamedTuple):
    """A scale-up that we would have made from `before` to `after`, while the recorded autoscaler had not. Where a part
    of it was withdrawn, `after` is what was left.

    `outcome`: it `followed` at `until_s`, by as many replicas or more; the grant was `withdrawn` at `until_s`, because
    less was asked for or allowed; or neither happened before the end (`open`, `until_s` is None).
    """

    time_s: float
    before: int
    after: int
    free_bytes: float | None
    outcome: Outcome = "open"
    until_s: float | None = None

    @property
    def earlier_s(self) -> float | None:
        """By how much sooner than the recorded autoscaler; None where that never did the same."""
        return self.until_s - self.time_s if self.outcome == "followed" and self.until_s is not None else None


@dataclass(slots=True)
class ServiceAccount:
    """One service over the replay. Real is what the recorded autoscaler had, granted what KEDA would have been told.

    Attributes:
        real_hours / granted_hours: replica-hours over the moments with an answer: replicas x time to the next moment.
        real_ups: scale-ups of the recorded autoscaler, those included that were withheld.
        vetoed_steps: moments with the verdict veto or limited. unknown_steps: moments without an answer.
        withheld: scale-ups of the recorded autoscaler to more than was granted when they met it (`met`).
        ahead: scale-ups that were granted before the recorded autoscaler made them, or that it never made.
    """

    key: ServiceKey
    real_max: int = 0
    granted_max: int = 0
    real_hours: float = 0.0
    granted_hours: float = 0.0
    real_ups: int = 0
    vetoed_steps: int = 0
    first_veto_s: float | None = None
    unknown_steps: int = 0
    withheld: list[Withheld] = field(default_factory=list)
    ahead: list[Ahead] = field(default_factory=list)
    last: Decision | None = None
    _replicas: int | None = None
    _granted: int | None = None
    _open: list[int] = field(default_factory=list)  # places in `ahead`, from the lowest `after` to the highest

    def add(self, decision: Decision, gap_h: float, free_bytes: float | None) -> None:
        """One more decision, `gap_h` hours after the last one."""
        was, was_granted = self._replicas, self._granted
        if self.last is not None and self.last.granted is not None:
            self.real_hours += gap_h * (was or 0)
            self.granted_hours += gap_h * (was_granted or 0)
        before, self.last = self.last, decision
        replicas, granted = decision.replicas, decision.granted
        if replicas is None or granted is None:
            self.unknown_steps += 1
            return
        self._replicas, self._granted = replicas, granted
        self.real_max, self.granted_max = max(self.real_max, replicas), max(self.granted_max, granted)
        if decision.verdict in (Verdict.VETO, Verdict.LIMITED):
            self.vetoed_steps += 1
            if self.first_veto_s is None:
                self.first_veto_s = decision.time_s
        if was is not None and replicas > was:
            self.real_ups += 1
            told = met(before, decision)
            if told.granted is not None and replicas > told.granted:
                reason = told.reasons[0] if told.reasons else Reason.DEMAND
                self.withheld.append(Withheld(decision.time_s, was, replicas, told.granted, free_bytes, reason))
        self._compare(decision.time_s, replicas, granted, free_bytes)

    def _compare(self, time_s: float, replicas: int, granted: int, free_bytes: float | None) -> None:
        """Ends what the recorded autoscaler has caught up with or what is granted no more; begins what is more."""
        if not self._open and granted <= replicas:
            return
        for place in list(self._open):
            ahead = self.ahead[place]
            if replicas >= ahead.after or granted <= ahead.before:
                outcome: Outcome = "followed" if replicas >= ahead.after else "withdrawn"
                self.ahead[place] = ahead._replace(outcome=outcome, until_s=time_s)
                self._open.remove(place)
            elif granted < ahead.after:
                self.ahead[place] = ahead._replace(after=granted)
        highest = max([replicas, *(self.ahead[place].after for place in self._open)])
        if granted > highest:
            self._open.append(len(self.ahead))
            self.ahead.append(Ahead(time_s, highest, granted, free_bytes))
