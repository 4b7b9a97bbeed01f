"""The node agent against a stand-in libnvidia-ml.so.1: what is published, what is absent. Not NVIDIA's driver.

Every row of the table of degradations in docs/agent.md is a row here, as a difference from a healthy node:

    GPU-a  24 GiB, 8 free, 1 reserved, 50 %    pod 1: PIDs 4001 (3 GiB, 40 %) and 4002 (1 GiB, 20 %)
                                               pod 2: PID 4003 (5 GiB, idle); PID 4009, of no pod, 2 GiB
    GPU-b  24 GiB, 23 free, 1 reserved, 0 %    nobody
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from scaler.agent import sampler as sampler_module
from scaler.agent.exposition import Exposition
from scaler.agent.ledger import CAPABILITIES
from scaler.agent.nvml import Driver, Memory
from scaler.agent.sampler import Allotment, Sampler
from scaler.policy import Timing
from scaler.sources.queries import build_queries
from tests.nvml_standin import GIB, Node, loaded, pod_uid

HEALTHY = {
    "driver_up": 1,
    "card_memory_free_bytes GPU-a": 8 * GIB,
    "card_memory_total_bytes GPU-a": 24 * GIB,
    "card_memory_reserved_bytes GPU-a": GIB,
    "card_memory_unattributed_bytes GPU-a": (24 - 8 - 1 - 4 - 5) * GIB,
    "card_utilization_ratio GPU-a": 0.5,
    "pod_processes GPU-a 1": 2,
    "pod_memory_held_bytes GPU-a 1": 4 * GIB,
    "pod_memory_peak_bytes GPU-a 1": 4 * GIB,
    "pod_busy_ratio GPU-a 1": pytest.approx(0.6),
    "pod_processes GPU-a 2": 1,
    "pod_memory_held_bytes GPU-a 2": 5 * GIB,
    "pod_memory_peak_bytes GPU-a 2": 5 * GIB,
    "pod_busy_ratio GPU-a 2": 0,
    "card_capability GPU-a memory": 1,
    "card_capability GPU-a utilization": 1,
    "card_capability GPU-a placement": 1,
    "card_capability GPU-a held": 1,
    "card_capability GPU-a busy": 1,
    "card_memory_free_bytes GPU-b": 23 * GIB,
    "card_memory_total_bytes GPU-b": 24 * GIB,
    "card_memory_reserved_bytes GPU-b": GIB,
    "card_memory_unattributed_bytes GPU-b": 0,
    "card_utilization_ratio GPU-b": 0,
    "card_capability GPU-b memory": 1,
    "card_capability GPU-b utilization": 1,
    "card_capability GPU-b placement": 1,
    "card_capability GPU-b held": 1,
    "card_capability GPU-b busy": 1,
}
Expected = dict[str, object]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    healthy = Node(tmp_path)
    healthy.card("GPU-a")
    healthy.process(0, 4001, 3 * GIB, pod=pod_uid(1), sm=40)
    healthy.process(0, 4002, GIB, pod=pod_uid(1), sm=20)
    healthy.process(0, 4003, 5 * GIB, pod=pod_uid(2))
    healthy.process(0, 4009, 2 * GIB)
    healthy.card("GPU-b", free=23 * GIB, utilization=0)
    healthy.write()
    with loaded(healthy) as ready:
        yield ready


def sampled(node: Node) -> Sampler:
    sampler = Sampler(Driver(), node.proc, 5.0)
    sampler.round()
    return sampler


def published(sampler: Sampler) -> dict[str, float]:
    """What /metrics shows of cards and pods: name, UUID, GPU instance, pod number or capability -> value."""
    seen = {}
    for family in Exposition(sampler, "node-1").collect():
        for sample in family.samples:
            name = sample.name.removeprefix("vram_agent_")
            labels = sample.labels
            pod = str(int(labels["pod_uid"][:8], 16)) if "pod_uid" in labels else ""
            where = [labels.get("UUID", ""), labels.get("GPU_I_ID", ""), pod, labels.get("capability", "")]
            if name == "driver_up" or name.startswith(("card_memory", "card_util", "card_cap", "pod_")):
                seen[" ".join(filter(None, [name, *where]))] = sample.value
    return seen


def without(*beginnings: str) -> Expected:
    """Nothing of what begins so."""
    return {name: None for name in HEALTHY if name.startswith(beginnings)}


def cannot(card: str, *capabilities: str) -> Expected:
    return {f"card_capability {card} {capability}": 0 for capability in capabilities}


PODS = without("pod_")
GPU_A = {name: None for name in HEALTHY if "GPU-a" in name}


def failing(*failures: tuple[str, int, int]) -> Callable[[Node], None]:
    def change(node: Node) -> None:
        for failure in failures:
            node.fail(*failure)

    return change


def line(text: str) -> Callable[[Node], None]:
    return lambda node: node.lines.append(text)


def hidden(*pids: int) -> Callable[[Node], None]:
    def change(node: Node) -> None:
        for pid in pids:
            (node.proc / str(pid) / "cgroup").unlink()

    return change


def processes(*told: tuple[int, int | None, int | None]) -> Callable[[Node], None]:
    """In place of the healthy ones: (PID, bytes, pod)."""

    def change(node: Node) -> None:
        node.write(without="process")
        for pid, used, pod in told:
            node.process(0, pid, used, pod=None if pod is None else pod_uid(pod) if pod else "")

    return change


def mps_client(node: Node) -> None:
    node.process(0, 4005, GIB, pod=pod_uid(3), mps=True, sm=30)
    node.process(0, 4003, 5 * GIB, pod=pod_uid(2), mps=True)  # listed as both


def mig(node: Node) -> None:
    """GPU-a as two instances; the first has two compute instances."""
    node.write(without="card GPU-a")
    node.write(without="process")
    node.lines.insert(0, f"card GPU-a NVIDIA_L4 {24 * GIB} {8 * GIB} {GIB} 50 1")
    for instance, free in ((1, 3), (1, 3), (2, 11)):
        node.instance(0, instance, total=12 * GIB, free=free * GIB)
    node.process(0, 4001, 4 * GIB, pod=pod_uid(1), position=0)
    node.process(0, 4003, 5 * GIB, pod=pod_uid(2), position=1)


def of_instance(instance: str, free: int, unattributed: int, **pods: int) -> Expected:
    card = f"GPU-a {instance}"
    told: Expected = {
        f"card_memory_free_bytes {card}": free * GIB,
        f"card_memory_total_bytes {card}": 12 * GIB,
        f"card_memory_reserved_bytes {card}": 0,
        f"card_memory_unattributed_bytes {card}": unattributed * GIB,
    }
    for pod, held in pods.items():
        told |= {f"pod_processes {card} {pod[1:]}": 1}
        told |= {f"pod_memory_{kind}_bytes {card} {pod[1:]}": held * GIB for kind in ("held", "peak")}
    can = {"memory": 1, "utilization": 0, "placement": 1, "held": 1, "busy": 0}
    return told | {f"card_capability {card} {capability}": value for capability, value in can.items()}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda node: None, {}, id="healthy"),
        pytest.param(
            failing(("nvmlDeviceGetProcessesUtilizationInfo", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, -1)),
            {},
            id="no function for utilisation by process: the older one",
        ),
        pytest.param(
            failing(
                ("nvmlDeviceGetProcessesUtilizationInfo", pynvml.NVML_ERROR_NOT_SUPPORTED, -1),
                ("nvmlDeviceGetProcessUtilization", pynvml.NVML_ERROR_NOT_SUPPORTED, -1),
            ),
            {**without("pod_busy"), **cannot("GPU-a", "busy"), **cannot("GPU-b", "busy")},
            id="utilisation by process not supported: memory only",
        ),
        pytest.param(
            failing(("nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_NOT_SUPPORTED, 0)),
            {**without("card_utilization_ratio GPU-a"), **cannot("GPU-a", "utilization")},
            id="utilisation of the card not supported",
        ),
        pytest.param(
            failing(("nvmlDeviceGetComputeRunningProcesses_v3", pynvml.NVML_ERROR_NO_PERMISSION, 0)),
            {
                **PODS,
                **without("card_memory_unattributed_bytes GPU-a"),
                **cannot("GPU-a", "placement", "held", "busy"),
            },
            id="no permission for processes: the card's memory only",
        ),
        pytest.param(
            failing(("nvmlDeviceGetMPSComputeRunningProcesses_v3", pynvml.NVML_ERROR_NO_PERMISSION, 0)),
            {
                **PODS,
                **without("card_memory_unattributed_bytes GPU-a"),
                **cannot("GPU-a", "placement", "held", "busy"),
            },
            id="no permission for MPS clients: who else is there is not known",
        ),
        pytest.param(
            hidden(4001, 4002, 4003, 4009),
            {
                **PODS,
                "card_memory_unattributed_bytes GPU-a": 15 * GIB,
                **cannot("GPU-a", "placement", "held", "busy"),
            },
            id="no hostPID: PIDs that /proc does not show",
        ),
        pytest.param(
            hidden(4003),
            {**without(*(name for name in PODS if name.endswith(" 2"))),
             "card_memory_unattributed_bytes GPU-a": (6 + 5) * GIB},
            id="one process has just ended",
        ),
        pytest.param(
            processes((4001, None, 1), (4002, GIB, 1), (4003, 5 * GIB, 2)),
            {
                **without("pod_memory_held_bytes GPU-a 1", "pod_memory_peak_bytes GPU-a 1"),
                **without("card_memory_unattributed_bytes GPU-a"),
                **cannot("GPU-a", "held"),
            },
            id="memory of one process is not told: its pod's is unknown, not 0",
        ),
        pytest.param(
            processes((4001, 3 * GIB, 1), (4002, GIB, 1), (4003, 5 * GIB, 2), (4009, None, 0)),
            without("card_memory_unattributed_bytes GPU-a"),
            id="memory of a process of no pod is not told",
        ),
        pytest.param(
            processes((4001, 3 * GIB, 1), (4002, 17 * GIB, 1), (4003, 5 * GIB, 2)),
            {
                **without("pod_memory"),
                **without("card_memory_unattributed_bytes GPU-a"),
                **cannot("GPU-a", "held"),
            },
            id="pods hold more than the card has",
        ),
        pytest.param(
            processes((4001, 3 * GIB, 1), (4001, 2 * GIB, 1), (4002, GIB, 1), (4003, 5 * GIB, 2), (0, GIB, None)),
            {},
            id="a process listed twice; a PID 0",
        ),
        pytest.param(
            failing(("nvmlDeviceGetMemoryInfo_v2", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, 0)),
            without("card_memory_reserved_bytes GPU-a", "card_memory_unattributed_bytes GPU-a"),
            id="memory by the first version: what the driver keeps is not known",
        ),
        pytest.param(
            failing(
                ("nvmlDeviceGetMemoryInfo_v2", pynvml.NVML_ERROR_UNKNOWN, 0),
                ("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_UNKNOWN, 0),
            ),
            {**without(*(name for name in GPU_A if name.startswith("card_memory"))), **cannot("GPU-a", "memory")},
            id="the card's memory cannot be read: the pods' can",
        ),
        pytest.param(
            mps_client,
            {
                "pod_processes GPU-a 3": 1,
                "pod_memory_held_bytes GPU-a 3": GIB,
                "pod_memory_peak_bytes GPU-a 3": GIB,
                "card_memory_unattributed_bytes GPU-a": 5 * GIB,
                **without("pod_busy_ratio GPU-a 2"),
                **cannot("GPU-a", "busy"),
            },
            id="MPS clients: memory yes, utilisation unknown",
        ),
        pytest.param(
            mig,
            {**GPU_A, **of_instance("1", 3, 0, _1=4, _2=5), **of_instance("2", 11, 1)},
            id="MIG: by instance, no utilisation",
        ),
        pytest.param(
            failing(("nvmlDeviceGetMemoryInfo_v2", pynvml.NVML_ERROR_GPU_IS_LOST, 0)), GPU_A, id="a card is lost"
        ),
        pytest.param(
            failing(("nvmlDeviceGetHandleByIndex_v2", pynvml.NVML_ERROR_GPU_IS_LOST, 0)), GPU_A, id="lost, no handle"
        ),
        pytest.param(
            failing(("nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_RESET_REQUIRED, 0)), GPU_A, id="needs a reset"
        ),
        pytest.param(
            failing(("nvmlDeviceGetMigMode", pynvml.NVML_ERROR_UNKNOWN, 0)), GPU_A, id="MIG or not is not known"
        ),
        pytest.param(
            failing(("nvmlDeviceGetCount_v2", pynvml.NVML_ERROR_DRIVER_NOT_LOADED, -1)),
            {**without("card", "pod"), "driver_up": 0},
            id="driver unloaded",
        ),
        pytest.param(
            failing(("nvmlInitWithFlags", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, -1)),
            {**without("card", "pod"), "driver_up": 0},
            id="library and driver of two versions",
        ),
        pytest.param(
            line("sample 0 4001 -50000 120"),
            {**without("pod_busy_ratio GPU-a 1"), **cannot("GPU-a", "busy")},
            id="a sample of 120 %",
        ),
    ],
)  # fmt: skip
def test_what_is_published(node: Node, change: Callable[[Node], None], expected: Expected) -> None:
    change(node)
    node.write()
    told = {name: value for name, value in (HEALTHY | expected).items() if value is not None}
    assert published(sampled(node)) == told


@pytest.mark.parametrize("quiet", [False, True], ids=["not found", "success without an entry"])
def test_no_process_ran_is_idle_and_not_unknown(node: Node, quiet: bool) -> None:
    node.write(without="sample")
    if quiet:
        node.lines.append("quiet")
        node.write()
    seen = published(sampled(node))
    assert (seen["pod_busy_ratio GPU-a 1"], seen["card_capability GPU-a busy"]) == (0, 1)


def test_a_sample_of_two_seconds_ago_is_not_about_now(node: Node) -> None:
    node.write(without="sample")
    node.lines += ["sample 0 4001 -2100000 90", "sample 0 4002 -1900000 20"]
    node.write()
    assert published(sampled(node))["pod_busy_ratio GPU-a 1"] == pytest.approx(0.2)


def test_an_old_driver_lacks_functions_and_tells_what_it_can(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.card("GPU-a")
    node.process(0, 4001, 3 * GIB, pod=pod_uid(1), sm=40)
    node.write()
    with loaded(node, old_driver=True):
        sampler = sampled(node)
        assert sampler.report is not None
        assert dict(sampler.report.errors) == {
            ("nvmlDeviceGetMemoryInfo", "function_not_found"): 1,
            ("nvmlDeviceGetProcessesUtilizationInfo", "function_not_found"): 1,
        }
        seen = published(sampler)
    assert (seen["pod_memory_held_bytes GPU-a 1"], seen["pod_busy_ratio GPU-a 1"]) == (3 * GIB, 0.4)
    assert "card_memory_reserved_bytes GPU-a" not in seen


def exposed(node: Node) -> dict[str, set[str]]:
    """The labels of each series that /metrics shows."""
    sampler = Sampler(
        Driver(), node.proc, 5.0, SimpleNamespace(places=lambda: {Allotment("GPU-b", "models", "e5-0"): 1})
    )
    sampler.round()
    families = [each for each in Exposition(sampler, "node-1").collect() if each.name.startswith("vram_agent_")]
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def test_the_document_names_every_metric_and_capability(node: Node) -> None:
    node.fail("nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_UNKNOWN, 0)
    node.write()
    text = (Path(__file__).parent.parent / "docs" / "agent.md").read_text(encoding="utf-8")
    table = {cell for line in text.splitlines() for cell in re.findall(r"`(vram_agent_\w+)`", line)}
    assert table == set(exposed(node))
    assert all(f"`{capability}`" in text for capability in CAPABILITIES)


def test_the_scaler_asks_for_names_and_labels_that_exist(node: Node) -> None:
    shown = exposed(node)
    asked = {name for query in build_queries(Timing()) for name in re.findall(r"vram_agent_\w+", query.promql)}
    assert asked == {
        "vram_agent_pod_processes",
        "vram_agent_pod_memory_held_bytes",
        "vram_agent_pod_memory_peak_bytes",
        "vram_agent_pod_busy_ratio",
        "vram_agent_card_utilization_ratio",
        "vram_agent_card_capability",
        "vram_agent_pod_places",
    }
    card = {"UUID", "GPU_I_ID"}
    of_pod = {
        "vram_agent_card_capability": {"capability"},
        "vram_agent_card_utilization_ratio": set(),
        "vram_agent_pod_places": {"pod_namespace", "pod_name"},
    }
    assert {name: shown[name] - card for name in asked} == {name: of_pod.get(name, {"pod_uid"}) for name in asked}


def test_the_peak_stays_when_a_pod_shrinks_or_restarts(node: Node) -> None:
    sampler = sampled(node)
    processes((4003, 2 * GIB, 2))(node)
    node.write()
    sampler.round()
    assert published(sampler)["pod_memory_peak_bytes GPU-a 2"] == 5 * GIB
    node.write(without="process")
    sampler.round()
    assert "pod_memory_peak_bytes GPU-a 2" not in published(sampler)
    processes((4010, GIB, 2))(node)
    node.write()
    sampler.round()
    seen = published(sampler)
    assert (seen["pod_memory_held_bytes GPU-a 2"], seen["pod_memory_peak_bytes GPU-a 2"]) == (GIB, 5 * GIB)


class Clock:
    """Time that stands still unless it is told to go on; for sampler.py alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s, self.elapsed_s = 1_750_204_800.0, 1000.0
        clock = SimpleNamespace(time=lambda: self.wall_s, monotonic=lambda: self.elapsed_s)
        monkeypatch.setattr(sampler_module, "time", clock)

    def go(self, seconds: float, *, step_s: float = 0.0) -> None:
        self.wall_s, self.elapsed_s = self.wall_s + seconds + step_s, self.elapsed_s + seconds


def at(clock: Clock, node: Node, sm: int) -> None:
    """A sample of PID 4001, 0.1 s old by the wall clock."""
    node.write(without="sample")
    node.lines.append(f"sample 0 4001 {round(clock.wall_s * 1e6) - 100_000} {sm}")
    node.write()


def test_a_ratio_is_the_mean_of_fifteen_seconds(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sampler = Sampler(Driver(), node.proc, 5.0)
    seen = []
    for sm in (90, 30, 60, 0):
        at(clock, node, sm)
        sampler.round()
        seen.append(published(sampler)["pod_busy_ratio GPU-a 1"])
        clock.go(5.0)
    assert seen == pytest.approx([0.9, (0.9 + 0.3) / 2, (0.9 + 0.3 + 0.6) / 3, (0.3 + 0.6 + 0) / 3])


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
def test_a_clock_that_was_set_makes_utilisation_unknown_for_a_round(
    node: Node, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    clock = Clock(monkeypatch)
    sampler = Sampler(Driver(), node.proc, 5.0)
    can = []
    for step in (0.0, step_s, 0.0):
        clock.go(20.0, step_s=step)
        at(clock, node, 40)
        sampler.round()
        seen = published(sampler)
        can.append((seen["card_capability GPU-a busy"], seen.get("pod_busy_ratio GPU-a 1")))
    assert can == [(1, 0.4), (0, None), (1, 0.4)]


def test_a_driver_that_comes_back_is_initialised_anew(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sampler = Sampler(Driver(), node.proc, 5.0)
    sampler.round()
    node.fail("nvmlDeviceGetCount_v2", pynvml.NVML_ERROR_UNINITIALIZED)
    node.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    node.write()
    asked = []
    for _ in range(13):
        clock.go(5.0)
        report = sampler.round()
        asked.append(report.errors.get(("nvmlInit", "driver_not_loaded"), 0))
        assert report.fault
        assert report.last_success_s == 1_750_204_800.0
    # At 10 s the first attempt, and then after 5, 10, 20 and 40 s.
    assert asked == [0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4]
    assert not sampler.is_unusable()
    clock.go(600.0)
    sampler.round()
    assert sampler.is_unusable()
    node.write(without="fail")
    clock.go(60.0)
    assert sampler.round().connects == 2
    assert not sampler.is_unusable()
    assert published(sampler)["driver_up"] == 1


def test_a_lost_card_is_asked_for_again_after_10_20_40_s(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sampler = Sampler(Driver(), node.proc, 5.0)
    sampler.round()
    node.fail("nvmlDeviceGetUUID", pynvml.NVML_ERROR_GPU_IS_LOST, 0)
    node.write()
    connects = []
    for _ in range(16):
        clock.go(5.0)
        connects.append(sampler.round().connects)
        assert "card_memory_free_bytes GPU-b" in published(sampler)  # the other card is there all the while
    assert connects == [1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5]
    last_s = {card.uuid: at_s for card, at_s in sampler.round().card_success_s.items()}
    assert (last_s["GPU-a"], last_s["GPU-b"]) == (1_750_204_800.0, clock.wall_s)
    node.write(without="fail")
    sampler.round()
    assert "card_memory_free_bytes GPU-a" in published(sampler)


def test_a_report_that_is_over_says_nothing_of_now(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sampler = Sampler(Driver(), node.proc, 5.0)
    assert published(sampler) == {"driver_up": 0}
    sampler.round()
    clock.go(15.0)
    assert published(sampler)["driver_up"] == 1
    clock.go(0.1)
    assert published(sampler) == {"driver_up": 0}
    assert sampler.fault() == "the driver has not answered for 15 s"
    assert not sampler.is_unusable()


def test_a_driver_that_wakes_its_cards_one_by_one(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without persistence mode each card takes seconds: the samples of the last are later than the round's begin."""
    clock, memory = Clock(monkeypatch), Driver._memory
    began_us = round(clock.wall_s * 1e6)

    def slow(driver: Driver, handle: object) -> Memory | None:
        clock.go(2.5)
        return memory(driver, handle)

    monkeypatch.setattr(Driver, "_memory", slow)
    node.process(1, 4009, GIB, pod=pod_uid(9))
    node.write(without="sample")
    node.lines += [f"sample 0 4001 {began_us + 2_400_000} 40", f"sample 1 4009 {began_us + 4_900_000} 70"]
    node.write()
    sampler = Sampler(Driver(), node.proc, 5.0)
    sampler.round()
    seen = published(sampler)
    assert (seen["pod_busy_ratio GPU-a 1"], seen["pod_busy_ratio GPU-b 9"]) == (0.4, 0.7)


def test_samples_of_another_clock_are_unknown_and_not_idle(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    at(clock, node, 40)
    clock.wall_s -= 3600
    sampler = Sampler(Driver(), node.proc, 5.0)
    sampler.round()
    seen = published(sampler)
    assert (seen["card_capability GPU-a busy"], seen.get("pod_busy_ratio GPU-a 1")) == (0, None)


def test_a_driver_that_hangs_is_logged_once_and_when_it_answers(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="scaler.agent.sampler")
    clock = Clock(monkeypatch)
    sampler = Sampler(Driver(), node.proc, 5.0)
    sampler.round()
    assert "card 1 GPU-b: all of it can be read" in [record.getMessage() for record in caplog.records]
    caplog.clear()
    for _ in range(3):
        clock.go(15.1)
        sampler.fault()
    sampler.round()
    assert [record.getMessage() for record in caplog.records] == [
        "the driver has not answered for 15 s",
        "the driver answers again",
    ]


def test_an_initialisation_that_hangs_is_no_reason_for_a_restart(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one that was refused: a new container would hang in it, too."""
    clock = Clock(monkeypatch)
    sampler = Sampler(Driver(), node.proc, 5.0)
    node.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    node.write()
    assert sampler.round().fault == sampler.fault() == "nvmlInit: driver_not_loaded"
    clock.go(700.0)
    assert sampler.fault() == "the driver has not answered for 700 s"
    assert not sampler.is_unusable()
