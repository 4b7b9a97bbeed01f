"""The bundled recording holds the figures of the incident's record, and its script writes it again. What is granted on
it fits, and docs/incident.md has the tables that its script makes."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from docs import safeguards
from scaler.decision import FleetPlan
from scaler.incident import RECORDING, SCALED_OBJECTS
from scaler.incident.cards import RESERVED_MIB
from scaler.incident.reconstruct import HEADER, reconstruct
from scaler.incident.timeline import clock
from scaler.policy import OperatorPolicy, ServiceKey, service_policy
from scaler.quantity import GIB, MIB
from scaler.snapshot import CardKey, CardReading, Snapshot, WorkloadKey, WorkloadReading
from scaler.sources.recording import RecordingSource
from scaler.sources.recording_writer import write_recording
from tests.worst_landing import asked_by_the_old_autoscaler, crossings, crossings_by_step

E5, IMAGE_SMALL, IMAGE_LARGE = (
    WorkloadKey("kserve-models", f"{name}-predictor") for name in ("e5", "image-small", "image-large")
)
BUNDLES = [WorkloadKey("kserve-models", f"bundle-{letter}-predictor") for letter in "abcd"]
FULL_MIB = 512
Figure = Callable[[Snapshot], float]


@pytest.fixture(scope="module")
def incident() -> Sequence[Snapshot]:
    source = RecordingSource(RECORDING)
    return list(source.snapshots(source.header.start_s, source.header.end_s, source.header.step_s))


def during(incident: Sequence[Snapshot], first: str, last: str) -> list[Snapshot]:
    return [one for one in incident if clock(first) <= one.taken_at_s <= clock(last)]


def test_the_script_writes_the_bundled_file_again(tmp_path: Path) -> None:
    write_recording(tmp_path / "again.jsonl.gz", HEADER, reconstruct())
    again = (tmp_path / "again.jsonl.gz").read_bytes()
    # The content first: another zlib packs the same lines into other bytes, and then only the content can be the same.
    assert gzip.decompress(again) == gzip.decompress(RECORDING.read_bytes())
    assert len(again) < 700_000


# -- figures of single readings ---------------------------------------------------------------------------------------


def inflight(service: WorkloadReading) -> float:
    assert service.queued is not None
    assert service.executing is not None
    return service.queued + service.executing


def of(workload: WorkloadKey, name: str) -> Figure:
    return lambda one: getattr(one.workloads[workload], name)


def per_minute(workload: WorkloadKey, name: str) -> Figure:
    return lambda one: 60 * of(workload, name)(one)


def fresh_per_minute(workload: WorkloadKey) -> Figure:
    """What succeeds plus what fails for good: with p of each attempt failing, two retries, s = f (1 - p^3)."""

    def figure(one: Snapshot) -> float:
        success, failure = (of(workload, name)(one) for name in ("success_per_s", "failure_per_s"))
        return 60 * success / (1 - (failure / (success + failure)) ** 3)

    return figure


def u_conc(replicas: int) -> Figure:
    return lambda one: of(E5, "executing")(one) / (16 * replicas)


def own_u_conc(one: Snapshot) -> float:
    return u_conc(int(of(E5, "spec_replicas")(one)))(one)


def fleet(name: str) -> Figure:
    return lambda one: sum(getattr(reading, name) for reading in one.workloads.values())


def fleet_fresh_per_minute(one: Snapshot) -> float:
    return sum(fresh_per_minute(workload)(one) for workload in one.workloads)


def free_mib(card: CardReading) -> float:
    assert card.free_bytes is not None
    return card.free_bytes / MIB


def tightest_mib(one: Snapshot) -> float:
    return min(map(free_mib, one.cards.values()))


def tightest_gb(one: Snapshot) -> float:
    return tightest_mib(one) * MIB / 1e9


def tightest_gib(one: Snapshot) -> float:
    return tightest_mib(one) / 1024


def fullest_gb(one: Snapshot) -> float:
    return max(used_bytes(card) for card in one.cards.values()) / 1e9


def used_bytes(card: CardReading) -> float:
    assert card.total_bytes is not None
    return card.total_bytes - (RESERVED_MIB + free_mib(card)) * MIB


def pool_gib(one: Snapshot) -> float:
    return sum(map(used_bytes, one.cards.values())) / GIB


def full_cards(one: Snapshot) -> float:
    return sum(free_mib(card) < FULL_MIB for card in one.cards.values())


def placeable_mib(one: Snapshot) -> float:
    """Free on the tightest card with a free slot."""
    cards = one.cards.values()
    return min(free_mib(card) for card in cards if card.slots and sum(card.pods.values()) < card.slots)


def utilization(one: Snapshot) -> float:
    ratios = [card.utilization_ratio or 0 for card in one.cards.values()]
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize(
    ("time", "figure", "record", "within"),
    [
        pytest.param("23:45", fleet("spec_replicas"), 49, 0, id="fleet before"),
        pytest.param("00:02", fleet("spec_replicas"), 38, 0, id="fleet, the dip"),
        pytest.param("00:10", fleet("spec_replicas"), 55, 0, id="fleet, over-corrected"),
        pytest.param("23:50", of(E5, "spec_replicas"), 5, 0, id="e5 at 23:50"),
        pytest.param("00:00", of(E5, "spec_replicas"), 2, 0, id="e5 at 00:00"),
        pytest.param("00:03", of(E5, "spec_replicas"), 3, 0, id="e5 at 00:03"),
        pytest.param("00:04", of(E5, "spec_replicas"), 7, 0, id="e5 at 00:04"),
        pytest.param("03:15", of(E5, "spec_replicas"), 1, 0, id="e5 at 03:15"),
        pytest.param("04:00", of(E5, "spec_replicas"), 11, 0, id="e5 at 04:00"),
        pytest.param("00:00", u_conc(2), 0.13, 0.005, id="u_conc at 00:00"),
        pytest.param("00:03", u_conc(3), 0.13, 0.005, id="u_conc at 00:03"),
        pytest.param("00:04", u_conc(3), 0.16, 0.005, id="u_conc at 00:04, of the 3 replicas before the step"),
        pytest.param("00:01", pool_gib, 97, 1, id="pool VRAM, least"),
        pytest.param("00:15", pool_gib, 201, 1, id="pool VRAM 14 minutes later"),
        pytest.param("05:19", pool_gib, 144, 1, id="pool VRAM before the fix"),
        pytest.param("05:35", pool_gib, 80, 1, id="pool VRAM after the fix, at equal load"),
        pytest.param("00:08", tightest_gb, 5.5, 0.05, id="tightest card at 00:08"),
        pytest.param("00:10", tightest_mib, 2, 0, id="tightest card at 00:10"),
        pytest.param("00:08", fullest_gb, 9.6, 0.05, id="fullest card at 00:08"),
        pytest.param("00:10", fullest_gb, 15.1, 0.05, id="fullest card at 00:10"),
        pytest.param("00:43", per_minute(E5, "failure_per_s"), 5, 0.1, id="failures in the minute of 00:42"),
        pytest.param("00:44", per_minute(E5, "failure_per_s"), 1045, 1, id="failures in the minute after"),
        pytest.param("03:36", per_minute(E5, "failure_per_s"), 2233, 1, id="failures in the worst minute"),
    ],
)
def test_at_one_time(incident: Sequence[Snapshot], time: str, figure: Figure, record: float, within: float) -> None:
    (seen,) = during(incident, time, time)
    assert figure(seen) == pytest.approx(record, abs=within)


@pytest.mark.parametrize(
    ("first", "last", "figure", "least", "most"),
    [
        pytest.param("23:45", "23:53", tightest_mib, 300, 560, id="tightest card as in the weeks before"),
        pytest.param("00:00", "00:08", tightest_gb, 5.45, 5.55, id="tightest card while replicas are low"),
        pytest.param("00:10", "01:02:45", tightest_mib, 0, 4, id="tightest card in the first wave"),
        pytest.param("00:10", "01:02:45", full_cards, 4, 6, id="full cards in the first wave"),
        pytest.param("00:10", "05:20", placeable_mib, 0, 318, id="a slot is free on a full card"),
        pytest.param("01:03:15", "01:08:45", tightest_mib, 318, 318, id="tightest card in the reprieve"),
        pytest.param("01:03:15", "01:08:45", full_cards, 1, 1, id="full cards in the reprieve"),
        pytest.param("01:10", "01:29:45", tightest_mib, 0, 4, id="tightest card in the second wave"),
        pytest.param("01:10", "01:29:45", full_cards, 4, 5, id="full cards in the second wave"),
        pytest.param("01:30:15", "03:15", tightest_mib, 318, 318, id="tightest card after the restart"),
        pytest.param("03:20", "05:20", tightest_mib, 0, 4, id="tightest card from the queue spikes to the fix"),
        pytest.param("05:25", "09:00", tightest_gib, 6.5, 7.5, id="tightest card after the fix"),
        pytest.param("05:25", "09:00", full_cards, 0, 0, id="full cards after the fix"),
        pytest.param("23:45", "05:20", utilization, 0.28, 0.32, id="utilisation about 30 % throughout"),
        pytest.param("23:45", "05:40", fresh_per_minute(E5), 5000, 6700, id="e5's requests a minute, flat"),
        pytest.param("06:10", "09:00", fresh_per_minute(E5), 1.53 * 6600, 1.61 * 6600, id="e5's requests, +57 %"),
        pytest.param("23:45", "05:40", fleet_fresh_per_minute, 44_000, 50_000, id="the fleet's requests a minute"),
        pytest.param("23:45", "05:20", own_u_conc, 0, 0.294, id="u_conc never above 0.29"),
        pytest.param("23:45", "00:43", per_minute(E5, "failure_per_s"), 0, 5.01, id="failures before 00:43"),
        pytest.param("00:44", "01:02:45", per_minute(E5, "failure_per_s"), 700, 1370, id="failures, first wave"),
        pytest.param("01:04", "01:09", per_minute(E5, "failure_per_s"), 0, 0, id="failures in the reprieve"),
        pytest.param("01:11", "01:29:45", per_minute(E5, "failure_per_s"), 700, 720, id="failures, second wave"),
        pytest.param("01:31", "03:15", per_minute(E5, "failure_per_s"), 0, 0, id="failures after the restart"),
        pytest.param("05:21", "09:00", per_minute(E5, "failure_per_s"), 0, 0, id="failures after the fix"),
    ],
)
def test_over_time(
    incident: Sequence[Snapshot], first: str, last: str, figure: Figure, least: float, most: float
) -> None:
    seen = [figure(one) for one in during(incident, first, last)]
    assert least <= min(seen)
    assert max(seen) <= most


def test_failed_requests(incident: Sequence[Snapshot]) -> None:
    """The record: 138,147 of 2,779,226 failed, 5.0 %, in about 2.5 h of bursts. It names no hours; here 23:45-06:45."""
    e5 = [one.workloads[E5] for one in during(incident, "23:45", "06:45")]
    failed = sum(15 * (reading.failure_per_s or 0) for reading in e5)
    attempts = failed + sum(15 * (reading.success_per_s or 0) for reading in e5)
    assert failed == pytest.approx(138_147, rel=0.002)
    assert attempts == pytest.approx(2_779_226, rel=0.003)
    assert sum(15 for reading in e5 if reading.failure_per_s) / 3600 == pytest.approx(2.5, abs=0.1)
    assert all(reading.oom_failure_per_s == reading.failure_per_s for reading in e5)


def test_the_worst_minute_and_the_longest_queue(incident: Sequence[Snapshot]) -> None:
    spikes = during(incident, "03:15", "04:00")
    worst = max(spikes, key=per_minute(E5, "failure_per_s"))
    assert per_minute(E5, "failure_per_s")(worst) / fresh_per_minute(E5)(worst) == pytest.approx(0.4, abs=0.03)
    assert max(of(E5, "queued")(one) for one in spikes) == pytest.approx(31, abs=0.5)
    assert max(of(E5, "queued")(one) for one in incident) == max(of(E5, "queued")(one) for one in spikes)


@pytest.mark.parametrize(
    ("first", "last", "workload", "least", "most"),
    [
        # With a target of 4: demand 2 is 4 to 8 in flight, 3 is 8 to 12, 1 is up to 4.
        pytest.param("23:45", "03:19", E5, 4.2, 7.8, id="e5 needs 2, until the queue of retries"),
        pytest.param("04:00", "05:45", E5, 4.2, 7.8, id="e5 needs 2, after the queue of retries"),
        pytest.param("06:10", "09:00", E5, 8.9, 11.5, id="e5 needs 3 with 57 % more traffic"),
        pytest.param("23:45", "02:00", IMAGE_SMALL, 2.8, 3.6, id="image-small needs 1"),
        pytest.param("02:40", "02:50", IMAGE_SMALL, 6.0, 7.5, id="image-small needs 2, under the veto"),
        pytest.param("03:15", "06:00", IMAGE_SMALL, 2.8, 3.6, id="image-small needs 1 again"),
        pytest.param("06:20", "07:30", IMAGE_SMALL, 6.5, 7.8, id="image-small needs 2, with room"),
        *(pytest.param("23:45", "09:00", bundle, 1.4, 4.0, id=f"{bundle.deployment} needs 1") for bundle in BUNDLES),
    ],
)
def test_own_demand(
    incident: Sequence[Snapshot], first: str, last: str, workload: WorkloadKey, least: float, most: float
) -> None:
    seen = [inflight(one.workloads[workload]) for one in during(incident, first, last)]
    assert least <= min(seen)
    assert max(seen) <= most


def test_what_fresh_requests_keep_in_flight_stays_flat_while_the_queue_spikes(incident: Sequence[Snapshot]) -> None:
    for one in during(incident, "03:15", "04:00"):
        assert 4 < fresh_per_minute(E5)(one) / 60 * of(E5, "success_time_s")(one) < 8


@pytest.mark.parametrize(
    ("workload", "before", "after"),
    [(BUNDLES[0], 1, 5), (BUNDLES[1], 1, 5), (BUNDLES[2], 2, 4), (BUNDLES[3], 2, 3)],
    ids=["bundle-a", "bundle-b", "bundle-c +2", "bundle-d +1"],
)
def test_the_bundles_grow_without_traffic(
    incident: Sequence[Snapshot], workload: WorkloadKey, before: int, after: int
) -> None:
    (dip,), (peak,) = during(incident, "00:02", "00:02"), during(incident, "00:10", "00:10")
    assert (of(workload, "spec_replicas")(dip), of(workload, "spec_replicas")(peak)) == (before, after)


def test_the_old_autoscaler_follows_real_growth_late(incident: Sequence[Snapshot]) -> None:
    """Under the veto image-small stays at 1; after the fix e5 and it need one more for minutes before they get it."""
    assert {of(IMAGE_SMALL, "spec_replicas")(one) for one in during(incident, "23:45", "06:29:45")} == {1}
    assert {of(E5, "spec_replicas")(one) for one in during(incident, "05:55", "06:05:45")} == {2}
    assert all(inflight(one.workloads[E5]) > 8 for one in during(incident, "06:00", "06:05:45"))
    assert min(of(E5, "spec_replicas")(one) for one in during(incident, "06:06", "09:00")) == 3


def test_every_reading_is_whole_and_agrees_with_itself(incident: Sequence[Snapshot]) -> None:
    assert len(incident) == (33_300 / 15) + 1
    for one in incident:
        placed = [sum(card.pods.get(workload, 0) for card in one.cards.values()) for workload in one.workloads]
        for service, pods in zip(one.workloads.values(), placed, strict=True):
            # A pool of Triton servers, without data per process.
            unseen = {name for name in service.__slots__ if getattr(service, name) is None}
            assert unseen == {"gpu_memory_utilization"}
            assert service.status_replicas == service.spec_replicas
            assert service.scraped_pods == service.ready_replicas
            assert 1 <= (service.ready_replicas or 0) <= (service.spec_replicas or 0) <= pods
            assert 5 <= (service.signals_age_s or 0) <= 15
            assert 5 <= (service.replicas_age_s or 0) <= 15
            # Little's law: the calm queue and the executions, over the rate of successes, is the time of one.
            if not service.failure_per_s:
                little = inflight(service) / (service.success_per_s or 0)
                assert service.success_time_s == pytest.approx(little, rel=0.01)
        for card in one.cards.values():
            assert sum(card.pods.values()) <= (card.slots or 0)
            assert not card.held
            assert 0 < free_mib(card) < (card.total_bytes or 0) / MIB
            assert card.pods or free_mib(card) > 10_000  # nothing is full without a pod that fills it


def test_the_scaled_objects_are_what_the_scaler_takes_and_the_hpa_needs() -> None:
    documents = [document for document in yaml.safe_load_all(SCALED_OBJECTS.read_text()) if document]
    names = ["e5", "bundle-a", "bundle-b", "bundle-c", "bundle-d", "image-small"]
    assert [document["metadata"]["name"] for document in documents] == names
    for document in documents:
        spec, (trigger,) = document["spec"], document["spec"]["triggers"]
        key = ServiceKey(document["metadata"]["namespace"], document["metadata"]["name"])
        policy = service_policy(key, trigger["metadata"], OperatorPolicy())
        assert policy.deployment == spec["scaleTargetRef"]["name"] == f"{key.name}-predictor"
        assert (policy.target_concurrency, trigger["type"], trigger["metricType"]) == (4, "external", "AverageValue")
        assert (policy.min_replicas, policy.max_replicas) == (spec["minReplicaCount"], spec["maxReplicaCount"])
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        for direction, window_s in (("scaleUp", 0), ("scaleDown", 300)):
            rules = behavior[direction]
            assert (rules["tolerance"], rules["stabilizationWindowSeconds"]) == ("0", window_s)
            assert rules["selectPolicy"] == "Max"
            assert rules["policies"]


# -- what is granted on it --------------------------------------------------------------------------------------------

Told = Sequence[Mapping[WorkloadKey, int]]


@pytest.fixture(scope="module", params=["own demand", "what the old autoscaler asked for"])
def demand(request: pytest.FixtureRequest, incident: Sequence[Snapshot]) -> safeguards.Demand:
    return (safeguards.own if request.param == "own demand" else safeguards.asked_then)(incident)


@pytest.fixture(scope="module")
def plans(demand: safeguards.Demand) -> Sequence[FleetPlan]:
    return safeguards.replayed(demand)


def granted(told: Told, incident: Sequence[Snapshot], first: str, last: str) -> int:
    """The most replicas above those that ran, all services together."""
    return max(
        sum(max(0, replicas - (one.workloads[workload].spec_replicas or 0)) for workload, replicas in now.items())
        for one, now in zip(incident, told, strict=True)
        if clock(first) <= one.taken_at_s <= clock(last)
    )


def test_all_services_together_are_never_granted_more_than_fits(
    demand: safeguards.Demand, plans: Sequence[FleetPlan]
) -> None:
    told = safeguards.told_by_step(demand.policy, plans)
    assert crossings_by_step(demand.incident, told) == {}
    # Something was there to be held against the cards: real growth is granted.
    assert granted(told, demand.incident, "05:55", "09:00") >= 1


def blind_by_the_old_autoscaler(incident: Sequence[Snapshot]) -> Told:
    six = safeguards.own(incident).policy.services.values()
    names = [WorkloadKey("kserve-models", service.deployment) for service in six]
    return [{name: now[name] for name in names} for now in asked_by_the_old_autoscaler(incident)]


def blind_by_own_demand(incident: Sequence[Snapshot]) -> Told:
    own = safeguards.own(incident)
    nothing_held = safeguards.replayed(own, safeguards.ROWS[-1])
    return safeguards.told_by_step(own.policy, nothing_held)


@pytest.mark.parametrize(
    ("blind", "first", "last"),
    [
        # Three bundles of 6.3 GiB at once, and 3.7 GiB above the watermark on a card with one slot.
        pytest.param(blind_by_the_old_autoscaler, "00:04:45", "00:04:45", id="the spiral"),
        pytest.param(blind_by_the_old_autoscaler, "03:15:45", "03:15:45", id="the queues of retries"),
        pytest.param(blind_by_own_demand, "02:14:15", "02:14:15", id="real growth under the veto"),
    ],
)
def test_blind_grants_do_not_fit(
    incident: Sequence[Snapshot], blind: Callable[[Sequence[Snapshot]], Told], first: str, last: str
) -> None:
    found = crossings_by_step(incident, blind(incident))
    assert clock(first) in found
    assert clock(last) in found
    assert not any(clock("05:25") < at_s for at_s in found)  # with room, blind grants fit too


@pytest.mark.parametrize(
    ("free_gib", "pods", "more", "fits"),
    [
        # 14,687 MiB in all, 10 % of it to stay free: 1,468.7 MiB. e5 holds 2,250 MiB, a bundle's replica 6,450.
        pytest.param(3.7, {E5: 1}, {E5: 1}, True, id="3,788.8 - 1,468.7 - 2,250 is 70 MiB left"),
        pytest.param(3.6, {E5: 1}, {E5: 1}, False, id="32 MiB too many"),
        pytest.param(3.7, {E5: 1}, {E5: 2}, False, id="two replicas and one slot"),
        pytest.param(9.0, {}, {E5: 1, BUNDLES[0]: 1}, False, id="both may land on the one card"),
        pytest.param(10.0, {}, {E5: 1, BUNDLES[0]: 1}, True, id="10,240 - 1,468.7 - 8,700 is 71 MiB left"),
        # 284 MiB are reserved: beside image-large's 7,000 MiB at most 14,687 - 284 - 7,000 - 1,468.7 = 5,934 MiB.
        pytest.param(13.0, {IMAGE_LARGE: 1}, {BUNDLES[0]: 1}, False, id="a pod that has not loaded yet counts"),
        pytest.param(13.0, {IMAGE_LARGE: 1}, {E5: 1}, True, id="a smaller one fits beside it"),
        pytest.param(0.1, {E5: 2}, {}, True, id="nothing granted"),
    ],
)
def test_the_worst_landing(
    free_gib: float, pods: Mapping[WorkloadKey, int], more: Mapping[WorkloadKey, int], fits: bool
) -> None:
    card = CardReading(free_bytes=free_gib * GIB, total_bytes=14_687.0 * MIB, slots=2, pods=pods)
    assert bool(crossings(Snapshot(clock("00:00"), cards={CardKey("GPU-1"): card}), more)) is not fits


# -- the tables in the docs -------------------------------------------------------------------------------------------


def test_the_docs_have_the_morning_as_it_is_replayed(demand: safeguards.Demand, plans: Sequence[FleetPlan]) -> None:
    """The first row of each; the others take the script 3 minutes."""
    lines = safeguards.PAGE.read_text().splitlines()
    assert safeguards.morning_row(safeguards.ALL, demand, plans) in lines


def test_the_docs_have_the_spiral_as_it_is_replayed(incident: Sequence[Snapshot]) -> None:
    full_s, failed_s = safeguards.first_full_s(incident), safeguards.first_failure_s(incident)
    assert (full_s, failed_s) == (clock("00:10"), clock("00:42:15"))
    fresh = safeguards.spiral(safeguards.asked_then(during(incident, "23:45", "00:15")), full_s, failed_s)
    assert "\n".join(fresh) in safeguards.PAGE.read_text()
