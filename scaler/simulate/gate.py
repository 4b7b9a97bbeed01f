"""The gate: `python -m scaler.simulate.gate [--refresh]`, or `make gate`.

A fixed set of runs of ours against the scores that are kept beside this file. Less safe, or clearly worse, is an
error; --refresh takes the new scores and shows the difference, which belongs into the commit that caused it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from scaler.simulate.policies import OURS
from scaler.simulate.runs import Job, run_all

KEPT = Path(__file__).with_name("gate.json")
# A storm, a crowd, a fleet that asks at once, readings that vanish, a restart, and the incident. Under a minute on two
# cores; the full table takes `vram-scaler simulate`.
RUNS = (
    ("incident", 3),
    ("retry-storm-r2", 1),
    ("surge", 1),
    ("flash-crowd", 1),
    ("metrics-lost", 1),
    ("scaler-restart", 1),
    ("card-lost", 1),
)


class Limit(NamedTuple):
    """A score may be worse than kept by this ratio and this much; the second is for scores near 0."""

    ratio: float
    more: float


# Safety has no slack. The rest is deterministic, too, but a change for the better in one may cost a little in another.
LIMITS: Mapping[str, Limit] = {
    "unsafe_grants": Limit(0.0, 0.0),
    "below_low_s": Limit(0.05, 60.0),
    "lost_requests": Limit(0.05, 1000.0),
    "replica_hours": Limit(0.05, 0.0),
    "unmet_s": Limit(0.05, 120.0),
    "reversals": Limit(0.10, 2.0),
}

Kept = dict[str, dict[str, float]]


def measure() -> Kept:
    """Ours on all runs of the set, as "scenario seed" -> score -> value."""
    jobs = [Job(scenario, OURS, seed) for scenario, seed in RUNS]
    scores = {job: run.scores for job, run in run_all(jobs, workers=2)}
    return {
        f"{job.scenario} {job.seed}": {name: round(float(getattr(scores[job], name)), 1) for name in LIMITS}
        for job in jobs
    }


def kept() -> Kept:
    """The scores of the repository."""
    loaded: Kept = json.loads(KEPT.read_text(encoding="utf-8"))
    return loaded


def worse(now: Kept, before: Kept) -> list[str]:
    """A line for each score that is beyond its limit, and for each run that only one side has."""
    lines = [
        f"{run}: not in {'the kept scores' if run in now else 'the set'}" for run in sorted(now.keys() ^ before.keys())
    ]
    for run in sorted(now.keys() & before.keys()):
        for name, limit in LIMITS.items():
            most = before[run][name] * (1.0 + limit.ratio) + limit.more
            if now[run][name] > most:
                lines.append(f"{run}: {name} {now[run][name]:g}, kept {before[run][name]:g}, at most {most:g}")
    return lines


def difference(now: Kept, before: Kept) -> list[str]:
    """A line for each score that moved, for better or worse."""
    return [
        f"{run}: {name} {before.get(run, {}).get(name, float('nan')):g} -> {value:g}"
        for run, scores in now.items()
        for name, value in scores.items()
        if before.get(run, {}).get(name) != value
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Holds ours against the kept scores of a fixed set of simulations.")
    parser.add_argument("--refresh", action="store_true", help="keep the new scores; shows what moved")
    refresh = parser.parse_args().refresh
    now = measure()
    before = kept() if KEPT.exists() else {}
    print("\n".join(difference(now, before)) or "nothing moved")
    if refresh:
        KEPT.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        print(f"kept in {KEPT}")
        return
    faults = worse(now, before)
    print("\n".join(faults) or "no score is beyond its limit", file=sys.stderr if faults else sys.stdout)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
