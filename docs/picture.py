"""Draws docs/incident.svg, the README's picture, from the bundled recording: `make picture`.

Left of the fix stands what happened; the blue line is what this scaler would have granted from the same readings.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import yaml

from scaler.planning.memory import Memory
from scaler.planning.plan import plan
from scaler.policy import FleetPolicy, OperatorPolicy, ServiceKey, service_policy
from scaler.quantity import GIB
from scaler.snapshot import WorkloadKey
from scaler.sources.recording import RecordingSource

INCIDENT = Path(__file__).parents[1] / "scaler" / "incident"
GREY, RED, BLUE, GREEN = "#6e7781", "#cf222e", "#0969da", "#1a7f37"


def main() -> None:
    operator = OperatorPolicy()
    manifests = list(yaml.safe_load_all((INCIDENT / "scaledobjects.yaml").read_text()))
    keys = [ServiceKey(each["metadata"]["namespace"], each["metadata"]["name"]) for each in manifests]
    services = {
        key: service_policy(key, each["spec"]["triggers"][0]["metadata"], operator)
        for key, each in zip(keys, manifests, strict=True)
    }
    fleet, memory = FleetPolicy(operator, services), Memory()
    encoder = ServiceKey("kserve-models", "e5")
    deployment = WorkloadKey(encoder.namespace, services[encoder].deployment)
    times: list[datetime] = []
    real: list[float] = []
    granted: list[float] = []
    free_gib: list[float] = []
    failed_per_min: list[float] = []
    vetoes: list[bool] = []
    recording = RecordingSource(INCIDENT / "incident.jsonl.gz")
    header = recording.header
    for snapshot in recording.snapshots(header.start_s, header.end_s, header.step_s):
        result, memory = plan(snapshot, fleet, memory)
        if snapshot.taken_at_s % 60:
            continue
        times.append(datetime.fromtimestamp(snapshot.taken_at_s, UTC))
        real.append(snapshot.workloads[deployment].spec_replicas or 0)
        granted.append(result.decisions[encoder].granted or 0)
        free_gib.append((result.pools["default"].free_bytes or 0.0) / GIB)
        failed_per_min.append(60 * sum(each.failure_per_s or 0.0 for each in snapshot.workloads.values()))
        vetoes.append(result.pools["default"].vetoed)

    mpl.rcParams.update(
        {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "incident"}
    )
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(10, 6.2), sharex=True, height_ratios=[3, 2, 1.4])
    top.step(times, real, where="post", color=RED, lw=1.8, label="replicas of the text encoder, as it was")
    top.step(times, granted, where="post", color=BLUE, lw=1.8, label="granted by vram-scaler from the same readings")
    top.set_ylabel("replicas")
    top.set_ylim(0, 12.5)
    middle.plot(times, free_gib, color=GREY, lw=1.4, label="free VRAM of the tightest card")
    middle.axhline(
        operator.pools[0].low_watermark.of(14.3 * GIB) / GIB, color=GREEN, ls="--", lw=1.2, label="low watermark"
    )
    middle.set_ylabel("GiB")
    middle.set_ylim(0, 11.5)
    bottom.fill_between(times, failed_per_min, color=RED, alpha=0.55, lw=0, label="failed requests of the fleet")
    bottom.set_ylabel("per minute")
    bottom.set_ylim(0, 2600)
    for axes in (top, middle, bottom):
        axes.fill_between(
            times, 0, 1, where=vetoes, transform=axes.get_xaxis_transform(), color=GREEN, alpha=0.10, lw=0,
            label="veto: no scale-up in the pool" if axes is top else None,
        )  # fmt: skip
        axes.legend(loc="upper right", frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)
    bottom.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M", tz=UTC))
    bottom.set_xlabel("UTC")
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("incident.svg"), metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
