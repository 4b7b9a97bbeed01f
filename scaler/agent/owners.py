"""PID -> pod UID by the process' cgroup. Needs the host's /proc (hostPID), and no permission from Kubernetes.

Forms: `/kubepods/burstable/pod<uid>/<container>`, and under systemd
`/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid with _>.slice/cri-containerd-<container>.scope`;
guaranteed pods have no class in it. With a cgroup namespace of its own the agent sees `/../../` in place of what it
shares with the other pod, never in place of the other's `pod<uid>`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_POD = re.compile(rb"pod([0-9a-f]{8}([-_])(?:[0-9a-f]{4}\2){3}[0-9a-f]{12})(?![0-9a-f])", re.ASCII)
_READ_BYTES = 65536
_HOST: Final = ""

Owner = str | None
"""A pod's UID; "" for a process outside of every pod; None for a process that /proc does not show."""


def owner_of(proc: Path, pid: int) -> Owner:
    """Who owns that process, read anew each time: PIDs are reused, and 40 reads take 2 ms."""
    try:
        with (proc / str(pid) / "cgroup").open("rb") as file:
            return pod_uid(file.read(_READ_BYTES))
    except OSError:
        return None


def pod_uid(cgroup: bytes) -> str:
    """The UID in a /proc/PID/cgroup. "" without one, and where two hierarchies name two pods."""
    found = {
        match[1].replace(b"_", b"-").decode("ascii")
        for line in cgroup.splitlines()
        if (match := _POD.search(line)) is not None  # the first of a line: a cluster within a pod is that pod's
    }
    return found.pop() if len(found) == 1 else _HOST
