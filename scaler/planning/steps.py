"""The numbers on the way to a decision, in words: what it is, its age, the correction, the limit (law 10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from scaler.decision import Step
from scaler.planning.cards import Hosts
from scaler.planning.watermark import PoolMoment, Watch
from scaler.policy import PoolPolicy, Terms
from scaler.quantity import Level, format_bytes
from scaler.signals.derive import Derivation, Load
from scaler.signals.gpu_share import gpu_share
from scaler.snapshot import CardReading, WorkloadKey, WorkloadReading


def load_steps(
    derivation: Derivation,
    workload: WorkloadKey,
    readings: Mapping[WorkloadKey, WorkloadReading],
    hosts: Hosts,
    load: Load,
    terms: Terms,
) -> list[Step]:
    """From requests in flight to own requests in flight, with every correction that was made or refused."""
    reading, cards = readings[workload], hosts.get(workload, ())
    share = gpu_share(workload, readings, cards)
    moment, flow = derivation.moment, derivation.arrivals
    age = reading.signals_age_s or 0.0
    text = f"{reading.queued:.1f} queued + {reading.executing:.1f} executing, {age:.0f} s old"
    if derivation.inflight_burst is not None:
        text += f"; burst {derivation.inflight_burst:.1f}"
    steps = [
        Step("replicas", moment.spec_replicas, "replicas", f"spec.replicas, read {reading.replicas_age_s:.0f} s ago"),
        *_placed(workload, cards, moment.spec_replicas),
        Step("in-flight", derivation.inflight_stable, "requests", text),
    ]
    if flow is not None:
        if flow.corrected:
            text = (
                f"of {flow.all_per_s:.1f}/s; {flow.failed_ratio:.0%} of attempts fail for lack of VRAM and come again"
            )
        elif flow.failed_ratio > 0:
            text = f"{flow.failed_ratio:.0%} of attempts fail, but no card of the service is short: nothing discounted"
        else:
            text = "completions plus growth of the queue"
        steps.append(Step("fresh-arrivals", flow.fresh_per_s, "1/s", text))
        if flow.corrected:
            steps.append(Step("fresh-in-flight", moment.own.present, "requests", "of those in flight, without retries"))
    if derivation.needed is not None:
        text = "what these arrivals and what they left waiting need, by what replicas were seen to carry"
        others = moment.own.present * (1 - moment.own_ratio)
        if others >= 0.05:  # shown to one decimal
            counted = "still counted (contentionCounts)" if terms.contention_counts else "not counted"
            text += f"; the other {others:.1f} wait on neighbours: {counted}"
        steps.append(Step("needed-in-flight", min(derivation.needed.inflight, moment.own.present), "requests", text))
    if share.own is not None:
        text = f"of {share.cards} cards, by {reading.gpu_busy_source}"
        if share.is_split:
            text += " against its neighbours'"
        if share.neighbours is not None:
            text += f"; neighbours {share.neighbours:.2f}"
        steps.append(Step("own-gpu", share.own, "cards", text))
    steps.append(Step("own-in-flight", load.inflight, "requests", "what demand is computed from"))
    if terms.target_queue is not None:
        steps.append(Step("own-queue", load.queued, "requests", f"target {terms.target_queue:g} a replica"))
    return steps


def _placed(workload: WorkloadKey, cards: Sequence[CardReading], replicas: int) -> list[Step]:
    """The cards that its pods are taken to sit on, and who says so."""
    if not cards:
        return [Step("cards", None, "cards", "nobody names a card of its pods")] if replicas else []
    by = Counter(card.placed_by.get(workload, "") for card in cards)
    told = ", ".join(f"{count} by {source}" if len(by) > 1 else f"by {source}" for source, count in sorted(by.items()))
    return [Step("cards", len(cards), "cards", f"that its pods sit on{f', {told}' if any(by) else ''}")]


def watermark_steps(now: PoolMoment, state: Watch, low: Level, high: Level, pool: PoolPolicy) -> list[Step]:
    """The free VRAM that counts, against the watermark that counts."""
    if now.free_bytes is None:
        seen = "no card of the pool can be seen" if now.cards == 0 else f"not all of {now.cards} cards can be seen"
        if now.lost:
            card, since_s = now.lost[0]
            seen = f"card {card} was short and has vanished {now.time_s - since_s:.0f} s ago"
        return [Step("free-vram", None, "bytes", f"{seen}: blind, policy {pool.blind}")]
    where = f"card {now.card}" if now.card is not None else f"sum of {now.cards} cards"
    text = f"{format_bytes(now.free_bytes)} on {where}; low watermark {low}, high {high}"
    if state.vetoed and state.since_s is not None:
        longer = " or longer" if state.or_longer and now.time_s > state.since_s else ""
        text += f"; no scale-up since {now.time_s - state.since_s:.0f} s ago{longer}"
    return [Step("free-vram", now.free_bytes, "bytes", text)]


def demand_steps(raw: int, demand: int, terms: Terms) -> list[Step]:
    """How demand comes from the load, and what floor or ceiling made of it."""
    text = f"own requests in flight / {terms.target_concurrency:g} a replica, rounded up"
    if raw != demand:
        text += f": {raw}, {'raised to minReplicas' if raw < demand else 'cut to maxReplicas'}"
    return [Step("demand", demand, "replicas", text)]
