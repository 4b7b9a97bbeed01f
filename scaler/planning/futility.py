"""When more replicas would not help: work waits and the GPU idles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from scaler.decision import Reason
from scaler.signals.derive import Derivation
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


def futility(reading: WorkloadReading, derivation: Derivation, cards: Sequence[CardReading]) -> Futile | None:
    """None where more replicas may help, or where it cannot be seen that the service's own cards idle."""
    ratios = [card.utilization_ratio for card in cards]
    known = [ratio for ratio in ratios if ratio is not None]
    if not known or len(known) < len(ratios) or max(known) >= IDLE_RATIO:
        return None
    idle = f"its {len(known)} cards are {max(known):.0%} busy at most"
    queued, growth_per_s = reading.queued or 0.0, reading.inflight_growth_per_s or 0.0
    if queued > 0.0 and growth_per_s > 0.0 and reading.success_per_s == 0.0 and reading.failure_per_s == 0.0:
        return Futile(Reason.STALLED, f"{queued:.1f} wait, {growth_per_s:.2f}/s more, nothing completes, and {idle}")
    flow, needed = derivation.arrivals, derivation.needed
    if flow is None or needed is None or not reading.success_time_s or flow.fresh_per_s <= 0.0:
        return None
    usual_s = needed.inflight / flow.fresh_per_s
    if reading.success_time_s < SLOW_FACTOR * usual_s:
        return None
    text = f"a request takes {reading.success_time_s:.2f} s, at such load it took {usual_s:.2f} s, and {idle}"
    return Futile(Reason.DEGRADED, text)
