"""explain(): one input form, the contract's JSON, whether it came over HTTP or from a plan."""

from __future__ import annotations

import json

import pytest

from scaler.decision import Decision, Reason, Step, Verdict
from scaler.explain import CHANGED_BY, REASON_TEXT, explain, explanation, headline
from scaler.policy import ServiceKey

MIB = 1024**2
HOLD = Decision(
    time_s=1750205280.0,  # 2025-06-18 00:08:00 UTC
    key=ServiceKey("kserve-models", "e5"),
    pool="t4",
    replicas=3,
    demand=2,
    granted=3,
    active=True,
    verdict=Verdict.HOLD,
    reasons=(Reason.SCALE_DOWN_WINDOW,),
    steps=(
        Step("in-flight", 6.25, "requests", "0.0 queued + 6.2 executing, 5 s old"),
        Step("free-vram", 318 * MIB, "bytes", "on card GPU-1"),
        Step("own-gpu", 0.0321, "cards", "of 2 cards"),
        Step("granted", 3.0, "replicas", "what KEDA is told"),
    ),
)
VETO = HOLD._replace(
    demand=5,
    verdict=Verdict.VETO,
    reasons=(Reason.LOW_VRAM,),
    steps=(
        Step("free-vram", None, "bytes", "blind"),
        Step("without-limit", 5, "replicas", "without low-vram it would be 5"),
    ),
)


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        pytest.param(HOLD, "hold at 3 (scale-down-window); demand 2, pool t4", id="hold above demand"),
        pytest.param(HOLD._replace(demand=3), "hold at 3; demand 3, pool t4", id="hold at demand"),
        pytest.param(
            HOLD._replace(demand=5, granted=5, verdict=Verdict.SCALE_UP),
            "scale up from 3 to 5; demand 5, pool t4",
            id="scale-up",
        ),
        pytest.param(
            HOLD._replace(granted=2, verdict=Verdict.SCALE_DOWN, reasons=(Reason.DEMAND,)),
            "scale down from 3 to 2 (demand); demand 2, pool t4",
            id="scale-down",
        ),
        pytest.param(VETO, "scale-up vetoed (low-vram): stays at 3; demand 5, pool t4", id="veto"),
        pytest.param(
            VETO._replace(granted=4, verdict=Verdict.LIMITED),
            "scale up from 3 to 4 only (low-vram); demand 5, pool t4",
            id="limited",
        ),
        pytest.param(
            HOLD._replace(replicas=None, demand=None, granted=None, verdict=Verdict.UNKNOWN, reasons=(Reason.STALE,)),
            "no answer (stale); KEDA gets UNAVAILABLE and the replicas stay as they are",
            id="unknown",
        ),
    ],
)
def test_the_headline_says_what_was_decided(decision: Decision, expected: str) -> None:
    assert headline(decision.as_json()) == f"e5 in kserve-models, 2025-06-18 00:08:00Z: {expected}"


def test_every_verdict_has_a_headline_of_its_own() -> None:
    said = {headline({**VETO.as_json(), "verdict": str(verdict)}) for verdict in Verdict}
    assert len(said) == len(Verdict)
    assert not any(f": {verdict}: granted" in text for text in said for verdict in Verdict)


def test_every_reason_is_put_in_words_and_has_something_that_changes_it() -> None:
    assert set(REASON_TEXT) == set(CHANGED_BY) == set(Reason)


def test_steps_stand_in_columns_with_their_units() -> None:
    lines = explain(HOLD.as_json()).splitlines()
    assert lines[2:6] == [
        "  in-flight  6.25 requests  0.0 queued + 6.2 executing, 5 s old",
        "  free-vram        318 MiB  on card GPU-1",
        "  own-gpu     0.0321 cards  of 2 cards",
        "  granted       3 replicas  what KEDA is told",
    ]
    assert lines[6:9] == [
        "",
        "decided by",
        "  scale-down-window: demand has not been lower for the whole scale-down window",
    ]
    assert lines[9:] == ["", "what would change it", "  time: the pool's scaleDownWindow without higher demand"]


def test_zero_is_a_number() -> None:
    idle = HOLD._replace(steps=(Step("in-flight", 0.0, "requests", "none"),))
    assert "  in-flight  0 requests  none" in explain(idle.as_json()).splitlines()


def test_the_counterfactual_is_said_and_what_would_change_it() -> None:
    lines = explain(VETO.as_json()).splitlines()
    at = lines.index("it would have been")
    assert lines[at + 1] == "  without the veto (low-vram): 5 replicas"
    assert lines[at + 2 : at + 4] == ["", "what would change it"]
    assert lines[at + 4].startswith("  VRAM that falls free: the high watermark, held for")
    assert "  free-vram         unknown  blind" in lines  # unknown is not zero


def test_a_partial_grant_has_a_limit_and_contention_a_counterfactual_of_its_own() -> None:
    limited = VETO._replace(
        granted=4,
        verdict=Verdict.LIMITED,
        reasons=(Reason.NO_FIT, Reason.CONTENDED),
        steps=(*VETO.steps, Step("with-contention", 9, "replicas", "if waiting counted")),
    )
    assert explanation(limited.as_json()).without == (
        "without the limit (no-fit): 5 replicas",
        "with waiting on neighbours counted: 9 replicas",
    )
    assert explanation(HOLD.as_json()).without == ()


def test_json_over_http_reads_like_the_decision_itself() -> None:
    assert explain(json.loads(json.dumps(HOLD.as_json()))) == explain(HOLD.as_json())


def test_a_reason_of_a_newer_scaler_is_shown_as_it_is() -> None:
    assert (
        explain({**HOLD.as_json(), "reasons": ["moon-phase"]}).splitlines()[-1] == "  moon-phase"
    )  # and nothing that would change it
