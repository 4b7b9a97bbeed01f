"""HOST:PORT, as flags and settings take it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple


class Address(NamedTuple):
    """Where to listen, or where it listens: port 0 asks for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_HOST_PORT = re.compile(r"(?P<host>[A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})", re.ASCII)


def parse_address(value: Any) -> Address:
    """127.0.0.1:6000, [::]:6000 or :6000 (every IPv4 interface); raises ValueError."""
    if isinstance(value, Address):
        return value
    match = _HOST_PORT.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match["port"]) > 65535:
        raise ValueError("not an address such as 127.0.0.1:6000, [::1]:6000 or :6000")
    return Address(match["host"].strip("[]") or "0.0.0.0", int(match["port"]))
