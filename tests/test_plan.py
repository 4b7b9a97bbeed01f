"""The decision as tables and short histories: what was seen, what is granted, and the reason that binds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaler.decision import Decision, Reason, Verdict
from scaler.planning import wants as wanting
from scaler.planning.plan import plan
from scaler.policy import OperatorPolicy, ServiceKey, ServicePolicy
from scaler.quantity import GIB
from scaler.snapshot import CardReading, Snapshot, WorkloadReading
from tests.fleet import SMALL, START_S, TICK_S, at, card, decide, key, policy, reading, run, snapshot, steady

# Cards have 15 GiB: the default low watermark of 10 % is 1.5 GiB, the high one of 15 % is 2.25 GiB.
ROOMY, TIGHT = card(8.0), card(0.3)
QUIET = reading(replicas=2, inflight=6.0)  # 6 in flight / target 4 = 1.5 -> 2 replicas, 50 arrivals/s each
GROWN = reading(replicas=2, inflight=30.0, arrivals_per_s=500.0)  # 30 / 4 = 7.5 -> 8 replicas


@pytest.mark.parametrize(
    ("seen", "cards", "metadata", "granted", "verdict", "reason"),
    [
        pytest.param(QUIET, [ROOMY], {}, 2, "hold", "demand", id="6/4 is 1.5: two, as it is"),
        pytest.param(reading(2, 8.1, 135), [ROOMY], {}, 2, "hold", "demand", id="8.1/4 is 2.03: within tolerance"),
        pytest.param(reading(2, 8.3, 140), [ROOMY], {}, 3, "scale-up", "demand", id="8.3/4 is 2.08: three"),
        pytest.param(GROWN, [ROOMY], {}, 8, "scale-up", "demand", id="30/4 is 7.5: eight, in this tick"),
        pytest.param(GROWN, [TIGHT], {}, 2, "veto", "low-vram", id="the same on a full card"),
        pytest.param(GROWN, [ROOMY, TIGHT], {}, 2, "veto", "low-vram", id="the tightest card counts"),
        pytest.param(GROWN, [], {}, 2, "veto", "missing", id="no VRAM data: blind, held"),
        pytest.param(GROWN, [card(8, age_s=60)], {}, 2, "veto", "stale", id="VRAM data of 60 s: held"),
        pytest.param(GROWN, [ROOMY], {"maxReplicas": "5"}, 5, "scale-up", "demand", id="ceiling of 5"),
        pytest.param(QUIET, [ROOMY], {"minReplicas": "4"}, 4, "scale-up", "demand", id="floor of 4"),
        pytest.param(GROWN, [card(6)], {"vramPerReplica": "2Gi"}, 4, "limited", "no-fit", id="6 - 1.5 GiB holds two"),
        pytest.param(GROWN, [card(3.4)], {"vramPerReplica": "2Gi"}, 2, "veto", "no-fit", id="3.4 - 1.5 holds none"),
        pytest.param(GROWN, [card(2.8)], {"lowWatermark": "3Gi"}, 2, "veto", "low-vram", id="a tighter watermark"),
        pytest.param(GROWN, [card(2.8)], {"lowWatermark": "1Gi"}, 8, "scale-up", "demand", id="2.8 is above 1.5"),
        pytest.param(GROWN, [card(1.2)], {"lowWatermark": "1Gi"}, 2, "veto", "low-vram", id="a looser one is void"),
        pytest.param(
            GROWN, [ROOMY, card(0.3, pods={"x": 2}, slots=2)], {}, 8, "scale-up", "demand", id="no slot, no landing"
        ),
        pytest.param(
            GROWN, [card(0.3, pods={"x": 2}, slots=2)], {}, 2, "veto", "low-vram", id="no slot anywhere: all count"
        ),
        pytest.param(
            reading(2, 6.0, queued=5.0), [ROOMY], {"targetQueue": "1"}, 5, "scale-up", "demand", id="5 waiting / 1"
        ),
        pytest.param(
            replace(QUIET, gpu_busy=1.8), [ROOMY], {"targetGpuUtilization": "60"}, 3, "scale-up", "demand",
            id="1.8 busy cards / 0.6",
        ),
        pytest.param(
            replace(reading(1, 1.2), gpu_busy=1.8), [ROOMY], {"targetGpuUtilization": "60"}, 2, "scale-up", "demand",
            id="GPU time asks for no more than 1.2 in flight can use",
        ),
        pytest.param(
            replace(reading(2, 1.0), queued_burst=0.0, executing_burst=13.0, success_per_s=900.0), [ROOMY], {}, 3,
            "scale-up", "demand", id="a burst of 13, less 10 %: 11.8/4",
        ),
    ],
)  # fmt: skip
def test_one_tick(
    seen: WorkloadReading,
    cards: list[CardReading],
    metadata: dict[str, str],
    granted: int,
    verdict: str,
    reason: str,
) -> None:
    history = [*steady({"e5": QUIET}, ROOMY), snapshot(START_S, {"e5": seen}, *cards)]
    decision = decide(history, policy(e5=metadata), "e5")
    assert (decision.granted, decision.verdict, decision.reasons[0]) == (granted, verdict, reason)


@pytest.mark.parametrize(
    ("seen", "granted", "active", "verdict", "reason"),
    [
        pytest.param(None, None, False, "unknown", "missing", id="Deployment gone"),
        pytest.param(replace(QUIET, spec_replicas=None), None, False, "unknown", "missing", id="no spec.replicas"),
        pytest.param(replace(QUIET, ready_replicas=None), None, False, "unknown", "missing", id="no ready replicas"),
        pytest.param(replace(QUIET, replicas_age_s=46.0), None, False, "unknown", "stale", id="replicas 46 s old"),
        pytest.param(replace(QUIET, signals_age_s=46.0), None, False, "unknown", "stale", id="signals 46 s old"),
        pytest.param(replace(QUIET, queued=None), None, False, "unknown", "missing", id="no queue"),
        pytest.param(replace(QUIET, executing=None), None, False, "unknown", "missing", id="no execution"),
        pytest.param(replace(QUIET, queued=-3.0), None, False, "unknown", "missing", id="a queue below zero"),
        pytest.param(
            replace(QUIET, queued=None, executing=None, scraped_pods=None), None, False, "unknown", "missing",
            id="ready, but nothing scraped",
        ),
        pytest.param(
            WorkloadReading(spec_replicas=2, ready_replicas=0, replicas_age_s=5), 2, True, "hold", "warming",
            id="two asked for, none ready",
        ),
        pytest.param(
            WorkloadReading(spec_replicas=0, ready_replicas=0, replicas_age_s=5), 0, False, "hold", "missing",
            id="none asked for, no signal from before the service",
        ),
        pytest.param(
            replace(reading(2, 1.0), scraped_pods=1), 2, True, "hold", "missing", id="1 of 2 pods scraped: not down"
        ),
        pytest.param(
            replace(GROWN, scraped_pods=1), 8, True, "scale-up", "demand", id="1 of 2 pods scraped: up on what is seen"
        ),
        pytest.param(
            replace(GROWN, success_per_s=None), 2, True, "veto", "missing", id="request counters gone: not up"
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_seen(
    seen: WorkloadReading | None, granted: int | None, active: bool, verdict: str, reason: str
) -> None:
    services = {} if seen is None else {"e5": seen}
    history = [*steady({"e5": QUIET}, ROOMY), snapshot(START_S, services, ROOMY)]
    decision = decide(history, policy(e5={}), "e5")
    assert (decision.granted, decision.active, decision.verdict, decision.reasons[0]) == (
        granted, active, verdict, reason,
    )  # fmt: skip


def test_readings_cannot_hold_what_is_not_a_number() -> None:
    with pytest.raises(ValueError, match="queued: nan is not a reading"):
        replace(QUIET, queued=float("nan"))
    with pytest.raises(ValueError, match="free_bytes: inf is not a reading"):
        replace(ROOMY, free_bytes=float("inf"))


def verdicts_over(free_gib: list[float | None], operator: OperatorPolicy | None = None) -> list[bool]:
    """The pool's veto after each tick of these free GiB."""
    cards = [card(8.0) if free is None else card(free) for free in free_gib]
    history = [
        snapshot(START_S + TICK_S * i, {"e5": QUIET}, replace(each, free_bytes=None) if free is None else each)
        for i, (each, free) in enumerate(zip(cards, free_gib, strict=True))
    ]
    plans, _ = run(history, policy(operator, e5={}))
    return [each.pools["default"].vetoed for each in plans]


@pytest.mark.parametrize(
    ("free_gib", "vetoed"),
    [
        pytest.param([3.0, 1.6, 1.5], "...", id="at the watermark is not below it"),
        pytest.param([3.0, 1.4], ".V", id="below 1.5: at once"),
        pytest.param([1.4, 2.0, 2.2], "VVV", id="between low and high: it stands"),
        pytest.param([1.4] + [2.3] * 9, "VVVVVVVVV.", id="120 s at 2.25 or more: released"),
        pytest.param([1.4] + [2.3] * 8 + [2.2] + [2.3] * 8, "V" * 18, id="a dip below high starts the quiet anew"),
        pytest.param([1.4] + [2.3] * 8 + [None] + [2.3] * 8, "V" * 18, id="what cannot be seen is no quiet"),
        pytest.param([3.0, None, 3.0], ".V.", id="blind vetoes while it is blind"),
        pytest.param([1.4] + [2.0] * 240, "V" * 240 + ".", id="an hour without a crossing: released"),
    ],
)
def test_the_veto_has_hysteresis(free_gib: list[float | None], vetoed: str) -> None:
    assert "".join("V" if each else "." for each in verdicts_over(free_gib)) == vetoed


def test_blind_may_be_allowed_by_the_operator() -> None:
    operator = OperatorPolicy.model_validate({"pools": [{"blind": "allow"}]})
    assert verdicts_over([3.0, None, 1.4, None], operator) == [False, False, True, True]


@pytest.mark.parametrize(
    ("pool", "free_gib", "vetoed"),
    [
        pytest.param({}, [8, 8, 1.4], True, id="tightest-placeable"),
        pytest.param({"watermarkOf": "percentile", "percentile": 50}, [8, 8, 1.4], False, id="median 8"),
        pytest.param({"watermarkOf": "percentile", "percentile": 50}, [8, 1.4, 1.3], True, id="median 1.4"),
        pytest.param({"watermarkOf": "sum"}, [8, 1, 1], False, id="sum 10 of 45, low 4.5"),
        pytest.param({"watermarkOf": "sum"}, [2, 1, 1], True, id="sum 4 of 45, low 4.5"),
        pytest.param({"lowWatermark": "1Gi", "highWatermark": "2Gi"}, [8, 8, 1.4], False, id="in bytes"),
        pytest.param({"models": "NVIDIA L4"}, [8, 8, 8], True, id="no card of the pool: blind"),
    ],
)
def test_which_free_vram_counts(pool: dict[str, object], free_gib: list[float], vetoed: bool) -> None:
    operator = OperatorPolicy.model_validate({"pools": [pool]})
    plans, _ = run([snapshot(START_S, {"e5": QUIET}, *map(card, free_gib))], policy(operator, e5={}))
    assert plans[-1].pools["default"].vetoed is vetoed


def test_a_full_card_counts_without_a_slot_where_the_operator_says_tightest() -> None:
    full = card(0.3, pods={"x": 2}, slots=2)
    for watermark_of, vetoed in (("tightest-placeable", False), ("tightest", True)):
        operator = OperatorPolicy.model_validate({"pools": [{"watermarkOf": watermark_of}]})
        plans, _ = run([snapshot(START_S, {"e5": QUIET}, ROOMY, full)], policy(operator, e5={}))
        assert plans[-1].pools["default"].vetoed is vetoed, watermark_of


def test_one_pool_s_veto_is_not_another_s() -> None:
    operator = OperatorPolicy.model_validate(
        {"pools": [SMALL | {"name": "a", "nodes": "a-.*"}, SMALL | {"name": "b", "nodes": "b-.*"}]}
    )
    fleet = policy(operator, e5={"pool": "a"}, other={"pool": "b"})
    full, free = replace(TIGHT, node="a-1"), replace(ROOMY, node="b-1")
    history = [
        *steady({"e5": QUIET, "other": QUIET}, full, free),
        snapshot(START_S, {"e5": GROWN, "other": GROWN}, full, free),
    ]
    assert decide(history, fleet, "e5").verdict is Verdict.VETO
    assert decide(history, fleet, "other").granted == 8


# --- windows ------------------------------------------------------------------------------------------------------


def test_down_only_after_the_window_and_up_at_once() -> None:
    """Demand 8 until 00:00, then 2: held at 8 up to 300 s after, 2 from then on. Demand 8 again: at once."""
    busy, calm = reading(8, 30.0, 500.0), reading(8, 6.0, 100.0)
    history = steady({"e5": busy}, ROOMY) + [snapshot(START_S + TICK_S * i, {"e5": calm}, ROOMY) for i in range(21)]
    plans, memory = run(history, policy(e5={}))
    granted = [each.decisions[key("e5")].granted for each in plans[-21:]]
    # The last moment of demand 8 was at -15 s; it has left the window at 300 s - 15 s + 15 s = tick 20.
    assert granted == [8] * 20 + [2]
    assert plans[-2].decisions[key("e5")].reasons == (Reason.SCALE_DOWN_WINDOW,)
    back, _ = plan(
        snapshot(START_S + TICK_S * 21, {"e5": replace(busy, spec_replicas=2)}, ROOMY), policy(e5={}), memory
    )
    assert back.decisions[key("e5")].granted == 8


def test_a_fresh_start_does_not_scale_down_before_it_has_seen_the_window() -> None:
    plans, _ = run([snapshot(START_S + TICK_S * i, {"e5": reading(8, 6.0)}, ROOMY) for i in range(21)], policy(e5={}))
    granted = [each.decisions[key("e5")].granted for each in plans]
    assert granted == [8] * 20 + [2]


def test_the_window_does_not_scale_up() -> None:
    """Demand was 8 a minute ago and vetoed; now it is 2 and there is room: stale demand is no reason to grow."""
    history = steady({"e5": replace(GROWN, spec_replicas=2)}, TIGHT)
    history += [snapshot(START_S + TICK_S * i, {"e5": QUIET}, ROOMY) for i in range(12)]
    assert decide(history, policy(e5={}), "e5").granted == 2


def test_a_freeze_does_not_bring_back_replicas_that_were_told_away() -> None:
    """Told 2 for long, 8 replicas read 5 s ago; demand jumps to 8 under a veto. The 8 may be 2 already: no answer, so
    that the HPA holds whichever it is."""
    calm = reading(8, 6.0)
    history = steady({"e5": calm}, TIGHT)
    jump = snapshot(START_S, {"e5": reading(8, 30.0, 500.0)}, TIGHT)
    first = decide([*history, jump], policy(e5={}), "e5")
    assert (first.replicas, first.demand, first.granted, first.verdict) == (8, 8, None, Verdict.UNKNOWN)
    assert first.steps[-1].name == "told-since"
    # An answer is acted on within 60 s. 4 ticks later that of the last 2 is 75 s old and the sample 5 s: 70 s between
    # them, so the 8 are really there, and stay.
    later = [at(jump, START_S + TICK_S * tick) for tick in range(1, 5)]
    granted = [decide([*history, jump, *later[:tick]], policy(e5={}), "e5").granted for tick in range(1, 5)]
    assert granted == [None, None, None, 8]


# --- what is a service's own --------------------------------------------------------------------------------------

CROWDED = replace(QUIET, queued=24.0, executing=12.0, queued_burst=24.0, executing_burst=12.0)  # 36 / 4 = 9


def test_waiting_that_neighbours_cause_is_no_demand() -> None:
    """The same 100 arrivals a second that needed 6 in flight ten minutes ago: 36 in flight are no reason for nine."""
    decision = decide([*steady({"e5": QUIET}, ROOMY), snapshot(START_S, {"e5": CROWDED}, ROOMY)], policy(e5={}), "e5")
    assert (decision.granted, decision.verdict) == (2, Verdict.HOLD)
    assert decision.reasons == (Reason.DEMAND, Reason.CONTENDED)


def test_an_operator_may_let_contention_count() -> None:
    operator = OperatorPolicy.model_validate({"pools": [SMALL | {"contentionCounts": True}]})
    history = [*steady({"e5": QUIET}, ROOMY), snapshot(START_S, {"e5": CROWDED}, ROOMY)]
    assert decide(history, policy(operator, e5={}), "e5").granted == 9


def test_a_queue_that_own_arrivals_explain_is_demand() -> None:
    """110 arrivals a second where at most 100 were ever carried: after 45 s 450 can wait by their own doing. To drain
    them in 15 s takes 30/s on top: (110 + 30) x 60 ms = 8.4 in flight, 2.1 replicas."""
    rising = replace(CROWDED, queued=450.0, queued_burst=450.0, success_per_s=110.0)
    history = steady({"e5": QUIET}, ROOMY) + [snapshot(START_S + TICK_S * i, {"e5": rising}, ROOMY) for i in range(3)]
    assert decide(history, policy(e5={}), "e5").granted == 3


def test_a_queue_whose_completions_lag_is_seen_by_its_growth() -> None:
    """Saturated: 100 complete a second, and 20 a second more pile up. Arrivals are 120, above all
    carried: (120 + 300 / 15) x 60 ms = 8.4."""
    rising = replace(CROWDED, queued=300.0, queued_burst=300.0, inflight_growth_per_s=20.0)
    decision = decide([*steady({"e5": QUIET}, ROOMY), snapshot(START_S, {"e5": rising}, ROOMY)], policy(e5={}), "e5")
    assert decision.granted == 3


def test_a_new_revision_starts_with_a_clean_slate() -> None:
    """A slower model needs its 36 in flight: what the old revision carried says nothing about it."""
    slower = replace(CROWDED, revision_created_s=START_S - 60)
    decision = decide([*steady({"e5": QUIET}, ROOMY), snapshot(START_S, {"e5": slower}, ROOMY)], policy(e5={}), "e5")
    assert decision.granted == 9


@pytest.mark.parametrize(
    ("cards", "demand"),
    [
        # 200 attempts/s, 100 fail: p = 0.5, A = 1 + 0.5 + 0.25 = 1.75, fresh 114/s; 20 in flight / 1.75 = 11.4.
        pytest.param([card(0.3, pods={"e5": 1})], 3, id="its card is short: retries are discounted, 11.4 / 4"),
        pytest.param([card(0.0, pods={"e5": 1})], 3, id="its card is full to the last byte"),
        pytest.param([card(2.0, pods={"e5": 1})], 3, id="its card is not above the high watermark yet"),
        pytest.param([card(8.0, pods={"e5": 1})], 5, id="its card has room: no evidence, no discount, 20 / 4"),
        pytest.param([card(8.0, pods={"e5": 1}), card(0.3, pods={"x": 1})], 5, id="another card is short"),
        pytest.param([card(0.3, pods={"x": 1})], 3, id="a card is short, and where e5 sits cannot be seen"),
    ],
)
def test_retries_are_discounted_only_on_evidence(cards: list[CardReading], demand: int) -> None:
    failing = reading(5, 20.0, 200.0, failure_per_s=100.0)
    assert decide([snapshot(START_S, {"e5": failing}, *cards)], policy(e5={}), "e5").demand == demand


def test_failures_that_go_on_after_the_card_has_room_stay_discounted() -> None:
    failing = reading(5, 20.0, 200.0, failure_per_s=100.0)
    history = [snapshot(START_S, {"e5": failing}, card(0.3, pods={"e5": 1}))]
    history += [snapshot(START_S + TICK_S * i, {"e5": failing}, card(8.0, pods={"e5": 1})) for i in range(1, 30)]
    assert decide(history, policy(e5={}), "e5").demand == 3


# --- found by a reviewer ------------------------------------------------------------------------------------------


def test_long_overload_just_above_what_was_carried_is_granted() -> None:
    """Two replicas carried 99/s each at 30 ms. 206/s arrive, 198/s complete, 8/s pile up: more must be granted soon,
    although 206 is but 4 % more."""
    carried = reading(2, 5.94, 198.0)
    granted = 2
    memory = run(steady({"e5": carried}, card(12)), policy(e5={}))[1]
    for index in range(20):  # five minutes
        waiting = 8.0 * 15 * (index + 1)
        over = replace(
            reading(2, 5.94 + waiting, 198.0, queued=waiting), inflight_growth_per_s=8.0, success_per_s=198.0
        )
        result, memory = plan(snapshot(START_S + TICK_S * index, {"e5": over}, card(12)), policy(e5={}), memory)
        granted = result.decisions[key("e5")].granted or 0
    assert granted >= 3


def test_long_requests_without_arrivals_or_completions_are_load() -> None:
    """An LLM: 8 requests of minutes are running, none came or went within the window."""
    talking = reading(2, 8.0, 0.2)
    silent = replace(talking, success_per_s=0.0, failure_per_s=0.0, oom_failure_per_s=0.0, success_time_s=None)
    history = steady({"e5": talking}, ROOMY)
    history += [snapshot(START_S + TICK_S * i, {"e5": silent}, ROOMY) for i in range(30)]
    decision = decide(history, policy(e5={}), "e5")
    assert (decision.demand, decision.granted, decision.active) == (2, 2, True)


def test_replicas_read_before_a_scale_down_are_not_given_back() -> None:
    """Told 2 for long. 10 are read, 40 s old, while only 2 pods are scraped: the HPA has acted, 10 would be a rise."""
    history = steady({"e5": reading(10, 6.0)}, ROOMY)
    after = replace(reading(10, 6.0), scraped_pods=2, replicas_age_s=40.0)
    decision = decide([*history, snapshot(START_S, {"e5": after}, ROOMY)], policy(e5={}), "e5")
    assert (decision.granted, decision.verdict) == (None, Verdict.UNKNOWN)
    gone = replace(after, ready_replicas=0, scraped_pods=0, queued=None, executing=None)
    decision = decide([*history, snapshot(START_S, {"e5": gone}, ROOMY)], policy(e5={}), "e5")
    assert decision.granted is None


def test_a_percent_of_a_total_that_cannot_be_seen_is_blind() -> None:
    full = replace(card(0.0), total_bytes=None)
    decision = decide([*steady({"e5": QUIET}, full), snapshot(START_S, {"e5": GROWN}, full)], policy(e5={}), "e5")
    assert (decision.granted, decision.verdict) == (2, Verdict.VETO)


def test_a_full_card_that_vanishes_is_no_room() -> None:
    history = steady({"e5": GROWN}, ROOMY, TIGHT)
    history += [snapshot(START_S + TICK_S * i, {"e5": GROWN}, ROOMY) for i in range(80)]
    plans, _ = run(history, policy(e5={}))
    granted = [each.decisions[key("e5")].granted for each in plans[-80:]]
    # For 900 s (60 ticks) it may come back; after that it is taken for gone, with its node, and 120 s of quiet release.
    assert granted == [2] * 68 + [8] * 12


def test_a_pod_that_a_neighbour_made_unready_is_no_demand() -> None:
    base = reading(2, 8.0, 100.0)
    squeezed = replace(base, executing=60.0, executing_burst=60.0, ready_replicas=1, scraped_pods=1)
    decision = decide([*steady({"e5": base}, ROOMY), snapshot(START_S, {"e5": squeezed}, ROOMY)], policy(e5={}), "e5")
    assert decision.demand == 2


def test_on_a_card_of_its_own_nothing_is_blamed_on_neighbours() -> None:
    """Longer outputs, the same arrivals, one place on the card: all 36 in flight are its own."""
    own = card(8.0, pods={"e5": 1}, slots=1)
    history = [*steady({"e5": QUIET}, own), snapshot(START_S, {"e5": CROWDED}, own, card(8.0))]
    assert decide(history, policy(e5={}), "e5").demand == 9


def test_a_replica_that_never_gets_ready_does_not_block_for_ever() -> None:
    """4 asked for, 2 ready for over 10 minutes: 5.6 GiB less 1.5 hold two more of 2 GiB, and nobody is on the way."""
    half = reading(4, 60.0, 1000.0, ready=2)
    decision = decide(steady({"e5": half}, card(5.6), ticks=60), policy(e5={"vramPerReplica": "2Gi"}), "e5")
    assert decision.granted == 6
    early = decide(steady({"e5": half}, card(5.6), ticks=30), policy(e5={"vramPerReplica": "2Gi"}), "e5")
    assert early.granted == 4


def test_a_burst_asks_for_what_drains_it_and_not_for_its_whole_queue() -> None:
    """200/s were carried by two; 600/s come for 30 s and leave 12,000 waiting. All of them / 4 would be 3,000
    replicas; to drain 400/s x 30 s in 15 s takes 800/s more: (600 + 800) x 30 ms = 42 in flight, 11 replicas."""
    history = steady({"e5": reading(2, 6.0, 200.0)}, ROOMY)
    for index in range(2):
        waiting = 6000.0 * (index + 1)
        burst = replace(reading(2, 6.0 + waiting, 200.0, queued=waiting), inflight_growth_per_s=400.0)
        history.append(snapshot(START_S + TICK_S * index, {"e5": burst}, ROOMY))
    assert decide(history, policy(e5={}), "e5").demand == 11


def test_a_gap_and_one_low_reading_are_no_reason_to_scale_down() -> None:
    """24 in flight, then nothing seen for 6 minutes, then one reading of none at all."""
    history = steady({"e5": reading(6, 24.0)}, ROOMY)
    unseen = replace(reading(6, 24.0), queued=None, executing=None)
    history += [snapshot(START_S + TICK_S * i, {"e5": unseen}, ROOMY) for i in range(24)]
    history.append(snapshot(START_S + TICK_S * 24, {"e5": reading(6, 0.0, 0.0)}, ROOMY))
    decision = decide(history, policy(e5={}), "e5")
    assert (decision.granted, decision.reasons[0]) == (6, Reason.SCALE_DOWN_WINDOW)


def test_growth_beyond_all_that_was_carried_is_granted() -> None:
    """50/s were carried by one replica at 20 ms. 200/s come, and more wait than execute: it takes four at 50/s."""
    grown = reading(1, 40.0, 200.0, queued=25.0)
    history = [*steady({"e5": reading(1, 1.0, 50.0)}, ROOMY), snapshot(START_S, {"e5": grown}, ROOMY)]
    assert decide(history, policy(e5={}), "e5").granted == 4


@pytest.mark.parametrize(
    ("inflight", "queued", "demand"),
    [
        pytest.param(15.0, 0.0, 3, id="15 / 4 is below 3 x 1.25: three carry it, as they ran"),
        pytest.param(16.0, 0.0, 4, id="16 / 4 is above 3.75: what four carried"),
        pytest.param(15.0, 8.0, 4, id="more waits than executes: it is not carried"),
    ],
)
def test_more_than_was_ever_carried_is_carried_now(inflight: float, queued: float, demand: int) -> None:
    """Four carried 50/s each at 50 ms, 10 in flight. 200/s come to three of them: 67/s each, by four 50/s."""
    history = [
        *steady({"e5": reading(4, 10.0, 200.0)}, ROOMY),
        snapshot(START_S, {"e5": reading(3, inflight, 200.0, queued=queued)}, ROOMY),
    ]
    assert decide(history, policy(e5={}), "e5").demand == demand


def test_a_neighbour_that_lowers_completions_does_not_end_the_correction() -> None:
    """110 arrivals a minute, 3 in flight. A neighbour lets only 80 complete, and 30 pile up."""
    base = reading(1, 3.0, 110 / 60)
    slowed = replace(reading(1, 30.0, 110 / 60, queued=20.0), success_per_s=80 / 60, inflight_growth_per_s=30 / 60)
    history = [*steady({"e5": base}, ROOMY), snapshot(START_S, {"e5": slowed}, ROOMY)]
    assert decide(history, policy(e5={}), "e5").demand == 1


def test_a_full_card_that_goes_stale_before_it_vanishes_is_no_room() -> None:
    history = steady({"e5": GROWN}, ROOMY, TIGHT)
    history.append(snapshot(START_S, {"e5": GROWN}, ROOMY, replace(TIGHT, free_bytes=None)))
    history += [snapshot(START_S + TICK_S * i, {"e5": GROWN}, ROOMY) for i in range(1, 30)]
    assert decide(history, policy(e5={}), "e5").granted == 2


@pytest.mark.parametrize(
    ("seen", "granted"),
    [
        pytest.param(replace(GROWN, scraped_pods=0, signals_age_s=9999.0), None, id="an age, though nobody is scraped"),
        pytest.param(replace(GROWN, replicas_age_s=-500.0), None, id="replicas from the future"),
        pytest.param(replace(GROWN, signals_age_s=-500.0), None, id="signals from the future"),
        pytest.param(replace(GROWN, spec_replicas=-3), None, id="-3 replicas"),
        pytest.param(
            replace(reading(2, 0.0, 0.0), ready_replicas=0, scraped_pods=0, signals_age_s=None), 2, id="still starting"
        ),
    ],
)
def test_contradictions(seen: WorkloadReading, granted: int | None) -> None:
    decision = decide([*steady({"e5": QUIET}, ROOMY), snapshot(START_S, {"e5": seen}, ROOMY)], policy(e5={}), "e5")
    assert decision.granted == granted


# --- zero ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free_gib", "metadata", "granted", "active"),
    [
        pytest.param(8.0, {}, 2, True, id="demand and room"),
        pytest.param(0.3, {}, 0, False, id="demand, no room: stays asleep"),
        pytest.param(8.0, {"activationConcurrency": "10"}, 0, False, id="6 in flight are below the activation of 10"),
        pytest.param(8.0, {"vramPerReplica": "5Gi", "minReplicas": "2"}, 0, False, id="KEDA wakes two, one fits"),
        pytest.param(8.0, {"vramPerReplica": "3Gi", "minReplicas": "2"}, 2, True, id="KEDA wakes two, two fit"),
    ],
)
def test_from_zero_by_a_signal_from_before_the_service(
    free_gib: float, metadata: dict[str, str], granted: int, active: bool
) -> None:
    asleep = WorkloadReading(spec_replicas=0, ready_replicas=0, replicas_age_s=5.0, queued=6.0, executing=0.0)
    decision = decide([snapshot(START_S, {"e5": asleep}, card(free_gib))], policy(e5=metadata), "e5")
    assert (decision.granted, decision.active) == (granted, active)


def test_to_zero_only_after_the_window() -> None:
    idle = reading(1, 0.0, 0.0)
    history = steady({"e5": idle}, ROOMY)
    early = decide(history[:10], policy(e5={}), "e5")
    late = decide(history, policy(e5={}), "e5")
    assert (early.granted, early.active, late.granted, late.active) == (1, True, 0, False)


# --- faults -------------------------------------------------------------------------------------------------------


def test_time_that_steps_back_decides_nothing_and_forgets_nothing() -> None:
    plans, memory = run(steady({"e5": QUIET}, ROOMY), policy(e5={}))
    back, kept = plan(at(snapshot(0, {"e5": GROWN}, ROOMY), START_S - 600), policy(e5={}), memory)
    assert back.decisions[key("e5")].verdict is Verdict.UNKNOWN
    assert kept is memory
    assert plans[-1].decisions[key("e5")].granted == 2


def test_one_service_s_fault_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    real = wanting.want

    def broken(
        key: ServiceKey, service: ServicePolicy, operator: OperatorPolicy, seen: wanting.Seen
    ) -> wanting.Want | Decision:
        if key.name == "e5":
            raise ZeroDivisionError("planted")
        return real(key, service, operator, seen)

    monkeypatch.setattr("scaler.planning.plan.want", broken)
    services = {"e5": QUIET, "other": QUIET}
    plans, _ = run([Snapshot(START_S, snapshot(START_S, services, ROOMY).workloads)], policy(e5={}, other={}))
    assert plans[-1].decisions[key("e5")].verdict is Verdict.UNKNOWN
    assert "planted" in plans[-1].decisions[key("e5")].steps[0].text
    assert plans[-1].decisions[key("other")].granted == 2


def test_the_steps_tell_the_numbers() -> None:
    history = [*steady({"e5": QUIET}, TIGHT), snapshot(START_S, {"e5": GROWN}, TIGHT)]
    steps = {step.name: step for step in decide(history, policy(e5={}), "e5").steps}
    assert steps["in-flight"].value == 30.0
    assert steps["demand"].value == 8
    assert steps["free-vram"].value == 0.3 * GIB
    assert "no scale-up since 720 s ago or longer" in steps["free-vram"].text
    assert steps["without-limit"].value == 8
    assert steps["granted"].value == 2
