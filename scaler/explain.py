"""A decision as text for a terminal. It takes the contract's JSON object: one form, from HTTP and from a plan alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

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
# What would make another answer of it; with the reason, all that one can do about a decision.
CHANGED_BY: Mapping[str, str] = {
    Reason.DEMAND: "more or fewer requests of its own, or another targetConcurrency",
    Reason.LOW_VRAM: "VRAM that falls free: the high watermark, held for the pool's releaseAfter, ends it; scaling "
    "something down frees some",
    Reason.NO_FIT: "VRAM or a slot that falls free, or a smaller footprint",
    Reason.FLEET_SHARE: "less demand of the others, or a higher priority",
    Reason.OOM_STORM: "the end of the failures, for the pool's releaseAfter",
    Reason.EXHAUSTION_FORECAST: "the end of what takes the card's VRAM",
    Reason.STALLED: "requests that complete again: look at the server, and restart it",
    Reason.DEGRADED: "requests that are as fast as they were: look whether the model runs on the GPU",
    Reason.CONTENDED: "less load of the neighbours, or the pool's contentionCounts, which counts waiting on them",
    Reason.STALE: "a younger reading: look at the exporter and its scrape interval, or raise staleAfter",
    Reason.MISSING: "the reading: look at the exporter, its labels, and kube-state-metrics",
    Reason.WARMING: "a replica that becomes ready",
    Reason.SCALE_DOWN_WINDOW: "time: the pool's scaleDownWindow without higher demand",
    Reason.RECLAIMED: "requests of its own, or a neighbour that wants no VRAM any more",
    Reason.FLOOR: "a lower minReplicas in the trigger's metadata",
    Reason.CEILING: "a higher maxReplicas, the trigger's and the pool's",
}
# The counterfactuals of a decision, and what each is without: the limit that won, and the discount of neighbours.
WITHOUT_LIMIT, WITH_CONTENTION = "without-limit", "with-contention"


class Explanation(NamedTuple):
    """A decision in words.

    Attributes:
        headline: what was decided, in a sentence.
        steps: name, value with its unit, and why; in the order in which they were taken.
        reasons: the reasons in words, the binding one first.
        without: what it would have been otherwise: "without the veto (low-vram): 7 replicas".
        changed_by: what would make another answer of it, for each reason.
    """

    headline: str
    steps: tuple[tuple[str, str, str], ...]
    reasons: tuple[str, ...]
    without: tuple[str, ...]
    changed_by: tuple[str, ...]


def explanation(decision: Mapping[str, Any]) -> Explanation:
    """The parts of `explain`, for whoever lays them out otherwise; takes the contract's JSON and raises KeyError."""
    words = decision["reasons"]
    return Explanation(
        headline(decision),
        tuple(
            (str(each["name"]), quantity(each["value"], each["unit"]), str(each["text"])) for each in decision["steps"]
        ),
        tuple(f"{word}: {REASON_TEXT[word]}" if word in REASON_TEXT else str(word) for word in words),
        tuple(_without(decision)),
        tuple(dict.fromkeys(CHANGED_BY[word] for word in words if word in CHANGED_BY)),
    )


def explain(decision: Mapping[str, Any]) -> str:
    """The headline, then a line a step, what bound, what it would have been without, and what would change it.

    Raises:
        KeyError: with the name of a key of the contract that is not there.
    """
    told = explanation(decision)
    lines = [told.headline, "", *_step_lines(told.steps)]
    titles = ("decided by", "it would have been", "what would change it")
    for title, texts in zip(titles, (told.reasons, told.without, told.changed_by), strict=True):
        if texts:
            lines += ["", title, *(f"  {text}" for text in texts)]
    return "\n".join(lines)


def _without(decision: Mapping[str, Any]) -> Iterator[str]:
    for step in decision["steps"]:
        if step["value"] is None:
            continue
        if step["name"] == WITHOUT_LIMIT and decision["reasons"]:
            what = "veto" if decision["verdict"] == Verdict.VETO else "limit"
            yield f"without the {what} ({decision['reasons'][0]}): {quantity(step['value'], step['unit'])}"
        elif step["name"] == WITH_CONTENTION:
            yield f"with waiting on neighbours counted: {quantity(step['value'], step['unit'])}"


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


def _step_lines(steps: Sequence[tuple[str, str, str]]) -> list[str]:
    """Name, value with unit and text in columns."""
    names = max((len(name) for name, _, _ in steps), default=0)
    quantities = max((len(number) for _, number, _ in steps), default=0)
    return [f"  {name:<{names}}  {number:>{quantities}}  {text}".rstrip() for name, number, text in steps]


def quantity(value: float | None, unit: str) -> str:
    """A value with its unit, for people; what is not known is "unknown", never zero."""
    if value is None:
        return "unknown"
    if unit == "bytes":
        return format_bytes(value)
    digits = f"{value:.0f}" if float(value).is_integer() else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()
