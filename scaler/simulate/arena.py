"""How much VRAM a pod's allocator holds, and what happens when it asks a card for more.

The field's term is arena: memory that a server took from the card for its executions and keeps. Four kinds, as ONNX
Runtime under Triton and vLLM do it; all sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scaler.quantity import MIB

ArenaKind = Literal["power-of-two", "same-as-requested", "capped", "fixed"]

FIRST_REGION_BYTES = 2.0 * MIB  # ONNX Runtime's growth begins there, and doubles until the request fits
BACKPEDAL_FACTOR = 0.9  # a region that the card refuses is asked for again this much smaller
LEFT_BYTES = 2.0 * MIB  # the driver does not give away the very last of a card


@dataclass(slots=True)
class Arena:
    """One pod's arena.

    power-of-two: each region is twice the last one, or as often doubled as it takes; nothing is given back. Near the
    end of a card it takes nearly all that is left for one small request, and the next neighbour gets the out-of-memory
    error.
    same-as-requested: grows by what is asked, and shrinks after each run.
    capped: power-of-two up to `cap_bytes`; beyond that executions fail however much the card has.
    fixed: vLLM's share of the card, taken at the start; executions take nothing more.
    """

    kind: ArenaKind
    cap_bytes: float | None = None
    held_bytes: float = 0.0
    _next_region_bytes: float = FIRST_REGION_BYTES

    def hold(self, need_bytes: float, free_bytes: float) -> float:
        """Executions of up to `need_bytes` come; the card has `free_bytes` beside what is held. Returns how large an
        execution the arena can serve now: less than `need_bytes` means that the larger ones fail."""
        if self.kind == "fixed":
            return need_bytes
        if self.kind == "same-as-requested":
            self.held_bytes = min(need_bytes, self.held_bytes + max(0.0, free_bytes - LEFT_BYTES))
            return self.held_bytes
        room_bytes = max(0.0, free_bytes - LEFT_BYTES)
        if self.kind == "capped" and self.cap_bytes is not None:
            room_bytes = min(room_bytes, max(0.0, self.cap_bytes - self.held_bytes))
        while self.held_bytes < need_bytes:
            lacking_bytes = need_bytes - self.held_bytes
            region_bytes = self._next_region_bytes
            while region_bytes < lacking_bytes:
                region_bytes *= 2.0
            doubled = region_bytes > self._next_region_bytes
            if region_bytes > room_bytes:
                while region_bytes * BACKPEDAL_FACTOR >= lacking_bytes and region_bytes > room_bytes:
                    region_bytes *= BACKPEDAL_FACTOR
                region_bytes = min(region_bytes, room_bytes)
                # The largest execution fails; a smaller one of the same moment still takes what is left.
                self.held_bytes += region_bytes
                break
            self.held_bytes += region_bytes
            room_bytes -= region_bytes
            self._next_region_bytes = region_bytes if doubled else 2.0 * region_bytes
        return self.held_bytes

    def reset(self) -> None:
        """As after a restart of the pod."""
        self.held_bytes, self._next_region_bytes = 0.0, FIRST_REGION_BYTES
