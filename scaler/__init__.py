"""A KEDA external scaler for GPU inference services that share cards.

source -> Snapshot -> signals -> plan -> served over gRPC | replayed | simulated

snapshot.py   what was seen          sources/    Prometheus or a recording -> Snapshot
policy.py     what is wanted         signals/    what is a service's own, and what is its neighbours'
decision.py   what is answered       planning/   signals + policy + memory -> plan; plan.py is the whole on one page
explain.py    a decision as text     serving/    the plan, to KEDA (gRPC) and to people (HTTP)
settings.py   the YAML file          replay/     recorded snapshots through the same plan
manifests.py  ScaledObject files     check/      ScaledObject files -> what in them would defeat the scaler
quantity.py   text to units          incident/   the bundled recording, and how it was reconstructed
duration.py   text to seconds        agent/      NVML on a node -> metrics that sources/ reads back
address.py    text to HOST:PORT      simulate/   a fleet in a model
                                     cli/        wires all of it
"""

__version__ = "0.1.0"
