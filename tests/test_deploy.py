"""deploy/: the files fit each other, the pod is locked down, and the example ScaledObject is what KEDA's CRD takes.

`kubectl kustomize deploy/base` is not run here, since CI has no kubectl; the shapes below are our own and closed.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scaler import __version__
from scaler.cli.serve import serve_command
from scaler.incident import SCALED_OBJECTS
from scaler.manifests import read_services
from scaler.policy import OperatorPolicy, ServiceKey, ServicePolicy
from scaler.settings import load_settings

ROOT = Path(__file__).parent.parent
BASE = ROOT / "deploy" / "base"
EXAMPLE = ROOT / "deploy" / "examples" / "scaledobject.yaml"
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")


def one(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


KUSTOMIZATION = one(BASE / "kustomization.yaml")
BY_KIND = {one(BASE / name)["kind"]: one(BASE / name) for name in KUSTOMIZATION["resources"]}
DEPLOYMENT = BY_KIND["Deployment"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
[CONTAINER] = POD["containers"]
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
SETTINGS = load_settings(str(BASE / "vram-scaler.yaml"))


def test_every_file_of_the_base_is_used_and_there() -> None:
    used = {"kustomization.yaml", *KUSTOMIZATION["resources"], *KUSTOMIZATION["configMapGenerator"][0]["files"]}
    assert used == {path.name for path in BASE.iterdir()}
    assert set(BY_KIND) == {"ServiceAccount", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}


def test_all_selectors_meet_the_pods() -> None:
    labels = DEPLOYMENT["template"]["metadata"]["labels"]
    assert labels
    selectors = [
        DEPLOYMENT["selector"]["matchLabels"],
        BY_KIND["Service"]["spec"]["selector"],
        BY_KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        BY_KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in POD["topologySpreadConstraints"]),
    ]
    assert selectors == [labels] * len(selectors)


def test_ports_are_the_same_in_settings_pod_service_policy_and_image() -> None:
    assert {"grpc": SETTINGS.listen.port, "http": SETTINGS.http.port} == PORTS
    assert {SETTINGS.listen.host, SETTINGS.http.host} == {"0.0.0.0"}  # a pod's own address is not known before
    service = BY_KIND["Service"]["spec"]["ports"]
    assert {port["targetPort"]: port["port"] for port in service} == PORTS
    allowed = {port["port"] for rule in BY_KIND["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    assert allowed == set(PORTS)
    exposed = re.search(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE)
    assert exposed is not None
    assert [int(port) for port in exposed[1].split()] == list(PORTS.values())
    scraped = DEPLOYMENT["template"]["metadata"]["annotations"]
    assert int(scraped["prometheus.io/port"]) == PORTS["http"]


def test_probes_ask_for_life_and_readiness_over_http() -> None:
    probes = {kind: CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness")}
    assert probes == {"liveness": {"path": "/livez", "port": "http"}, "readiness": {"path": "/readyz", "port": "http"}}


def test_the_pod_may_do_nothing_that_it_does_not_need() -> None:
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
    assert {"cpu", "memory"} <= set(CONTAINER["resources"]["requests"])
    assert "memory" in CONTAINER["resources"]["limits"]
    [user] = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert [int(number) for number in user] == [
        POD["securityContext"]["runAsUser"],
        POD["securityContext"]["runAsGroup"],
    ]
    assert int(user[0]) > 0


def test_one_instance_always_answers() -> None:
    assert DEPLOYMENT["replicas"] >= 2
    assert DEPLOYMENT["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert BY_KIND["PodDisruptionBudget"]["spec"]["minAvailable"] < DEPLOYMENT["replicas"]
    assert BY_KIND["Service"]["spec"].get("clusterIP") != "None"  # headless: one poll could ask two instances


def test_the_configuration_is_where_the_command_looks_for_it() -> None:
    [generated] = KUSTOMIZATION["configMapGenerator"]
    [volume] = POD["volumes"]
    assert volume["configMap"]["name"] == generated["name"]
    [mount] = CONTAINER["volumeMounts"]
    assert mount["name"] == volume["name"]
    path = f"{mount['mountPath']}/{generated['files'][0]}"
    command = re.search(r"^CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)
    assert command is not None
    assert CONTAINER["args"] == yaml.safe_load(command[1]) == ["serve", "--config", path]
    assert re.search(r'^ENTRYPOINT \["vram-scaler"\]$', DOCKERFILE, re.MULTILINE)
    context = serve_command.make_context("serve", CONTAINER["args"][1:])  # the flags exist
    assert context.params["config"] == path


def test_the_image_is_this_version() -> None:
    [image] = KUSTOMIZATION["images"]
    assert (image["name"], image["newTag"]) == (CONTAINER["image"], __version__)
    assert f"{image['name']}:{__version__}" in DOCKERFILE


def test_the_dockerfile_copies_what_the_ignore_file_lets_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    copies = [shlex.split(line) for line in DOCKERFILE.splitlines() if line.startswith("COPY") and "--from" not in line]
    copied = {source for copy in copies for source in copy[1:-1]}
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)
    assert "*" in ignored


def test_the_versions_that_bind_the_image_are_those_of_the_lock() -> None:
    """The Dockerfile's grep over the lock, done again: every runtime requirement is pinned to one version."""
    pattern = re.search(r"grep -oE '(.+?)' requirements-dev.lock", DOCKERFILE)
    assert pattern is not None
    lock = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    pins = [match.split("==") for match in re.findall(pattern[1], lock, re.MULTILINE)]
    names = [name for name, _ in pins]
    assert len(names) == len(set(names))
    assert {"grpcio", "aiohttp", "click", "pydantic", "pyyaml", "structlog", "tenacity"} <= set(names)


# -- the ScaledObject: our own closed shape of what KEDA (keda.sh/v1alpha1) and the HPA take of it --------------------


class Shape(BaseModel):
    """Nothing beyond what is named; no text for a number and no number for a text."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Policy(Shape):
    type: Literal["Pods", "Percent"]
    value: int = Field(gt=0)
    periodSeconds: int = Field(gt=0, le=1800)  # noqa: N815 - Kubernetes' name


class Rules(Shape):
    stabilizationWindowSeconds: int = Field(ge=0, le=3600)  # noqa: N815
    tolerance: int | Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?m?$")]
    selectPolicy: Literal["Max", "Min", "Disabled"]  # noqa: N815
    policies: list[Policy] = Field(min_length=1)


class Behavior(Shape):
    scaleUp: Rules  # noqa: N815
    scaleDown: Rules  # noqa: N815


class HorizontalPodAutoscalerConfig(Shape):
    behavior: Behavior


class Advanced(Shape):
    horizontalPodAutoscalerConfig: HorizontalPodAutoscalerConfig  # noqa: N815


class TargetRef(Shape):
    name: str = Field(min_length=1)


class Trigger(Shape):
    """useCachedMetrics and authenticationRef would be valid; the example does without them."""

    type: Literal["external", "external-push"]
    metricType: Literal["AverageValue"]  # noqa: N815
    metadata: dict[str, str]


class Spec(Shape):
    """fallback and idleReplicaCount would be valid; with a veto they do harm."""

    scaleTargetRef: TargetRef  # noqa: N815
    pollingInterval: int = Field(ge=1)  # noqa: N815
    cooldownPeriod: int = Field(ge=0)  # noqa: N815
    minReplicaCount: int = Field(ge=0)  # noqa: N815
    maxReplicaCount: int = Field(ge=1)  # noqa: N815
    advanced: Advanced
    triggers: list[Trigger] = Field(min_length=1, max_length=1)


class About(Shape):
    name: str = Field(max_length=54)  # keda-hpa-NAME is a label of at most 63
    namespace: str


class ScaledObject(Shape):
    apiVersion: Literal["keda.sh/v1alpha1"]  # noqa: N815
    kind: Literal["ScaledObject"]
    metadata: About
    spec: Spec


def scaled_objects() -> list[Any]:
    documents = [each for each in yaml.safe_load_all(SCALED_OBJECTS.read_text(encoding="utf-8")) if each]
    return [pytest.param(one(EXAMPLE), id="the example")] + [
        pytest.param(each, id=f"incident {each['metadata']['name']}") for each in documents
    ]


@pytest.mark.parametrize("manifest", scaled_objects())
def test_a_scaled_object_has_kedas_shape_and_a_behavior_in_full(manifest: dict[str, Any]) -> None:
    spec = ScaledObject.model_validate(manifest).spec
    assert spec.minReplicaCount <= spec.maxReplicaCount
    behavior = spec.advanced.horizontalPodAutoscalerConfig.behavior
    assert float(behavior.scaleUp.tolerance) == float(behavior.scaleDown.tolerance) == 0.0
    assert behavior.scaleUp.stabilizationWindowSeconds == 0
    assert behavior.scaleDown.stabilizationWindowSeconds == 300


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(["spec", "fallback"], {"failureThreshold": 3, "replicas": 1}, id="a fallback"),
        pytest.param(["spec", "triggers", 0, "useCachedMetrics"], True, id="cached metrics"),
        pytest.param(["spec", "triggers", 0, "metadata", "targetConcurrency"], 4, id="a number in the metadata"),
        pytest.param(
            ["spec", "advanced", "horizontalPodAutoscalerConfig", "behavior", "scaleUp", "policies", 0, "tolerance"],
            "0",
            id="the tolerance in a policy",
        ),
        pytest.param(["spec", "advanced", "horizontalPodAutoscalerConfig", "behaviour"], {}, id="a misspelt key"),
    ],
)
def test_the_shape_is_closed(path: list[Any], value: Any) -> None:
    manifest = one(EXAMPLE)
    place: Any = manifest
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(ValidationError):
        ScaledObject.model_validate(manifest)


def test_the_example_is_understood_and_asks_this_service() -> None:
    services = read_services([str(EXAMPLE)], OperatorPolicy())
    assert services.warnings == []
    policy = services.policies[ServiceKey("kserve-models", "e5")]
    assert policy.deployment == "e5-predictor"
    service = BY_KIND["Service"]["metadata"]["name"]
    host = f"{service}.{KUSTOMIZATION['namespace']}.svc.cluster.local"
    assert policy.scaler_address == f"{host}:{PORTS['grpc']}"


def test_the_example_shows_every_metadata_key_and_what_is_commented_out_is_valid(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    in_full = re.sub(r"^(\s+)# (\w+): (\".*\")$", r"\1\2: \3", text, flags=re.MULTILINE)
    (tmp_path / "full.yaml").write_text(in_full, encoding="utf-8")
    services = read_services([str(tmp_path / "full.yaml")], OperatorPolicy())
    [metadata] = services.metadata.values()
    assert set(metadata) == {field.alias for field in ServicePolicy.model_fields.values()}
