"""HTTP: probes, telemetry and the decisions, and the life of the service around it."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import signal
import socket
from collections.abc import AsyncIterator
from typing import NoReturn

import aiohttp
import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from scaler._pb.externalscaler_pb2 import GetMetricSpecResponse
from scaler._pb.externalscaler_pb2_grpc import ExternalScalerStub
from scaler.address import Address
from scaler.decision import FleetPlan, PoolState, Reason, Step, Verdict
from scaler.policy import OperatorPolicy, ServiceKey
from scaler.serving.garbage import QuietCollector
from scaler.serving.server import SERVICE_NAME, CannotListen, Service, running, serve
from scaler.snapshot import CardKey
from tests.fleet import START_S, card, key, reading, snapshot
from tests.serving import METADATA, OUTAGE, FakeSource, ManualClock, decision, fleet_plan, ref, unknown, until

LOCAL = Address("127.0.0.1", 0)


class Bench:
    """The whole service; its tick loop is left to a source that is down, and the test publishes plans itself."""

    def __init__(self) -> None:
        self.source = FakeSource(lambda at_s: snapshot(at_s, {"e5": reading(2, 6.0)}, card(8.0)))
        self.source.fault = OUTAGE
        self.clock = ManualClock()
        self.service = Service(self.source, OperatorPolicy(), grpc_address=LOCAL, http_address=LOCAL, clock=self.clock)

    def publish(self, plan: FleetPlan) -> None:
        self.service.board.publish(plan, self.clock.elapsed_s())

    async def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        """Status, content type and body."""
        url = f"http://{self.service.http_address}{path}"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
            return response.status, response.content_type, await response.text()

    async def health(self, name: str) -> str:
        async with aio.insecure_channel(str(self.service.grpc_address)) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            response = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    async with running(bench.service, drain_s=0.1):
        await until(lambda: bool(bench.clock._wakers))  # the first tick is over: the source is down
        yield bench


async def test_ready_only_while_there_is_an_answer(bench: Bench) -> None:
    async def seen() -> tuple[int, str, str, str]:
        status, _, body = await bench.get("/readyz")
        return status, body, await bench.health(SERVICE_NAME), await bench.health("")

    reason = "no plan yet: source unavailable: http://prometheus:9090: connection refused\n"
    assert await seen() == (503, reason, "NOT_SERVING", "SERVING")
    assert (await bench.get("/livez"))[0] == 200

    bench.publish(fleet_plan(decision()))
    await until(lambda: bench.service._health._server_status[SERVICE_NAME] == health_pb2.HealthCheckResponse.SERVING)
    assert await seen() == (200, "ok\n", "SERVING", "SERVING")

    bench.service.board.close()
    assert (await bench.get("/readyz"))[::2] == (503, "shutting down\n")


async def test_alive_only_while_the_loop_runs(bench: Bench) -> None:
    bench.service._tasks[0].cancel()
    await until(lambda: bench.service._tasks[0].done())
    assert (await bench.get("/livez"))[::2] == (503, "the tick loop has ended\n")


async def test_decisions_are_one_json_object_a_line_sorted_by_name(bench: Bench) -> None:
    infinite = Step("needed-in-flight", math.inf, "requests", "a number that JSON does not know")
    bench.publish(fleet_plan(unknown("zeta"), decision("alpha", steps=(infinite,)), decision("beta")))
    status, content_type, body = await bench.get("/v1/decisions")
    assert (status, content_type) == (200, "application/x-ndjson")
    found = [json.loads(line) for line in body.splitlines()]
    assert [each["name"] for each in found] == ["alpha", "beta", "zeta"]
    assert found[0]["steps"][0] == {**infinite._asdict(), "value": None}
    assert found[1] == decision("beta").as_json()
    assert (found[2]["verdict"], found[2]["granted"]) == ("unknown", None)


async def test_one_decision_or_what_is_known(bench: Bench) -> None:
    bench.publish(fleet_plan(decision("e5"), decision("clip")))
    status, content_type, body = await bench.get("/v1/decisions/models/e5")
    assert (status, content_type) == (200, "application/json")
    assert json.loads(body) == {
        **decision("e5").as_json(),
        "explanation": {
            "headline": "e5 in models, 2025-06-18 00:00:00Z: hold at 3; demand 3, pool default",
            "reasons": ["demand: the service's own load asks for it"],
            "without": [],
            "changedBy": ["more or fewer requests of its own, or another targetConcurrency"],
        },
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("models/e6", "no decision for models/e6: did you mean e5? 9 known in models", id="near miss"),
        pytest.param("models/zzz", "no decision for models/zzz: 9 known in models", id="no near miss"),
        pytest.param(
            "models/bundle-",
            "no decision for models/bundle-: did you mean bundle-g, bundle-f, bundle-e, bundle-d, bundle-c? "
            "9 known in models",
            id="five at most",
        ),
        pytest.param(
            "other/secret",
            "no decision for other/secret: no ScaledObject is known in other; KEDA's first call makes one known",
            id="nothing of another namespace",
        ),
    ],
)
async def test_what_is_not_known_gets_near_misses_of_its_own_namespace(bench: Bench, path: str, expected: str) -> None:
    names = ["e5", "clip", *(f"bundle-{letter}" for letter in "abcdefg")]
    secret = decision("secret")._replace(key=ServiceKey("vault", "secret"))
    bench.publish(fleet_plan(*(decision(name) for name in names), secret))
    status, content_type, body = await bench.get(f"/v1/decisions/{path}")
    assert (status, content_type, json.loads(body)) == (404, "application/json", {"error": expected})


async def test_without_a_plan_in_force_no_decision_is_shown(bench: Bench) -> None:
    bench.publish(fleet_plan(decision()))
    bench.clock.advance(46)
    for path in ("/v1/decisions", "/v1/decisions/models/e5"):
        status, _, body = await bench.get(path)
        assert status == 503
        assert json.loads(body)["error"].startswith("stale: the newest plan is 46 s old")


async def test_the_index_names_every_path(bench: Bench) -> None:
    _, _, body = await bench.get("/")
    for route in bench.service._http.app.router.resources():
        assert route.canonical in body


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("POST", "/v1/decisions", 405, '{"error": "POST is not answered here; it takes GET, HEAD"}'),
        ("PUT", "/v1/decisions/a/b", 405, '{"error": "PUT is not answered here; it takes GET, HEAD"}'),
        ("GET", "/v1", 404, '{"error": "Not Found: /v1; / lists what there is"}'),
        ("GET", "/v1/decisions/a", 404, '{"error": "Not Found: /v1/decisions/a; / lists what there is"}'),
        ("POST", "/metrics", 405, "POST is not answered here; it takes GET, HEAD\n"),
        ("DELETE", "/livez", 405, "DELETE is not answered here; it takes GET, HEAD\n"),
        ("GET", "/v10", 404, "Not Found: /v10; / lists what there is\n"),
        ("GET", "/a%0Ab", 404, "Not Found: /a%0Ab; / lists what there is\n"),
    ],
)
async def test_what_no_path_answers_is_a_json_error_under_v1_and_a_line_elsewhere(
    bench: Bench, method: str, path: str, status: int, expected: str
) -> None:
    url = f"http://{bench.service.http_address}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url) as response:
        assert (response.status, await response.text()) == (status, expected)
        assert response.content_type == ("application/json" if expected.startswith("{") else "text/plain")
        assert response.headers.get("Allow") == ("GET, HEAD" if status == 405 else None)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/decisions", '{"error": "internal fault: RuntimeError"}'),
        ("/readyz", "internal fault: RuntimeError\n"),
    ],
)
async def test_a_fault_of_our_own_is_told_alike(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, path: str, expected: str
) -> None:
    def fail() -> NoReturn:
        raise RuntimeError("planted")

    for name in ("epoch_in_force", "fault"):
        monkeypatch.setattr(bench.service.board, name, fail)
    assert (await bench.get(path))[::2] == (500, expected)
    monkeypatch.undo()


async def samples(bench: Bench) -> dict[str, float]:
    status, _, body = await bench.get("/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_metrics_show_the_plan_in_force_and_nothing_of_those_before(bench: Bench) -> None:
    pool = PoolState("default", 3e8, 1.5e9, 2e9, CardKey("GPU-0"), True, START_S - 600, 24)
    vetoed = decision("e5", 3, verdict=Verdict.VETO, reason=Reason.LOW_VRAM)
    bench.publish(FleetPlan(START_S, {each.key: each for each in (vetoed, unknown("lost"))}, {"default": pool}))
    bench.service.registry.ask("models", "e5", METADATA)
    bench.service.servicer.calls_total["GetMetrics", "OK"] = 7
    bench.clock.advance(10)
    found = await samples(bench)
    e5, lost = 'name="e5",namespace="models",pool="default"', 'name="lost",namespace="models",pool="default"'
    expected = {
        f"vram_scaler_service_demand_replicas{{{e5}}}": 3,
        f"vram_scaler_service_granted_replicas{{{e5}}}": 3,
        f"vram_scaler_service_replicas{{{e5}}}": 3,
        f'vram_scaler_service_verdict{{{e5},reason="low-vram",verdict="veto"}}': 1,
        f'vram_scaler_service_verdict{{{lost},reason="stale",verdict="unknown"}}': 1,
        'vram_scaler_pool_free_bytes{pool="default"}': 3e8,
        'vram_scaler_pool_low_watermark_bytes{pool="default"}': 1.5e9,
        'vram_scaler_pool_veto{pool="default"}': 1,
        'vram_scaler_pool_veto_since_timestamp_seconds{pool="default"}': START_S - 600,
        'vram_scaler_rpcs_total{code="OK",method="GetMetrics"}': 7,
        "vram_scaler_plan_age_seconds": 10,
        "vram_scaler_source_read_failures_total": 1,
        "vram_scaler_scaled_objects": 1,
        "vram_scaler_ready": 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    # What is unknown has no number: neither 0 granted for the lost one, nor an age of a source that never answered.
    assert f"vram_scaler_service_granted_replicas{{{lost}}}" not in found
    assert "vram_scaler_source_age_seconds" not in found

    bench.publish(fleet_plan(decision("clip")))
    assert not [name for name in await samples(bench) if "e5" in name or "pool_free" in name]


async def test_openmetrics_where_it_is_asked_for(bench: Bench) -> None:
    _, content_type, body = await bench.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert content_type == "application/openmetrics-text"
    assert body.endswith("# EOF\n")


async def test_an_address_that_is_taken_is_one_clear_line_and_leaves_nothing_open() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for use, grpc_address, http_address in (
            ("gRPC", Address("127.0.0.1", port), LOCAL),
            ("HTTP", LOCAL, Address("127.0.0.1", port)),
        ):
            service = Service(FakeSource(), OperatorPolicy(), grpc_address=grpc_address, http_address=http_address)
            text = f"cannot listen on 127.0.0.1:{port} for {use}: address already in use"
            with pytest.raises(CannotListen, match=text):
                await service.start()
            assert service._http.addresses == []


async def test_a_whole_life_from_the_first_reading_to_the_drain() -> None:
    bench = Bench()
    bench.source.fault = None
    bench.service.registry.ask("models", "e5", METADATA)
    async with running(bench.service, drain_s=0.1):
        await until(lambda: bench.service.board.fault() is None)
        _, _, body = await bench.get("/v1/decisions/models/e5")
        assert json.loads(body)["granted"] == 2  # 6 in flight / target 4
        assert bench.service.board.in_force().decisions[key("e5")].time_s == START_S
    with pytest.raises(aiohttp.ClientConnectionError):
        await bench.get("/livez")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_ends_open_streams_with_ok(number: signal.Signals) -> None:
    bench, listening = Bench(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve(
            bench.source,
            OperatorPolicy(),
            grpc_address=LOCAL,
            http_address=LOCAL,
            clock=bench.clock,
            listening=lambda grpc_address, http_address: listening.set_result(grpc_address),
        )
    )
    async with aio.insecure_channel(str(await listening)) as channel:
        call = ExternalScalerStub(channel).StreamMetricSpec(ref())
        assert isinstance(await call.read(), GetMetricSpecResponse)
        os.kill(os.getpid(), number)
        assert await call.read() is aio.EOF
        assert await call.code() is grpc.StatusCode.OK
    await asyncio.wait_for(serving, 5)


def test_what_a_tick_leaves_is_not_looked_at_again() -> None:
    collector, frozen = QuietCollector(), gc.get_freeze_count()
    try:
        with collector.tick():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]  # type: ignore[var-annotated]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(kept)
    finally:
        gc.unfreeze()
