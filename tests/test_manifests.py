"""ScaledObject manifests: what is read is what KEDA would send, and each fault is one line that says where."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from scaler.manifests import read_services
from scaler.policy import BadPolicy, OperatorPolicy, ServiceKey

E5 = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: e5, namespace: kserve-models}
spec:
  scaleTargetRef: {name: e5}
  minReplicaCount: 3
  triggers:
    - type: external
      metadata: {scalerAddress: "scaler:6000", targetConcurrency: "4", maxReplicas: "9"}
"""
CLIP = E5.replace("e5", "clip").replace("type: external", "type: external-push")
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: e5}\n"


def written(folder: Path, text: str, name: str = "so.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_metadata_becomes_the_policy_and_replica_bounds_of_the_spec_do_not(tmp_path: Path) -> None:
    services = read_services([written(tmp_path, E5)], OperatorPolicy())
    policy = services.policies[ServiceKey("kserve-models", "e5")]
    assert (policy.target_concurrency, policy.max_replicas, policy.deployment) == (4.0, 9, "e5")
    assert policy.min_replicas == 0  # minReplicaCount 3 stays with KEDA, which does not send it
    assert services.warnings == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"{E5}---\n{SERVICE}---\n{CLIP}", id="several documents, other kinds between"),
        pytest.param(f"---\n---\n{E5}---\n{CLIP}---\n", id="empty documents"),
        pytest.param(
            "kind: List\nitems:\n" + "".join(f"- {one.strip()}\n".replace("\n", "\n  ")[:-2] for one in (E5, CLIP)),
            id="a List, as kubectl get -o yaml gives it",
        ),
    ],
)
def test_all_scaled_objects_of_a_file_are_read(tmp_path: Path, text: str) -> None:
    services = read_services([written(tmp_path, text)], OperatorPolicy())
    assert list(services.policies) == [("kserve-models", "e5"), ("kserve-models", "clip")]


def test_several_files_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(CLIP))
    services = read_services([written(tmp_path, E5), "-"], OperatorPolicy())
    assert list(services.policies) == [("kserve-models", "e5"), ("kserve-models", "clip")]


def test_a_target_that_keda_does_not_send_is_warned_of_and_not_used(tmp_path: Path) -> None:
    text = E5.replace("scaleTargetRef: {name: e5}", "scaleTargetRef: {name: e5-predictor}")
    services = read_services([written(tmp_path, text)], OperatorPolicy())
    assert services.policies[ServiceKey("kserve-models", "e5")].deployment == "e5"
    [warning] = services.warnings
    assert "metadata.deployment should be 'e5-predictor'" in warning
    named = text.replace("maxReplicas:", "deployment: e5-predictor, maxReplicas:")
    assert read_services([written(tmp_path, named)], OperatorPolicy()).warnings == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(SERVICE, ["so.yaml: no ScaledObject"], id="no ScaledObject"),
        pytest.param("", ["so.yaml: no ScaledObject"], id="empty file"),
        pytest.param("a: [1\nb: 2", ["so.yaml, line 2:"], id="not YAML"),
        pytest.param("a: 1\nb: 2\na: 3\n", ["so.yaml, line 3: a: this key stands twice"], id="a key twice"),
        pytest.param("a: \x00", ["so.yaml: not YAML"], id="NUL"),
        pytest.param("- e5", ["document 1: a manifest: list: not a mapping"], id="not a manifest"),
        pytest.param(
            f"{SERVICE}---\n{E5}".replace(", namespace: kserve-models", ""),
            ["document 2", "e5", "metadata.namespace: missing"],
            id="no namespace",
        ),
        pytest.param(
            E5.replace("type: external", "type: prometheus"),
            ["document 1", "e5", "spec.triggers: 0 of type external"],
            id="no external trigger",
        ),
        pytest.param(
            E5 + E5[E5.index("    - type") :], ["spec.triggers: 2 of type external", "exactly one"], id="two of them"
        ),
        pytest.param(
            E5.replace('"4"', "4"),
            ["spec.triggers[0].metadata.targetConcurrency: 4: not a string"],
            id="a number KEDA would refuse",
        ),
        pytest.param(
            E5.replace('"4"', '"0"'),
            ["document 1", "kserve-models/e5", "metadata.targetConcurrency: '0'", "0.01 to 100000"],
            id="out of range",
        ),
        pytest.param(
            E5.replace("targetConcurrency", "targetConcurency"), ["did you mean targetConcurrency?"], id="unknown key"
        ),
        pytest.param(
            E5.replace("maxReplicas:", "pool: t4, maxReplicas:"),
            ["metadata.pool: 't4' is not a configured pool", "default"],
            id="unknown pool",
        ),
        pytest.param(
            f"{E5}---\n{E5}", ["document 2: kserve-models/e5 stands already in", "document 1"], id="twice the same"
        ),
        pytest.param("kind: List\nitems: 3", ["items: 3: not a list"], id="List without items"),
        pytest.param(
            E5.replace("scaleTargetRef: {name: e5}", "scaleTargetRef: e5"),
            ["spec.scaleTargetRef: 'e5': not a mapping"],
            id="target is a text",
        ),
    ],
)
def test_a_fault_is_one_line_that_names_file_document_and_key(tmp_path: Path, text: str, expected: list[str]) -> None:
    with pytest.raises(BadPolicy) as fault:
        read_services([written(tmp_path, text)], OperatorPolicy())
    line = str(fault.value)
    assert "\n" not in line
    assert line.startswith(str(tmp_path / "so.yaml"))
    for part in expected:
        assert part in line


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, expected in [(tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")]:
        with pytest.raises(BadPolicy, match=expected):
            read_services([str(path)], OperatorPolicy())
    (tmp_path / "latin").write_bytes(b"name: caf\xe9")
    with pytest.raises(BadPolicy, match="not UTF-8 text"):
        read_services([str(tmp_path / "latin")], OperatorPolicy())
