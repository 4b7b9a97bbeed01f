"""When more replicas would not help: work waits and the GPU idles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from scaler.decision import Reason
from scaler.signals.carried import Carried, Flow, usual_time_s
from scaler.signals.freshness import free_bytes
from scaler.snapshot import CardReading, WorkloadReading

# A GPU that is used for less is idle: DCGM's utilisation is a spot value, the mean of which over 2 minutes is read.
IDLE_RATIO = 0.05
# Slower than ever seen at such load by so much, on an idle GPU, is no load: a model that runs on the CPU takes 10 times
# as long and more.
SLOW_FACTOR = 5.0


class Futile(NamedTuple):
    """Why more replicas would not help; reason `stalled` or `degraded`."""

    reason: Reason
    text: str


def futility(
    reading: WorkloadReading, flow: Flow | None, carried: Carried, cards: Sequence[CardReading], stale_after_s: float
) -> Futile | None:
    """None where more replicas may help, or where it cannot be seen that the service's own cards idle."""
    busiest = -1.0
    for card in cards:
        ratio = card.utilization_ratio
        if ratio is None or ratio >= IDLE_RATIO or free_bytes(card, stale_after_s) is None:
            return None
        busiest = max(busiest, ratio)
    if busiest < 0.0:
        return None
    idle = f"its {len(cards)} cards are {busiest:.0%} busy at most"
    queued, growth_per_s = reading.queued or 0.0, reading.inflight_growth_per_s or 0.0
    if queued > 0.0 and growth_per_s > 0.0 and reading.success_per_s == 0.0 and reading.failure_per_s == 0.0:
        return Futile(Reason.STALLED, f"{queued:.1f} wait, {growth_per_s:.2f}/s more, nothing completes, and {idle}")
    usual_s = usual_time_s(carried, flow) if flow is not None and flow.fresh_per_s > 0.0 else None
    if usual_s is None or not reading.success_time_s or reading.success_time_s < SLOW_FACTOR * usual_s:
        return None
    text = f"a request takes {reading.success_time_s:.2f} s, at such load it took {usual_s:.2f} s, and {idle}"
    return Futile(Reason.DEGRADED, text)
