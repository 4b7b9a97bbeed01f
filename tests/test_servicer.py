"""KEDA's calls against a plan made by hand: what each decision becomes on the wire, and what never gets there."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import grpc
import pytest
from grpc import aio

from scaler._pb.externalscaler_pb2 import GetMetricSpecResponse
from scaler.decision import Decision, FleetPlan, Reason, Verdict
from scaler.policy import METRIC_NAME, OperatorPolicy, PoolPolicy, ServicePolicy
from scaler.serving.board import Board
from scaler.serving.registry import Registry
from tests.fleet import START_S, key
from tests.serving import (
    METADATA,
    Bench,
    ManualClock,
    decision,
    metrics_request,
    ref,
    streams_have_seen,
    unknown,
    until,
)


async def code_and_text(call: Awaitable[object]) -> tuple[str, str]:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details() or ""


@pytest.mark.parametrize(
    "granted", [pytest.param(0, id="zero"), pytest.param(1, id="one"), pytest.param(40, id="forty")]
)
async def test_granted_is_told_in_both_fields(granted: int) -> None:
    bench = Bench()
    bench.publish(decision(granted=granted))
    async with bench.stub() as stub:
        (value,) = (await stub.GetMetrics(metrics_request(metric="s0-any"))).metricValues
    assert (value.metricName, value.metricValue, value.metricValueFloat) == ("s0-any", granted, float(granted))


NAN = decision()._replace(granted=math.nan)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("decisions", "text"),
    [
        pytest.param([unknown()], "unknown (stale): own signals have age 61 s", id="unknown, with reason and text"),
        pytest.param([unknown(text="two\nlines")], "unknown (stale): two lines", id="in one line"),
        pytest.param([decision("other")], "no decision yet: the next tick plans for it", id="not planned yet"),
        pytest.param([NAN], "unknown: no number was decided", id="a number that is none"),
    ],
)
async def test_no_number_is_unavailable(decisions: list[Decision], text: str) -> None:
    bench = Bench()
    bench.publish(*decisions)
    async with bench.stub() as stub:
        assert await code_and_text(stub.GetMetrics(metrics_request())) == ("UNAVAILABLE", text)


async def test_before_the_first_plan_only_the_spec_is_answered() -> None:
    bench = Bench()
    bench.board.trouble = "memory is being rebuilt from history"
    unavailable = ("UNAVAILABLE", "no plan yet: memory is being rebuilt from history")
    async with bench.stub() as stub:
        assert await code_and_text(stub.GetMetrics(metrics_request())) == unavailable
        assert await code_and_text(stub.IsActive(ref())) == unavailable
        (spec,) = (await stub.GetMetricSpec(ref())).metricSpecs
    assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == (METRIC_NAME, 1, 1.0)


@pytest.mark.parametrize(
    ("steady_s", "wall_s", "answered"),
    [
        pytest.param(44, 44, True, id="44 s old: answered"),
        pytest.param(45, 45, False, id="45 s old: stale"),
        pytest.param(45, -3600, False, id="the wall clock stepped back an hour: the steady clock counts"),
        pytest.param(1, 3600, False, id="the wall clock stepped forward: that age counts"),
        pytest.param(44, -3600, True, id="stepped back, but read 44 s ago"),
    ],
)
async def test_stale_plans_are_not_answered_from(steady_s: float, wall_s: float, answered: bool) -> None:
    bench = Bench()
    bench.publish(decision())
    bench.clock.advance(steady_s)
    bench.clock.step(wall_s - steady_s)
    bench.board.trouble = "source unavailable: refused"
    async with bench.stub() as stub:
        if answered:
            assert (await stub.GetMetrics(metrics_request())).metricValues[0].metricValue == 3
        else:
            code, text = await code_and_text(stub.GetMetrics(metrics_request()))
            oldest_s = max(steady_s, wall_s)
            assert code == "UNAVAILABLE"
            assert text == (
                f"stale: the newest plan is {oldest_s:.0f} s old, the limit is 45 s: source unavailable: refused"
            )


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"targetConcurency": "4"}, "metadata.targetConcurency: unknown key; did you mean targetConcurrency?"),
        ({"targetConcurrency": "0"}, "metadata.targetConcurrency: '0'"),
        ({"pool": "gold"}, "metadata.pool: 'gold' is not a configured pool; it takes one of default, big"),
    ],
)
async def test_bad_metadata_is_an_invalid_argument_of_its_own(metadata: dict[str, str], text: str) -> None:
    bench = Bench(OperatorPolicy(pools=(PoolPolicy(), PoolPolicy(name="big"))))
    bench.publish(decision("bad"), decision("good"))
    async with bench.stub() as stub:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: stub.GetMetricSpec(ref("bad", **metadata)),
            lambda: stub.GetMetrics(metrics_request("bad", **metadata)),
            lambda: stub.IsActive(ref("bad", **metadata)),
            lambda: stub.StreamIsActive(ref("bad", **metadata)).read(),
            lambda: stub.StreamMetricSpec(ref("bad", **metadata)).read(),
        ]
        for call in calls:
            code, told = await code_and_text(call())
            assert code == "INVALID_ARGUMENT"
            assert told.startswith(text)
        assert (await stub.GetMetrics(metrics_request("good"))).metricValues[0].metricValue == 3
    assert list(bench.registry.policies()) == [key("good")]


@pytest.mark.parametrize("name", ["", "UPPER", "a/b", "x" * 254, "line\nbreak"])
async def test_a_name_that_kubernetes_would_not_allow_is_refused(name: str) -> None:
    bench = Bench()
    async with bench.stub() as stub:
        code, text = await code_and_text(stub.GetMetricSpec(ref(name)))
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("name: ")


@pytest.mark.parametrize("active", [True, False])
async def test_is_active_is_the_decisions(active: bool) -> None:
    bench = Bench()
    bench.publish(decision(active=active))
    async with bench.stub() as stub:
        assert (await stub.IsActive(ref())).result is active


async def test_unknown_is_not_inactive() -> None:
    bench = Bench()
    bench.publish(unknown())
    async with bench.stub() as stub:
        assert (await code_and_text(stub.IsActive(ref())))[0] == "UNAVAILABLE"


class RaisingFor(dict):  # type: ignore[type-arg]
    """Decisions of which one cannot be looked up: a fault in our own code."""

    def get(self, asked: object, default: object = None) -> object:
        if asked == key("bad"):
            raise RuntimeError("planted")
        return super().get(asked, default)


async def test_a_fault_of_our_own_is_internal_and_hurts_nobody_else(capfd: pytest.CaptureFixture[str]) -> None:
    bench = Bench()
    decisions = RaisingFor({key("good"): decision("good")})
    bench.board.publish(FleetPlan(START_S, decisions), bench.clock.elapsed_s())
    async with bench.stub() as stub:
        for _ in range(3):
            told = await code_and_text(stub.GetMetrics(metrics_request("bad")))
            assert told == ("INTERNAL", "GetMetrics: RuntimeError: planted")
        assert (await stub.GetMetrics(metrics_request("good"))).metricValues[0].metricValue == 3
    assert bench.servicer.calls_total == {("GetMetrics", "INTERNAL"): 3, ("GetMetrics", "OK"): 1}
    assert "".join(capfd.readouterr()).count("call failed") == 1


Shown = tuple[int | None, bool] | None  # replicas and active; None = unknown


@pytest.mark.parametrize(
    ("plans", "sent"),
    [
        pytest.param([(0, True)], 1, id="open, active at 0 replicas: there is one to wake"),
        pytest.param([(2, True)], 0, id="open, active with replicas: nothing to wake"),
        pytest.param([(0, False)], 0, id="open, inactive"),
        pytest.param([(0, False), (0, True), (1, True), (1, True)], 1, id="the transition, and no repetition"),
        pytest.param([(2, True), (2, False), (2, True)], 1, id="inactive and active again"),
        pytest.param([(2, True), None, (2, True)], 0, id="unknown in between is no transition"),
        pytest.param([(0, False), None, (0, True)], 1, id="active after unknown, inactive before"),
        pytest.param([None, (0, True)], 1, id="first known as active at 0 replicas"),
    ],
)
async def test_stream_is_active_sends_transitions_only_and_ends_with_ok(plans: list[Shown], sent: int) -> None:
    bench = Bench()

    def publish(shown: Shown) -> None:
        bench.publish(unknown() if shown is None else decision(replicas=shown[0], active=shown[1]))

    publish(plans[0])
    async with bench.stub() as stub:
        call = stub.StreamIsActive(ref())
        for shown in plans[1:]:
            await streams_have_seen(bench.board)
            publish(shown)
        await streams_have_seen(bench.board)
        bench.board.close()
        assert [response.result async for response in call] == [True] * sent
        assert await call.code() is grpc.StatusCode.OK
    assert bench.servicer.streams == {"StreamIsActive": 0}
    assert bench.servicer.calls_total == {("StreamIsActive", "OK"): 1}


async def test_stream_metric_spec_sends_the_spec_at_once_and_stays_open() -> None:
    bench = Bench()
    async with bench.stub() as stub:
        call = stub.StreamMetricSpec(ref())
        response = await call.read()
        assert isinstance(response, GetMetricSpecResponse)
        assert response.metricSpecs[0].metricName == METRIC_NAME
        bench.publish(decision())
        await streams_have_seen(bench.board)
        assert not call.done()
        bench.board.close()
        assert await call.read() is aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_streams_end_with_ok_at_their_greatest_age() -> None:
    bench = Bench(stream_most_s=0.05)
    bench.publish(decision(replicas=0))
    async with bench.stub() as stub:
        call = stub.StreamIsActive(ref())
        assert [response.result async for response in call] == [True]
        assert await call.code() is grpc.StatusCode.OK


async def test_a_client_that_leaves_or_never_reads_leaves_nothing_behind() -> None:
    bench = Bench()
    bench.publish(decision(replicas=0))
    async with bench.stub() as stub:
        before = len(asyncio.all_tasks())
        calls = [stub.StreamIsActive(ref()) for _ in range(20)]
        await until(lambda: bench.servicer.streams["StreamIsActive"] == 20)
        for _ in range(50):
            bench.publish(decision(replicas=0, active=False))
            await streams_have_seen(bench.board, 20)
            bench.publish(decision(replicas=0, active=True))
            await streams_have_seen(bench.board, 20)
        for call in calls:
            call.cancel()
        await until(lambda: bench.servicer.streams["StreamIsActive"] == 0)
        await until(lambda: len(asyncio.all_tasks()) <= before)
    assert bench.servicer.calls_total == {("StreamIsActive", "CANCELLED"): 20}


async def test_changed_metadata_takes_effect_and_an_old_stream_does_not_bring_the_past_back() -> None:
    bench = Bench()
    async with bench.stub() as stub:
        bench.publish(decision())
        stub.StreamIsActive(ref(targetConcurrency="4"))
        await streams_have_seen(bench.board)
        await stub.GetMetrics(metrics_request(targetConcurrency="8"))
        bench.publish(decision())
        await streams_have_seen(bench.board)
    assert bench.registry.policies()[key("e5")].target_concurrency == 8


class TestRegistry:
    def test_forgets_what_is_not_asked_about_for_a_quarter_of_an_hour(self) -> None:
        clock = ManualClock()
        kept = {key("kept"): ServicePolicy(deployment="kept")}
        registry = Registry(OperatorPolicy(), kept, steady_s=clock.elapsed_s)
        for name in ("asked", "streamed", "gone"):
            registry.ask("models", name, METADATA)
        clock.advance(900)
        assert len(registry.policies()) == 4
        registry.ask("models", "asked", METADATA)
        registry.keep(key("streamed"))
        clock.advance(1)
        assert {each.name for each in registry.policies()} == {"kept", "asked", "streamed"}

    def test_what_keda_says_replaces_what_was_filled_in(self) -> None:
        registry = Registry(OperatorPolicy(), {key("e5"): ServicePolicy(deployment="e5", priority="3")})
        assert registry.ask("models", "e5", METADATA).policy == registry.policies()[key("e5")]
        assert registry.policies()[key("e5")].priority == 1

    def test_metadata_is_read_once_for_each_change(self) -> None:
        registry = Registry(OperatorPolicy())
        first = registry.ask("models", "e5", METADATA).policy
        assert registry.ask("models", "e5", dict(METADATA)).policy is first
        assert registry.ask("models", "e5", {**METADATA, "priority": "2"}).policy is not first

    def test_is_bounded(self) -> None:
        registry = Registry(OperatorPolicy(), most=2)
        for name in ("a", "b", "c", "d"):
            assert registry.ask("models", name, METADATA).policy is not None
        assert {each.name for each in registry.policies()} == {"a", "b"}
        assert (len(registry), registry.is_full, registry.refused_total) == (2, True, 2)


def test_the_board_closes_to_probes_before_it_closes_to_calls() -> None:
    clock = ManualClock()
    board = Board(clock, 45.0)
    board.publish(FleetPlan(START_S, {key("e5"): decision()}), clock.elapsed_s())
    board.close()
    assert board.fault() == "shutting down"
    assert board.in_force().decisions[key("e5")].verdict is Verdict.HOLD
    assert Reason.DEMAND in board.in_force().decisions[key("e5")].reasons
