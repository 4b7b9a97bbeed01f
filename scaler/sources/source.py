"""What every source offers. Synchronous on purpose: a source blocks on the network, its callers choose the thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from scaler.snapshot import Snapshot


class SourceUnavailable(Exception):
    """Nothing at all could be read; the text says in one line what was asked and why it failed."""


class Source(Protocol):
    """Snapshots of a fleet, by time."""

    def snapshot_at(self, at_s: float) -> Snapshot:
        """The fleet at that instant (Unix seconds). Signals that cannot be read are None, with a Problem.

        Raises:
            SourceUnavailable: if no signal at all could be read, within the source's own deadline.
        """

    def snapshots(self, start_s: float, end_s: float, step_s: float) -> Iterator[Snapshot]:
        """The fleet at start, start + step, ... up to and including end, in order, as snapshot_at would give them.

        Raises:
            SourceUnavailable: as snapshot_at, from the first instant that cannot be read at all.
        """
