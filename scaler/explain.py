"""A decision as text for a terminal. It takes the contract's JSON object: one form, from HTTP and from a plan alike."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from scaler.decision import Reason, Verdict
from scaler.quantity import format_bytes

REASON_TEXT: Mapping[str, str] = {
    Reason.DEMAND: "the service's own load asks for it",
    Reason.LOW_VRAM: "free VRAM of the pool is, or was just now, below the watermark",
    Reason.NO_FIT: "no more replicas fit above the watermark, wherever they land",
    Reason.FLEET_SHARE: "more would fit, but other services want the same room",
    Reason.OOM_STORM: "requests fail for lack of VRAM on cards of the pool",
    Reason.EXHAUSTION_FORECAST: "a card will be short before a new replica holds its VRAM",
    Reason.STALLED: "requests wait, nothing completes and the GPU idles: more replicas do not help",
    Reason.DEGRADED: "requests take far longer than usual and the GPU idles: more replicas do not help",
    Reason.CONTENDED: "neighbours on shared cards keep requests waiting; that is not counted as own demand",
    Reason.STALE: "a reading is too old to be used",
    Reason.MISSING: "a reading is missing or contradicts itself",
    Reason.WARMING: "no replica is ready yet, so there are no signals of its own",
    Reason.SCALE_DOWN_WINDOW: "demand has not been lower for the whole scale-down window",
    Reason.RECLAIMED: "it has no requests, and a neighbour wants for VRAM",
    Reason.FLOOR: "minReplicas",
    Reason.CEILING: "maxReplicas",
}
# The counterfactual of a decision: what would have been granted without the limit that won.
COUNTERFACTUAL_STEP = "without-limit"


def explain(decision: Mapping[str, Any]) -> str:
    """The headline, then a line a step, then what bound and what it would have been without.

    Raises:
        KeyError: with the name of a key of the contract that is not there.
    """
    reasons = [f"  {word}: {REASON_TEXT[word]}" if word in REASON_TEXT else f"  {word}" for word in decision["reasons"]]
    without = [step["text"] for step in decision["steps"] if step["name"] == COUNTERFACTUAL_STEP]
    lines = [headline(decision), "", *_step_lines(decision["steps"]), "", "decided by", *reasons]
    return "\n".join([*lines, *(f"  {text}" for text in without)])


def headline(decision: Mapping[str, Any]) -> str:
    """What was decided, in a sentence."""
    who = f"{decision['name']} in {decision['namespace']}, {at(decision['time'])}"
    return f"{who}: {_answer(decision)}"


def at(time_s: float) -> str:
    """Unix seconds as UTC, whole seconds: 2025-06-18 00:08:00Z."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _answer(decision: Mapping[str, Any]) -> str:
    replicas, demand, granted = decision["replicas"], decision["demand"], decision["granted"]
    why = decision["reasons"][0] if decision["reasons"] else "no reason given"
    match decision["verdict"]:
        case Verdict.UNKNOWN:
            return f"no answer ({why}); KEDA gets UNAVAILABLE and the replicas stay as they are"
        case Verdict.HOLD:
            held = "" if demand == granted else f" ({why})"
            return f"hold at {granted}{held}; demand {demand}, pool {decision['pool']}"
        case Verdict.SCALE_UP:
            return f"scale up from {replicas} to {granted}; demand {demand}, pool {decision['pool']}"
        case Verdict.SCALE_DOWN:
            return f"scale down from {replicas} to {granted} ({why}); demand {demand}, pool {decision['pool']}"
        case Verdict.VETO:
            return f"scale-up vetoed ({why}): stays at {granted}; demand {demand}, pool {decision['pool']}"
        case Verdict.LIMITED:
            return f"scale up from {replicas} to {granted} only ({why}); demand {demand}, pool {decision['pool']}"
        case other:
            return f"{other}: granted {granted}; replicas {replicas}, demand {demand}, pool {decision['pool']}"


def _step_lines(steps: list[Mapping[str, Any]]) -> list[str]:
    """Name, value with unit and text in columns."""
    rows = [(str(step["name"]), quantity(step["value"], step["unit"]), str(step["text"])) for step in steps]
    names = max((len(name) for name, _, _ in rows), default=0)
    quantities = max((len(quantity) for _, quantity, _ in rows), default=0)
    return [f"  {name:<{names}}  {quantity:>{quantities}}  {text}".rstrip() for name, quantity, text in rows]


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit for people; unknown is a word."""
    if value is None:
        return "unknown"
    if unit == "bytes":
        return format_bytes(value)
    digits = f"{value:.0f}" if float(value).is_integer() else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()
