"""The kubelet's socket, by a stand-in that speaks its protocol: pods that have a place and no process yet."""

from __future__ import annotations

import socket as sockets
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from scaler._pb import podresources_pb2 as pb
from scaler._pb.podresources_pb2_grpc import PodResourcesListerServicer, add_PodResourcesListerServicer_to_server
from scaler.agent import kubelet as kubelet_module
from scaler.agent.exposition import Exposition
from scaler.agent.kubelet import Kubelet
from scaler.agent.nvml import Driver
from scaler.agent.sampler import Allotment, Sampler
from scaler.cli.agent import agent_command
from tests.nvml_standin import GIB, Node, loaded, pod_uid

COMPONENT = Path(__file__).parent.parent / "deploy" / "agent-pod-resources" / "kustomization.yaml"


def pod(name: str, *containers: dict[str, list[str]]) -> pb.PodResources:
    """Each container's device ids by resource."""
    return pb.PodResources(
        name=name,
        namespace="models",
        containers=[
            pb.ContainerResources(
                name=f"c{number}",
                devices=[pb.ContainerDevices(resource_name=name, device_ids=ids) for name, ids in devices.items()],
            )
            for number, devices in enumerate(containers)
        ],
    )


TOLD = pb.ListPodResourcesResponse(
    pod_resources=[
        pod("e5-0", {"nvidia.com/gpu": ["GPU-a::0", "GPU-a::2"]}, {"nvidia.com/gpu": ["GPU-a::3"]}),
        pod("starting-0", {"nvidia.com/gpu.shared": ["GPU-a::1"]}),
        pod("llm-0", {"nvidia.com/mig-3g.40gb": ["MIG-1-1"], "example.com/nic": ["nic-7"]}),
        pod("elsewhere-0", {"nvidia.com/gpu": ["GPU-gone"]}),
        pod("web-0", {}),
    ]
)


@contextmanager
def serving(socket: Path, answer: Callable[[grpc.ServicerContext], pb.ListPodResourcesResponse]) -> Iterator[None]:
    class Lister(PodResourcesListerServicer):
        def List(self, request: pb.ListPodResourcesRequest, context: Any) -> pb.ListPodResourcesResponse:  # noqa: N802
            return answer(context)

    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_PodResourcesListerServicer_to_server(Lister(), server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    node.card("GPU-a")
    node.process(0, 4001, 3 * GIB, pod=pod_uid(1), sm=40)
    mig = node.card("GPU-mig", mig=1)
    node.instance(mig, 5, total=12 * GIB, free=3 * GIB)
    node.instance(mig, 9, total=12 * GIB, free=3 * GIB)
    node.write()
    with loaded(node) as ready:
        yield ready


def published(sampler: Sampler) -> dict[str, float]:
    [family] = [each for each in Exposition(sampler, "").collect() if each.name == "vram_agent_pod_places"]
    keys = ("UUID", "GPU_I_ID", "pod_namespace", "pod_name")
    return {" ".join(filter(None, (sample.labels[key] for key in keys))): sample.value for sample in family.samples}


def test_places_by_pod_and_card_those_without_a_process_included(node: Node) -> None:
    socket = node.directory / "kubelet.sock"
    with serving(socket, lambda _: TOLD):
        sampler = Sampler(Driver(), node.proc, 5.0, Kubelet(socket))
        sampler.round()
    assert published(sampler) == {
        "GPU-a models e5-0": 3,
        "GPU-a models starting-0": 1,
        "GPU-mig 9 models llm-0": 1,
    }


def test_a_kubelet_that_is_away_or_hangs_costs_its_places_only(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubelet_module, "_DEADLINE_S", 0.2)
    socket, released = node.directory / "kubelet.sock", threading.Event()

    def hanging(context: grpc.ServicerContext) -> pb.ListPodResourcesResponse:
        released.wait(5)
        return TOLD

    kubelet = Kubelet(socket)
    sampler = Sampler(Driver(), node.proc, 5.0, kubelet)
    for _ in range(2):
        report = sampler.round()
        assert (report.places, report.fault, len(report.cards)) == (None, "", 3)
        assert published(sampler) == {}
    with serving(node.directory / "slow.sock", hanging):
        assert Kubelet(node.directory / "slow.sock").places() is None
        released.set()


def test_a_kubelet_that_restarts_is_found_at_once(tmp_path: Path) -> None:
    socket = tmp_path / "kubelet.sock"
    kubelet = Kubelet(socket)
    with serving(socket, lambda _: TOLD):
        assert kubelet.places() is not None
    assert kubelet.places() is None
    with serving(socket, lambda _: TOLD):
        places = kubelet.places()
    assert places is not None
    assert places[Allotment("GPU-a", "models", "e5-0")] == 3


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="hangs up at once"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="another protocol"),
        pytest.param(b"\0" * 1000, id="zeros"),
    ],
)
def test_a_socket_that_is_no_kubelets(tmp_path: Path, caplog: pytest.LogCaptureFixture, said: bytes) -> None:
    """Logged once, not in each round; nothing is raised, which would cost the round."""
    caplog.set_level("INFO")
    path = tmp_path / "other.sock"
    listener = sockets.socket(sockets.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        for _ in range(2):
            peer, _ = listener.accept()
            with peer:
                peer.sendall(said)
                while said and peer.recv(4096):
                    pass

    threading.Thread(target=answer, daemon=True).start()
    kubelet = Kubelet(path)
    with listener:
        assert [kubelet.places(), kubelet.places()] == [None, None]
    assert len(said_of(caplog)) == 1
    with serving(tmp_path / "kubelet.sock", lambda _: TOLD):
        (tmp_path / "kubelet.sock").rename(path)
        assert kubelet.places() is not None
    assert said_of(caplog)[1:] == ["kubelet: answers again"]


def said_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == kubelet_module.__name__]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        pytest.param(lambda _, __: iter([b"\xff\xff"]), "DecodeError", id="no message of that kind"),
        pytest.param(lambda _, __: iter(()), "AssertionError", id="fine, and no message"),
        pytest.param(None, "UNIMPLEMENTED", id="a server that knows no such call"),
    ],
)
def test_an_answer_that_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: Callable[..., Iterator[bytes]] | None, fault: str
) -> None:
    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
            return None if answer is None else grpc.unary_stream_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Handler()])
    server.add_insecure_port(f"unix:{tmp_path / 'odd.sock'}")
    server.start()
    try:
        assert Kubelet(tmp_path / "odd.sock").places() is None
    finally:
        server.stop(0).wait()
    assert said_of(caplog) == [f"kubelet: no places from {tmp_path / 'odd.sock'}: {fault}"]


def test_more_than_grpcs_four_mebibytes(tmp_path: Path) -> None:
    many = pb.ListPodResourcesResponse(pod_resources=[pod(f"pod-{n}" + "x" * 200, {"r": ["d"]}) for n in range(25_000)])
    assert many.ByteSize() > 5 * 1024**2
    with serving(tmp_path / "kubelet.sock", lambda _: many):
        places = Kubelet(tmp_path / "kubelet.sock").places()
    assert places is not None
    assert len(places) == 25_000


def test_numbers_are_the_kubelets() -> None:
    numbers = {
        message: {field.name: field.number for field in descriptor.fields}
        for message, descriptor in pb.DESCRIPTOR.message_types_by_name.items()
    }
    assert numbers == {
        "ListPodResourcesRequest": {},
        "ListPodResourcesResponse": {"pod_resources": 1},
        "PodResources": {"name": 1, "namespace": 2, "containers": 3},
        "ContainerResources": {"name": 1, "devices": 2},
        "ContainerDevices": {"resource_name": 1, "device_ids": 2},
    }
    assert pb.DESCRIPTOR.services_by_name["PodResourcesLister"].full_name == "v1.PodResourcesLister"


def test_the_component_gives_the_flag_that_exists() -> None:
    [patch] = yaml.safe_load(COMPONENT.read_text(encoding="utf-8"))["patches"]
    changes = {change["path"].rpartition("/")[2]: change["value"] for change in yaml.safe_load(patch["patch"])}
    context = agent_command.make_context("agent", [changes["-"]])
    socket = context.params["pod_resources"]
    [mount], [volume] = changes["volumeMounts"], changes["volumes"]
    assert str(socket.parent) == mount["mountPath"] == volume["hostPath"]["path"]
    assert mount["readOnly"] is True
