"""All rules in one table; docs/check.md has a section for each."""

from __future__ import annotations

from scaler.check import hpa_rules, object_rules, trigger_rules
from scaler.check.finding import Level, Rule

# What is wrong with one object alone, so that it is never in the cluster and nothing would be decided for it.
REFUSED = ("wrong-value", "names", "replica-bounds")
_E, _W = Level.ERROR, Level.WARNING

RULES = (
    Rule(
        "unknown-field",
        _E,
        "KEDA's CRD has no such field. The API server drops it in silence, or refuses the manifest where kubectl asks "
        "for strict validation: what was meant does not happen.",
        object_rules.unknown_field,
    ),
    Rule(
        "wrong-value",
        _E,
        "The API server refuses the ScaledObject, or the HPA that KEDA makes of it. Metadata is text: 4 has to be "
        'written "4".',
        object_rules.wrong_value,
    ),
    Rule(
        "names",
        _E,
        "KEDA writes the names of the ScaledObject and of its HPA (keda-hpa-NAME) into labels, which hold 63 "
        "characters, so 54 are left for NAME. Its webhook refuses longer ones, and two triggers of one name.",
        object_rules.names,
    ),
    Rule("replica-bounds", _E, "KEDA refuses the ScaledObject.", object_rules.replica_bounds),
    Rule(
        "same-name",
        _W,
        "In one cluster the one that is applied last replaces the other without a word. Files for several clusters "
        "are better checked one cluster at a time.",
        object_rules.same_name,
    ),
    Rule(
        "same-target",
        _E,
        "Two HPAs would write to one workload; KEDA's webhook refuses the second ScaledObject.",
        object_rules.same_target,
    ),
    Rule(
        "behavior-missing",
        _E,
        "Without behavior the HPA acts on the highest answer of the last 5 minutes, upwards too: after one answer of "
        "40 it takes 4 replicas to 8, 16, 32 and 40, while the scaler answers 4.",
        hpa_rules.behavior_missing,
    ),
    Rule(
        "behavior-partial",
        _W,
        "The API server fills in what is left out; KEDA then finds a difference at every reconcile and updates the "
        "HPA. What it fills in for scaleUp is 100 % or 4 pods in 15 s.",
        hpa_rules.behavior_partial,
    ),
    Rule(
        "tolerance",
        _W,
        "Within the tolerance, 10 % where the field is absent, the HPA drops the step and takes the number of pods "
        "that exist, a rolling update's surge pods included, which is a scale-up under a veto. The field needs "
        "Kubernetes 1.34, or 1.33 with the feature gate HPAConfigurableTolerance; older API servers drop it unsaid.",
        hpa_rules.tolerance,
    ),
    Rule(
        "fallback",
        _E,
        "Without fresh readings the scaler gives no answer, and the HPA holds what it has. KEDA counts that as a "
        "failure. Beyond failureThreshold (3 are over in some 40 s: polls and the HPA's reads both count) a fallback "
        "puts a number in its place and starts services from zero; with replicas 0, KEDA takes the last replica.",
        hpa_rules.fallback,
    ),
    Rule(
        "fallback-holds",
        _W,
        "currentReplicas with minReplicaCount 1 or more is the one fallback that freezes. Without any, the HPA does "
        "not even record a recommendation, and KEDA says why nothing moves.",
        hpa_rules.fallback_holds,
    ),
    Rule(
        "several-triggers",
        _E,
        "The HPA takes the highest number of all metrics. A veto in one is passed by with another; and while the "
        "scaler answers unknown, the other ones may still scale up.",
        hpa_rules.several_triggers,
    ),
    Rule(
        "formula",
        _W,
        "With scalingModifiers the HPA sees the formula's result alone. Only min() with this trigger in it is never "
        "above what was granted.",
        hpa_rules.formula,
    ),
    Rule(
        "target-contract",
        _E,
        "With scalingModifiers the HPA divides the formula's result by scalingModifiers.target. The scaler answers "
        "replicas, which are right for a target of 1 only, and which have to be in the formula.",
        hpa_rules.modifiers_target,
    ),
    Rule(
        "target-word",
        _E,
        "The scaler refuses the trigger: it answers the number of replicas itself, for a target of 1. What one "
        "replica should carry is set in the scaler's own terms.",
        trigger_rules.target_words,
    ),
    Rule(
        "cached-metrics",
        _E,
        "The HPA reads what KEDA's last poll stored. That is older than the veto, and stays where polls fail.",
        hpa_rules.cached_metrics,
    ),
    Rule(
        "metric-type",
        _E,
        "The answer is the number of replicas for a target of 1. Only under AverageValue, the default, does the HPA "
        "take it as that.",
        hpa_rules.metric_type,
    ),
    Rule(
        "forced",
        _E,
        "KEDA takes the service from 0 to minReplicaCount, at least 1, though IsActive says that it does not fit.",
        hpa_rules.forced,
    ),
    Rule(
        "not-ours",
        _W,
        "This scaler is never asked about it, so nothing vetoes it; the VRAM that it takes is seen.",
        trigger_rules.not_ours,
    ),
    Rule(
        "metadata",
        _E,
        "The scaler refuses the trigger with INVALID_ARGUMENT, and KEDA scales nothing until it is mended.",
        trigger_rules.metadata,
    ),
    Rule(
        "looser-than-pool",
        _W,
        "Metadata may tighten the operator's policy and never loosen it; the tighter value counts.",
        trigger_rules.looser_than_pool,
    ),
    Rule(
        "floor",
        _W,
        "KEDA does not send minReplicaCount. Told less than KEDA lets run, the scaler cannot know what runs, and "
        "says unknown until it has read the replicas anew. Told more, it counts on replicas that KEDA does not start.",
        trigger_rules.floor,
    ),
    Rule(
        "ceiling",
        _W,
        "The HPA cuts the answer at maxReplicaCount. The scaler goes on granting VRAM that nobody takes.",
        trigger_rules.ceiling,
    ),
    Rule(
        "scale-target",
        _E,
        "KEDA does not send scaleTargetRef. The scaler reads the Deployment of metadata.deployment, by default of "
        "the ScaledObject's name, in the same namespace; a freeze at another one's replicas is no freeze.",
        trigger_rules.scale_target,
    ),
    Rule(
        "scaler-address",
        _E,
        "KEDA dials it as it stands, over gRPC; where it does not connect, nothing scales.",
        trigger_rules.scaler_address,
    ),
    Rule(
        "push-for-nothing",
        _W,
        "external-push adds two open streams to all the calls of external; all it brings is a faster start from "
        "zero, and here KEDA never goes to zero.",
        trigger_rules.push_for_nothing,
    ),
    Rule(
        "cooldown",
        _W,
        "KEDA takes the last replica away once there was no demand for so long. A replica that is away for less "
        "time than it takes to come back saves nothing, and its VRAM may be gone by then.",
        trigger_rules.cooldown,
    ),
)
