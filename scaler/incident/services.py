"""The services of the pool: what traffic came, how long requests took, and how many replicas the old autoscaler set."""

from __future__ import annotations

from dataclasses import dataclass, field

from scaler.incident.timeline import Curve, Steps
from scaler.snapshot import WorkloadKey

NAMESPACE = "kserve-models"


@dataclass(frozen=True)
class Service:
    """One Deployment.

    Attributes:
        fresh_per_min: requests that clients wanted answered, retries not counted.
        service_s: time in execution of a request.
        gpu_s: GPU time of a request, batching included.
        replicas: spec.replicas, as the old autoscaler set it.
        footprint_mib: VRAM of one replica before the arena grows.
        load_s: from the pod's start to ready.
        failed_per_min: attempts that failed, all of them for lack of VRAM.
        queued: mean requests that wait for their turn.
        retry_queue: requests that wait behind failing ones, on the pods that fail.
    """

    name: str
    fresh_per_min: Curve
    service_s: Curve
    gpu_s: float
    replicas: Steps
    footprint_mib: int
    load_s: float = 150.0
    failed_per_min: Curve = field(default_factory=lambda: Curve("23:45 0"))
    queued: Curve = field(default_factory=lambda: Curve("23:45 0.03"))
    retry_queue: Curve = field(default_factory=lambda: Curve("23:45 0"))

    @property
    def workload(self) -> WorkloadKey:
        return WorkloadKey(NAMESPACE, f"{self.name}-predictor")


def _traffic(per_min: float) -> Curve:
    """Flat, and 57 % more after the fix."""
    return Curve(f"05:40 {per_min}", f"06:10 {1.57 * per_min}")


E5 = Service(
    name="e5",
    # 01:38-03:15 on one replica: 5,200/min keep 4.5 in flight, which is u_conc 0.28; the record's highest is 0.29.
    fresh_per_min=Curve(
        *("00:01 5020", "00:02 5700", "01:30 5700", "01:36 5200", "03:16 5200", "03:24 5800", "04:00 6000"),
        *("05:00 6500", "05:40 6600", "06:10 10362", "07:20 10150", "08:10 10500", "09:00 10300"),
    ),
    # The two plateaus at 00:02:15 and 00:03:15 are the record's u_conc of 0.13 and 0.16 at 3 replicas.
    service_s=Curve(
        *("00:02 0.0515", "00:02:15 0.0661", "00:03 0.0661", "00:03:15 0.0787", "00:04 0.0787", "00:04:45 0.062"),
        *("00:08 0.058", "01:30 0.058", "01:32 0.0515", "03:17 0.0515", "03:22 0.056", "04:00 0.0545"),
    ),
    gpu_s=0.005,
    replicas=Steps(
        *("23:45 5", "23:51 4", "23:55 3", "23:59 2", "00:03 3", "00:04 7", "01:04 6", "01:10 7", "01:30 2", "01:38 1"),
        *("03:16 2", "03:19 3", "03:24 5", "03:32 7", "03:44 9", "03:56 11", "04:12 9", "04:25 7", "04:40 5"),
        *("05:00 4", "05:22 3", "05:27 2", "06:06 3", "06:40 4", "07:15 3", "08:15 4", "08:45 3"),
    ),
    footprint_mib=2250,
    load_s=120.0,
    failed_per_min=Curve(
        *("00:42 0", "00:42:15 5", "00:43 5", "00:43:15 1045", "00:44 1045", "00:47 1340", "00:50 880", "00:53 720"),
        *("00:56 1180", "00:59 1320", "01:01 1010", "01:02:45 780", "01:03 0", "01:09:45 0", "01:10 704", "01:15 716"),
        *("01:20 703", "01:25 717", "01:29:45 710", "01:30 0", "03:15 0", "03:16 420", "03:21 1250", "03:25 880"),
        *("03:29 1600", "03:33 1150", "03:35 2233", "03:36 2233", "03:40 1380", "03:45 1850", "03:50 1200"),
        *("03:54 1650", "04:00 1090", "04:15 710", "04:31 540", "04:32 0", "04:46 0", "04:47 530", "05:05 570"),
        *("05:19:45 450", "05:20 0"),
    ),
    # A single waiting request at 00:02:30 and at 00:03:30; none while the traffic grows, so that 8 is crossed once.
    queued=Curve(
        *("00:02 0.1", "00:02:15 0", "00:02:30 1", "00:02:45 0", "00:03:15 0", "00:03:30 1", "00:03:45 0", "00:05 0.2"),
        *("00:40 0.3", "00:43 1.2", "01:30 1.2", "01:31 0.1", "03:16 0.1", "03:20 0.9", "05:21 0.3", "05:40 0"),
        *("06:05 0", "06:10 0.3"),
    ),
    retry_queue=Curve(
        *("03:19 0", "03:20 11", "03:21:30 11", "03:22:30 0", "03:27:30 0", "03:28:30 21", "03:30 21", "03:31 2"),
        *("03:34 2", "03:35 30", "03:36:15 30", "03:37:30 3", "03:43:30 3", "03:44:30 25", "03:46 25", "03:47 1"),
        *("03:53 1", "03:54 17", "03:55:30 17", "03:57 0"),
    ),
)

SERVICES = (
    E5,
    Service(
        name="bundle-a",
        fresh_per_min=_traffic(5400),
        service_s=Curve("23:45 0.023"),
        gpu_s=0.0115,
        replicas=Steps(
            *(
                "23:45 3",
                "23:53 2",
                "23:57 1",
                "00:05 2",
                "00:06 3",
                "00:08 4",
                "00:09 5",
                "01:03 4",
                "01:10 5",
                "01:30 2",
            ),
            *("01:40 1", "03:18 2", "03:26 3", "03:38 4", "03:54 5", "04:10 4", "04:28 3", "04:48 2", "05:29 1"),
            *("06:20 2", "07:40 1", "08:20 2"),
        ),
        footprint_mib=6450,
        load_s=240.0,
    ),
    Service(
        name="bundle-b",
        fresh_per_min=_traffic(5000),
        service_s=Curve("23:45 0.025"),
        gpu_s=0.0125,
        replicas=Steps(
            *(
                "23:45 3",
                "23:52 2",
                "23:56 1",
                "00:05 3",
                "00:07 4",
                "00:08 5",
                "01:03 4",
                "01:10 5",
                "01:30 2",
                "01:42 1",
            ),
            *("03:20 2", "03:30 3", "03:42 4", "04:14 3", "04:38 2", "05:28 1", "06:45 2", "07:50 1"),
        ),
        footprint_mib=6450,
        load_s=240.0,
    ),
    Service(
        name="bundle-c",
        fresh_per_min=_traffic(4000),
        service_s=Curve("23:45 0.03"),
        gpu_s=0.014,
        replicas=Steps(
            "23:45 3", "23:58 2", "00:06 3", "00:08 4", "01:30 2", "03:30 3", "03:48 4", "04:20 3", "05:00 2"
        ),
        footprint_mib=6450,
        load_s=240.0,
    ),
    Service(
        name="bundle-d",
        fresh_per_min=_traffic(3000),
        service_s=Curve("23:45 0.03"),
        gpu_s=0.014,
        replicas=Steps("23:45 2", "00:07 3", "01:30 2", "03:40 3", "04:30 2", "07:00 3", "08:00 2"),
        footprint_mib=6450,
        load_s=240.0,
    ),
    Service(
        # Real growth of its own, twice, and no failures: under the veto at 02:00, with room at 06:00.
        name="image-small",
        fresh_per_min=Curve(
            *(
                "02:00 1800",
                "02:45 4200",
                "02:50 4200",
                "03:00 1800",
                "06:00 1800",
                "06:20 4200",
                "07:30 4200",
                "08:00 1800",
            ),
        ),
        service_s=Curve("23:45 0.1"),
        gpu_s=0.012,
        replicas=Steps("23:45 1", "06:30 2", "08:10 1"),
        footprint_mib=2050,
    ),
    Service(
        # One of its two pods sits alone on the card that fills up: its arena takes all that is left there.
        name="image-large",
        fresh_per_min=_traffic(1500),
        service_s=Curve("23:45 0.12"),
        gpu_s=0.02,
        replicas=Steps("23:45 2"),
        footprint_mib=7000,
        load_s=240.0,
    ),
    Service(
        name="rest-vision",
        fresh_per_min=_traffic(9800),
        service_s=Curve("23:45 0.05"),
        gpu_s=0.0135,
        replicas=Steps("23:45 14", "23:54 13", "23:59 12", "00:09 13", "01:32 12", "03:45 13", "05:25 12", "06:30 14"),
        footprint_mib=2050,
    ),
    Service(
        name="rest-text",
        fresh_per_min=_traffic(10200),
        service_s=Curve("23:45 0.045"),
        gpu_s=0.009,
        replicas=Steps("23:45 16", "23:56 15", "06:25 17"),
        footprint_mib=1650,
    ),
)
