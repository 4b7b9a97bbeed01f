"""Who was allotted which card, as the kubelet tells it: also of pods that are idle or starting and have no process yet.

Optional. It needs root, since the socket is root's, and brings gRPC, which is 17 MiB. Devices of dynamic resource
claims are not read.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import grpc

from scaler._pb.podresources_pb2 import ListPodResourcesRequest
from scaler._pb.podresources_pb2_grpc import PodResourcesListerStub
from scaler.agent.sampler import Allotment

log = logging.getLogger(__name__)

_DEADLINE_S = 2.0  # the kubelet answers from memory
_MOST_BYTES = 16 * 1024**2  # as the kubelet's own clients allow; gRPC's default is 4 MiB


class Kubelet:
    """The kubelet's socket. A kubelet that restarts is found again."""

    def __init__(self, socket: Path) -> None:
        options = [("grpc.max_receive_message_length", _MOST_BYTES)]
        self._lister = PodResourcesListerStub(grpc.insecure_channel(f"unix:{socket.absolute()}", options))
        self._fault = ""

    def places(self) -> Mapping[Allotment, int] | None:
        """Places by pod and device; several with time-slicing. None if the kubelet does not answer."""
        try:
            told = self._lister.List(ListPodResourcesRequest(), timeout=_DEADLINE_S)
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else type(error).__name__
            if code != self._fault:
                log.warning("kubelet: %s", code)
            self._fault = code
            return None
        self._fault = ""
        return Counter(
            Allotment(device.partition("::")[0], pod.namespace, pod.name)
            for pod in told.pod_resources
            for container in pod.containers
            for devices in container.devices
            for device in devices.device_ids
        )
