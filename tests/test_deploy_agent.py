"""deploy/agent: the DaemonSet fits the command, and may do nothing that NVML does not need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from scaler import __version__
from scaler.agent.ledger import MEAN_S
from scaler.cli.agent import agent_command

FOLDER = Path(__file__).parent.parent / "deploy" / "agent"


def one(name: str) -> dict[str, Any]:
    document = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


KUSTOMIZATION = one("kustomization.yaml")
BY_KIND = {one(name)["kind"]: one(name) for name in KUSTOMIZATION["resources"]}
TEMPLATE = BY_KIND["DaemonSet"]["spec"]["template"]
POD = TEMPLATE["spec"]
[CONTAINER] = POD["containers"]
[PORT] = CONTAINER["ports"]


def test_every_file_is_used_and_there() -> None:
    assert {"kustomization.yaml", *KUSTOMIZATION["resources"]} == {path.name for path in FOLDER.iterdir()}
    assert set(BY_KIND) == {"ServiceAccount", "DaemonSet", "NetworkPolicy"}
    [image] = KUSTOMIZATION["images"]
    assert (image["name"], image["newTag"]) == (CONTAINER["image"], __version__)


def test_selectors_meet_the_pods() -> None:
    labels = TEMPLATE["metadata"]["labels"]
    assert BY_KIND["DaemonSet"]["spec"]["selector"]["matchLabels"] == labels
    assert BY_KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels


def test_the_flags_exist_and_name_the_port_that_is_scraped() -> None:
    context = agent_command.make_context("agent", CONTAINER["args"][1:])
    assert CONTAINER["args"][0] == "agent"
    assert (context.params["http"].host, context.params["http"].port) == ("0.0.0.0", PORT["containerPort"])
    scraped = TEMPLATE["metadata"]["annotations"]
    assert scraped["prometheus.io/port"] == str(PORT["containerPort"])
    assert [probe["httpGet"] for probe in (CONTAINER["livenessProbe"], CONTAINER["readinessProbe"])] == [
        {"path": "/livez", "port": "http"},
        {"path": "/readyz", "port": "http"},
    ]


def test_the_prometheus_operator_finds_the_port() -> None:
    component, monitor = (
        yaml.safe_load((FOLDER.parent / "agent-podmonitor" / name).read_text(encoding="utf-8"))
        for name in ("kustomization.yaml", "podmonitor.yaml")
    )
    assert (component["kind"], component["resources"]) == ("Component", ["podmonitor.yaml"])
    assert monitor["spec"]["selector"]["matchLabels"].items() <= TEMPLATE["metadata"]["labels"].items()
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    scraped = TEMPLATE["metadata"]["annotations"]
    assert (endpoint["port"], endpoint["path"]) == (PORT["name"], scraped["prometheus.io/path"])
    assert endpoint["interval"] == f"{MEAN_S:g}s"


def test_it_sees_the_hosts_pids_and_no_more() -> None:
    assert POD["hostPID"] is True
    assert not {"hostNetwork", "hostIPC", "volumes"} & set(POD)
    assert POD["automountServiceAccountToken"] is False
    assert BY_KIND["ServiceAccount"]["automountServiceAccountToken"] is False
    assert POD["serviceAccountName"] == BY_KIND["ServiceAccount"]["metadata"]["name"]
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    environment = {each["name"]: each.get("value") for each in CONTAINER["env"]}
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "utility"  # no CUDA: it can never be a process on a card
    assert "limits" in CONTAINER["resources"]
    assert "nvidia.com/gpu" not in str(CONTAINER["resources"])  # it takes no place
