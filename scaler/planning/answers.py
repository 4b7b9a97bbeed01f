"""What a service is answered: what it wants, within its barrier and its share of the room."""

from __future__ import annotations

from functools import partial

from scaler.decision import Decision, Reason, Step, Steps, Verdict
from scaler.planning.promises import Promise
from scaler.planning.shares import Allotment
from scaler.planning.wants import Want


def answer(want: Want, allotment: Allotment | None, is_settled: bool) -> Decision:
    """The decision; `allotment` is the claim's outcome where there was a claim. Nobody scales up who is not settled."""
    replicas, unlimited, steps, reasons = want.replicas, want.unlimited, want.steps, want.reasons
    room, limit = unlimited, None
    if want.barrier is not None:
        room, limit = replicas, want.barrier
    elif allotment is not None:
        room, limit = allotment.share.granted, Reason.FLEET_SHARE if allotment.share.others else Reason.NO_FIT
        steps.append(allotment.steps)
    granted = min(unlimited, room)
    is_limited = granted < unlimited
    doubt = _doubt(want, granted)
    if doubt is not None:
        return _unknown(want, Reason.STALE, doubt)
    if granted > replicas and not is_settled:
        text = "KEDA has just begun to ask this instance: another one may have promised VRAM that is not taken yet"
        return _unknown(want, Reason.MISSING, Step("not-settled", granted, "replicas", text))
    if is_limited and limit is not None:
        reasons.insert(0, limit)
        steps.append(Step("without-limit", unlimited, "replicas", f"without {limit} it would be {unlimited}"))
    if not reasons or granted > replicas:
        reasons.append(Reason.DEMAND)
    if want.raw != want.demand:
        reasons.append(Reason.FLOOR if want.raw < want.demand else Reason.CEILING)
    if want.crowded > want.raw:
        reasons.append(Reason.CONTENDED)
        steps.append(partial(_contention_steps, want))
    steps.append(partial(_granted_steps, granted))
    has_demand = want.demand > 0 or (replicas > 0 and granted > 0)
    active = has_demand if replicas > 0 else granted > 0
    return Decision(
        want.time_s, want.key, want.pool.name, replicas, want.demand, granted, active,
        _verdict(want.demand, replicas, granted), tuple(reasons), Steps(steps),
    )  # fmt: skip


def promise(want: Want, decision: Decision, allotment: Allotment | None) -> Promise:
    """What KEDA is told by this, to be remembered."""
    at_most = allotment.at_most if allotment is not None else decision.granted or 0
    return Promise(want.time_s, want.replicas, decision.granted, at_most)


def _contention_steps(want: Want) -> list[Step]:
    text = "what it would be if waiting that neighbours cause counted as own demand"
    return [Step("with-contention", want.terms.bounded(want.crowded), "replicas", text)]


def _granted_steps(granted: int) -> list[Step]:
    return [Step("granted", granted, "replicas", "what KEDA is told")]


def _unknown(want: Want, reason: Reason, step: Step) -> Decision:
    return Decision(
        want.time_s, want.key, want.pool.name, want.replicas, want.demand, None, False, Verdict.UNKNOWN,
        (reason,), Steps((*want.steps, step)),
    )  # fmt: skip


def _doubt(want: Want, granted: int) -> Step | None:
    """Why this answer cannot be given: it is not known what runs, and the answer would be just that; or more was told
    than has been seen to run, and less now would take back replicas that may have come since."""
    is_refused = granted <= want.replicas and granted < want.unlimited
    is_what_runs = want.barrier is not None or want.is_as_read or is_refused
    if is_what_runs and (fewer := want.told_less()) is not None:
        return fewer
    if is_refused and want.barrier is None and want.least_now < want.replicas:
        text = f"{want.replicas} were read, {want.least_now} told lately: no answer until it is seen what runs"
        return Step("told-since", want.least_now, "replicas", text)
    if granted < min(want.unlimited, want.told_more):
        text = f"{want.replicas} were read, {want.told_more} told since: no answer until it is seen what runs"
        return Step("told-since", want.told_more, "replicas", text)
    return None


def _verdict(demand: int, replicas: int, granted: int) -> Verdict:
    if demand > replicas:
        if granted >= demand:
            return Verdict.SCALE_UP
        return Verdict.LIMITED if granted > replicas else Verdict.VETO
    return Verdict.SCALE_DOWN if granted < replicas else Verdict.HOLD
