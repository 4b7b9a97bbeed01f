"""Reconstructs the incident of 18 June as a recording: `python -m scaler.incident.reconstruct [-o FILE]`.

The record holds figures and no raw series. What it says is reproduced; what it leaves open is filled in.

| what | from the record | filled in |
| --- | --- | --- |
| time | 17 June 23:45 to 18 June 09:00 UTC | the year, 2025; 15 s between snapshots; windows of 60 s and 30 s |
| cards | T4, 15.4 GB, 2 pods a card, time-slicing, about 30 % utilisation throughout | 32 cards on 8 nodes: 24 have \
48 slots, fewer than the record's 55 replicas; 284 MiB reserved; which pod sits where |
| replicas | e5 5 -> 2, 3 at 00:03, 7 at 00:04, 1 -> 11 at 03:15-04:00; bundles 1 -> 5, 1 -> 5, +2, +1; fleet 49 -> \
38 -> 55 | the minutes of the other steps; image-small, image-large and the two rest-* services; load times of 2 to 4 \
min |
| pool VRAM | 97 -> 201 GiB in 14 min, 144 -> 80 GiB by the fix; 2.2 GiB per e5 pod, 6.3 GiB per bundle pod | the \
values between; footprints of the other services; that arenas take up the difference |
| tightest card | 300-560 MiB before, 5.5 GB -> 2 MiB at 00:08-00:10, 318 MiB at 01:03-01:09 and from 01:30, 2 MiB \
from 03:15-04:00 on, 6.5-7.5 GiB after the fix; 4-6 cards full, 1 in the reprieve | that one big image encoder's pod \
holds it alone, so that a slot is free on it; 2 MiB until the fix at 05:20 |
| e5's traffic | 5-6.7 k requests a minute, flat; +57 % after the fix | the minutes; +57 % between 05:40 and 06:10 |
| e5's in-flight | u_conc 0.13 at 00:00 and 00:03, 0.16 at 00:04 (of the 3 replicas before the step), never above \
0.29, with a target of 16 and read as requests in execution; queue up to 31 | 52 to 79 ms a request; which requests \
queue |
| e5's failures | 5 -> 1,045/min at 00:42, 700-1,370/min, 0 at 01:03-01:09, 700-720/min to 01:30, 2,233/min at worst \
(about 40 % of the requests), 0 after the fix; all BACKEND; 138,147 of 2,779,226 requests | the minutes of \
03:15-05:20; 2 retries a client; that both totals count e5's attempts, from 23:45 to 06:45 |
| fleet traffic | 44-50 k requests a minute, flat | its shares; +57 % after the fix for all but image-small |
| image-small | nothing | all: real growth of its own at 02:00-02:45 and at 06:00 |

Not reproduced: u_pend and u_gpu (their thresholds are not in the record), u_conc of 0.03 at 5 replicas (that needs 2.4
requests in flight where 0.13 at 2 replicas needs 4.2), 17-21 % failing in every minute (at 700/min it is 12 %).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from scaler.incident import RECORDING
from scaler.incident.cards import Pool
from scaler.incident.services import SERVICES
from scaler.incident.signals import ServiceSignals
from scaler.incident.timeline import END_S, START_S, STEP_S
from scaler.snapshot import Snapshot
from scaler.sources.recording_format import RecordingHeader
from scaler.sources.recording_writer import write_recording

SEED = 20250618
HEADER = RecordingHeader(
    start_s=START_S,
    end_s=END_S,
    step_s=STEP_S,
    about={
        "what": "the incident of 18 June 2025 in a pool of shared T4 cards, rebuilt from the figures of its record",
        "from the record": "replicas of e5 and the bundles; VRAM of the pool and of its tightest card; request rate, "
        "in-flight, failures and queue spikes of e5; size and slots of the cards; traffic of the fleet",
        "filled in": "the year; 32 cards and who sits where; image-small, image-large and rest-*; service times, ages "
        "and noise; the minutes between the figures; two retries a client",
        "made by": "python -m scaler.incident.reconstruct, which lists both in full at its top",
    },
)


def reconstruct() -> Iterator[Snapshot]:
    """All snapshots in order, the same ones each time."""
    pool = Pool(SEED)
    signals = {service.name: ServiceSignals(service, SEED) for service in SERVICES}
    for number in range(int((END_S - START_S) / STEP_S) + 1):
        at_s = START_S + number * STEP_S
        replicas = pool.move(at_s)
        yield Snapshot(
            taken_at_s=at_s,
            workloads={
                service.workload: signals[service.name].reading(at_s, *replicas[service.name]) for service in SERVICES
            },
            cards=pool.readings(at_s),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the bundled recording of the incident.")
    parser.add_argument("-o", dest="path", metavar="FILE", type=Path, default=RECORDING, help="default: %(default)s")
    path = parser.parse_args().path
    count = write_recording(path, HEADER, reconstruct())
    print(f"{path}: {count} snapshots, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
