"""The pool's cards: which pod sits where, and what that leaves free. The tightest card and the sum are prescribed."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from dataclasses import dataclass

from scaler.incident.services import SERVICES, Service
from scaler.incident.timeline import START_S, Curve, Steps
from scaler.quantity import MIB
from scaler.snapshot import CardKey, CardReading

CARDS = 32
SLOTS = 2
TOTAL_MIB = 14_687  # 15.4 GB
RESERVED_MIB = 284  # makes the record's pairs meet: 15.4 GB - 9.6 GB used - 5.5 GB free, and - 15.1 GB - 2 MiB
USABLE_MIB = TOTAL_MIB - RESERVED_MIB
_TIGHTEST = 0  # the card that leads: one big image encoder's pod, and from 23:53 on a free slot beside it
_FILLING_S = 60.0
_LEAVING_S = 30.0

# GiB in use, all cards together.
POOL_USED_GIB = Curve(
    *(
        "23:50 140",
        "00:00 97",
        "00:01 97",
        "00:15 201",
        "01:03 201",
        "01:04 186",
        "01:09 186",
        "01:12 200",
        "01:30 200",
    ),
    *(
        "01:33 118",
        "02:30 126",
        "03:15 138",
        "03:56 192",
        "04:10 190",
        "05:00 144",
        "05:20 144",
        "05:28 80",
        "05:50 80",
    ),
    *("06:30 88", "09:00 90"),
)
# MiB free on the card that leads.
_TIGHTEST_FREE_MIB = Curve(
    *(
        "23:46 430",
        "23:48 310",
        "23:50 540",
        "23:53 430",
        "23:54 5245",
        "00:08 5245",
        "00:10 2",
        "01:03 2",
        "01:03:15 318",
    ),
    *("01:09 318", "01:10 2", "01:30 2", "01:30:15 318", "03:18 318", "03:20 2", "05:20 2", "05:24 7180", "05:50 7180"),
    *("06:15 6760", "06:40 7010", "07:05 6720", "07:30 7120", "08:00 6900", "08:30 7260", "09:00 6810"),
)
# Cards with less than 512 MiB free, the leading one included; a card takes a minute to fill.
_FULL_CARDS = Steps(
    *("23:45 1", "23:54 0", "00:08:30 3", "00:09 4", "00:12 5", "00:30 6", "00:50 5", "01:03 1", "01:09 4", "01:15 5"),
    *("01:30 1", "03:19 2", "03:28 4", "03:40 5", "04:20 4", "05:20 0"),
)
# No other card may be tighter than the leading one.
_OTHERS_MOST_MIB = Curve("00:08 8900", "00:10 11600", "05:20 11600", "05:24 6600", "05:28 6300")
_UTILIZATION_PERCENT = Curve("05:40 30", "06:10 44")  # with the traffic, as far as the record's "throughout" goes


@dataclass(eq=False)
class _Pod:
    service: Service
    card: int
    created_s: float
    leaves_s: float | None = None

    def held_mib(self, at_s: float) -> float:
        """Grows while the models load."""
        return self.service.footprint_mib * min(1.0, (at_s - self.created_s) / self.service.load_s)


class Pool:
    """Call `move` and then `readings` once for every step, in order."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"{seed} cards")
        self._keys = [CardKey(f"GPU-{uuid.UUID(int=self._random.getrandbits(128), version=4)}") for _ in range(CARDS)]
        self._ages_s = [float(self._random.randint(5, 15)) for _ in range(CARDS // 4)]
        self._percent = [30] * CARDS
        self._pods: list[_Pod] = []
        self._full: dict[int, tuple[float, float]] = {}  # card -> since when, free MiB when full

    def move(self, at_s: float) -> dict[str, tuple[int, int]]:
        """Starts and stops pods to follow spec.replicas; returns (spec, ready) by service."""
        self._pods = [pod for pod in self._pods if pod.leaves_s is None or pod.leaves_s > at_s]
        counts = {}
        for service in sorted(SERVICES, key=lambda service: -service.footprint_mib):
            spec = int(service.replicas.at(at_s))
            staying = [pod for pod in self._pods if pod.service is service and pod.leaves_s is None]
            for pod in staying[spec:]:  # the newest leave first
                pod.leaves_s = at_s + _LEAVING_S
            for _ in range(spec - len(staying)):
                created_s = at_s if at_s > START_S else at_s - 86_400
                self._pods.append(_Pod(service, self._place(service, at_s), created_s))
            pods = [pod for pod in self._pods if pod.service is service and pod.leaves_s is None]
            counts[service.name] = (spec, sum(at_s - pod.created_s >= service.load_s for pod in pods))
        return counts

    def _place(self, service: Service, at_s: float) -> int:
        """The card with the most free slots, then the least loaded: Kubernetes spreads, and is blind to VRAM. At the
        start the third pod of bundle-a is put beside the big image encoder: that card is full, and it is it that
        leaves at 23:53."""
        pods = Counter(pod.card for pod in self._pods)
        if at_s <= START_S and service.name in ("image-large", "bundle-a"):
            mine = sum(pod.service is service for pod in self._pods)
            if (service.name, mine) in (("image-large", 0), ("bundle-a", 2)):
                return _TIGHTEST
        load = dict.fromkeys(range(CARDS), 0.0)
        for pod in self._pods:
            load[pod.card] += pod.service.footprint_mib
        others = [card for card in range(CARDS) if card != _TIGHTEST and pods[card] < SLOTS]
        return min(others, key=lambda card: (pods[card], load[card], card))

    def readings(self, at_s: float) -> dict[CardKey, CardReading]:
        """The cards; the pods' arenas have grown as far as the pool's sum says."""
        held = [0.0] * CARDS
        for pod in self._pods:
            held[pod.card] += pod.held_mib(at_s)
        self._fill(at_s, held)
        used = self._used(at_s, held)
        if at_s % 30 == 0:  # the exporter collects every 30 s
            middle = round(_UTILIZATION_PERCENT.at(at_s))
            self._percent = [middle + self._random.randint(-4, 4) for _ in range(CARDS)]
        return {
            key: CardReading(
                free_bytes=float((USABLE_MIB - round(used[card])) * MIB),
                total_bytes=float(TOTAL_MIB * MIB),
                utilization_ratio=self._percent[card] / 100,
                age_s=self._ages_s[card // 4],
                node=f"gpu-node-{card // 4 + 1}",
                model="Tesla T4",
                slots=SLOTS,
                pods=Counter(pod.service.workload for pod in self._pods if pod.card == card),
            )
            for card, key in enumerate(self._keys)
        }

    def _fill(self, at_s: float, held: list[float]) -> None:
        """Decides which cards are full: once it is, a card stays so for as long as its pods stay."""
        wanted = max(int(_FULL_CARDS.at(at_s)) - 1, 0)
        leaving = {pod.card for pod in self._pods if pod.leaves_s is not None}
        for card in [card for card in self._full if card in leaving] + list(self._full)[::-1]:
            if card in self._full and (card in leaving or len(self._full) > wanted):
                del self._full[card]
        while len(self._full) < wanted:
            others = [
                card for card in range(CARDS) if card != _TIGHTEST and card not in self._full | dict.fromkeys(leaving)
            ]
            heaviest = max(others, key=lambda card: (held[card], -card))
            self._full[heaviest] = (at_s, float(self._random.randint(20, 400)))

    def _used(self, at_s: float, held: list[float]) -> list[float]:
        """MiB in use per card: the leading and the full ones as prescribed, the others scaled to meet the sum."""
        prescribed = {_TIGHTEST: USABLE_MIB - _TIGHTEST_FREE_MIB.at(at_s)}
        for card, (since_s, free_mib) in self._full.items():
            filled = min(1.0, (at_s - since_s + 15) / _FILLING_S)
            before = min(held[card], _OTHERS_MOST_MIB.at(at_s))
            prescribed[card] = before + (USABLE_MIB - free_mib - before) * filled
        others = [card for card in range(CARDS) if card not in prescribed]
        rest = POOL_USED_GIB.at(at_s) * 1024 - sum(prescribed.values())
        most = _OTHERS_MOST_MIB.at(at_s)
        low, high = 0.0, 4.0
        for _ in range(30):
            growth = (low + high) / 2
            low, high = (
                (growth, high) if sum(min(growth * held[card], most) for card in others) < rest else (low, growth)
            )
        growth = round(low, 2)  # arenas grow in steps
        return [prescribed.get(card, min(growth * held[card], most)) for card in range(CARDS)]
