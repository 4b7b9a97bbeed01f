"""How a replay writes moments."""

from __future__ import annotations

from datetime import UTC, datetime


class Clock:
    """Moments as UTC, with the day where a time of day stands for several of them."""

    def __init__(self, start_s: float, end_s: float) -> None:
        self._format = "%H:%M:%S" if end_s - start_s < 86400 else "%m-%d %H:%M:%S"

    def at(self, time_s: float | None) -> str:
        return "-" if time_s is None else datetime.fromtimestamp(time_s, UTC).strftime(self._format)
