"""Who was allotted which card, as the kubelet tells it: also of pods that are idle or starting and have no process yet.

Optional. It needs root, since the socket is root's. Devices of dynamic resource claims are not read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import GRPCError

from scaler._pb.podresources_pb2 import ListPodResourcesRequest, ListPodResourcesResponse
from scaler.agent.sampler import Allotment

log = logging.getLogger(__name__)

_DEADLINE_S = 2.0  # the kubelet answers from memory
_LIST = "/v1.PodResourcesLister/List"


class Kubelet:
    """The kubelet's socket, by grpclib: grpcio alone is 17 MiB and six threads, for one call in 5 s."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket.absolute())
        self._answers = True  # what changes is logged, not each round

    def places(self) -> Mapping[Allotment, int] | None:
        """Places by pod and device; several with time-slicing. None if the kubelet does not answer."""
        try:
            told = asyncio.run(self._list())
        except Exception as failure:  # a peer that hangs up at once is an AttributeError to grpclib
            if self._answers:
                what = failure.status.name if isinstance(failure, GRPCError) else type(failure).__name__
                log.warning("kubelet: no places from %s: %s", self._socket, what)
            self._answers = False
            return None
        if not self._answers:
            log.info("kubelet: answers again")
        self._answers = True
        return Counter(
            Allotment(device.partition("::")[0], pod.namespace, pod.name)
            for pod in told.pod_resources
            for container in pod.containers
            for devices in container.devices
            for device in devices.device_ids
        )

    async def _list(self) -> ListPodResourcesResponse:
        """By a connection of its own: a kubelet that restarts makes a new socket."""
        async with asyncio.timeout(_DEADLINE_S), Channel(path=self._socket) as channel:
            call = UnaryUnaryMethod(channel, _LIST, ListPodResourcesRequest, ListPodResourcesResponse)
            return await call(ListPodResourcesRequest())
