"""The closed loop: a fleet as a model, policies side by side, the same plan() inside.

    scenario.py (YAML) -> world.py, which moves clients.py, fleet.py (cards, pods, arena.py) and hpa.py in steps
    servers.py and node_agent.py show what they see of it -> metric_path.py, which delays it
    world -> metric_path.py -> Snapshot -> a policy (ours.py, baselines.py, oracle.py) -> hpa -> replicas -> world
    scores.py counts what happened, by the model's truth; runs.py does policies x seeds; tables.py shows them

A replay cannot show what a decision would have changed; this can. Deterministic: same scenario, policy and seed, same
scores. `gate.py` holds a fixed set of them against the numbers kept beside it;
`matrix.py` runs all of them, and bounds.py says what ours is held to.
"""
