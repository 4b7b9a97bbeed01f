"""What the driver says of each card, as pynvml (nvidia-ml-py) asks it, with the fallbacks for older drivers.

What cannot be read is None. Nothing here creates a CUDA context, so the agent never is a process on a card.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pynvml

from scaler.snapshot import CardKey

_RECENT_US = 2_000_000  # an older sample of a process is not about now; with 0 the driver gives some that are
_STEP_S = 1.0  # wall and monotonic clock further apart than that between two rounds: the wall clock was set
_DRIVER_GONE = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
}
_CARD_LOST = {pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED}
_NO_SUCH_FUNCTION = {pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}
# The binding raises its own "success" for a list without entries.
_ALL_IDLE = {pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_SUCCESS}
_NO_INSTANCE = {pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT}
_ERROR_NAMES: Mapping[int, str] = {
    value: name.removeprefix("NVML_ERROR_").lower()
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int)
}


class DriverGone(Exception):
    """No card can be read before the driver is initialised anew; the text is the driver's."""


class Process(NamedTuple):
    """One process with a context on a card. `used_bytes` None: the driver does not say."""

    pid: int
    used_bytes: int | None
    is_mps: bool = False


class Memory(NamedTuple):
    """A card's VRAM in bytes; `reserved` (by the driver, neither free nor a process') is None before R510."""

    total: int
    free: int
    reserved: int | None


@dataclass(frozen=True, slots=True)
class Device:
    """One card, or on MIG one GPU instance of it, at one moment.

    Attributes:
        device_ids: UUIDs under which a device plugin allots it: its own, or on MIG those of its MIG devices.
        utilization_ratio: 0 to 1; None on MIG.
        processes: with a compute context, MPS clients included; None where they could not be listed.
        busy: by PID the part of the last sample period in which the process ran on the SMs, 0 to 1, NaN where the
            driver's figure is none. Who ran nothing has no entry. None: could not be read, which is not idle.
    """

    card: CardKey
    device_ids: tuple[str, ...]
    index: int
    model: str
    memory: Memory | None = None
    utilization_ratio: float | None = None
    processes: tuple[Process, ...] | None = None
    busy: Mapping[int, float] | None = None


class _Refused(Exception):
    """One call failed, with NVML's code; the rest may go on."""

    def __init__(self, code: int, name: str) -> None:
        super().__init__(name)
        self.code = code


class _CardLost(Exception):
    pass


@dataclass(slots=True)
class Driver:
    """NVML, connected or not. Not for two threads at once.

    Attributes:
        errors: refused calls since the start, by (call, NVML's error).
        lost: cards that the last `read` found lost or in need of a reset, by index.
    """

    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: set[int] = field(default_factory=set)
    _newest_us: dict[CardKey, int] = field(default_factory=dict)
    _clocks: tuple[float, float] | None = None

    def connect(self) -> None:
        """Initialises NVML.

        Raises:
            DriverGone: without a driver, or with one that this library does not fit.
        """
        try:
            self._ask(pynvml.nvmlInit)
        except (_Refused, _CardLost) as refused:
            raise DriverGone(f"nvmlInit: {refused}") from None

    def disconnect(self) -> None:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            return

    def read(self, now_s: float, elapsed_s: float, since_s: Callable[[], float] = lambda: 0.0) -> list[Device]:
        """All cards that answer, from `now_s` (Unix) and `elapsed_s` (monotonic) on: the driver's samples bear wall
        time. `since_s` is how long ago that was; a driver that wakes its cards takes a second for each.

        Raises:
            DriverGone: if none can, before NVML is initialised anew.
        """
        steady = self._is_steady(now_s, elapsed_s)
        self.lost.clear()
        try:
            count = self._ask(pynvml.nvmlDeviceGetCount)
        except (_Refused, _CardLost) as refused:
            raise DriverGone(f"nvmlDeviceGetCount: {refused}") from None
        devices: dict[CardKey, Device] = {}
        for index in range(count):
            try:
                for device in self._card(index, (lambda: round((now_s + since_s()) * 1e6)) if steady else None):
                    before = devices.get(device.card)
                    devices[device.card] = device if before is None else _merged(before, device)
            except _CardLost:
                self.lost.add(index)
                devices = {key: device for key, device in devices.items() if device.index != index}
            except _Refused:
                continue
        return list(devices.values())

    def _card(self, index: int, now_us: Callable[[], int] | None) -> Iterator[Device]:
        handle = self._ask(pynvml.nvmlDeviceGetHandleByIndex, index)
        uuid, model = self._ask(pynvml.nvmlDeviceGetUUID, handle), self._ask(pynvml.nvmlDeviceGetName, handle)
        if self._is_mig(handle):
            yield from self._instances(handle, uuid, model, index)
            return
        card = CardKey(uuid)
        try:
            utilization = _ratio(self._ask(pynvml.nvmlDeviceGetUtilizationRates, handle).gpu)
        except _Refused:
            utilization = None
        yield Device(
            card,
            (uuid,),
            index,
            model,
            self._memory(handle),
            utilization,
            self._processes(handle),
            None if now_us is None else self._busy(card, handle, now_us()),
        )

    def _instances(self, parent: Any, uuid: str, model: str, index: int) -> Iterator[Device]:
        """GPU instances. A MIG device is a compute instance, and several may share one GPU instance's memory."""
        for position in range(self._ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, parent)):
            try:
                handle = self._ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, parent, position, expected=_NO_INSTANCE)
                instance = self._ask(pynvml.nvmlDeviceGetGpuInstanceId, handle)
                own_uuid = self._ask(pynvml.nvmlDeviceGetUUID, handle)
            except _Refused:
                continue
            card = CardKey(uuid, str(instance))
            yield Device(card, (own_uuid,), index, model, self._memory(handle), None, self._processes(handle))

    def _is_mig(self, handle: Any) -> bool:
        try:
            current, _ = self._ask(pynvml.nvmlDeviceGetMigMode, handle, expected=_NO_SUCH_FUNCTION)
        except _Refused as refused:
            if refused.code in _NO_SUCH_FUNCTION:
                return False
            raise
        return bool(current)

    def _memory(self, handle: Any) -> Memory | None:
        for version in ((pynvml.nvmlMemory_v2,), ()):
            try:
                memory = self._ask(pynvml.nvmlDeviceGetMemoryInfo, handle, *version)
            except _Refused:
                continue
            reserved = int(memory.reserved) if version else None
            told = Memory(int(memory.total), int(memory.free), reserved)
            return told if 0 < told.total >= told.free + (reserved or 0) else None
        return None

    def _processes(self, handle: Any) -> tuple[Process, ...] | None:
        """By the versioned names: on an older driver pynvml's others raise an error of their own kind."""
        try:
            compute = self._ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle)
        except _Refused:
            return None
        try:
            clients = self._ask(pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3, handle, expected=_NO_SUCH_FUNCTION)
        except _Refused as refused:
            if refused.code not in _NO_SUCH_FUNCTION:
                return None
            clients = []
        told = [(each, False) for each in compute] + [(each, True) for each in clients]
        return _by_pid([Process(int(each.pid), each.usedGpuMemory, is_mps) for each, is_mps in told])

    def _busy(self, card: CardKey, handle: Any, now_us: int) -> Mapping[int, float] | None:
        newest_us = self._newest_us.get(card, 0)
        since_us = max(now_us - _RECENT_US, newest_us if newest_us <= now_us else 0)
        for call in (pynvml.nvmlDeviceGetProcessesUtilizationInfo, pynvml.nvmlDeviceGetProcessUtilization):
            try:
                samples = self._ask(call, handle, since_us, expected=_ALL_IDLE)
            except _Refused as refused:
                if refused.code in _ALL_IDLE:
                    return {}
                continue
            ratios: defaultdict[int, list[float]] = defaultdict(list)
            later = set[int]()
            for sample in samples:
                if sample.timeStamp > now_us + _RECENT_US:
                    later.add(sample.pid)
                elif sample.timeStamp > since_us:
                    newest_us = max(newest_us, sample.timeStamp)
                    ratio = _ratio(sample.smUtil)
                    ratios[sample.pid].append(float("nan") if ratio is None else ratio)
            self._newest_us[card] = newest_us
            # Who has samples of another clock only may have run now, or not.
            unknown = {pid: float("nan") for pid in later - ratios.keys()}
            return {pid: sum(each) / len(each) for pid, each in ratios.items()} | unknown
        return None

    def _is_steady(self, now_s: float, elapsed_s: float) -> bool:
        """False in the round after the wall clock was set: samples of before would look idle, or never end."""
        before, self._clocks = self._clocks, (now_s, elapsed_s)
        steady = before is None or abs((now_s - before[0]) - (elapsed_s - before[1])) <= _STEP_S
        if not steady:
            self._newest_us.clear()
        return steady

    def _ask(self, call: Callable[..., Any], *arguments: Any, expected: set[int] | frozenset[int] = frozenset()) -> Any:
        try:
            return call(*arguments)
        except pynvml.NVMLError as error:
            code = int(error.value)
            name = _ERROR_NAMES.get(code, f"code_{code}")
            if code not in expected:
                self.errors[call.__name__, name] += 1
            if code in _DRIVER_GONE:
                raise DriverGone(f"{call.__name__}: {name}") from None
            if code in _CARD_LOST:
                raise _CardLost(name) from None
            raise _Refused(code, name) from None


def _ratio(percent: int) -> float | None:
    return percent / 100 if 0 <= percent <= 100 else None


def _by_pid(told: list[Process]) -> tuple[Process, ...]:
    """One entry a process. Told twice, the larger counts; PID 0 is none."""
    processes: dict[int, Process] = {}
    for each in told:
        if each.pid <= 0:
            continue
        before = processes.get(each.pid, each)
        known = [used for used in (before.used_bytes, each.used_bytes) if used is not None]
        processes[each.pid] = Process(each.pid, max(known, default=None), before.is_mps or each.is_mps)
    return tuple(processes.values())


def _merged(one: Device, other: Device) -> Device:
    """Two compute instances of one GPU instance: its memory is told by both, each lists its own processes."""
    memory = min((each.memory for each in (one, other) if each.memory is not None), key=lambda m: m.free, default=None)
    ids = (*one.device_ids, *other.device_ids)
    listed = None if one.processes is None or other.processes is None else [*one.processes, *other.processes]
    return Device(one.card, ids, one.index, one.model, memory, None, None if listed is None else _by_pid(listed))
