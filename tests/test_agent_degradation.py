"""What the scaler does as the agent degrades: row by row of docs/agent.md, from the stand-in driver's answers over a
real Prometheus to the decisions. Not NVIDIA's driver.

Two services on one card, and a second card that is empty. Pod a-0 runs 60 % of the time and holds 4 GiB, b-0 10 % and
5 GiB; a wants 2 replicas, b 6, and there is no room for all of them. Half-way the agent begins to lack something.
Behind it stand DCGM and Triton, who say the same but for a percent or a MiB by which they are told from the agent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from scaler.agent import sampler as sampler_module
from scaler.agent.exposition import Exposition
from scaler.agent.nvml import Driver
from scaler.agent.sampler import Sampler
from scaler.policy import OperatorPolicy
from scaler.snapshot import CardKey, CardReading, Snapshot, WorkloadKey
from scaler.sources.prometheus import PrometheusSettings, PrometheusSource
from tests.fleet import policy, run, workload
from tests.metric_fleet import END_S, NAMESPACE, START_S, Series, dcgm, deployment, labels, on_card, triton
from tests.nvml_standin import GIB, MIB, Node, loaded, pod_uid
from tests.prometheus_server import openmetrics, running_prometheus
from tests.test_agent import failing, hidden, line, processes

CHANGE_S = END_S - 330  # without staleness markers a series is seen for 5 minutes after its last sample
FIRST_S = START_S + 90  # every window has its samples
OPERATOR = OperatorPolicy.model_validate(
    {"timing": {"learnEvery": "1m"}, "settle": "0s", "pools": [{"placement": "roomiest"}]}
)
FLEET = policy(OPERATOR, a={}, b={})
NO_CALL = pynvml.NVML_ERROR_NOT_SUPPORTED


class Agent:
    """The agent on a node of its own, a round every 5 s by a clock that the test moves."""

    def __init__(self, node: Node, patch: pytest.MonkeyPatch) -> None:
        self.node, self.wall_s, self.elapsed_s = node, START_S, 1000.0
        patch.setattr(
            sampler_module, "time", SimpleNamespace(time=lambda: self.wall_s, monotonic=lambda: self.elapsed_s)
        )
        self.sampler = Sampler(Driver(), node.proc, 5.0)

    def rounds(self, count: int, step_s: float = 0.0) -> None:
        """So many; the wall clock is set by `step_s` before the last."""
        for left in reversed(range(count)):
            self.pass_time(5.0)
            self.wall_s += step_s if left == 0 else 0.0
            told = self.node.lines
            self.node.lines = [re.sub(r"(?<=^sample . .... )(-\d+)", self._dated, each) for each in told]
            self.node.write()
            self.sampler.round()
            self.node.lines = told

    def pass_time(self, seconds: float) -> None:
        self.wall_s, self.elapsed_s = self.wall_s + seconds, self.elapsed_s + seconds

    def _dated(self, sample: re.Match[str]) -> str:
        return str(round(self.wall_s * 1e6) + int(sample[1]))

    def shown(self) -> dict[str, float]:
        """The samples of cards and pods, by name and labels."""
        families = Exposition(self.sampler, "").collect()
        return {
            f"{sample.name}{labels(**sample.labels)}": float(sample.value)
            for family in families
            for sample in family.samples
            if "UUID" in sample.labels
        }


Change = Callable[[Agent], None]


def of_node(change: Callable[[Node], None]) -> Change:
    """As the driver has told for long: what was before has left the means of 15 s."""

    def degrade(agent: Agent) -> None:
        change(agent.node)
        agent.rounds(4)

    return degrade


def fails(*calls: str, code: int = NO_CALL, card: int = -1) -> Change:
    return of_node(failing(*((call, code, card) for call in calls)))


def mps(node: Node) -> None:
    node.process(0, 4003, 5 * GIB, pod=pod_uid(2), mps=True)


ALL = frozenset({"busy a", "busy b", "held", "places", "utilisation"})


@dataclass(frozen=True)
class Row:
    """A row of the table in docs/agent.md, by its first words; `change` None: the agent is gone. `still`: what the
    scaler still takes from it."""

    row: str
    change: Change | None
    still: frozenset[str]
    mig: bool = False


ROWS = {
    "healthy": Row("", lambda agent: None, ALL),
    "not supported": Row(
        "utilisation by process not supported",
        fails("nvmlDeviceGetProcessesUtilizationInfo", "nvmlDeviceGetProcessUtilization"),
        ALL - {"busy a", "busy b"},
    ),
    "older function": Row("only the older function", fails("nvmlDeviceGetProcessesUtilizationInfo"), ALL),
    "no permission": Row(
        "no permission",
        fails("nvmlDeviceGetComputeRunningProcesses_v3", code=pynvml.NVML_ERROR_NO_PERMISSION),
        frozenset({"utilisation"}),
    ),
    "no permission for MPS": Row(
        "no permission",
        fails("nvmlDeviceGetMPSComputeRunningProcesses_v3", code=pynvml.NVML_ERROR_NO_PERMISSION),
        frozenset({"utilisation"}),
    ),
    "no hostPID": Row("no `hostPID`", of_node(hidden(4001, 4002, 4003)), frozenset({"utilisation"})),
    "memory not told": Row(
        "the driver does not tell a process' memory",
        of_node(processes((4001, None, 1), (4002, GIB, 1), (4003, 5 * GIB, 2))),
        ALL - {"held"},
    ),
    "MPS": Row("MPS clients", of_node(mps), ALL - {"busy b"}),
    "MIG": Row("MIG", of_node(lambda node: None), frozenset({"held", "places"}), mig=True),
    "above the card": Row(
        "pods together above",
        of_node(processes((4001, 3 * GIB, 1), (4002, 17 * GIB, 1), (4003, 5 * GIB, 2))),
        ALL - {"held"},
    ),
    "above 100 %": Row("pods together above", of_node(line("sample 0 4001 -50000 120")), ALL - {"busy a"}),
    "older memory": Row(
        "memory only by the first version",
        fails("nvmlDeviceGetMemoryInfo_v2", code=pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
        ALL,
    ),
    "card lost": Row(
        "a card lost",
        fails("nvmlDeviceGetMemoryInfo_v2", code=pynvml.NVML_ERROR_GPU_IS_LOST, card=0),
        frozenset(),
    ),
    "driver unloaded": Row(
        "driver unloaded",
        fails("nvmlDeviceGetCount_v2", "nvmlInitWithFlags", code=pynvml.NVML_ERROR_DRIVER_NOT_LOADED),
        frozenset(),
    ),
    "driver hangs": Row("a driver call hangs", lambda agent: agent.pass_time(15.1), frozenset()),
    "clock set": Row("the wall clock is set", lambda agent: agent.rounds(1, step_s=-3600.0), ALL),
    "agent missing": Row("agent missing", None, frozenset()),
}  # fmt: skip
BEHIND = ["exporter", "triton"]


@contextmanager
def agent_of(row: Row, directory: Path) -> Iterator[Agent]:
    directory.mkdir()
    node = Node(directory)
    if row.mig:
        node.card("GPU-a", mig=1)
        node.instance(0, 1, total=24 * GIB, free=8 * GIB, reserved=GIB)
    else:
        node.card("GPU-a", utilization=70)
    position = 0 if row.mig else -1
    node.process(0, 4001, 3 * GIB, pod=pod_uid(1), sm=40, position=position)
    node.process(0, 4002, GIB, pod=pod_uid(1), sm=20, position=position)
    node.process(0, 4003, 5 * GIB, pod=pod_uid(2), sm=10, position=position)
    node.card("GPU-b", free=23 * GIB, utilization=0)
    node.write()
    with loaded(node), pytest.MonkeyPatch.context() as patch:
        agent = Agent(node, patch)
        agent.rounds(3)
        yield agent


def until_and_after(before: dict[str, float], after: dict[str, float]) -> Series:
    def value(name: str) -> Callable[[float], float | None]:
        return lambda at_s: (before if at_s <= CHANGE_S else after).get(name)

    return {name: value(name) for name in before | after}


def of_row(row: Row, behind: str, directory: Path) -> Series:
    """The whole fleet of one row, by names that are the same in each."""
    with agent_of(row, directory) as agent:
        before = agent.shown()
        if row.change is not None:
            row.change(agent)
        by_agent = until_and_after(before, agent.shown() if row.change is not None else {})
    per_process = behind == "exporter"
    copies = [(on_card("a-0", pod_uid="d-a", vgpu="0"), 61.0, 4 * 1024 + 1.0),
              (on_card("b-0", pod_uid="d-b", vgpu="1"), 11.0, 5 * 1024 + 1.0)]  # fmt: skip
    if not per_process:
        copies = [(on_card("b-0"), 72.0, 0.0)]
    mig = {"GPU_I_ID": "1", "GPU_I_PROFILE": "7g.24gb"} if row.mig else None
    return {
        **by_agent,
        **{f"kube_pod_info{labels(namespace=NAMESPACE, pod=pod, uid=pod_uid(number))}": 1
           for number, pod in ((1, "a-0"), (2, "b-0"))},
        **deployment("a", ("a-0",), 1),
        **deployment("b", ("b-0",), 1),
        # 6 and 24 requests in execution, of a batch of 10 and of 240.
        **triton("a-0", "GPU-a", success=100, infer=6, executions=100 * 0.62 / 6, failures={"BACKEND": 0}),
        **triton("b-0", "GPU-a", success=100, infer=24, executions=100 * 0.12 / 24, failures={"BACKEND": 0}),
        **dcgm("GPU-a", "node", free=8 * 1024, used=15 * 1024, utilization=72, copies=copies, per_process=per_process,
               profiled=0.72 if row.mig else None, mig=mig),
        **dcgm("GPU-b", "node", free=23 * 1024, used=0, utilization=0),
        f"kube_node_status_allocatable{labels(node='node', resource='nvidia_com_gpu')}": 8,
    }  # fmt: skip


def apart(series: Series, number: int) -> Series:
    """All that is a name in the row's fleet gets the row's number."""
    names = "UUID|gpu_uuid|pod|uid|pod_uid|node|Hostname|deployment|owner_name|replicaset"
    return {
        re.sub(rf'([{{,])({names})="([^"]+)"', rf'\1\2="{number:02}x\3"', name): value for name, value in series.items()
    }


def own(snapshot: Snapshot, number: int) -> Snapshot:
    """What of the snapshot is the row's, by its names in there."""
    ours = f"{number:02}x"

    def mine(key: WorkloadKey) -> WorkloadKey:
        return key._replace(deployment=key.deployment.removeprefix(ours))

    def card(reading: CardReading) -> CardReading:
        pods, held, placed_by = (
            {mine(key): value for key, value in each.items()}
            for each in (reading.pods, reading.held, reading.placed_by)
        )
        return replace(reading, pods=pods, held=held, placed_by=placed_by)  # type: ignore[arg-type]

    return Snapshot(
        snapshot.taken_at_s,
        {mine(key): each for key, each in snapshot.workloads.items() if key.deployment.startswith(ours)},
        {
            CardKey(key.uuid.removeprefix(ours), key.gpu_instance_id): card(each)
            for key, each in snapshot.cards.items()
            if key.uuid.startswith(ours)
        },
        snapshot.problems,
    )


PLACES = [(row, behind) for row in ROWS for behind in BEHIND]


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Snapshot]]:
    """By row and what stands behind the agent: a snapshot each tick, all from one Prometheus."""
    directory = tmp_path_factory.mktemp("fleets")
    series: Series = {}
    for number, (row, behind) in enumerate(PLACES):
        series |= apart(of_row(ROWS[row], behind, directory / str(number)), number)
    with running_prometheus(directory / "prometheus", openmetrics(series, START_S, END_S)) as server:
        source = PrometheusSource(PrometheusSettings(url=server.url), OPERATOR.timing)
        snapshots = list(source.snapshots(FIRST_S, END_S, 15.0))
    return {place: [own(each, number) for each in snapshots] for number, place in enumerate(PLACES)}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("row", ROWS)
def test_each_signal_comes_from_the_agent_or_from_the_next(
    histories: dict[tuple[str, str], list[Snapshot]], row: str, behind: str
) -> None:
    before, after = histories[row, behind][round((CHANGE_S - FIRST_S) / 15)], histories[row, behind][-1]
    assert before.problems == after.problems == ()
    mig = ROWS[row].mig
    assert sources(before, mig, behind) == (ROWS[row].still if mig else ALL)
    assert sources(after, mig, behind) == ROWS[row].still
    for snapshot in (before, after):
        assert snapshot.cards[CardKey("GPU-a", "1" if mig else "")].pods == {workload("a"): 1, workload("b"): 1}


def sources(snapshot: Snapshot, mig: bool, behind: str) -> frozenset[str]:
    """What comes from the agent. All else has to come from who stands behind it, and says what that one says."""
    card = snapshot.cards[CardKey("GPU-a", "1" if mig else "")]
    held = {key.deployment: vram.total_bytes / MIB for key, vram in card.held.items()}
    placed_by = {key.deployment: source for key, source in card.placed_by.items()}
    by_exporter = ({"a": 4097.0, "b": 5121.0}, "exporter-per-process") if behind == "exporter" else ({}, None)
    of_next = {
        "busy a": (0.61, "exporter-per-process") if behind == "exporter" and not mig else (0.62, "triton-wall-time"),
        "busy b": (0.11, "exporter-per-process") if behind == "exporter" and not mig else (0.12, "triton-wall-time"),
        "held": by_exporter,
        # One of the two pods is named by an exporter that does not tell them apart, the other by its own Triton.
        "places": {"a": "exporter" if behind == "exporter" else "triton", "b": "exporter"},
        "utilisation": 0.72,
    }
    of_agent = {"busy a": (0.6, "agent"), "busy b": (0.1, "agent"), "utilisation": 0.7,
                "held": ({"a": 4096.0, "b": 5120.0}, "agent"), "places": {"a": "agent", "b": "agent"}}  # fmt: skip
    seen: dict[str, object] = {
        "held": (held, card.held_source),
        "places": placed_by,
        "utilisation": round(card.utilization_ratio or -1.0, 6),
    }
    for name in ("a", "b"):
        reading = snapshot.workloads[workload(name)]
        seen[f"busy {name}"] = (round(reading.gpu_busy or -1.0, 6), reading.gpu_busy_source)
    from_agent = frozenset(signal for signal, value in seen.items() if value == of_agent[signal])
    assert {signal: value for signal, value in seen.items() if signal not in from_agent} == {
        signal: value for signal, value in of_next.items() if signal not in from_agent
    }
    return from_agent


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("row", [row for row in ROWS if not ROWS[row].mig])
def test_no_decision_jumps(histories: dict[tuple[str, str], list[Snapshot]], row: str, behind: str) -> None:
    """At every tick what is decided with a healthy agent."""
    told, healthy = (
        [
            {key.name: (each.verdict, each.demand, each.granted, each.reasons) for key, each in plan.decisions.items()}
            for plan in run(histories[each, behind], FLEET)[0]
        ]
        for each in (row, "healthy")
    )
    assert told == healthy
    assert {name: (demand, granted) for name, (_, demand, granted, _) in healthy[-1].items()} == {
        "a": (2, 2),
        "b": (6, 5),
    }


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("row", ROWS)
def test_a_decision_names_its_source(histories: dict[tuple[str, str], list[Snapshot]], row: str, behind: str) -> None:
    """Of GPU time, of the cards of its pods, and of the footprint that it is held by."""
    decisions = run(histories[row, behind], FLEET)[0][-1].decisions
    by_next = "exporter-per-process" if behind == "exporter" and not ROWS[row].mig else "triton-wall-time"
    for key, decision in decisions.items():
        by = "agent" if f"busy {key.name}" in ROWS[row].still else by_next
        [own_gpu] = [step.text for step in decision.steps if step.name == "own-gpu"]
        assert own_gpu.startswith(f"of 1 cards, by {by}")
        [footprint] = [step.text for step in decision.steps if step.name == "footprint"]
        # The exporter says 1 MiB more; where nobody tells any more, what the lessons of before were told by.
        by = "agent" if "held" in ROWS[row].still or behind == "triton" else "exporter-per-process"
        assert footprint.startswith(f"measured: high-water of its pods by {by}, ")
        assert ("none told of now" in footprint) == ("held" not in ROWS[row].still and behind == "triton")
        [cards] = [step.text for step in decision.steps if step.name == "cards"]
        named_by = "triton" if behind == "triton" and key.name == "a" else "exporter"
        assert cards == f"that its pods sit on, by {'agent' if 'places' in ROWS[row].still else named_by}"


def test_every_row_of_the_document_is_here() -> None:
    text = (Path(__file__).parent.parent / "docs" / "agent.md").read_text(encoding="utf-8")
    _, _, table = text.partition("| condition | published | absent | the scaler then |\n| --- | --- | --- | --- |\n")
    conditions = [each.split("|")[1].strip() for each in table.partition("\n\n")[0].splitlines()]
    tested = {row.row for row in ROWS.values() if row.row}
    assert len(conditions) == len(tested)
    for condition in conditions:
        assert sum(condition.startswith(row) for row in tested) == 1, condition
