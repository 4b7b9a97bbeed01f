"""The table of test_check.py: a sound ScaledObject, what is done to it, and the findings that this gives."""

from __future__ import annotations

from typing import NamedTuple

E5 = """\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: e5
  namespace: kserve-models
spec:
  scaleTargetRef:
    name: e5-predictor
  pollingInterval: 15
  cooldownPeriod: 300
  minReplicaCount: 1
  maxReplicaCount: 11
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          stabilizationWindowSeconds: 0
          tolerance: "0"
          selectPolicy: Max
          policies:
            - type: Pods
              value: 2
              periodSeconds: 60
        scaleDown:
          stabilizationWindowSeconds: 300
          tolerance: "0"
          selectPolicy: Max
          policies:
            - type: Percent
              value: 100
              periodSeconds: 15
  triggers:
    - type: external
      metricType: AverageValue
      metadata:
        scalerAddress: vram-scaler.keda.svc.cluster.local:6000
        deployment: e5-predictor
        minReplicas: "1"
"""
BEHAVIOR = E5[E5.index("  advanced:") : E5.index("  triggers:")]
NO_BEHAVIOR = "  advanced: {horizontalPodAutoscalerConfig: {behavior: }}\n"
UP_POLICIES = BEHAVIOR[BEHAVIOR.index("          policies:") : BEHAVIOR.index("        scaleDown:")]
TOLERANCE = '          tolerance: "0"\n'
METADATA = E5[E5.index("      metadata:\n        scaler") :]
TO_ZERO = [("minReplicaCount: 1", "minReplicaCount: 0"), ('minReplicas: "1"', 'minReplicas: "0"')]
PROMETHEUS = """\
    - type: prometheus
      name: load
      metadata:
        serverAddress: http://prometheus:9090
        query: sum(load)
        threshold: "1"
"""
MODIFIERS = """\
    scalingModifiers:
      formula: min(vram, load)
      target: "1"
"""
NAMED = [("- type: external", "- type: external\n      name: vram"), ("  triggers:", f"{MODIFIERS}  triggers:")]


class Row(NamedTuple):
    """E5 with each text replaced, and the ids that it gives. `at` begins the line of the first finding, where it is
    not the first text put in."""

    label: str
    edits: list[tuple[str, str]]
    ids: list[str]
    at: str | None = None


def edited(edits: list[tuple[str, str]]) -> str:
    text = E5
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def forced(value: str) -> tuple[str, str]:
    """The annotation that forces the start."""
    return ("  name: e5", f'  annotations: {{autoscaling.keda.sh/force-activation: "{value}"}}\n  name: e5')


def fallback(replicas: int, behavior: str = "static") -> tuple[str, str]:
    """A fallback before the triggers."""
    text = f"  fallback: {{failureThreshold: 3, replicas: {replicas}, behavior: {behavior}}}"
    return ("  triggers:", f"{text}\n  triggers:")


def add(text: str) -> tuple[str, str]:
    """More at the end, which is the trigger's metadata."""
    return (METADATA, METADATA + text)


ROWS = [
    Row("nothing is wrong", [], []),
    # The ten traps of field experience: each gives exactly its finding.
    Row("no behavior", [(BEHAVIOR, "")], ["behavior-missing"], at="spec:"),
    Row("behavior null", [(BEHAVIOR, NO_BEHAVIOR)], ["behavior-missing"]),
    Row("behavior empty", [(BEHAVIOR, NO_BEHAVIOR.replace(" }}", " {}}}"))], ["behavior-partial"]),
    Row(
        "behavior without policies up",
        [(UP_POLICIES, "")],
        ["behavior-partial"],
        at="      behavior:",
    ),
    Row("no tolerance", [(TOLERANCE, "")] * 2, ["tolerance"], at="        scaleUp:"),
    Row("no tolerance up", [(TOLERANCE, "")], ["tolerance"], at="        scaleUp:"),
    Row("tolerance 5 %", [('tolerance: "0"', 'tolerance: "0.05"')], ["tolerance"]),
    Row(
        "no policies in the list",
        [(UP_POLICIES, "          policies: []\n")],
        ["behavior-partial"],
        at="      behavior:",
    ),
    Row("tolerance null", [('tolerance: "0"', "tolerance: null")], ["tolerance"], at="        scaleUp:"),
    Row("tolerance 0m", [('tolerance: "0"', "tolerance: 0m")], []),
    Row(
        "tolerance in a policy, as KEDA's own example has it",
        [(TOLERANCE, ""), ("              value: 2", '              value: 2\n              tolerance: "0"')],
        ["unknown-field"],
        at="              tolerance:",
    ),
    Row("fallback to zero", [fallback(0)], ["fallback"]),
    Row("fallback to some", [fallback(2)], ["fallback"]),
    Row(
        "fallback to what runs",
        [fallback(2, "currentReplicas")],
        ["fallback-holds"],
    ),
    Row(
        "fallback to what runs, from zero",
        [
            fallback(2, "currentReplicas"),
            *TO_ZERO,
        ],
        ["fallback"],
    ),
    Row("two triggers", [add(PROMETHEUS)], ["several-triggers"], at="    - type: prometheus"),
    Row("two triggers in a min()", [add(PROMETHEUS), *NAMED], []),
    Row(
        "cpu beside the formula",
        [add("    - type: cpu\n      metadata: {value: '80'}\n"), *NAMED],
        ["several-triggers"],
        at="    - type: cpu",
    ),
    Row("a max() of two", [add(PROMETHEUS), *NAMED, ("min(vram", "max(vram")], ["formula"], at="      formula:"),
    Row(
        "min() and more",
        [add(PROMETHEUS), *NAMED, ("load)\n", "load) + max(load, 1)\n")],
        ["formula"],
        at="      formula:",
    ),
    Row(
        "the formula leaves us out",
        [add(PROMETHEUS), *NAMED, ("(vram, ", "(load, ")],
        ["target-contract"],
        at="      formula:",
    ),
    Row(
        "the formula's target",
        [add(PROMETHEUS), *NAMED, ('target: "1"', 'target: "4"')],
        ["target-contract"],
        at="      target:",
    ),
    Row("cached metrics", [("metricType:", "useCachedMetrics: true\n      metricType:")], ["cached-metrics"]),
    Row("cached metrics off", [("metricType:", "useCachedMetrics: false\n      metricType:")], []),
    Row("metricType Value", [("AverageValue", "Value")], ["metric-type"], at="      metricType:"),
    Row("metricType Utilization", [("AverageValue", "Utilization")], ["metric-type"], at="      metricType:"),
    Row("no metricType", [("      metricType: AverageValue\n", "")], []),
    Row("a target in the metadata", [add('        targetValue: "4"\n')], ["target-word"], at="        targetValue"),
    Row("a name of 55", [("name: e5", f"name: {'e' * 55}")], ["names"]),
    Row("a name of 54", [("name: e5", f"name: {'e' * 54}")], []),
    Row("an HPA's name of 64", [("      behavior:", f"      name: {'h' * 64}\n      behavior:")], ["names"]),
    Row(
        "a long name, a short HPA's",
        [("name: e5", f"name: {'e' * 63}"), ("      behavior:", "      name: h\n      behavior:")],
        [],
    ),
    Row("a name with _", [("name: e5", "name: e_5")], ["names"]),
    Row(
        "a name twice",
        [add(PROMETHEUS), *NAMED, ("name: load", "name: vram"), ("vram, load", "vram, 3")],
        ["names"],
        at="      name: vram\n      metadata",
    ),
    Row(
        "cooldown below the pool's startupTime, 3m",
        [*TO_ZERO, ("cooldownPeriod: 300", "cooldownPeriod: 179")],
        ["cooldown"],
        at="  cooldownPeriod:",
    ),
    Row("cooldown of startupTime", [*TO_ZERO, ("cooldownPeriod: 300", "cooldownPeriod: 180")], []),
    Row("cooldown that is never used", [("cooldownPeriod: 300", "cooldownPeriod: 1")], []),
    Row("KEDA's floor above ours", [('        minReplicas: "1"\n', "")], ["floor"], at="  minReplicaCount: 1"),
    Row("KEDA's floor below ours", [('minReplicas: "1"', 'minReplicas: "2"')], ["floor"]),
    Row("our ceiling above KEDA's", [add('        maxReplicas: "12"\n')], ["ceiling"], at="        maxReplicas"),
    Row("our ceiling below KEDA's", [add('        maxReplicas: "5"\n')], []),
    Row(
        "more than the pool's",
        [("Count: 11", "Count: 200"), add('        maxReplicas: "101"\n')],
        ["looser-than-pool"],
        at="        maxReplicas",
    ),
    Row(
        "a watermark below the pool's",
        [add('        lowWatermark: "9%"\n')],
        ["looser-than-pool"],
        at="        lowWatermark",
    ),
    Row("a watermark in bytes cannot be told", [add("        lowWatermark: 1Gi\n")], []),
    Row("a key mistyped", [add('        targetConcurency: "4"\n')], ["metadata"], at="        targetConcurency"),
    Row(
        "a value out of range", [add('        targetConcurrency: "0"\n')], ["metadata"], at="        targetConcurrency"
    ),
    Row("an unknown pool", [add("        pool: t4\n")], ["metadata"], at="        pool"),
    Row("our floor above our ceiling", [add('        maxReplicas: "0"\n')], ["metadata"], at="        maxReplicas"),
    Row(
        "two keys mistyped", [add('        polo: x\n        prio: "2"\n')], ["metadata", "metadata"], at="        polo"
    ),
    Row("a number in the metadata", [('minReplicas: "1"', "minReplicas: 1")], ["wrong-value"]),
    Row("a field mistyped", [("pollingInterval", "pollingIntervall")], ["unknown-field"]),
    Row("a field in another place", [("  pollingInterval", "  behavior: {}\n  pollingInterval")], ["unknown-field"]),
    Row("a number as text", [("minReplicaCount: 1", 'minReplicaCount: "1"')], ["wrong-value"]),
    Row("a period too long", [("periodSeconds: 60", "periodSeconds: 1801")], ["wrong-value"]),
    Row("KEDA 1's group", [("keda.sh", "keda.k8s.io")], ["wrong-value"]),
    Row(
        "floor above ceiling",
        [
            ("maxReplicaCount: 11", "maxReplicaCount: 1"),
            ("minReplicaCount: 1", "minReplicaCount: 2"),
            ('minReplicas: "1"', 'minReplicas: "2"'),
        ],
        ["replica-bounds"],
        at="  minReplicaCount",
    ),
    Row("idle not below the floor", [("  minReplica", "  idleReplicaCount: 1\n  minReplica")], ["replica-bounds"]),
    Row(
        "a StatefulSet",
        [("name: e5-predictor", "name: e5-predictor\n    kind: StatefulSet")],
        ["scale-target"],
        at="    kind: StatefulSet",
    ),
    Row("another Deployment", [("deployment: e5-predictor", "deployment: e5")], ["scale-target"]),
    Row(
        "no Deployment named",
        [("        deployment: e5-predictor\n", "")],
        ["scale-target"],
        at="      metadata:\n        scaler",
    ),
    Row("an address with a scheme", [("vram-scaler.", "http://vram-scaler.")], ["scaler-address"]),
    Row("an address without a port", [(":6000", "")], ["scaler-address"], at="        scalerAddress"),
    Row("KEDA's own address", [("vram-scaler.keda.svc.cluster.local", "localhost")], ["scaler-address"]),
    Row(
        "no address",
        [("        scalerAddress: vram-scaler.keda.svc.cluster.local:6000\n", "")],
        ["scaler-address"],
        at="      metadata:\n        deployment",
    ),
    Row("an address for gRPC's resolver", [("vram-scaler.keda", "dns:///vram-scaler.keda")], []),
    Row("push without a zero", [("type: external", "type: external-push")], ["push-for-nothing"]),
    Row("push from zero", [("type: external", "type: external-push"), *TO_ZERO], []),
    Row("not external", [("type: external", "type: externl")], ["not-ours"]),
    Row("forced", [forced("true")], ["forced"]),
    Row("not forced", [forced("false")], []),
]
