"""Durations as text, and which times can be meant. Apart from `quantity`, which brings pydantic: the node agent has
40 MiB for all that it is."""

from __future__ import annotations

import re
from typing import Any

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", re.ASCII)
LAST_MOMENT_S = 253_402_300_799.0  # 9999-12-31T23:59:59Z, the last that RFC 3339 can write
LEAST_STEP_S, MOST_STEP_S = 0.5, 3600.0  # between two moments of a replay or a recording
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: Any) -> float:
    """A duration in seconds: "15s", "1m30s", "5m", "24h"; a bare number is refused because its unit is a guess."""
    if isinstance(value, str) and 0 < len(value) <= 32:
        parts = list(_DURATION.finditer(value))
        if parts and "".join(part.group(0) for part in parts) == value:
            return sum(float(part.group(1)) * _SECONDS[part.group(2)] for part in parts)
    raise ValueError("not a duration such as 15s, 1m30s or 24h")
