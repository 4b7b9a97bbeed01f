"""When Python's collector looks."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from scaler.serving import garbage
from scaler.serving.garbage import seldom_collecting


def looked(monkeypatch: pytest.MonkeyPatch, most: int, alive: int) -> int:
    """How often the collector looked while so many objects came."""
    starts: list[str] = []

    def note(phase: str, _: dict[str, Any]) -> None:
        starts.extend([phase] if phase == "start" else [])

    monkeypatch.setattr(garbage, "SELDOM_OBJECTS", most)
    gc.collect()
    with seldom_collecting():
        gc.callbacks.append(note)
        try:
            kept = [[] for _ in range(alive)]  # type: ignore[var-annotated]
        finally:
            gc.callbacks.remove(note)
    assert len(kept) == alive
    return len(starts)


def test_a_long_run_is_looked_at_seldom_and_not_never(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gc.get_threshold()
    assert looked(monkeypatch, 50_000, alive=40_000) == 0
    assert 1 <= looked(monkeypatch, 50_000, alive=120_000) <= 3
    assert gc.get_threshold() == before
