"""The newest report as metrics. docs/agent.md is the reference; an absent series is an unknown, never a zero.

Labels are spelt as the DCGM exporter spells them (UUID, GPU_I_ID, modelName, pod_uid), so that both join as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from scaler import __version__
from scaler.agent.ledger import CAPABILITIES, CardUse
from scaler.agent.sampler import Sampler

_CARD = ("UUID", "GPU_I_ID")
_POD = (*_CARD, "pod_uid")


class Exposition(Collector):
    """Reads what the sampler keeps; never asks the driver, so it answers while the driver hangs."""

    def __init__(self, sampler: Sampler, node: str) -> None:
        self._sampler, self._node = sampler, node
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of the first scrape: the names are all under vram_agent_, which is ours alone."""
        return []

    def collect(self) -> Iterable[Metric]:
        report, fault = self._sampler.report, self._sampler.fault()
        build = _family("build_info", "1; the version of the agent.", ("version",))
        build.add_metric((__version__,), 1)
        yield build
        yield _one("driver_up", "1 while the driver answers; 0 while it is missing, hangs or refuses.", not fault)
        if report is None:
            return
        yield _one(
            "last_success_timestamp_seconds", "Unix time of the last round that the driver answered.",
            report.last_success_s,
        )  # fmt: skip
        yield _one("round_duration_seconds", "Time that the newest round took.", report.round_s)
        yield CounterMetricFamily("vram_agent_rounds", "Rounds that were begun.", value=report.rounds)
        yield CounterMetricFamily(
            "vram_agent_driver_connects", "Times that NVML was initialised.", value=report.connects
        )
        errors = CounterMetricFamily(
            "vram_agent_nvml_errors", "NVML calls that were refused, by NVML's error.", labels=("call", "error")
        )
        for (call, error), count in sorted(report.errors.items()):
            errors.add_metric((call, error), count)
        yield errors
        success = _family(
            "card_last_success_timestamp_seconds", "Unix time of the card's last reading; stays for 1 h.", _CARD
        )
        for card, at_s in report.card_success_s.items():
            success.add_metric(card, at_s)
        yield success
        # A round that is over for long says nothing of now; the time of the last success says since when.
        yield from self._cards(() if fault else report.cards)
        places = _family(
            "pod_places", "Places on the card that the kubelet has allotted to the pod.",
            (*_CARD, "pod_namespace", "pod_name"),
        )  # fmt: skip
        for (card, namespace, pod), count in ({} if fault else report.places or {}).items():
            places.add_metric((*card, namespace, pod), count)
        yield places

    def _cards(self, cards: tuple[CardUse, ...]) -> Iterator[Metric]:
        info = _family("card_info", "1; the card's index, model and node.", (*_CARD, "gpu", "modelName", "node"))
        can = _family(
            "card_capability",
            "1 if the newest round could read all of it, else 0: "
            + ", ".join(f"{name} ({what})" for name, what in CAPABILITIES.items()) + ".",
            (*_CARD, "capability"),
        )  # fmt: skip
        free = _family("card_memory_free_bytes", "Free VRAM.", _CARD)
        total = _family("card_memory_total_bytes", "VRAM, the driver's own part included.", _CARD)
        reserved = _family("card_memory_reserved_bytes", "VRAM that the driver keeps, neither free nor a pod's.", _CARD)
        unattributed = _family(
            "card_memory_unattributed_bytes", "VRAM in use that is no pod's, as far as can be seen.", _CARD
        )
        utilization = _family(
            "card_utilization_ratio", "Part of the last 15 s in which any process ran on the card, 0 to 1.", _CARD
        )
        processes = _family("pod_processes", "Processes of the pod that have a context on the card.", _POD)
        held = _family("pod_memory_held_bytes", "VRAM that the pod's processes hold on the card.", _POD)
        peak = _family("pod_memory_peak_bytes", "The most that they held in any round since the agent started.", _POD)
        busy = _family(
            "pod_busy_ratio", "Part of the last 15 s in which the pod's processes ran on the card, 0 to 1.", _POD
        )
        for use in cards:
            info.add_metric((*use.card, str(use.index), use.model, self._node), 1)
            for name, able in use.can.items():
                can.add_metric((*use.card, name), able)
            if use.memory is not None:
                _add(free, use.card, use.memory.free)
                _add(total, use.card, use.memory.total)
                _add(reserved, use.card, use.memory.reserved)
            _add(unattributed, use.card, use.unattributed_bytes)
            _add(utilization, use.card, use.utilization_ratio)
            for uid, pod in use.pods.items():
                for family, value in zip((processes, held, peak, busy), pod, strict=True):
                    _add(family, (*use.card, uid), value)
        yield from (info, can, free, total, reserved, unattributed, utilization, processes, held, peak, busy)


def _family(name: str, text: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"vram_agent_{name}", text, labels=labels)


def _add(family: GaugeMetricFamily, labels: tuple[str, ...], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, value)


def _one(name: str, text: str, value: float | None) -> Metric:
    family = _family(name, text, ())
    _add(family, (), value)
    return family
