"""A query with a bug in it, in place of the sound one: a test of queries has to see it."""

from __future__ import annotations

import pytest

from scaler.policy import Timing
from scaler.sources import prometheus
from scaler.sources.queries import build_queries


def break_a_query(monkeypatch: pytest.MonkeyPatch, right: str, wrong: str) -> None:
    """Puts `wrong` for `right` wherever it stands in the built-in queries; it has to stand somewhere."""
    sound = build_queries(Timing())
    broken = tuple(query._replace(promql=query.promql.replace(right, wrong)) for query in sound)
    assert broken != sound
    monkeypatch.setattr(prometheus, "build_queries", lambda timing, overrides: broken)
