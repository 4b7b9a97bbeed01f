"""Own concurrency -> replicas, and the windows that keep replicas from twitching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from scaler.planning.promises import ACTED_ON_S
from scaler.policy import Terms
from scaler.signals.derive import Load, Moment

# 2.04 replicas' worth of requests is two replicas a little busier, not a third one: rates jitter by a few percent.
TOLERANCE_REPLICAS = 0.05

# More than was ever carried is carried now, by replicas with up to a quarter more in flight than their target: they are
# enough. Else a service that is down from five replicas to four goes back to five at once, and every lesson is of five.
CARRIED_RATIO = 1.25

# So long nothing may have been seen for a window to count as seen: what was unseen was not lower.
LONGEST_GAP_S = 120.0


def load_of(moment: Moment, terms: Terms) -> Load:
    """What counts of a moment's load: its own part, unless the pool counts contention."""
    return moment.crowded if terms.contention_counts else moment.own


def replicas_for(load: Load, terms: Terms) -> int:
    """Replicas that the load needs, before floor and ceiling. It never divides by the present replicas, so it does
    not twitch at low counts. GPU time corroborates: it asks for no more replicas than there are requests in flight."""
    if load.present <= terms.activation_concurrency:
        return 0
    target = terms.target_concurrency
    needed, present = load.inflight / target, load.present / target
    if load.carried_floor > 0.0 and present > load.carried_by * CARRIED_RATIO:
        needed = max(needed, min(present, load.carried_floor))
    if terms.target_queue is not None:
        needed = max(needed, load.queued / terms.target_queue)
    if terms.target_gpu_ratio is not None:
        by_gpu = load.gpu_busy / terms.target_gpu_ratio
        needed = max(needed, min(by_gpu, load.inflight))
    return max(1, math.ceil(needed - TOLERANCE_REPLICAS))


class Window(NamedTuple):
    """The highest demand of the window, `raw` before floor and ceiling; `covered` is False while less than the window
    has been seen."""

    replicas: int
    covered: bool
    raw: int


def scale_down_window(moments: Sequence[Moment], time_s: float, terms: Terms, window_s: float | None = None) -> Window:
    """The highest demand from `time_s`, the newest moment's, back over the pool's scaleDownWindow (or `window_s`). The
    load grows in each of its parts, so the replicas for the highest of each part bound the highest of the replicas."""
    start_s = time_s - (terms.scale_down_window_s if window_s is None else window_s)
    covered = False
    inflight = queued = gpu_busy = present = carried_floor = 0.0
    carried_by: int | None = None
    later_s = time_s
    for moment in reversed(moments):
        if later_s - moment.time_s > LONGEST_GAP_S:
            break
        later_s = moment.time_s
        load = load_of(moment, terms)
        # Each service that is on its way down looks at some twenty moments a tick: a comparison is faster than max().
        if load.inflight > inflight:
            inflight = load.inflight
        if load.queued > queued:
            queued = load.queued
        if load.gpu_busy > gpu_busy:
            gpu_busy = load.gpu_busy
        if load.present > present:
            present = load.present
        if load.carried_floor > 0.0:
            carried_floor = max(carried_floor, load.carried_floor)
            carried_by = load.carried_by if carried_by is None else min(carried_by, load.carried_by)
        if moment.time_s <= start_s:
            covered = True
            break
    highest = Load(inflight, queued, gpu_busy, present, carried_floor, carried_by or 0)
    raw = replicas_for(highest, terms)
    return Window(terms.bounded(raw), covered, raw)


def least_told(moments: Sequence[Moment], time_s: float, replicas: int, sampled_s: float, terms: Terms) -> int:
    """The least that KEDA can have been told since `replicas` were read at `sampled_s`, or `replicas`.

    What was told may have been acted on in the meantime: of 10 replicas read 20 s ago, and 6 told until now, 6 or 10
    run. A moment whose load asked for less told that; any other told the replicas or nothing. What was told while fewer
    ran than now has been overtaken.
    """
    least = replicas
    # Requests enough for all of the replicas ask for no fewer, whatever else there is: mostly no moment did.
    enough = replicas * terms.target_concurrency
    if terms.ceiling < replicas or enough <= terms.activation_concurrency:
        enough = math.inf
    for index in range(len(moments) - 1, -1, -1):
        moment = moments[index]
        if moment.time_s <= sampled_s - ACTED_ON_S:
            break
        load = load_of(moment, terms)
        if load.inflight >= enough or moment.time_s == time_s or moment.spec_replicas < replicas:
            continue
        now = terms.bounded(replicas_for(load, terms))
        if now >= replicas or not moment.is_whole or moment.is_held:
            continue
        window = scale_down_window(moments[: index + 1], moment.time_s, terms)
        if window.covered:
            least = min(least, max(now, min(moment.spec_replicas, window.replicas)))
    return least
