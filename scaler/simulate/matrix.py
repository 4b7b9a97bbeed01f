"""The matrix: `python -m scaler.simulate.matrix FILE`: every scenario, policy and seed, and the bounds for ours.

It takes hours. Each run is a line of FILE as soon as it is done, and a run whose line is there is not done again unless
the code or the scenario is another one by now.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from scaler.simulate.bounds import Row, bounds, errors, table
from scaler.simulate.curves import TraceMissing
from scaler.simulate.policies import POLICIES
from scaler.simulate.runs import Job, Run, run_all
from scaler.simulate.scenario import Attribution, Scenario, bundled_names, load_scenario

SEEDS = 20
ATTRIBUTIONS = get_args(Attribution)


def code_digest() -> str:
    """Of the package's own sources: a run is only as good as the code that made it."""
    package = Path(str(files("scaler")))
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if "_pb" not in path.parts:
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def scenario_digest(scenario: Scenario) -> str:
    return hashlib.sha256(scenario.model_dump_json(by_alias=True).encode()).hexdigest()[:12]


def rises(run: Run) -> int:
    """How often a service's need went up, by the minutes of its timeline."""
    pairs = zip(run.timeline, run.timeline[1:], strict=False)
    return sum(after.needed[name] > need for before, after in pairs for name, need in before.needed.items())


def kept(path: Path, made_by: dict[str, str]) -> dict[Job, Row]:
    """The file's rows that were made by this code from these scenarios; `made_by` has the digest by scenario."""
    found: dict[Job, Row] = {}
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that a killed run was writing
        if made_by.get(row["scenario"]) == row["made_by"]:
            job = Job(row["scenario"], row["policy"], row["seed"], row["attribution"])
            found[job] = Row(job, row["scores"], row["rises"])
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scaler.simulate.matrix", description=__doc__)
    parser.add_argument("file", type=Path, help="JSON lines, a run each; what is there already is not done again")
    parser.add_argument("--scenarios", default=",".join(bundled_names()), help="names with commas; default: all")
    parser.add_argument("--policies", default=",".join(POLICIES), help="names with commas; default: all")
    parser.add_argument(
        "--attributions",
        default="",
        help=f"{', '.join(ATTRIBUTIONS)}, with commas: each scenario under each, and a table of the estimates' errors",
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"seeds 1 to N of each; default {SEEDS}")
    parser.add_argument("--traces", type=Path, help="where the public traces lie that scenarios may read")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    asked = parser.parse_args()
    for option, known in (("scenarios", bundled_names()), ("policies", POLICIES), ("attributions", ATTRIBUTIONS)):
        names = [name for name in getattr(asked, option).split(",") if name]
        for name in names:
            if name not in known:
                parser.error(f"--{option}: {name!r}; it takes {', '.join(known)}")
        setattr(asked, option, names)
    return asked


def main() -> None:
    asked = _arguments()
    scenarios, policies, attributions = asked.scenarios, asked.policies, asked.attributions
    code, made_by = code_digest(), dict[str, str]()
    for name in scenarios:
        scenario = load_scenario(name).scenario
        try:
            for service in scenario.services:
                service.load.curve(asked.traces)
        except TraceMissing as missing:
            print(f"{name} skipped: {missing}", file=sys.stderr)
            continue
        made_by[name] = f"{code} {scenario_digest(scenario)}"
    rows = kept(asked.file, made_by)
    wanted = [
        Job(name, policy, seed, attribution)
        for seed in range(1, asked.seeds + 1)
        for name in made_by
        for policy in policies
        for attribution in attributions or (None,)
    ]
    missing_jobs = [job for job in wanted if job not in rows]
    with asked.file.open("a", encoding="utf-8") as file:
        for done, (job, run) in enumerate(run_all(missing_jobs, asked.traces, asked.workers), start=1):
            rows[job] = row = Row(job, run.as_json(job.scenario)["scores"], rises(run))
            line: dict[str, Any] = {
                **job._asdict(),
                "made_by": made_by[job.scenario],
                "rises": row.rises,
                "scores": row.scores,
            }
            file.write(json.dumps(line) + "\n")
            file.flush()
            if sys.stderr.isatty():
                print(f"\r{done} of {len(missing_jobs)} runs", end="", file=sys.stderr, flush=True)
    shown = [rows[job] for job in wanted]
    print(f"code {code}", file=sys.stderr)
    if attributions:
        print(errors(shown, attributions))
        return
    print(table([found for name in made_by if (found := bounds(name, shown)) is not None], policies))


if __name__ == "__main__":
    main()
