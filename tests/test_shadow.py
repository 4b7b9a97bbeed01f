"""Shadow mode: decided for and shown, told to nobody, and never at anybody's cost."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from click.testing import CliRunner
from grpc import aio
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from scaler._pb.externalscaler_pb2_grpc import ExternalScalerStub
from scaler.address import Address
from scaler.cli.commands import cli
from scaler.decision import Decision, FleetPlan, Reason, Verdict
from scaler.incident import SCALED_OBJECTS
from scaler.planning.memory import Memory
from scaler.planning.plan import plan
from scaler.policy import BadPolicy, FleetPolicy, OperatorPolicy, ServiceKey, ServicePolicy, service_policy
from scaler.serving.board import Board
from scaler.serving.history import Planner
from scaler.serving.loop import TickLoop
from scaler.serving.registry import Registry
from scaler.serving.server import Service, running
from scaler.serving.shadow import ShadowAccount, agreement
from scaler.settings import load_settings
from scaler.snapshot import Snapshot, WorkloadReading
from tests.fleet import START_S, TICK_S, asking, card, key, snapshot
from tests.serving import METADATA, FakeSource, ManualClock, decision, metrics_request, unknown, until

LOCAL = Address("127.0.0.1", 0)
# Short windows and a footprint of 1 GiB: what a replica takes is easily counted.
OPERATOR = OperatorPolicy.model_validate(
    {
        "timing": {"learnEvery": "2m", "learnWindow": "2m", "watermarkWindow": "1m"},
        "pools": [{"defaultFootprint": "1Gi", "lowWatermark": "1Gi", "highWatermark": "1Gi", "scaleDownWindow": "30s"}],
        "settle": "0s",
    }
)


def shadows(**services: dict[str, str]) -> dict[ServiceKey, ServicePolicy]:
    return {key(name): service_policy(key(name), metadata, OPERATOR) for name, metadata in services.items()}


class Bench:
    """A tick loop whose KEDA asks about `asked`; the other services may be shadows."""

    def __init__(
        self,
        source: FakeSource,
        asked: tuple[str, ...],
        shadow: Mapping[ServiceKey, ServicePolicy] | None = None,
        planner: Planner = plan,
    ) -> None:
        self.clock = ManualClock()
        self.board = Board(self.clock, OPERATOR.timing.stale_after_s)
        self.registry = Registry(OPERATOR, shadow=shadow, steady_s=self.clock.elapsed_s)
        self.loop = TickLoop(source, OPERATOR, self.registry, self.board, self.clock, planner)
        for name in asked:
            self.registry.ask("models", name, METADATA)

    async def ticks(self, count: int = 1) -> list[FleetPlan]:
        plans = []
        for _ in range(count):
            await self.loop.tick(self.clock.now_s())
            plans.append(self.board.in_force())
            self.clock.advance(TICK_S)
        return plans

    def shadow(self, name: str) -> Decision:
        epoch = self.board.newest_epoch
        assert epoch is not None
        return epoch.shadow[key(name)]


# --- Never at anybody's cost --------------------------------------------------------------------------------------

moments = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8), st.booleans()), min_size=3, max_size=5)
free_gib = st.lists(st.floats(0.5, 14.5), min_size=1, max_size=3)
metadata = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.sampled_from(["0.01", "100"]),
        "minReplicas": st.sampled_from(["0", "5"]),
        "vramPerReplica": st.sampled_from(["64Mi", "6Gi", "20Gi"]),
        "lowWatermark": st.sampled_from(["90%"]),
        "deployment": st.sampled_from(["real-b"]),  # a shadow of a Deployment that KEDA asks about by another name
    },
)


def history(real: list[Any], shadowed: list[Any], free: list[float]) -> FakeSource:
    """Two services that KEDA asks about and one that it does not, each with replicas, need and failures by tick."""

    def seen(running: int, wanted: int, fails: bool) -> WorkloadReading:
        return asking(running, wanted, failure_per_s=0.4 if fails and wanted else 0.0)

    def at(at_s: float) -> Snapshot:
        tick = max(0, round((at_s - START_S) / TICK_S))
        of = {"real-a": seen(*real[tick % len(real)]), "shadow": seen(*shadowed[tick % len(shadowed)])}
        cards = [card(each, pods={"real-b": 1, "shadow": 1}, slots=4) for each in free]
        return snapshot(at_s, {**of, "real-b": asking(2, 3)}, *cards)

    return FakeSource(at)


@settings(max_examples=40, deadline=None)
@given(moments, moments, free_gib, metadata)
def test_a_shadow_never_changes_what_anybody_is_told(
    real: list[Any], shadowed: list[Any], free: list[float], asked_for: dict[str, str]
) -> None:
    source = history(real, shadowed, free)
    with_shadow = Bench(source, ("real-a", "real-b"), shadows(shadow=asked_for))
    without = Bench(source, ("real-a", "real-b"))

    async def both() -> tuple[list[FleetPlan], list[FleetPlan]]:
        return await with_shadow.ticks(5), await without.ticks(5)

    told, expected = asyncio.run(both())
    assert told == expected  # to the last step: numbers, reasons, texts
    assert with_shadow.shadow("shadow").key == key("shadow")


def as_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shadows are planned for among the services that KEDA asks about."""
    real = Registry.policies

    def policies(self: Registry) -> dict[ServiceKey, ServicePolicy]:
        return {**self._shadow, **real(self)}

    monkeypatch.setattr(Registry, "policies", policies)
    monkeypatch.setattr(Registry, "shadows", lambda self: dict(self._shadow))


def test_the_property_finds_a_shadow_that_takes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_asked(monkeypatch)
    with pytest.raises(BaseException, match=r"assert|falsifying|Falsif"):
        test_a_shadow_never_changes_what_anybody_is_told()


async def test_a_shadow_is_decided_as_if_keda_asked_about_all() -> None:
    """3 of 5 places are free, and VRAM for as many replicas of 1 GiB. The real service wants 2 more and gets them, the
    shadow wants 2 and would get the third place; alone it would get both."""
    seen = {"real": asking(1, 3), "shadow": asking(1, 3)}
    source = FakeSource(lambda at_s: snapshot(at_s, seen, card(13.0, pods={"real": 1, "shadow": 1}, slots=5)))
    bench = Bench(source, ("real",), shadows(shadow={}))
    [told] = await bench.ticks()
    assert (told.decisions[key("real")].granted, set(told.decisions)) == (3, {key("real")})
    shown = bench.shadow("shadow")
    assert (shown.verdict, shown.granted, shown.reasons[0]) == (Verdict.LIMITED, 2, Reason.FLEET_SHARE)
    assert set(bench.loop._memory.promises) == {key("real")}

    alone = Bench(source, (), shadows(shadow={}))
    assert await alone.ticks() == [replace(told, decisions={})]
    assert (alone.shadow("shadow").verdict, alone.shadow("shadow").granted) == (Verdict.SCALE_UP, 3)


async def test_what_a_shadow_was_not_told_is_held_against_no_shadow() -> None:
    """One place. The shadow that wants it gives way the tick after, and the other has it at once: nothing was told."""

    def at(at_s: float) -> Snapshot:
        first = at_s < START_S + TICK_S
        seen = {"a": asking(1, 2 if first else 1), "b": asking(1, 1 if first else 2)}
        return snapshot(at_s, seen, card(13.0, pods={"a": 1, "b": 1}, slots=3))

    bench = Bench(FakeSource(at), (), shadows(a={}, b={}))
    await bench.ticks()
    assert (bench.shadow("a").granted, bench.shadow("b").granted) == (2, 1)
    await bench.ticks()
    assert (bench.shadow("a").demand, bench.shadow("b").granted) == (1, 2)


async def test_a_fault_in_the_shadows_plan_is_theirs_alone() -> None:
    def planner(seen: Snapshot, fleet: FleetPolicy, memory: Memory) -> tuple[FleetPlan, Memory]:
        if key("shadow") in fleet.services:
            raise RuntimeError("planted")
        return plan(seen, fleet, memory)

    source = FakeSource(lambda at_s: snapshot(at_s, {"real": asking(1, 1)}, card(8.0)))
    bench = Bench(source, ("real",), shadows(shadow={}), planner)
    plans = await bench.ticks(2)
    assert [each.decisions[key("real")].granted for each in plans] == [1, 1]
    assert bench.board.fault() is None
    assert bench.loop.stats.shadow_plan_failures_total == 2
    epoch = bench.board.newest_epoch
    assert epoch is not None
    assert epoch.shadow == {}


# --- Who is a shadow ----------------------------------------------------------------------------------------------


def test_what_keda_asks_about_is_no_shadow_until_it_asks_no_more() -> None:
    clock = ManualClock()
    registry = Registry(OPERATOR, shadow=shadows(e5={"priority": "3"}, clip={}), steady_s=clock.elapsed_s)
    assert (set(registry.shadows()), registry.asked_shadows(), registry.policies()) == (
        {key("e5"), key("clip")},
        [],
        {},
    )
    registry.ask("models", "e5", METADATA)
    assert (set(registry.shadows()), registry.asked_shadows()) == ({key("clip")}, [key("e5")])
    assert registry.policies()[key("e5")].priority == 1  # what KEDA sends counts
    clock.advance(901)
    assert registry.policies() == {}
    assert set(registry.shadows()) == {key("e5"), key("clip")}


def test_a_refused_trigger_is_no_shadow_either() -> None:
    """Somebody applied it: to go on as a shadow would hide that KEDA gets INVALID_ARGUMENT."""
    registry = Registry(OPERATOR, shadow=shadows(e5={}))
    registry.ask("models", "e5", {"targetConcurency": "4"})
    assert (registry.shadows(), registry.policies()) == ({}, {})


async def test_keda_is_told_nothing_of_a_shadow_and_answered_once_it_asks() -> None:
    source = FakeSource(lambda at_s: snapshot(at_s, {"e5": asking(1, 2)}, card(14.0, slots=4)))
    clock, shadow = ManualClock(), shadows(e5={})
    service = Service(source, OPERATOR, grpc_address=LOCAL, http_address=LOCAL, clock=clock, shadow=shadow)
    async with running(service, drain_s=0.1):
        await until(lambda: bool(clock._wakers))
        async with aio.insecure_channel(str(service.grpc_address)) as channel:
            stub = ExternalScalerStub(channel)
            with pytest.raises(aio.AioRpcError) as refused:
                await stub.GetMetrics(metrics_request())
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert refused.value.details() == "no decision yet: the next tick plans for it"
            clock.advance(TICK_S)
            await until(lambda: key("e5") in service.board.in_force().decisions)
            assert (await stub.GetMetrics(metrics_request())).metricValues[0].metricValue == 2


# --- What is shown of it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        pytest.param(decision(granted=3, replicas=3), "agrees", id="as many as run"),
        pytest.param(decision(granted=4, replicas=3), "more", id="it would have more"),
        pytest.param(decision(granted=2, replicas=3), "fewer", id="it would have fewer"),
        pytest.param(unknown(), "unknown", id="no answer is no disagreement"),
        pytest.param(decision(granted=None, replicas=None), "unknown", id="nothing read"),
    ],
)
def test_agreement_is_with_what_runs(shown: Decision, expected: str) -> None:
    assert agreement(shown) == expected


@pytest.mark.parametrize(
    ("ticks", "expected"),
    [
        pytest.param([(1, 1), (2, 2)], {"granted": 1}, id="one more, and it would have been granted"),
        pytest.param([(1, 1), (3, 1)], {"withheld": 1}, id="two more in one step, withheld"),
        pytest.param([(1, 1), (3, 2)], {"withheld": 1}, id="granted in part is withheld"),
        pytest.param([(1, 1), (2, None)], {"unknown": 1}, id="no answer"),
        pytest.param([(3, 1), (2, 1), (2, 1)], {}, id="fewer is no scale-up"),
        pytest.param([(1, 1), (None, None), (2, 2)], {"granted": 1}, id="across a tick that was not seen"),
        pytest.param([(4, 1)], {}, id="the first tick has nothing before it"),
    ],
)
def test_scale_ups_of_the_autoscaler_that_acts(
    ticks: list[tuple[int | None, int | None]], expected: dict[str, int]
) -> None:
    account = ShadowAccount()
    for replicas, granted in ticks:
        account.add(decision(replicas=replicas, granted=granted))
    assert dict(account.scale_ups) == expected


def test_a_scale_up_against_a_veto_is_withheld_though_what_runs_is_granted() -> None:
    account = ShadowAccount()
    account.add(decision(replicas=2, granted=2)._replace(demand=3, verdict=Verdict.VETO))
    account.add(decision(replicas=3, granted=3))
    assert dict(account.scale_ups) == {"withheld": 1}


async def test_shadows_are_marked_in_metrics_and_decisions() -> None:
    """The shadow runs 1 and would get 2 for two ticks, then its autoscaler follows."""

    def at(at_s: float) -> Snapshot:
        shadow = asking(1 if at_s < START_S + 2 * TICK_S else 2, 2)
        return snapshot(at_s, {"real": asking(1, 1), "shadow": shadow}, card(14.0, slots=8))

    clock = ManualClock()
    service = Service(
        FakeSource(at), OPERATOR, grpc_address=LOCAL, http_address=LOCAL, clock=clock, shadow=shadows(shadow={})
    )
    service.registry.ask("models", "real", METADATA)
    async with running(service, drain_s=0.1):
        await until(lambda: bool(clock._wakers))
        url = f"http://{service.http_address}"

        def fetched(path: str) -> str:
            with urlopen(url + path, timeout=10) as response:
                return str(response.read().decode())

        labels = 'name="shadow",namespace="models",pool="default"'
        assert f"vram_scaler_shadow_agreement{{{labels}}} 0.0" in await asyncio.to_thread(fetched, "/metrics")
        for _ in range(3):
            await until(lambda: bool(clock._wakers))
            clock.advance(TICK_S)
        await until(lambda: bool(clock._wakers) and service.loop.stats.plans_total == 4)
        decisions, one, metrics = [
            await asyncio.to_thread(fetched, path)
            for path in ("/v1/decisions", "/v1/decisions/models/shadow", "/metrics")
        ]
    marks = {each["name"]: each.get("shadow", False) for each in map(json.loads, decisions.splitlines())}
    assert marks == {"real": False, "shadow": True}
    assert json.loads(one)["shadow"] is True
    samples = [each for family in text_string_to_metric_families(metrics) for each in family.samples]
    of_shadow = {
        (
            each.name.removeprefix("vram_scaler_"),
            each.labels.get("outcome") or each.labels.get("verdict", ""),
        ): each.value
        for each in samples
        if each.labels.get("name") == "shadow"
    }
    assert of_shadow == {
        ("shadow_demand_replicas", ""): 2,
        ("shadow_granted_replicas", ""): 2,
        ("shadow_replicas", ""): 2,
        ("shadow_verdict", "hold"): 1,
        ("shadow_agreement", ""): 1,
        ("shadow_ticks_total", "more"): 2,
        ("shadow_ticks_total", "agrees"): 2,
        ("shadow_scale_ups_total", "granted"): 1,
    }
    helped = {line.split()[2] for line in metrics.splitlines() if line.startswith("# HELP")}
    assert {each.name for each in samples} <= helped | {name + "_created" for name in helped} | {
        name.removesuffix("_total") for name in helped
    } | {"vram_scaler_build_info"}


# --- Where it is listed -------------------------------------------------------------------------------------------


def test_the_settings_list_services_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        """
        pools: [{name: t4}]
        shadow:
          - {namespace: models, name: e5, metadata: {pool: t4, deployment: e5-predictor, targetConcurrency: "6"}}
          - {namespace: models, name: clip, metadata: {pool: t4}}
        """,
        encoding="utf-8",
    )
    found = load_settings(str(path)).shadow_policies()
    assert {each: (policy.deployment, policy.target_concurrency) for each, policy in found.items()} == {
        key("e5"): ("e5-predictor", 6.0),
        key("clip"): ("clip", None),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("[{name: e5}]", "shadow[0].namespace: missing; it takes a Kubernetes name", id="no namespace"),
        pytest.param("[{namespace: '', name: e5}]", "shadow[0].namespace: '': ", id="an empty name"),
        pytest.param("[{namespace: Models, name: e5}]", "'Models': not a Kubernetes name", id="no such name"),
        pytest.param(
            "[{namespace: a, name: b, metadata: {targetConcurency: '4'}}]",
            "shadow[0], a/b: metadata.targetConcurency: unknown key; did you mean targetConcurrency?",
            id="near miss",
        ),
        pytest.param(
            "[{namespace: a, name: b, metadata: {priority: 4}}]",
            "shadow[0].metadata.priority: 4: not text; it takes the trigger's metadata as KEDA would send it",
            id="not quoted",
        ),
        pytest.param(
            "[{namespace: a, name: b, metadata: {pool: x}}]", "'x' is not a configured pool", id="no such pool"
        ),
        pytest.param("[{namespace: a, name: b}, {namespace: a, name: b}]", "shadow[1]: a/b stands twice", id="twice"),
        pytest.param("[{namespace: a, name: b, act: true}]", "shadow[0].act: unknown key", id="unknown key"),
        pytest.param("[e5]", "shadow[0]: 'e5': not a mapping of keys", id="a name alone"),
    ],
)
def test_a_fault_in_the_list_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(f"shadow: {text}", encoding="utf-8")
    with pytest.raises(BadPolicy) as fault:
        load_settings(str(path))
    assert expected in str(fault.value)
    assert "\n" not in str(fault.value)


MANIFEST = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {{name: {name}, namespace: models}}
spec:
  scaleTargetRef: {{name: {name}}}
  triggers: [{{type: external, metadata: {{scalerAddress: "x:1"}}}}]
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--shadow", "none.yaml"], "none.yaml: No such file or directory", id="no such file"),
        pytest.param(["--shadow", "e5.yaml", "-f", "e5.yaml"], "models/e5: a shadow, and planned for by -f", id="both"),
        pytest.param(
            ["--shadow", "e5.yaml", "--config", "settings.yaml"],
            "--shadow: models/e5 stands already under shadow of the settings",
            id="in a file and in the settings",
        ),
        pytest.param(
            ["--shadow", "e5.yaml", "clip.yaml", "-f", "x.yaml"],
            "unexpected argument 'clip.yaml'; -f or --shadow before each file",
            id="whose file it is cannot be told",
        ),
        pytest.param(["--shadow", "e5.yaml", "e5.yaml"], "models/e5 stands already in e5.yaml", id="twice"),
    ],
)
def test_a_fault_on_the_command_line_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("e5", "clip"):
        (tmp_path / f"{name}.yaml").write_text(MANIFEST.format(name=name), encoding="utf-8")
    (tmp_path / "settings.yaml").write_text("shadow: [{namespace: models, name: e5}]", encoding="utf-8")
    result = CliRunner().invoke(cli, ["serve", *arguments], prog_name="vram-scaler")
    assert result.exit_code == 2
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_command_shows_shadows_and_says_so() -> None:
    command = [sys.executable, "-c", "from scaler.cli import main; main()", "serve", "--speed", "10"]
    where = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--shadow", str(SCALED_OBJECTS)]
    scaler = subprocess.Popen([*command, *where], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert scaler.stdout is not None
    told = ""
    try:
        for line in scaler.stdout:
            told += line
            if "Ctrl-C" in line:
                break
        assert "shadow    kserve-models/e5, " in told
        assert "planned   each ScaledObject from KEDA's first call on" in told
        http = re.search(r"HTTP +(http://127\.0\.0\.1:\d+)/", told)
        assert http is not None
        decisions: list[dict[str, Any]] = []
        for _ in range(300):
            try:
                with urlopen(f"{http[1]}/v1/decisions", timeout=10) as response:
                    decisions = [json.loads(line) for line in response.read().splitlines()]
            except OSError:  # 503 until the first plan
                decisions = []
            if decisions:
                break
            time.sleep(0.1)
        assert {each["shadow"] for each in decisions} == {True}
        assert "e5" in {each["name"] for each in decisions}
    finally:
        scaler.send_signal(signal.SIGTERM)
        scaler.communicate(timeout=30)
    assert scaler.returncode == 0
