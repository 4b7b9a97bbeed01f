"""The model's parts and its loop: requests that add up, neighbours that slow, readings with their delays."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from scaler.quantity import MIB
from scaler.simulate.arena import Arena
from scaler.simulate.autoscaler import Estimate, Truth
from scaler.simulate.baselines import Concurrency, Naive, QueueAndKv, VramPercent
from scaler.simulate.clients import ClientPool
from scaler.simulate.curves import Curve, Demand, Lifetimes, Trace
from scaler.simulate.execution import Setting, serve, share_gpu
from scaler.simulate.fleet import CONTEXT_BYTES, Fleet, Pod
from scaler.simulate.hpa import EXAMPLE_BEHAVIOR, HOLD, Answer, Behavior
from scaler.simulate.metric_path import Seen, Spot
from scaler.simulate.node_agent import NodeAgent
from scaler.simulate.scenario import Clients, Scenario, ScenarioPool, ScenarioService
from scaler.simulate.servers import Counters, Scrape, Scrapes, gauges, rates
from scaler.simulate.world import World
from scaler.snapshot import Snapshot, WorkloadKey, WorkloadReading

POOL = {"cards": 4, "total": "10000Mi", "slots": 2}
SERVICE: dict[str, Any] = {
    "name": "encoder",
    "load": {"points": 40},
    "serviceTime": 0.05,
    "gpuTime": 0.005,
    "weights": "1000Mi",
    "loadTime": "1m",
    "replicas": 2,
    "scaling": {"minReplicas": "1", "maxReplicas": "4"},
}


def service(**keys: Any) -> ScenarioService:
    return ScenarioService.model_validate({**SERVICE, **keys}, by_alias=True)


def scenario(services: list[dict[str, Any]] | None = None, **keys: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "about": "a test",
            "duration": "10m",
            "warmUp": "5m",
            "pool": POOL,
            "services": [{**SERVICE, **each} for each in services or [{}]],
            **keys,
        },
        by_alias=True,
    )


class Fixed:
    """Answers one value for ever, and keeps what it saw."""

    behavior: Behavior | None = EXAMPLE_BEHAVIOR
    reads_spots = True

    def __init__(self, value: float | None) -> None:
        self._answer = HOLD if value is None else Answer(value, value > 0)
        self.seen: list[Seen] = []

    def look(self, seen: Seen, truth: Truth) -> None:
        self.seen.append(seen)

    def answer(self, service: ScenarioService) -> Answer:
        return self._answer

    def estimates(self) -> dict[WorkloadKey, Estimate]:
        return {}

    def withheld(self) -> dict[WorkloadKey, str]:
        return {}

    def restart(self, back_at_s: float) -> None:
        raise AssertionError("no event asks for it")


def run(of: Scenario, value: float | None = None, seed: int = 1) -> tuple[World, Fixed]:
    fixed = Fixed(value)
    world = World(of, lambda _: fixed, seed)
    for _ in world.run():
        pass
    return world, fixed


def test_same_seed_same_run_and_another_seed_another_run() -> None:
    first, again, other = (run(scenario(), seed=seed)[0].account for seed in (1, 1, 2))
    assert (first.scores, first.timeline) == (again.scores, again.timeline)
    assert first.scores != other.scores


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_a_request_that_always_fails_is_tried_so_often_and_then_lost(retries: int, attempts: int) -> None:
    clients = Clients.model_validate({"retries": retries, "backOff": "1s"}, by_alias=True)
    pool = ClientPool(Demand(Curve({0.0: 50.0, 60.0: 50.0, 60.1: 0.0}), None), clients, random.Random(1))
    for step in range(100):
        arrived = pool.arrive(step * 5.0)
        pool.fail(arrived, arrived.total)
    assert pool.attempts == pytest.approx(attempts * pool.fresh)
    assert pool.lost == pytest.approx(pool.fresh)


def test_half_of_the_attempts_fail_and_fresh_demand_is_inflated_by_the_known_sum() -> None:
    # A(0.5, 2) = 1 + 0.5 + 0.25 = 1.75, and an eighth is never answered.
    pool = ClientPool(Demand(Curve({0.0: 1000.0}), None), Clients(retries=2, back_off_s="1s"), random.Random(1))
    for step in range(400):
        arrived = pool.arrive(step * 5.0)
        pool.fail(arrived, arrived.total / 2)
    assert pool.attempts / pool.fresh == pytest.approx(1.75, abs=0.01)
    assert pool.lost / pool.fresh == pytest.approx(0.125, abs=0.001)


def pod_on(fleet: Fleet, of: ScenarioService, arena: Arena | None = None) -> Pod:
    pod = fleet.create(of, WorkloadKey("models", of.name), 0.0, arena or Arena(of.arena.kind), 0)
    assert pod is not None
    pod.load_left_s, pod.ready_s, pod.resident_bytes = None, 0.0, pod.full_bytes
    return pod


def fleet(**keys: Any) -> Fleet:
    return Fleet(ScenarioPool.model_validate({**POOL, **keys}, by_alias=True), random.Random(1))


@pytest.mark.parametrize(
    ("busy", "parts"),
    [
        pytest.param([0.0, 0.0], [1.0, 1.0], id="idle: all of it"),
        pytest.param([0.3, 0.5], [0.5, 0.7], id="what the other leaves"),
        pytest.param([0.9, 0.9], [0.5, 0.5], id="both want all: half each"),
    ],
)
def test_time_slicing(busy: list[float], parts: list[float]) -> None:
    cards = fleet(cards=1)
    pods = [pod_on(cards, service()) for _ in busy]
    for pod, ratio in zip(pods, busy, strict=True):
        pod.gpu_busy = ratio
    assert share_gpu(pods) == pytest.approx(parts)


def test_a_neighbour_stretches_the_part_of_the_time_that_is_the_gpus() -> None:
    of = service(gpuPart=0.8)
    alone, beside = pod_on(fleet(), of), pod_on(fleet(), of)
    setting = Setting(0.05, 1e6)
    serve(alone, setting, 200.0, 1.0, 1.0, random.Random(1))
    serve(beside, setting, 200.0, 1.0, 0.5, random.Random(1))
    # 40/s x 0.05 s = 2; with half of the card 0.05 x (0.2 + 0.8 x 2) = 0.09 s, so 3.6.
    assert alone.scrapes.running == pytest.approx(2.0)
    assert beside.scrapes.running == pytest.approx(3.6)


def test_beyond_capacity_a_queue_stands_and_clients_lose_patience() -> None:
    of = service(clients={"patience": "10s"})
    pod = pod_on(fleet(), of)
    served = [serve(pod, Setting(0.05, 1e6), 1500.0, 1.0, 1.0, random.Random(1)) for _ in range(10)]
    # 1 / 0.005 s = 200/s, 1000 a step; what waits longer than 10 s, beyond 2000, is given up.
    assert [each.tried for each in served] == pytest.approx([1000.0] * 10)
    assert pod.queue == pytest.approx(2000.0)
    assert served[-1].given_up == pytest.approx(500.0)


def test_on_a_full_card_the_largest_batches_fail_and_the_small_ones_do_not() -> None:
    of = service(rows=8, arena={"base": "100Mi", "perRow": "100Mi"})
    cards = fleet(cards=1)
    pod = pod_on(cards, of, Arena("power-of-two"))
    pod.cards[0].usable_bytes = pod.held_bytes + 802 * MIB  # 800 can be had: 7 rows
    for seed in range(20):
        served = serve(pod, Setting(0.05, 1e6), 200.0, 1.0, 1.0, random.Random(seed))
    # Geometric with the mean that gathers, 8 + 40/s x 0.01 s = 8.4 rows; more than 7 do not fit.
    assert served.failed / 200 == pytest.approx((1 - 1 / 8.4) ** 7)


def test_the_scheduler_spreads_by_slots_and_does_not_see_vram() -> None:
    cards = fleet()
    (full,) = cards.next_cards()
    full.usable_bytes = 0.0
    assert cards.next_cards() == (full,)
    first, second = (pod_on(cards, service()) for _ in range(2))
    assert first.cards != second.cards
    for _ in range(6):
        pod_on(cards, service())
    assert cards.next_cards() == ()  # 4 cards x 2 slots


def test_a_load_that_finds_no_room_starts_again_later() -> None:
    cards = fleet(cards=1)
    pod = cards.create(service(), WorkloadKey("models", "encoder"), 0.0, Arena("power-of-two"), 0)
    assert pod is not None
    pod.cards[0].usable_bytes = 600 * MIB
    times = [float(step) for step in range(0, 120, 5)]
    for at_s in times:
        pod.load(at_s)
    assert pod.ready_s is None
    assert pod.crashes >= 1
    pod.cards[0].usable_bytes = 2000 * MIB
    for at_s in range(120, 600, 5):
        pod.load(float(at_s))
    assert pod.ready_s is not None
    assert pod.resident_bytes == CONTEXT_BYTES + 1000 * MIB


def test_vllm_needs_its_whole_share_at_the_start() -> None:
    of = service(server="vllm", arena={"kind": "fixed", "share": 0.6}, gpuTime=0)
    cards = fleet(cards=1)
    first = cards.create(of, WorkloadKey("models", "encoder"), 0.0, Arena("fixed"), 0)
    second = cards.create(of, WorkloadKey("models", "encoder"), 0.0, Arena("fixed"), 0)
    assert first is not None
    assert second is not None
    for at_s in range(0, 300, 5):
        first.load(float(at_s))
        second.load(float(at_s))
    assert first.resident_bytes == 6000 * MIB
    assert first.ready_s is not None
    assert second.ready_s is None


@pytest.mark.parametrize(
    ("attribution", "busy", "source", "places"),
    [
        pytest.param("agent", 0.2, "agent", 2, id="the node agent"),
        pytest.param("exporter", 0.2, "exporter-per-process", 2, id="exporter per process"),
        pytest.param("triton", 0.2, "triton-wall-time", 2, id="Triton's wall time"),
        pytest.param("none", None, None, 2, id="nothing tells pods apart"),
    ],
)
def test_what_is_seen_is_what_is_up_to_delay_and_noise(
    attribution: str, busy: float | None, source: str | None, places: int
) -> None:
    _, fixed = run(scenario(attribution=attribution, duration="30m"))
    last = fixed.seen[-1].snapshot
    reading = last.workloads[WorkloadKey("models", "encoder")]
    assert (reading.spec_replicas, reading.ready_replicas, reading.scraped_pods) == (2, 2, 2)
    assert reading.success_per_s == pytest.approx(40, rel=0.1)
    assert reading.executing == pytest.approx(40 * 0.05, rel=0.15)  # Little
    assert reading.failure_per_s == 0
    assert reading.gpu_busy_source == source
    assert reading.gpu_busy == (None if busy is None else pytest.approx(busy, rel=0.5))
    for snapshot in (each.snapshot for each in fixed.seen):
        for each in snapshot.workloads.values():
            assert 0 <= (each.replicas_age_s or 0) < 20
            assert 0 <= (each.signals_age_s or 0) < 20
        assert all(0 <= (card.age_s or 0) < 30 for card in snapshot.cards.values())
    assert sum(sum(card.pods.values()) for card in last.cards.values()) == places
    assert bool(any(card.held for card in last.cards.values())) == (attribution in ("agent", "exporter"))
    free = sorted(card.free_bytes or 0 for card in last.cards.values())
    assert free[-1] == 10_000 * MIB
    assert free[0] < 9_000 * MIB


@pytest.mark.parametrize(
    ("what", "workloads", "signals", "cards"),
    [("all", 0, False, 0), ("servers", 1, False, 4), ("cards", 1, True, 0)],
)
def test_lost_metrics_are_not_there(what: str, workloads: int, signals: bool, cards: int) -> None:
    of = scenario(events=[{"at": "5m", "metricsLost": {"for": "2m", "what": what}}])
    _, fixed = run(of)
    start_s = of.start_s
    lost = next(each.snapshot for each in fixed.seen if each.snapshot.taken_at_s == start_s + 360)
    assert len(lost.workloads) == workloads
    assert any(reading.executing is not None for reading in lost.workloads.values()) == signals
    assert len(lost.cards) == cards
    assert bool(lost.problems) == (cards == 0)
    back = fixed.seen[-1].snapshot
    assert back.workloads[WorkloadKey("models", "encoder")].executing is not None
    assert len(back.cards) == 4


def test_replicas_follow_the_hpa_and_its_limit_of_two_pods_in_thirty_seconds() -> None:
    world, _ = run(scenario(), value=4.0)
    replicas = [minute.replicas["encoder"] for minute in world.account.timeline]
    assert replicas[1] == 4
    ready = [minute.ready["encoder"] for minute in world.account.timeline]
    assert (ready[0], ready[3]) == (2, 4)  # a minute of loading


def test_without_an_answer_nothing_moves() -> None:
    world, _ = run(scenario(), value=None)
    assert {minute.replicas["encoder"] for minute in world.account.timeline} == {2}


def test_a_rolling_restart_keeps_the_replicas_ready_and_resets_the_arenas() -> None:
    of = scenario([{"arena": {"base": "900Mi"}}], events=[{"at": "2m", "restart": {"arena": "same-as-requested"}}])
    world, fixed = run(of)
    assert all(minute.ready["encoder"] >= 2 for minute in world.account.timeline)
    exists = {
        reading.status_replicas
        for each in fixed.seen
        for reading in [each.snapshot.workloads.get(WorkloadKey("models", "encoder"))]
        if reading is not None
    }
    assert exists == {2, 3}  # one surge pod: a quarter of two, rounded up


def test_a_lost_card_takes_its_pods_with_it_and_they_come_back_elsewhere() -> None:
    world, fixed = run(scenario(events=[{"at": "2m", "cardsLost": 1}]))
    ready = [minute.ready["encoder"] for minute in world.account.timeline]
    assert min(ready) == 1
    assert ready[-1] == 2
    assert len(fixed.seen[-1].snapshot.cards) == 3


def test_a_grant_onto_a_card_below_its_watermark_is_unsafe() -> None:
    # 10,000 MiB cards, watermark 1,000: two of 4,800 on a card leave nothing.
    wide = {"weights": "4800Mi", "replicas": 4, "scaling": {"minReplicas": "1", "maxReplicas": "6"}}
    roomy, _ = run(scenario([{**wide, "weights": "1000Mi"}]), value=6.0)
    tight, _ = run(scenario([wide]), value=6.0)
    assert roomy.account.scores is not None
    assert tight.account.scores is not None
    assert (roomy.account.scores.unsafe_grants, tight.account.scores.unsafe_grants) == (0, 2)


def test_a_card_with_one_place_has_no_watermark() -> None:
    # 9,500 of 10,000 MiB: below the watermark of 1,000, but there is no neighbour who could need it.
    wide = {"weights": "9350Mi", "replicas": 2, "scaling": {"minReplicas": "1", "maxReplicas": "4"}}
    alone, _ = run(scenario([wide], pool={**POOL, "slots": 1}), value=4.0)
    assert alone.account.scores is not None
    assert alone.fleet.cards[0].free_bytes < 500 * MIB
    assert (alone.account.scores.unsafe_grants, alone.account.scores.below_low_s) == (0, 0)


def test_mig_instances_are_cards_of_their_own_and_are_lost_together() -> None:
    of = scenario(pool={**POOL, "cards": 2, "instances": 3}, events=[{"at": "2m", "cardsLost": 1}])
    world, fixed = run(of)
    first, last = (sorted(seen.snapshot.cards) for seen in (fixed.seen[0], fixed.seen[-1]))
    assert [card.gpu_instance_id for card in first] == ["1", "2", "3"] * 2
    assert len({card.uuid for card in first}) == 2
    assert last in (first[:3], first[3:])
    assert len({card.node for card in world.fleet.cards}) == 1


def test_rows_of_one_bin_of_a_trace_add_up(tmp_path: Path) -> None:
    rows = ["t_s,job,completed", "0,a,30", "15,a,60", "16,b,15", "30,a,0", "31,b,15"]
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    curve = Trace(file="t.csv.gz", column="completed").curve(tmp_path)
    assert [curve.at(at_s) for at_s in (0.0, 15.0, 30.0)] == [2.0, 5.0, 1.0]


@pytest.mark.parametrize(
    ("at_s", "living"),
    [
        pytest.param(0.0, 1, id="the first was there before"),
        pytest.param(99.0, 1, id="until the second comes"),
        pytest.param(100.0, 2, id="at once, not along a line"),
        pytest.param(149.0, 2, id="one that no card was found for is wanted, too"),
        pytest.param(150.0, 1, id="and gives up"),
        pytest.param(600.0, 0, id="the first one goes, the third is of another size"),
    ],
)
def test_pods_that_lived_are_load_while_they_lived(tmp_path: Path, at_s: float, living: int) -> None:
    rows = [
        "gpu_milli,creation_time,scheduled_time,deletion_time",
        "470,900,900,1600",
        "470,1100,,1150",
        "810,900,900,9000",
    ]
    (tmp_path / "pods.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    of = {"file": "pods.csv.gz", "where": {"gpu_milli": "470"}, "from": "1000s", "perPod": 40}
    assert Lifetimes.model_validate(of, by_alias=True).curve(tmp_path).at(at_s) == 40.0 * living


@pytest.mark.parametrize("is_vllm", [False, True])
@pytest.mark.parametrize("scrapes", [0, 1, 2, 5])
def test_gauges_of_the_burst_window_are_those_of_all_rates(scrapes: int, is_vllm: bool) -> None:
    server = Scrapes(phase_s=0.0)
    for n in range(scrapes):
        server.samples.append(Scrape(15.0 * n, Counters(compute_s=7.0 * n * n), waiting=float(n), running=2.0 * n))
    full = rates([server], -1.0, is_vllm)
    assert gauges([server], -1.0, is_vllm) == (full.waiting, full.executing)


def test_the_agents_pods_and_its_card_are_of_the_same_rounds() -> None:
    """Own part of a shared card: 40/s x 5 ms = 0.2 of a card beside 0.4; spot values of the exporter would scatter."""
    pair: list[dict[str, Any]] = [{"replicas": 1}, {"name": "other", "replicas": 1, "gpuTime": 0.01}]
    _, fixed = run(scenario(pair, pool={**POOL, "cards": 1}, attribution="agent", duration="30m"))
    shares = []
    for seen in fixed.seen[-60:]:
        (card,) = seen.snapshot.cards.values()
        own = seen.snapshot.workloads[WorkloadKey("models", "encoder")].gpu_busy
        assert own is not None
        assert card.utilization_ratio
        shares.append(own / card.utilization_ratio)
    assert median(shares) == pytest.approx(1 / 3, abs=0.05)
    assert all(0.1 < share < 0.6 for share in shares)


def test_the_agent_remembers_what_an_arena_gave_back() -> None:
    cards = fleet(cards=1)
    pod, agent = pod_on(cards, service()), NodeAgent(random.Random(1))
    told = []
    for step, held_mib in enumerate((100, 300, 200, 200)):  # a scrape is every third step
        pod.arena.held_bytes = held_mib * MIB
        for at_s in range(15 * step, 15 * step + 15, 5):
            agent.round(float(at_s), cards.cards[0])
        use = (agent.pods(cards.cards[0].key) or {})[pod]
        told.append(tuple(round((each - pod.resident_bytes) / MIB) for each in (use.held_bytes, use.peak_bytes)))
    assert told == [(100, 100), (300, 300), (200, 300), (200, 300)]


SPOT = Spot(pending=12.0, inflight=40.0, gpu_percent=90.0, vram_ratio=0.4, kv_ratio=0.35, ready=2)
NOTHING_SEEN = Spot(None, None, None, None, None, ready=2)


@pytest.mark.parametrize(
    ("policy", "keys", "spot", "value"),
    [
        pytest.param(Naive(), {}, SPOT, 2.5, id="naive: 40/16 = 2.5, 12/8 = 1.5, 90/80 = 1.1: the highest"),
        pytest.param(Naive(), {}, NOTHING_SEEN, 0.0, id="naive: an empty query is 0"),
        pytest.param(VramPercent(), {}, SPOT, 1.0, id="VRAM: 2 x 0.4 / 0.8"),
        pytest.param(VramPercent(), {}, NOTHING_SEEN, None, id="VRAM: nothing seen"),
        pytest.param(QueueAndKv(), {}, SPOT, 2.4, id="queue: 12 / 5"),
        pytest.param(QueueAndKv(), {"server": "vllm"}, SPOT._replace(pending=0.0), 0.5, id="KV: 0.35 / 0.7"),
    ],
)
def test_what_others_would_ask_for(policy: Any, keys: dict[str, Any], spot: Spot, value: float | None) -> None:
    of = service(**keys)
    policy.look(Seen(Snapshot(0.0), {WorkloadKey("models", "encoder"): spot}), None)
    answer = policy.answer(of)
    assert answer.value == (None if value is None else pytest.approx(value))


def test_knative_panics_at_twice_what_is_ready_and_does_not_go_down_in_it() -> None:
    policy, of, key = Concurrency(), service(), WorkloadKey("models", "encoder")

    def told(at_s: float, stable: float, burst: float) -> float | None:
        reading = WorkloadReading(
            spec_replicas=2, ready_replicas=2, queued=0.0, executing=stable, queued_burst=0.0, executing_burst=burst
        )
        policy.look(Seen(Snapshot(at_s, {key: reading}), {}), None)  # type: ignore[arg-type]
        return policy.answer(of).value

    assert told(0, 6, 6) == 2  # 6 / 4
    assert told(15, 6, 20) == 5  # 20 / 4 = 5, more than twice 2: panic
    assert told(30, 6, 6) == 5
    assert told(80, 6, 6) == 2
