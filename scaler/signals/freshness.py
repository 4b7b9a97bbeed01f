"""Which readings may be used: fresh and whole ones. Anything else holds, and says which reading was at fault."""

from __future__ import annotations

from typing import NamedTuple

from scaler.decision import Reason
from scaler.snapshot import CardReading, WorkloadReading


class Fault(NamedTuple):
    """Why a service's readings cannot move it. `reason` is missing, stale or warming."""

    reason: Reason
    text: str


def replicas_fault(reading: WorkloadReading | None, stale_after_s: float) -> Fault | None:
    """None if spec.replicas is known and fresh. Without it no number can be called a scale-up or a scale-down."""
    if reading is None or reading.spec_replicas is None or reading.ready_replicas is None:
        return Fault(Reason.MISSING, "no spec.replicas and ready replicas from kube-state-metrics for this Deployment")
    if min(reading.spec_replicas, reading.ready_replicas) < 0:
        text = f"contradictory: spec.replicas {reading.spec_replicas}, ready {reading.ready_replicas}"
        return Fault(Reason.MISSING, text)
    # An age below zero is a sample from the future: two clocks disagree, and neither can be believed.
    if reading.replicas_age_s is None or abs(reading.replicas_age_s) > stale_after_s:
        age = "unknown" if reading.replicas_age_s is None else f"{reading.replicas_age_s:.0f} s"
        return Fault(Reason.STALE, f"spec.replicas has age {age}, usable up to {stale_after_s:g} s")
    return None


def signals_fault(reading: WorkloadReading, stale_after_s: float) -> Fault | None:
    """None if the service's own signals are there and fresh.

    No pod ready yet is no fault of the source: the signals start with the first ready pod (reason warming). A signal
    from before the service, an operator's query of its gateway say, needs no pod and so counts at zero replicas too.
    """
    if reading.queued is None and reading.executing is None:
        if not reading.ready_replicas:
            return Fault(Reason.WARMING, f"{reading.spec_replicas} replicas asked for, none ready: no signals yet")
        return Fault(
            Reason.MISSING, f"{reading.ready_replicas} replicas ready, but no pod's request metrics are scraped"
        )
    age_s = reading.signals_age_s
    has_pods = bool(reading.scraped_pods or reading.ready_replicas)
    if (age_s is None and has_pods) or (age_s is not None and abs(age_s) > stale_after_s):
        age = "unknown" if age_s is None else f"{age_s:.0f} s"
        return Fault(Reason.STALE, f"own signals have age {age}, usable up to {stale_after_s:g} s")
    if reading.queued is None or reading.executing is None:
        what = "queued" if reading.queued is None else "executing"
        return Fault(Reason.MISSING, f"own {what} requests cannot be seen")
    if reading.queued < 0 or reading.executing < 0:
        return Fault(Reason.MISSING, f"contradictory: queued {reading.queued:g}, executing {reading.executing:g}")
    if reading.spec_replicas and not reading.ready_replicas and reading.queued + reading.executing == 0:
        return Fault(Reason.WARMING, f"{reading.spec_replicas} replicas asked for, none ready, nothing in flight")
    return None


def covers_all_pods(reading: WorkloadReading) -> bool:
    """False if ready pods are not scraped: the sums are then a lower bound, good for going up, not for going down."""
    return (reading.scraped_pods or 0) >= (reading.ready_replicas or 0)


def free_bytes(card: CardReading, stale_after_s: float) -> float | None:
    """The card's free VRAM, or None where it is missing, too old, negative or more than there is."""
    if card.free_bytes is None or card.free_bytes < 0 or card.age_s is None or abs(card.age_s) > stale_after_s:
        return None
    if card.total_bytes is not None and card.free_bytes > card.total_bytes:
        return None
    return card.free_bytes
