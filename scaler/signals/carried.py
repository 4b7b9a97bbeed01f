"""What load one replica has been seen to carry, and how long its requests took then.

On a shared card a neighbour stretches our requests: the same arrivals keep more requests in flight, and a count of
requests in flight calls that demand. The own part is what the same load per replica has been seen to need. With w(x)
the time in the server at load x per replica and no neighbour, w rises with x; so any lesson (x', w') at a load
x' >= x bounds it: w(x) <= w(x') <= w'. The least such w' is what our own arrivals need, whatever the neighbours do.
"""

from __future__ import annotations

from typing import NamedTuple

# A lesson speaks for loads up to 5 % above its own. 100 requests a second, counted over 60 s, jitter by 1.3 % (the root
# of 6,000 over 6,000): without a margin every new maximum would be taken for load that no replica can carry.
MARGIN_RATIO = 0.05


class Lesson(NamedTuple):
    """Seen at `time_s`: so many requests per second and ready replica, each so long in the server (queue included).
    Learnt only while nearly nothing failed: failing fast is no capacity."""

    time_s: float
    load_per_s: float
    time_in_server_s: float


class Flow(NamedTuple):
    """One moment's fresh arrivals per second and the replicas ready to take them."""

    time_s: float
    fresh_per_s: float
    ready_replicas: int


def learn(lessons: tuple[Lesson, ...], lesson: Lesson, window_s: float) -> tuple[Lesson, ...]:
    """The lessons with one more: drops those older than the window, and those that the new one makes superfluous
    (it is younger, at no less load, and took no longer). So the rest stays small and equals the whole window."""
    oldest = lesson.time_s - window_s
    kept = [
        old
        for old in lessons
        if old.time_s > oldest
        and not (lesson.load_per_s >= old.load_per_s and lesson.time_in_server_s <= old.time_in_server_s)
    ]
    return (*kept, lesson)


def needed_inflight(lessons: tuple[Lesson, ...], flows: list[Flow]) -> float | None:
    """Requests in flight that the newest flow's arrivals need by what was seen; None without lessons or replicas.

    Arrivals above the highest load ever seen may queue for want of replicas, not for a neighbour: what has come in
    above it, less what it could have drained since, counts on top (a queue served at the highest load seen).
    """
    now = flows[-1]
    if not lessons or now.ready_replicas <= 0:
        return None
    load_per_s = now.fresh_per_s / now.ready_replicas / (1.0 + MARGIN_RATIO)
    highest = max(lessons, key=_by_load)
    time_s = highest.time_in_server_s
    for lesson in lessons:
        if lesson.load_per_s >= load_per_s and lesson.time_in_server_s < time_s:
            time_s = lesson.time_in_server_s
    carried_per_s = highest.load_per_s * (1.0 + MARGIN_RATIO)
    queue, then_s = 0.0, flows[0].time_s
    for flow in flows:
        excess_per_s = flow.fresh_per_s - carried_per_s * flow.ready_replicas
        queue += excess_per_s * (flow.time_s - then_s)
        if queue < 0.0:
            queue = 0.0
        then_s = flow.time_s
    return now.fresh_per_s * time_s + queue


def _by_load(lesson: Lesson) -> tuple[float, float]:
    return lesson.load_per_s, -lesson.time_in_server_s
