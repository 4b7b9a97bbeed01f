"""What load one replica has been seen to carry, and how long its requests took then.

On a shared card a neighbour stretches our requests: the same arrivals keep more requests in flight, and a count of
requests in flight calls that demand. The own part is what the same load per replica has been seen to need. With w(x)
the time in the server at load x per replica and no neighbour, w rises with x; so a lesson (x', w') at a load x' >= x
bounds it: w(x) <= w(x') <= w'. Of all such lessons the lower quartile counts: a quarter of the time without busy
neighbours is enough to learn from, and it does not follow the extremes of noise as the least of them would.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right, insort
from itertools import accumulate
from typing import NamedTuple

from msgspec import Struct

# Fewer completions in the stable window, and their count says too little: 100 have a standard error of 10 %.
LEAST_COMPLETIONS = 100
# A lesson speaks for loads up to 5 % above its own. 100 requests a second, counted over 60 s, jitter by 1.3 % (the root
# of 6,000 over 6,000): without a margin only the few lessons above today's chance would speak.
MARGIN_RATIO = 0.05
# The least of four is their lower quartile: up to three of the highest loads may have had a busy neighbour.
LEAST_LESSONS = 4
# A queue that own arrivals have left behind should be gone after so long: one tick, by default.
DRAIN_S = 15.0


class Lesson(NamedTuple):
    """Seen at `time_s`: so many completions per second and replica, each so long in the server (queue included)."""

    time_s: float
    load_per_s: float
    time_in_server_s: float


class Flow(Struct, frozen=True, gc=False):
    """One moment's fresh arrivals per second, and the replicas that take them (`derive` says which these are)."""

    time_s: float
    fresh_per_s: float
    replicas: int


class Flows(NamedTuple):
    """Flows of the last moments, oldest first, column by column: they are summed at every tick."""

    times_s: tuple[float, ...] = ()
    fresh_per_s: tuple[float, ...] = ()
    replicas: tuple[int, ...] = ()

    def and_now(self, flow: Flow, since_s: float) -> Flows:
        """With one more, and without those before `since_s`."""
        gone = bisect_left(self.times_s, since_s)
        return Flows(
            (*self.times_s[gone:], flow.time_s),
            (*self.fresh_per_s[gone:], flow.fresh_per_s),
            (*self.replicas[gone:], flow.replicas),
        )


NO_FLOWS = Flows()


NO_NUMBERS = array("d")


class Lessons(NamedTuple):
    """Lessons column by column, oldest first. Arrays: a day of 144 would else be 600 objects a service, which the tick
    that teaches finds in no cache."""

    times_s: array[float] = NO_NUMBERS
    load_per_s: array[float] = NO_NUMBERS
    time_in_server_s: array[float] = NO_NUMBERS


class Carried(NamedTuple):
    """The lessons of the learning window, and what follows from them: at `loads[i]` a replica's requests take
    `times_s[i]`. Both ascend, so more load never needs less. `seen_s[i]` is what the lesson at that load said."""

    lessons: Lessons = Lessons()
    loads: array[float] = NO_NUMBERS
    seen_s: array[float] = NO_NUMBERS
    times_s: array[float] = NO_NUMBERS

    def since(self, time_s: float) -> Carried:
        """Without the lessons up to that time."""
        if not self.loads or self.lessons.times_s[0] > time_s:
            return self
        return self.and_learnt(None, time_s)

    def and_learnt(self, lesson: Lesson | None, since_s: float) -> Carried:
        """With one more lesson, if it is one, and without those up to `since_s`."""
        lessons = self.lessons
        gone = bisect_right(lessons.times_s, since_s)
        if lesson is None and not gone:
            return self
        loads, seen_s = self.loads[:], self.seen_s[:]
        for index in range(gone):  # one at a lesson, as a rule
            place = _place(loads, seen_s, lessons.load_per_s[index], lessons.time_in_server_s[index])
            del loads[place], seen_s[place]
        lessons = Lessons(*(column[gone:] for column in lessons))
        if lesson is not None:
            for column, value in zip(lessons, lesson, strict=True):
                column.append(value)
            place = _place(loads, seen_s, lesson.load_per_s, lesson.time_in_server_s)
            loads.insert(place, lesson.load_per_s)
            seen_s.insert(place, lesson.time_in_server_s)
        return Carried(lessons, loads, seen_s, _times_s(seen_s))


def _place(loads: array[float], seen_s: array[float], load_per_s: float, time_in_server_s: float) -> int:
    """Where a lesson stands, or is to stand: by its load, and among equal loads by its time."""
    first, beyond = bisect_left(loads, load_per_s), bisect_right(loads, load_per_s)
    return bisect_left(seen_s, time_in_server_s, first, beyond)


def _times_s(seen_s: array[float]) -> array[float]:
    """At each load the lower quartile of what was seen at no less, and no less than at any lower load."""
    at_no_less: list[float] = []
    quartiles: list[float] = []
    for count, time_in_server_s in enumerate(reversed(seen_s)):
        insort(at_no_less, time_in_server_s)
        quartiles.append(at_no_less[count // 4])
    # The highest few loads speak together: one of them alone may have had a busy neighbour.
    few = min(LEAST_LESSONS, len(quartiles))
    quartiles[:few] = quartiles[few - 1 : few] * few
    return array("d", accumulate(reversed(quartiles), max))


def usual_time_s(carried: Carried, flow: Flow) -> float | None:
    """How long a request took in the server at the flow's load per replica; None where no such load was carried."""
    if not carried.loads or flow.replicas <= 0:
        return None
    index = bisect_left(carried.loads, flow.fresh_per_s / flow.replicas / (1.0 + MARGIN_RATIO))
    return carried.times_s[index] if index < len(carried.loads) else carried.times_s[-1]


class Needed(Struct, frozen=True, gc=False):
    """Requests in flight that arrivals need by what was seen. Above all that was carried nobody knows how long a
    request takes: `floor_replicas` is then what the arrivals take at the highest load that was carried, else 0."""

    inflight: float
    floor_replicas: float


def needed_inflight(carried: Carried, flows: Flows, now: Flow, inflight: float, window_s: float) -> Needed | None:
    """What the arrivals of `now`, the newest of the flows, need by what was seen; None without lessons or replicas, or
    with too few arrivals in the last flows, each counted over `window_s`.

    Arrivals above the highest load ever carried queue for want of replicas, not for a neighbour. What they have left
    behind, served at that load, is to be drained as well: it counts as further arrivals for DRAIN_S, as far as so many
    are in flight at all. Two standard errors of their count are no excess.
    """
    usual_s = usual_time_s(carried, now)
    if usual_s is None:
        return None
    mean_per_s = sum(flows.fresh_per_s) / len(flows.fresh_per_s)
    if mean_per_s * window_s < LEAST_COMPLETIONS:
        return None
    highest_per_s, error_per_s = carried.loads[-1], 2.0 * math.sqrt(mean_per_s / window_s)
    queue = 0.0
    # Mostly no flow can have left anything behind.
    if max(flows.fresh_per_s) - highest_per_s * min(flows.replicas) - error_per_s > 0.0:
        then_s = flows.times_s[0]
        for at_s, fresh_per_s, replicas in zip(*flows, strict=True):
            excess_per_s = fresh_per_s - highest_per_s * replicas - error_per_s
            queue = max(0.0, queue + excess_per_s * (at_s - then_s))
            then_s = at_s
    needed = (now.fresh_per_s + min(queue, inflight) / DRAIN_S) * usual_s
    load_per_s = now.fresh_per_s / now.replicas / (1.0 + MARGIN_RATIO)
    floor = now.fresh_per_s / highest_per_s / (1.0 + MARGIN_RATIO) if load_per_s > highest_per_s else 0.0
    return Needed(needed, floor)
