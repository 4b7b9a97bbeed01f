"""Trigger metadata and the operator's policy: each fault is one line that names key, value and range."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scaler.policy import BadPolicy, OperatorPolicy, ServicePolicy, describe, service_policy
from scaler.quantity import GIB
from tests.fleet import key

OPERATOR = OperatorPolicy()


def test_defaults_and_every_key() -> None:
    assert service_policy(key("e5"), {"scalerAddress": "x:6000"}, OPERATOR).deployment == "e5"
    full = {
        "scalerAddress": "vram-scaler.keda.svc:6000", "deployment": "e5-predictor", "pool": "default",
        "targetConcurrency": "4", "targetQueue": "2.5", "targetGpuUtilization": "60", "activationConcurrency": "0.5",
        "vramPerReplica": "2200Mi", "lowWatermark": "3Gi", "priority": "2", "minReplicas": "1", "maxReplicas": "11",
    }  # fmt: skip
    policy = service_policy(key("e5"), full, OPERATOR)
    assert (policy.deployment, policy.target_queue, policy.max_replicas) == ("e5-predictor", 2.5, 11)
    assert policy.low_watermark is not None
    assert policy.low_watermark.bytes == 3 * GIB
    assert set(full) == {str(field.alias) for field in ServicePolicy.model_fields.values()}


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        pytest.param({"targetConcurency": "4"}, "metadata.targetConcurency: unknown key; did you mean"),
        pytest.param(
            {"targetConcurrency": "0"},
            "metadata.targetConcurrency: '0': Input should be greater than or equal to 0.01; "
            "it takes requests in flight per replica, 0.01 to 100000",
        ),
        pytest.param(
            {"targetConcurrency": "nan"},
            "metadata.targetConcurrency: 'nan': not a plain number such as 4 or 0.75; "
            "it takes requests in flight per replica, 0.01 to 100000",
        ),
        pytest.param(
            {"maxReplicas": "1.5"},
            "metadata.maxReplicas: '1.5': not a whole number such as 4; "
            "it takes 1 to 10000; the pool's limit counts where it is lower",
        ),
        pytest.param({"minReplicas": "5", "maxReplicas": "2"}, "metadata: minReplicas 5 is above maxReplicas 2"),
        pytest.param({"pool": "gold"}, "metadata.pool: 'gold' is not a configured pool; it takes one of default"),
        pytest.param(
            {"deployment": "../other"},
            "metadata.deployment: '../other': not the name of a Deployment; it takes a Deployment",
        ),
        pytest.param({"query": "sum(x)"}, "metadata.query: unknown key; known keys: activationConcurrency, "),
    ],
)  # fmt: skip
def test_a_fault_is_one_line(metadata: dict[str, str], line: str) -> None:
    with pytest.raises(BadPolicy) as fault:
        service_policy(key("e5"), metadata, OPERATOR)
    assert str(fault.value).startswith(line)
    assert "\n" not in str(fault.value)


def test_all_faults_at_once() -> None:
    with pytest.raises(BadPolicy) as fault:
        service_policy(key("e5"), {"targetQueue": "x", "priority": "-1", "lowWatermark": "1Gib"}, OPERATOR)
    assert str(fault.value).count("metadata.") == 3


@given(
    st.dictionaries(
        st.sampled_from([*map(str, ServicePolicy.model_json_schema()["properties"])]), st.text(), max_size=5
    )
)
def test_no_tenant_can_crash_it(metadata: dict[str, str]) -> None:
    with contextlib.suppress(BadPolicy):
        service_policy(key("e5"), metadata, OPERATOR)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        pytest.param({"timing": {"tick": 15}}, "timing.tick: 15: not a duration such as 15s", id="a bare number"),
        pytest.param({"timing": {"tick": "1m"}}, "timing: staleAfter 45s is below tick 60s", id="tick"),
        pytest.param({"timing": {"burstWindow": "2m"}}, "timing: burstWindow 120s is above stable", id="windows"),
        pytest.param({"pools": []}, "pools: empty; it takes at least one pool", id="no pool"),
        pytest.param({"pools": [{"lowWaterMark": "1Gi"}]}, "pools[0].lowWaterMark: unknown key", id="typo"),
        pytest.param({"pools": [{"name": "a"}, {"name": "a"}]}, "pools: the name a stands twice", id="twice"),
        pytest.param({"pools": [{"nodes": "("}]}, "pools[0].nodes: '(': not a regular expression", id="pattern"),
        pytest.param(
            {"pools": [{"lowWatermark": "20%"}]}, "pools[0]: highWatermark 15% is below lowWatermark 20%", id="order"
        ),
        pytest.param({"pools": [{"lowWatermark": "1Gi"}]}, "pools[0]: lowWatermark 1.0 GiB and h"),
    ],
)  # fmt: skip
def test_the_operator_s_faults(settings: dict[str, object], line: str) -> None:
    with pytest.raises(ValidationError) as fault:
        OperatorPolicy.model_validate(settings)
    lines = describe(fault.value, OperatorPolicy)
    assert lines[0].startswith(line), lines
