"""Whatever lists, cgroups and clocks the agent meets: no crash, nothing negative, nothing above what there is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from scaler.agent import ledger, nvml, owners
from scaler.agent.ledger import CardUse, Ledger
from scaler.agent.nvml import Device, Driver, Memory, Process
from scaler.agent.owners import owner_of, pod_uid
from scaler.snapshot import CardKey
from tests.nvml_standin import Node, loaded

UID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
CONTAINER = "5d" * 32


@pytest.mark.parametrize(
    ("path", "uid"),
    [
        pytest.param(f"/kubepods/burstable/pod{UID}/{CONTAINER}", UID, id="cgroupfs"),
        pytest.param(f"/kubepods/pod{UID}/{CONTAINER}", UID, id="cgroupfs, guaranteed"),
        *(
            pytest.param(
                f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID.replace('-', '_')}.slice/"
                f"{runtime}-{CONTAINER}.scope",
                UID,
                id=f"systemd, {runtime}",
            )
            for runtime in ("cri-containerd", "crio", "docker")
        ),
        pytest.param(
            f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-{CONTAINER}.scope",
            UID,
            id="systemd, guaranteed",
        ),
        pytest.param(
            f"/../../kubepods-burstable-pod{UID.replace('-', '_')}.slice/crio-{CONTAINER}.scope",
            UID,
            id="seen from a cgroup namespace of one's own",
        ),
        pytest.param(
            f"/docker/{CONTAINER}/kubelet.slice/kubelet-kubepods-pod{UID.replace('-', '_')}.slice/x", UID, id="kind"
        ),
        pytest.param(f"/kubepods/pod{UID}/x/kubepods/pod{UID[::-1]}/y", UID, id="a cluster in a pod is that pod's"),
        pytest.param("/kubepods/burstable/pod2f3c1b5a9d8e7f60112233445566aabb/x", "", id="static pod: a hash, no UID"),
        pytest.param(f"/kubepods/pod{UID}9/x", "", id="too long"),
        pytest.param(f"/kubepods/pod{UID.replace('-', '_', 1)}/x", "", id="dashes of both kinds"),
        pytest.param("/system.slice/nvidia-persistenced.service", "", id="a service of the host"),
        pytest.param("/", "", id="root"),
    ],
)
def test_the_pod_of_a_cgroup(path: str, uid: str) -> None:
    assert pod_uid(f"0::{path}\n".encode()) == uid
    assert pod_uid(f"12:devices:{path}\n11:cpu,cpuacct:{path}\n1:name=systemd:/\n".encode()) == uid


def test_two_hierarchies_that_name_two_pods_name_none() -> None:
    other = UID.replace("0f", "1f", 1)
    assert pod_uid(f"2:cpu:/kubepods/pod{UID}/x\n1:memory:/kubepods/pod{other}/x\n".encode()) == ""


NOISE = st.lists(st.one_of(st.binary(max_size=80), st.just(f"/kubepods/pod{UID}/".encode())), max_size=6)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=NOISE)
def test_any_cgroup_names_this_pod_or_none(tmp_path: Path, noise: list[bytes]) -> None:
    names_this_pod_or_none(tmp_path, noise)


def names_this_pod_or_none(tmp_path: Path, noise: list[bytes]) -> None:
    (tmp_path / "7").mkdir(exist_ok=True)
    (tmp_path / "7" / "cgroup").write_bytes(b"".join(noise))
    assert owner_of(tmp_path, 7) in ("", UID)
    assert owner_of(tmp_path, 8) is None


BYTES = st.one_of(st.none(), st.integers(0, 2**64 - 1), st.integers(0, 100))
RATIOS = st.one_of(st.floats(0, 1), st.just(math.nan))
DEVICES = st.builds(
    Device,
    card=st.sampled_from([CardKey("GPU-a"), CardKey("GPU-a", "1"), CardKey("GPU-b")]),
    device_ids=st.just(()),
    index=st.integers(0, 7),
    model=st.just("NVIDIA L4"),
    memory=st.one_of(
        st.none(),
        st.tuples(st.integers(0, 100), st.integers(0, 100), st.one_of(st.none(), st.integers(0, 100))).map(
            lambda parts: Memory(1 + parts[0] + parts[1] + (parts[2] or 0), parts[1], parts[2])
        ),
    ),
    utilization_ratio=st.one_of(st.none(), st.floats(0, 1)),
    processes=st.one_of(
        st.none(),
        st.lists(
            st.builds(Process, st.integers(1, 9), BYTES, st.booleans()), max_size=9, unique_by=lambda one: one.pid
        ).map(tuple),
    ),
    busy=st.one_of(st.none(), st.dictionaries(st.integers(0, 9), RATIOS, max_size=9)),
)
OWNERS = st.lists(st.sampled_from([None, "", "u1", "u2", "u3"]), min_size=10, max_size=10)
ROUNDS = st.lists(st.tuples(st.lists(DEVICES, max_size=3), OWNERS, st.floats(-1e4, 1e4)), max_size=5)


@settings(max_examples=400)
@given(rounds=ROUNDS)
def test_nothing_negative_and_nothing_above_what_there_is(
    rounds: list[tuple[list[Device], list[str | None], float]],
) -> None:
    all_rounds_hold(rounds)


def all_rounds_hold(rounds: list[tuple[list[Device], list[str | None], float]]) -> None:
    book = Ledger()
    for devices, whose, elapsed_s in rounds:
        for use in book.enter(devices, whose.__getitem__, elapsed_s):
            _holds(use)


def _holds(use: CardUse) -> None:
    total = use.memory.total if use.memory is not None else math.inf
    held = [pod.held_bytes for pod in use.pods.values() if pod.held_bytes is not None]
    assert all(each >= 0 for each in held)
    assert sum(held) <= total
    assert use.unattributed_bytes is None or 0 <= use.unattributed_bytes <= total
    assert use.utilization_ratio is None or 0 <= use.utilization_ratio <= 1
    assert set(use.pods) <= {"u1", "u2", "u3"}
    for pod in use.pods.values():
        assert pod.busy_ratio is None or 0 <= pod.busy_ratio <= 1
        assert pod.held_bytes is None or (pod.peak_bytes or 0) >= pod.held_bytes
        assert 0 <= (pod.peak_bytes or 0) <= total
        assert pod.processes >= 1
    assert use.can["held"] <= (len(held) == len(use.pods))


@pytest.fixture(scope="module")
def sampled_card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("node"))
    node.card("GPU-a")
    with loaded(node) as ready:
        yield ready


WALL_S = 1_750_204_800.0


SAMPLED = st.lists(
    st.tuples(
        st.floats(0, 10),  # monotonic time goes on
        st.one_of(st.just(0.0), st.floats(-1e6, 1e6)),  # and the wall clock is set
        st.lists(st.tuples(st.integers(0, 4), st.floats(-10, 10), st.integers(0, 2**32 - 1)), max_size=5),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(rounds=SAMPLED)
def test_clock_steps_and_any_samples(
    sampled_card: Node, rounds: list[tuple[float, float, list[tuple[int, float, int]]]]
) -> None:
    a_ratio_or_unknown(sampled_card, rounds)


def a_ratio_or_unknown(sampled_card: Node, rounds: list[tuple[float, float, list[tuple[int, float, int]]]]) -> None:
    """Through ctypes: what the driver's samples say, at whatever time, is a ratio or unknown."""
    driver, wall_s, elapsed_s = Driver(), WALL_S, 1000.0
    driver.connect()
    for index, (seconds, step_s, samples) in enumerate(rounds):
        wall_s, elapsed_s = wall_s + seconds + step_s, elapsed_s + seconds
        sampled_card.write(without="sample")
        sampled_card.lines += [f"sample 0 {pid} {round((wall_s + at_s) * 1e6)} {sm}" for pid, at_s, sm in samples]
        sampled_card.write()
        [device] = driver.read(wall_s, elapsed_s)
        if index and abs(step_s) > 1.001:
            assert device.busy is None
        for ratio in (device.busy or {}).values():
            assert math.isnan(ratio) or 0 <= ratio <= 1


def any_pod(cgroup: bytes) -> str:
    """Whatever stands after `pod` up to the next slash."""
    _, _, rest = cgroup.partition(b"pod")
    return rest.partition(b"/")[0].decode("latin-1")


def all_fit(held: dict[str, int | None], memory: Memory | None) -> dict[str, int | None]:
    """Nothing is held against the card's total."""
    return held


@pytest.mark.parametrize(
    ("module", "name", "bug", "law", "strategies"),
    [
        pytest.param(owners, "pod_uid", any_pod, names_this_pod_or_none, {"noise": NOISE}, id="cgroup lines"),
        pytest.param(ledger, "_within", all_fit, all_rounds_hold, {"rounds": ROUNDS}, id="process lists"),
        pytest.param(nvml, "_STEP_S", math.inf, a_ratio_or_unknown, {"rounds": SAMPLED}, id="clock steps"),
        pytest.param(nvml, "_ratio", lambda it: it / 100, a_ratio_or_unknown, {"rounds": SAMPLED}, id="samples"),
    ],
)
def test_the_fuzz_finds_a_bug(
    tmp_path: Path,
    sampled_card: Node,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    name: str,
    bug: object,
    law: Callable[..., None],
    strategies: dict[str, st.SearchStrategy[object]],
) -> None:
    monkeypatch.setattr(module, name, bug)
    fixtures = {"tmp_path": tmp_path, "sampled_card": sampled_card}
    wanted = {each: value for each, value in fixtures.items() if each in inspect.signature(law).parameters}
    hunt = settings(
        max_examples=400,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    with pytest.raises(AssertionError):
        hunt(given(**strategies)(law))(**wanted)
