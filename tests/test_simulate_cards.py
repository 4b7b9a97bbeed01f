"""Replicas on several cards of a node: where they land, what they hold, who slows and fails them, what is seen."""

from __future__ import annotations

import random
from typing import Any

import pytest

from scaler.quantity import MIB
from scaler.simulate.execution import Setting, serve, share_cards
from scaler.simulate.fleet import CONTEXT_BYTES, Fleet, Pod
from scaler.simulate.runs import run_one
from scaler.simulate.scenario import ScenarioService, load_scenario
from scaler.snapshot import WorkloadKey, WorkloadReading
from tests.test_simulate_model import POOL, fleet, run, scenario, service

WIDE = WorkloadKey("models", "wide")


def wide(cards: int = 2, **keys: Any) -> ScenarioService:
    return service(**{"name": "wide", "cards": cards, **keys})


def landed(on: Fleet, of: ScenarioService) -> Pod:
    pod = on.create(of, WorkloadKey("models", of.name), 0.0, of.new_arena(of.arena.kind), 0)
    assert pod is not None
    return pod


def loaded(on: Fleet, of: ScenarioService) -> Pod:
    pod = landed(on, of)
    pod.load_left_s, pod.ready_s, pod.resident_bytes = None, 0.0, pod.full_bytes
    return pod


@pytest.mark.parametrize(
    ("taken", "count", "lands"),
    [
        pytest.param([0, 1, 1, 2, 0, 1, 2, 2], 1, {0}, id="one card: 4 places taken on the first node, 5 on the other"),
        pytest.param([0, 1, 1, 2, 0, 1, 2, 2], 3, {0, 1, 2}, id="three cards: each of them has a free place"),
        pytest.param([0, 0, 1, 2, 1, 1, 1, 1], 4, {4, 5, 6, 7}, id="the emptier node has a place on three cards only"),
        pytest.param([0, 0, 1, 0, 1, 1, 1, 1], 2, {0, 1, 3}, id="the emptiest cards of the emptier node"),
        pytest.param([0, 0, 1, 2, 1, 1, 1, 2], 4, set(), id="9 places are free, and on no node on four cards: pending"),
    ],
)
def test_the_scheduler_takes_a_place_on_each_of_so_many_cards_of_one_node(
    taken: list[int], count: int, lands: set[int]
) -> None:
    cards = fleet(cards=8)
    places = dict(zip(cards.cards, taken, strict=True))
    found = {cards.cards.index(card) for card in cards.next_cards(count, places)}
    assert found <= lands
    assert len(found) == (count if lands else 0)


@pytest.mark.parametrize(
    ("cards", "arena", "held_mib"),
    [
        pytest.param(1, {}, 150 + 6000, id="one card: a context and the weights"),
        pytest.param(2, {}, 150 + 3000, id="two: half of the weights on each, and a context"),
        pytest.param(4, {}, 150 + 1500, id="four: a quarter"),
        pytest.param(2, {"kind": "fixed", "share": 0.4}, 4000, id="vLLM's share is of each card"),
    ],
)
def test_weights_are_split_evenly(cards: int, arena: dict[str, Any], held_mib: float) -> None:
    on = fleet()
    pod = landed(on, wide(cards, weights="6000Mi", arena=arena))
    for at_s in range(0, 120, 5):
        pod.load(float(at_s))
    assert pod.ready_s is not None
    free = sorted((10_000 * MIB - card.free_bytes) / MIB for card in on.cards)
    assert free == [0.0] * (4 - cards) + [held_mib] * cards


@pytest.mark.parametrize(
    ("free_mib", "fails"),
    [
        pytest.param((5000, 5000), 0.0, id="room on both"),
        pytest.param((5000, 802), (1 - 1 / 8.4) ** 7, id="the second is short"),
        pytest.param((802, 5000), (1 - 1 / 8.4) ** 7, id="the first is short"),
    ],
)
def test_a_request_fails_where_one_of_the_cards_is_short(free_mib: tuple[int, int], fails: float) -> None:
    """100 MiB and 100 a row on each of two cards: 802 less the driver's 2 are 7 rows, as on one card in
    test_simulate_model."""
    pod = loaded(fleet(cards=2), wide(rows=8, arena={"base": "200Mi", "perRow": "200Mi"}))
    for card, free in zip(pod.cards, free_mib, strict=True):
        card.usable_bytes = pod.held_bytes + free * MIB
    for seed in range(20):
        served = serve(pod, Setting(0.05, 1e6), 200.0, 1.0, 1.0, random.Random(seed))
    assert served.failed / 200 == pytest.approx(fails)


def test_a_load_without_room_on_one_of_the_cards_dies_on_all_and_comes_later() -> None:
    on = fleet(cards=2)
    pod = landed(on, wide(weights="6000Mi"))
    short = pod.cards[1]
    short.usable_bytes = 1000 * MIB
    for at_s in range(0, 60, 5):
        pod.load(float(at_s))
    assert pod.crashes >= 1
    assert pod.ready_s is None
    assert all(card.usable_bytes - card.free_bytes <= 1000 * MIB for card in on.cards)
    short.usable_bytes = 10_000 * MIB
    for at_s in range(60, 600, 5):
        pod.load(float(at_s))
    assert pod.resident_bytes == CONTEXT_BYTES + 3000 * MIB


@pytest.mark.parametrize(
    ("neighbours", "part"),
    [
        pytest.param((0.0, 0.0), 1.0, id="idle beside it"),
        pytest.param((0.3, 0.0), 0.7, id="one card is shared: all wait for its rank"),
        pytest.param((0.3, 0.45), 0.55, id="what the busier one leaves"),
    ],
)
def test_the_slowest_rank_decides(neighbours: tuple[float, float], part: float) -> None:
    on = fleet(cards=2)
    pod = loaded(on, wide())
    pod.gpu_busy = 0.2
    for busy in neighbours:
        loaded(on, service(name="other")).gpu_busy = busy
    assert share_cards(on.cards).get(pod, 1.0) == pytest.approx(part)


@pytest.mark.parametrize(
    ("server", "attribution", "busy", "source", "held_mib"),
    [
        # 40/s x 5 ms are 0.2 of each of two cards.
        pytest.param("triton", "agent", 0.4, "agent", 3150, id="the agent: a process on each card"),
        pytest.param("triton", "exporter", 0.4, "exporter-per-process", 3150, id="the exporter likewise"),
        pytest.param("triton", "triton", 0.4, "triton-wall-time", None, id="Triton counts executions for each card"),
        pytest.param("vllm", "triton", 1.0, "vllm-running", None, id="vLLM's engine runs or does not"),
        pytest.param("triton", "none", None, None, None, id="nothing tells pods apart"),
    ],
)
def test_what_is_seen_of_a_replica_on_two_cards(
    server: str, attribution: str, busy: float | None, source: str | None, held_mib: float | None
) -> None:
    of = {"name": "wide", "server": server, "cards": 2, "replicas": 1, "weights": "6000Mi"}
    still = {"arena": {"base": "0Mi", "perRow": "0Mi"}}
    _, fixed = run(scenario([{**of, **still}], attribution=attribution, duration="30m"))
    readings = [seen.snapshot.workloads[WIDE] for seen in fixed.seen[-60:]]
    last = fixed.seen[-1].snapshot
    assert readings[-1].scraped_pods == 1
    assert readings[-1].success_per_s == pytest.approx(40, rel=0.1)
    assert {reading.gpu_busy_source for reading in readings} == {source}
    assert mean_busy(readings) == (None if busy is None else pytest.approx(busy, rel=0.25))
    sits = [card for card in last.cards.values() if card.free_bytes != 10_000 * MIB]
    assert [dict(card.pods) for card in sits] == [{WIDE: 1}] * 2
    held = [vram.total_bytes / MIB for card in sits for vram in card.held.values()]
    assert held == ([] if held_mib is None else [held_mib] * 2)
    percent = [spot.gpu_percent or 0.0 for seen in fixed.seen[-60:] for spot in [seen.spots[WIDE]]]
    # sum(DCGM_FI_DEV_GPU_UTIL): up to 100 a card. Spot values scatter, and none is below 0.
    assert sum(percent) / len(percent) == pytest.approx(40, rel=0.25)


def mean_busy(readings: list[WorkloadReading]) -> float | None:
    busy = [reading.gpu_busy for reading in readings if reading.gpu_busy is not None]
    return sum(busy) / len(busy) if busy else None


def test_a_replica_is_lost_with_any_of_its_cards_and_leaves_the_others() -> None:
    of = scenario([{"name": "wide", "cards": 2, "replicas": 1}], events=[{"at": "2m", "cardsLost": 1}])
    world, _ = run(of)
    ready = [minute.ready["wide"] for minute in world.account.timeline]
    assert (ready[1], ready[2], ready[-1]) == (1, 0, 1)
    on_cards = [len(card.pods) for card in world.fleet.cards]
    assert sorted(on_cards) == [0, 1, 1]


def test_a_grant_is_unsafe_once_though_two_of_its_cards_are_short() -> None:
    # 4,800 MiB of each of four 10,000 MiB cards; a second one leaves 400 on all of them, the watermark is 1,000.
    wide_one = {"name": "wide", "cards": 4, "weights": "18600Mi", "replicas": 1, "arena": {"base": 0, "perRow": 0}}
    world, _ = run(scenario([wide_one]), value=2.0)
    assert world.account.scores is not None
    assert world.account.scores.unsafe_grants == 1


# Two cards of 10,000 MiB, three places each, watermark 1,000. Both have a rank of 150 + 1,500, one the other service. A
# second replica leaves 10,000 - 150 - 6,000 - 2 x 1,650 = 550 there, 5,550 beside a small one; on the other card 6,700.
@pytest.mark.parametrize(
    ("other", "second_fits"),
    [pytest.param("6000Mi", False, id="550 are left on one of two"), pytest.param("1000Mi", True, id="5,550 are left")],
)
def test_one_short_card_of_two_makes_a_grant_unsafe_and_the_oracle_refuses_it(other: str, second_fits: bool) -> None:
    none: dict[str, Any] = {"arena": {"base": 0, "perRow": 0}}
    wide_one = {"name": "wide", "cards": 2, "weights": "3000Mi", "replicas": 1, **none}
    wide_one |= {"load": {"points": 140}, "scaling": {"minReplicas": "1", "maxReplicas": "2"}}
    alone = {"name": "other", "weights": other, "replicas": 1, "autoscaled": False, **none}
    of = scenario([wide_one, alone], pool={**POOL, "cards": 2, "slots": 3})
    granted, _ = run(of, value=2.0)
    assert granted.account.scores is not None
    assert granted.account.scores.unsafe_grants == (0 if second_fits else 1)
    oracle = run_one(of, "oracle", 1)
    assert oracle.timeline[-1].needed["wide"] == 2  # 140/s x 0.06 s / 4, at least
    assert oracle.timeline[-1].ready["wide"] == (2 if second_fits else 1)


@pytest.mark.parametrize(
    ("pool", "text"),
    [
        pytest.param(
            {"cardsPerNode": 2}, "services, wide: cards: 4; it takes 1 to 2, whole cards of a node", id="node"
        ),
        pytest.param({"instances": 2}, "it takes 1 to 1", id="MIG: no instance works with another"),
    ],
)
def test_more_cards_than_a_node_has(pool: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        scenario([{"name": "wide", "cards": 4}], pool={**POOL, **pool})


# tensor-parallel.yaml: chat takes four cards, code two, embed one; the replicas at 45 min, 1h25 and 2h05, by service.
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_fits_on_all_of_its_cards_is_granted_and_what_does_not_on_one_is_not(seed: int) -> None:
    of = load_scenario("tensor-parallel").scenario
    runs = {policy: run_one(of, policy, seed) for policy in ("ours", "oracle")}
    for policy, each in runs.items():
        then = {minute.at_s / 60: minute for minute in each.timeline}
        asked = [[then[at].needed[name] for name in ("chat", "code", "embed")] for at in (45, 85, 125)]
        have = [[then[at].ready[name] for name in ("chat", "code", "embed")] for at in (45, 85, 125)]
        assert asked == [[2, 2, 1], [3, 2, 1], [3, 2, 2]]
        assert have == [[2, 2, 1], [2, 2, 1], [2, 2, 2]], policy
        assert (each.scores.unsafe_grants, each.scores.below_low_s) == (0, 0), policy


def test_the_incidents_triggers_put_two_ranks_on_a_card_where_one_fits() -> None:
    naive = run_one(load_scenario("tensor-parallel").scenario, "naive", 1)
    assert naive.scores.unsafe_grants > 0
    # 80,959 MiB less two times 0.48 x 81,559.
    assert naive.scores.worst_free_mib == pytest.approx(80_959 - 2 * 0.48 * 81_559)
