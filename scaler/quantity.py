"""Text to numbers with units: Kubernetes quantities, watermarks, types of settings. ASCII only, nothing guessed.

`kubernetes.utils.quantity` weighs 162 MB and accepts NaN, "1_000" and full-width digits; pydantic's ByteSize rejects
"1Gi" and reads "100m" as 100 MB where Kubernetes means 0.1. Hence these few lines, tested against lightkube's parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator

from scaler.duration import parse_duration

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?", re.ASCII)
_SCALE = {
    "n": "1e-9",
    "u": "1e-6",
    "m": "1e-3",
    "": "1",
    "k": "1e3",
    "M": "1e6",
    "G": "1e9",
    "T": "1e12",
    "P": "1e15",
    "E": "1e18",
}
_SCALE |= {f"{prefix}i": str(1024**power) for power, prefix in enumerate("KMGTPE", start=1)}
MIB = 1024**2
GIB = 1024**3


def parse_number(value: Any) -> float:
    """A plain decimal such as "4" or "0.75"; raises ValueError for anything else, NaN, signs and exponents included."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e15:
        return float(value)
    if isinstance(value, str) and len(value) <= 32 and _NUMBER.fullmatch(value):
        return float(value)
    raise ValueError("not a plain number such as 4 or 0.75")


def parse_count(value: Any) -> int:
    """A whole number such as "4"; raises ValueError for anything else."""
    number = parse_number(value)
    if not number.is_integer():
        raise ValueError("not a whole number such as 4")
    return int(number)


def parse_bytes(value: Any) -> int:
    """A Kubernetes quantity ("1536Mi", "2Gi", "2e9") in bytes, rounded up; raises ValueError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**63:
        return int(value)
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) and len(value) <= 32 else None
    if match is None:
        raise ValueError("not a quantity such as 1536Mi or 2Gi")
    digits, suffix = match.group(1), match.group(2) or ""
    scale = Decimal(_SCALE[suffix]) if suffix in _SCALE else Decimal(f"1{suffix}")
    amount = Decimal(digits) * scale
    if amount >= 2**63:
        raise ValueError("more bytes than 63 bits hold")
    return int(amount.to_integral_value(rounding="ROUND_CEILING"))


@dataclass(frozen=True, slots=True)
class Level:
    """A level of free VRAM: so many bytes of any card, or a ratio of each card's own total. Exactly one is set."""

    bytes: int | None = None
    ratio: float | None = None

    def of(self, total_bytes: float) -> float:
        """The level in bytes on a card, or on a sum of cards, of that total."""
        return float(self.bytes) if self.bytes is not None else (self.ratio or 0.0) * total_bytes

    def __str__(self) -> str:
        return format_bytes(self.bytes) if self.bytes is not None else f"{100 * (self.ratio or 0):g}%"


def parse_level(value: Any) -> Level:
    """A free-VRAM level, "2Gi" or "10%"; raises ValueError."""
    if isinstance(value, Level):
        return value
    if isinstance(value, str) and value.endswith("%"):
        percent = parse_number(value[:-1])
        if percent > 100:
            raise ValueError("more than 100%")
        return Level(ratio=percent / 100)
    level = Level(bytes=parse_bytes(value))
    if 0 < (level.bytes or 0) < MIB:  # "20" was meant as 20% or 20Gi; as 20 bytes it would be no watermark at all
        raise ValueError("less than 1Mi, and not 0: is its unit missing?")
    return level


def format_bytes(value: float) -> str:
    """Bytes for people: "318 MiB" below 1 GiB, else "5.5 GiB"."""
    return f"{value / GIB:.1f} GiB" if abs(value) >= GIB else f"{value / MIB:.0f} MiB"


Number = Annotated[float, BeforeValidator(parse_number)]
Count = Annotated[int, BeforeValidator(parse_count)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Seconds = Annotated[float, BeforeValidator(parse_duration)]
FreeLevel = Annotated[Level, BeforeValidator(parse_level)]
