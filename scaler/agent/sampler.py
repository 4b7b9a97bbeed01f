"""A round every few seconds, in a thread of its own: whoever reads the report never waits for the driver."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from scaler.agent.ledger import FORGET_S, CardUse, Ledger
from scaler.agent.nvml import Device, Driver, DriverGone
from scaler.agent.owners import owner_of
from scaler.snapshot import CardKey

log = logging.getLogger(__name__)

STALE_ROUNDS = 3
UNUSABLE_S = 600.0  # a new container may bring a driver's new libraries; sooner the kubelet would back off
_BACKOFF_S = (5.0, 60.0)  # first and longest wait after a driver that did not initialise
_LOST_BACKOFF_S = (10.0, 300.0)  # the same while single cards are lost: it costs the others a round


@dataclass(frozen=True, slots=True)
class Report:
    """What the newest round found.

    Attributes:
        ended_s: monotonic time of its end.
        fault: why the driver cannot be used, "" while it can.
        last_success_s: Unix time of the last round in which the driver answered; by card in `card_success_s`.
        errors: refused calls since the start, by (call, NVML's error).
        connects: times that NVML was initialised.
        places: by card, namespace and pod the places that the kubelet has allotted; None if it did not say.
    """

    ended_s: float
    cards: tuple[CardUse, ...] = ()
    fault: str = ""
    last_success_s: float | None = None
    card_success_s: Mapping[CardKey, float] = field(default_factory=dict)
    errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    rounds: int = 0
    round_s: float | None = None
    connects: int = 0
    places: Mapping[tuple[CardKey, str, str], int] | None = None


class Allotment(NamedTuple):
    """A pod and a device: the UUID of a GPU or a MIG device, as NVIDIA's device plugin names it."""

    device: str
    namespace: str
    pod: str


class Allotments(Protocol):
    """The kubelet, where it is asked."""

    def places(self) -> Mapping[Allotment, int] | None:
        """Places by pod and device; several with time-slicing. None if it did not say."""


class Sampler:
    """Asks the driver every `every_s`, and keeps the newest report for all threads."""

    def __init__(self, driver: Driver, proc: Path, every_s: float, kubelet: Allotments | None = None) -> None:
        self._driver, self._proc, self._every_s, self._kubelet = driver, proc, every_s, kubelet
        self._places: Mapping[tuple[CardKey, str, str], int] | None = None
        self._ledger = Ledger()
        self._stopped = threading.Event()
        self._started_s = time.monotonic()
        self._usable_s = self._started_s
        self._connected = False
        self._fault = ""
        self._connects = 0
        self._rounds = 0
        self._retry = _Backoff(*_BACKOFF_S)
        self._retry_lost = _Backoff(*_LOST_BACKOFF_S)
        self._success_s: float | None = None
        self._card_success_s: dict[CardKey, float] = {}
        self._told: Mapping[CardKey, object] | str = ""
        self._is_told_silent = False
        self._report: Report | None = None

    def start(self) -> None:
        """Not joined at the end: a thread that hangs in the driver never would be."""
        threading.Thread(target=self._run, name="sampler", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    @property
    def report(self) -> Report | None:
        """The newest one; see `fault` for whether it counts still."""
        return self._report

    def fault(self) -> str:
        """Why the newest report is none of now, in one line; "" while it is."""
        report, silent_s = self._report, self._silent_s()
        if silent_s > STALE_ROUNDS * self._every_s:
            text = f"the driver has not answered for {silent_s:.0f} s"
            if not self._is_told_silent:  # here, since the thread that tells of rounds is the one that hangs
                self._is_told_silent = True
                log.warning(text)
            return text
        return report.fault if report is not None else "the first round is under way"

    def is_unusable(self) -> bool:
        """True if the driver has refused to initialise for 10 minutes. Not while it hangs: a restart would hang too."""
        report = self._report
        if report is None or not report.fault or self._silent_s() > STALE_ROUNDS * self._every_s:
            return False
        return time.monotonic() - self._usable_s > UNUSABLE_S

    def _silent_s(self) -> float:
        """Since the end of the newest round."""
        report = self._report
        return time.monotonic() - (report.ended_s if report is not None else self._started_s)

    def round(self) -> Report:
        """One round, now; also what the thread does."""
        began_s = time.monotonic()
        self._rounds += 1
        self._places = None
        try:
            cards, self._fault = self._read(began_s), ""
        except DriverGone as gone:
            cards, self._fault = (), str(gone)
        ended_s = time.monotonic()
        if not self._fault:
            self._usable_s = ended_s
        self._tell(cards, self._fault)
        self._report = Report(
            ended_s,
            cards,
            self._fault,
            self._success_s,
            dict(self._card_success_s),
            dict(self._driver.errors),
            self._rounds,
            ended_s - began_s,
            self._connects,
            self._places,
        )
        return self._report

    def _read(self, began_s: float) -> tuple[CardUse, ...]:
        if not self._connected:
            if not self._retry.is_due(began_s):
                raise DriverGone(self._fault)
            self._driver.connect()
            self._connected, self._connects = True, self._connects + 1
        at_s, elapsed_s = time.time(), time.monotonic()
        try:
            devices = self._driver.read(at_s, elapsed_s, lambda: time.monotonic() - elapsed_s)
        except DriverGone:
            self._disconnect()
            raise
        self._retry.reset()
        cards = self._ledger.enter(devices, lambda pid: owner_of(self._proc, pid), elapsed_s)
        self._places = self._allotted(devices)
        self._success_s = at_s
        self._card_success_s = {
            card: then_s for card, then_s in self._card_success_s.items() if 0 <= at_s - then_s <= FORGET_S
        } | {use.card: at_s for use in cards}
        if not self._driver.lost:
            self._retry_lost.reset()
        elif self._retry_lost.is_due(began_s):
            self._disconnect()
        return cards

    def _allotted(self, devices: Iterable[Device]) -> Mapping[tuple[CardKey, str, str], int] | None:
        """Places on the cards that answer; other plugins' devices are none of these."""
        told = self._kubelet.places() if self._kubelet is not None else None
        if told is None:
            return None
        cards = {device_id: device.card for device in devices for device_id in device.device_ids}
        places: Counter[tuple[CardKey, str, str]] = Counter()
        for allotment, count in told.items():
            if (card := cards.get(allotment.device)) is not None:
                places[card, allotment.namespace, allotment.pod] += count
        return places

    def _disconnect(self) -> None:
        self._driver.disconnect()
        self._connected = False

    def _tell(self, cards: tuple[CardUse, ...], fault: str) -> None:
        """Logs changes only: what became readable and what did not."""
        if self._is_told_silent:
            self._is_told_silent = False
            log.info("the driver answers again")
        told: Mapping[CardKey, object] | str = fault or {use.card: use.can for use in cards}
        if told == self._told:
            return
        self._told = told
        if fault:
            log.warning("driver unusable: %s", fault)
            return
        for use in cards:
            missing = ", ".join(name for name, can in use.can.items() if not can)
            what = f"not readable: {missing}" if missing else "all of it can be read"
            log.info("card %d %s: %s", use.index, "/".join(filter(None, use.card)), what)
        if self._driver.lost:
            log.warning("cards lost: %s", ", ".join(map(str, sorted(self._driver.lost))))

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stopped.is_set():
            try:
                self.round()
            except Exception:
                log.exception("a round failed")  # its report stays away, and the last one ages
            # Rounds that were missed are not made up for.
            due_s = max(due_s + self._every_s, time.monotonic())
            self._stopped.wait(due_s - time.monotonic())


class _Backoff:
    """Waits that double from `first_s` to `longest_s`."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self.reset()

    def reset(self) -> None:
        self._wait_s, self._due_s = self._first_s, -1.0

    def is_due(self, now_s: float) -> bool:
        """True at the first time, and then after each wait."""
        if now_s < self._due_s:
            return False
        self._due_s, self._wait_s = now_s + self._wait_s, min(2 * self._wait_s, self._longest_s)
        return True
