"""ScaledObject manifests: what is read is what KEDA would send, and each fault is one line that says where."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from scaler.manifests import read_services
from scaler.policy import BadPolicy, OperatorPolicy, ServiceKey
from scaler.snapshot import Problem, WorkloadKey, WorkloadReading
from scaler.sources.baseline import Baseline, PrometheusTrigger, asked_replicas
from scaler.sources.checked_session import QueryFailed
from scaler.sources.query_client import Answer, Series

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


def test_a_manifest_that_names_no_namespace_is_in_the_one_that_is_given(tmp_path: Path) -> None:
    """As kustomize and kubectl -n have it; one that names its own keeps it."""
    text = f"{E5.replace(', namespace: kserve-models', '')}---\n{CLIP}"
    services = read_services([written(tmp_path, text)], OperatorPolicy(), "team-a")
    assert list(services.policies) == [("team-a", "e5"), ("kserve-models", "clip")]


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
            E5 + E5[E5.index("    - type") :],
            ["spec.triggers: 2 of type external", "takes one of them"],
            id="two of them",
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
        pytest.param(
            E5.replace("minReplicaCount: 3", 'minReplicaCount: "3"'),
            ["spec.minReplicaCount: '3': not a whole number from 0 to 10000"],
            id="replicas in quotes",
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


# -- other triggers: what the autoscaler is told today ---------------------------------------------------------------

TODAY = """
kind: ScaledObject
metadata: {name: e5, namespace: kserve-models}
spec:
  scaleTargetRef: {name: e5-predictor}
  minReplicaCount: 1
  maxReplicaCount: 11
  triggers:
    - {type: prometheus, metadata: {serverAddress: "http://p:9090", query: sum(waiting), threshold: "8"}}
    - {type: prometheus, metricType: Value, metadata: {query: max(util), threshold: "0.5", ignoreNullValues: "false"}}
"""
EXTERNAL = '    - {type: external, metadata: {scalerAddress: "s:6000", deployment: e5-predictor}}\n'
WORKLOAD = WorkloadKey("kserve-models", "e5-predictor")
WAITING = PrometheusTrigger("trigger 0 of kserve-models/e5", "sum(waiting)", 8.0)
BUSY = PrometheusTrigger("trigger 1 of kserve-models/e5", "max(util)", 0.5, is_average=False, empty_is_zero=False)


def test_without_a_trigger_of_ours_it_is_planned_as_if_it_had_a_first_one(tmp_path: Path) -> None:
    services = read_services([written(tmp_path, TODAY)], OperatorPolicy())
    policy = services.policies[ServiceKey("kserve-models", "e5")]
    assert (policy.deployment, policy.min_replicas, policy.max_replicas) == ("e5-predictor", 1, 11)
    [line] = services.warnings
    assert line.endswith(
        "kserve-models/e5: no trigger of type external; planned as if it had one with deployment e5-predictor, "
        "minReplicas 1, maxReplicas 11"
    )


def test_prometheus_triggers_are_the_baseline_beside_ours_and_alone(tmp_path: Path) -> None:
    for text, shift in ((TODAY, 0), (TODAY.replace("    - {type: prom", EXTERNAL + "    - {type: prom", 1), 1)):
        services = read_services([written(tmp_path, text)], OperatorPolicy())
        named = [
            each._replace(name=f"trigger {number + shift} of kserve-models/e5")
            for number, each in enumerate((WAITING, BUSY))
        ]
        assert services.baselines == [Baseline(WORKLOAD, tuple(named), 1, 11)]
        assert services.unplayable == []
    assert read_services([written(tmp_path, E5)], OperatorPolicy()).baselines == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("type: prometheus, metricType", "type: cpu, metricType", "[1].type 'cpu' cannot be", id="cpu"),
        pytest.param('threshold: "8"', 'threshold: "many"', "[0].metadata.threshold: 'many'", id="no number"),
        pytest.param('threshold: "8"', 'threshold: "0"', "[0].metadata.threshold: '0'", id="zero"),
        pytest.param("query: sum(waiting), ", "", "[0].metadata.query: missing: not a query", id="no query"),
        pytest.param("metricType: Value", "metricType: Utilization", "[1].metricType: 'Util", id="no such type"),
        pytest.param(
            "  triggers:",
            "  advanced: {scalingModifiers: {formula: a + b}}\n  triggers:",
            "spec.advanced.scalingModifiers.formula cannot be replayed",
            id="formula",
        ),
    ],
)
def test_what_cannot_be_replayed_is_no_baseline_and_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in TODAY
    services = read_services([written(tmp_path, TODAY.replace(old, new, 1))], OperatorPolicy())
    assert services.baselines == []
    [line] = services.unplayable
    assert expected in line
    assert line.endswith("; the baseline is what ran")


@pytest.mark.parametrize(
    ("waiting", "busy", "ready", "asked", "problem"),
    [
        pytest.param([20.0], [0.1], 2, 3, None, id="20 waiting at 8 a replica: 3; 0.1 of 0.5 x 2: 1"),
        pytest.param([24.0], [0.1], 2, 3, None, id="24 is 3 whole ones"),
        pytest.param([24.0004], [0.1], 2, 3, None, id="KEDA hands on thousandths"),
        pytest.param([24.1], [0.1], 2, 4, None, id="a tenth more is a fourth"),
        pytest.param([8.0], [0.9], 5, 9, None, id="the most of both: 1.8 x 5"),
        pytest.param([800.0], [0.1], 2, 11, None, id="100, and 11 at most"),
        pytest.param([], [0.1], 2, 1, None, id="no series is 0, and 1 at least"),
        pytest.param([float("nan")], [0.1], 2, 1, None, id="NaN is 0"),
        pytest.param([-5.0], [0.0], 2, 1, None, id="negative"),
        pytest.param([8.0], [], 2, None, "no series, or NaN", id="ignoreNullValues false: not known"),
        pytest.param([8.0, 9.0], [0.1], 2, None, "2 series; KEDA takes one", id="several series"),
        pytest.param([8.0], [0.9], None, None, "ready replicas are not known", id="Value without ready replicas"),
        pytest.param(None, [0.9], 2, None, "bad-query: HTTP 400", id="a query that fails"),
    ],
)
def test_what_triggers_ask_for(
    waiting: list[float] | None, busy: list[float], ready: int | None, asked: int | None, problem: str | None
) -> None:
    outcomes = {
        WAITING.name: QueryFailed("bad-query", "HTTP 400") if waiting is None else answer(waiting),
        BUSY.name: answer(busy),
    }
    readings = {WORKLOAD: WorkloadReading(ready_replicas=ready)}
    found, problems = asked_replicas([Baseline(WORKLOAD, (WAITING, BUSY), 1, 11)], outcomes, readings, 1000)
    assert found == ({} if asked is None else {WORKLOAD: asked})
    assert [each.text[: len(problem or "")] for each in problems] == ([problem] if problem else [])
    assert all(isinstance(each, Problem) for each in problems)


def answer(values: list[float]) -> Answer:
    return Answer(tuple(Series({"n": str(number)}, {1000: value, 2000: 99.0}) for number, value in enumerate(values)))
