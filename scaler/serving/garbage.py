"""Keeps the pauses of Python's garbage collector out of KEDA's calls.

A tick over 500 services has some 150,000 short-lived objects alive, which the collector takes for growth: it looked at
all of them five times a tick, 50 to 140 ms each, and every call waited. Reference counts free them anyhow.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

FULL_COLLECTION_EVERY = 240  # ticks, an hour of 15 s: bounds what cycles among set-aside objects can take
SELDOM_OBJECTS = 500_000  # 100 services over an hour have 75,000 alive, and not one in a cycle


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """For a long run that frees by reference counts: the collector looks only when so many objects more are alive."""
    before = gc.get_threshold()
    gc.set_threshold(SELDOM_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class QuietCollector:
    """Sets aside what each tick leaves, so that the collector only ever looks at what calls leave between ticks."""

    def __init__(self) -> None:
        self._ticks = 0

    @contextmanager
    def tick(self) -> Iterator[None]:
        """No collection within; afterwards everything alive is set aside, in no time, and collection goes on."""
        gc.collect(1)  # or the young garbage of now would be set aside with the rest
        gc.disable()
        try:
            yield
        finally:
            self._ticks += 1
            if self._ticks % FULL_COLLECTION_EVERY == 0:
                gc.unfreeze()
                gc.collect()
            gc.freeze()
            gc.enable()
