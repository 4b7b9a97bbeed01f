"""/metrics: the plan in force and plain counters, read only when scraped. No label outlives what it describes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from scaler import __version__
from scaler.decision import Decision, FleetPlan
from scaler.policy import ServiceKey
from scaler.serving.board import Board
from scaler.serving.clock import Clock
from scaler.serving.loop import LoopStats
from scaler.serving.registry import Registry
from scaler.serving.servicer import Servicer
from scaler.serving.shadow import ShadowBook, agreement
from scaler.sources.query_client import QueryStats

_SERVICE = ("namespace", "name", "pool")
_VERDICT = ("verdict", "reason")


class Telemetry(Collector):
    """What is not known has no sample: an absent series is an unknown, never a zero."""

    def __init__(
        self,
        board: Board,
        registry: Registry,
        servicer: Servicer,
        stats: LoopStats,
        clock: Clock,
        shadows: ShadowBook,
        queries: Callable[[], Mapping[str, QueryStats]] = dict,
    ) -> None:
        self._shadows = shadows
        self._board, self._registry, self._servicer = board, registry, servicer
        self._stats, self._clock, self._queries = stats, clock, queries
        self.exposition = CollectorRegistry()
        self.exposition.register(self)
        ProcessCollector(registry=self.exposition)

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of the first scrape: the names are all under vram_scaler_, which is ours alone."""
        return []

    def collect(self) -> Iterable[Metric]:
        epoch = self._board.newest_epoch
        yield InfoMetricFamily("vram_scaler_build", "Version of the scaler.", {"version": __version__})
        yield _gauge(
            "ready", "1 while answers are given: fresh metrics are in and a plan was made.", self._board.fault() is None
        )
        yield _gauge("plan_age_seconds", "Age of the readings behind the newest plan.", self._board.age_s())
        yield from self._loop()
        yield from self._calls()
        if epoch is not None:
            yield from _services(epoch.plan)
            yield from _pools(epoch.plan, self._board.vetoed_since_s)
            if epoch.shadow or self._stats.shadow_plan_failures_total:
                yield from self._shadow(epoch.shadow)

    def _loop(self) -> Iterable[Metric]:
        stats, last_s = self._stats, self._stats.last_read_elapsed_s
        age_s = None if last_s is None else self._clock.elapsed_s() - last_s
        yield _gauge("source_age_seconds", "Time since the source last gave a snapshot.", age_s)
        yield _gauge("source_read_duration_seconds", "Time that the newest reading took.", stats.read_duration_s)
        yield _counter("source_reads", "Readings that were begun.", stats.reads_total)
        yield _counter("source_read_failures", "Readings that brought nothing at all.", stats.read_failures_total)
        problems = CounterMetricFamily(
            "vram_scaler_source_problems", "Signals that a reading could not see, or doubts.", labels=("signal",)
        )
        for signal, count in sorted(stats.problems_total.items()):
            problems.add_metric((signal,), count)
        yield problems
        duration = _family("query_duration_seconds", "Time that the query's newest run took.", ("query",))
        failures = CounterMetricFamily(
            "vram_scaler_query_failures", "Runs of the query that failed.", labels=("query",)
        )
        for query, query_stats in sorted(self._queries().items()):
            duration.add_metric((query,), query_stats.last_duration_s)
            failures.add_metric((query,), query_stats.failures)
        yield from (duration, failures)
        yield _counter("plans", "Plans that were made.", stats.plans_total)
        yield _counter("plan_failures", "Plans that failed as a whole.", stats.plan_failures_total)
        yield _gauge("plan_duration_seconds", "Time that the newest plan took.", stats.plan_duration_s)
        yield _counter(
            "history_snapshots", "Snapshots of the past that memory was rebuilt from.", stats.learnt_snapshots
        )
        yield _gauge(
            "history_duration_seconds", "Time that the newest rebuild of memory took.", stats.learning_duration_s
        )
        yield _counter("clock_steps", "Times that the wall clock stepped back.", stats.clock_steps_total)

    def _shadow(self, decisions: Mapping[ServiceKey, Decision]) -> Iterable[Metric]:
        """Families of their own: sums and alerts over `vram_scaler_service_*` are about what KEDA is told."""
        demand = _family("shadow_demand_replicas", "Replicas that a shadow's own fresh load needs.", _SERVICE)
        granted = _family("shadow_granted_replicas", "Replicas that KEDA would be told; nobody is.", _SERVICE)
        replicas = _family("shadow_replicas", "spec.replicas of a shadow as read: what its HPA wants.", _SERVICE)
        verdict = _family(
            "shadow_verdict", "1 for the verdict that would be in force, with its reason.", (*_SERVICE, *_VERDICT)
        )
        agrees = _family(
            "shadow_agreement", "1 while a shadow's grant equals its spec.replicas, 0 while it does not.", _SERVICE
        )
        ticks = CounterMetricFamily(
            "vram_scaler_shadow_ticks",
            "Ticks by what a shadow's grant is beside its spec.replicas: agrees, more, fewer or unknown.",
            labels=(*_SERVICE, "outcome"),
        )
        scale_ups = CounterMetricFamily(
            "vram_scaler_shadow_scale_ups",
            "Scale-ups that somebody else made of a shadow, by what we would have said: granted, withheld or unknown.",
            labels=(*_SERVICE, "outcome"),
        )
        for key, decision in decisions.items():
            labels = (*key, decision.pool)
            _add_replicas(decision, labels, demand, granted, replicas)
            verdict.add_metric((*labels, *_verdict(decision)), 1)
            outcome = agreement(decision)
            if outcome != "unknown":
                agrees.add_metric(labels, outcome == "agrees")
            account = self._shadows.accounts.get(key)
            for family, counts in () if account is None else ((ticks, account.ticks), (scale_ups, account.scale_ups)):
                for name, count in sorted(counts.items()):
                    family.add_metric((*labels, name), count)
        yield from (demand, granted, replicas, verdict, agrees, ticks, scale_ups)
        yield _gauge(
            "shadow_plan_duration_seconds",
            "Time that the shadows' newest plan took.",
            self._stats.shadow_plan_duration_s,
        )
        yield _counter(
            "shadow_plan_failures", "Plans for shadows that failed as a whole.", self._stats.shadow_plan_failures_total
        )

    def _calls(self) -> Iterable[Metric]:
        calls = CounterMetricFamily("vram_scaler_rpcs", "Calls that ended, by status code.", labels=("method", "code"))
        for (method, code), count in sorted(self._servicer.calls_total.items()):
            calls.add_metric((method, code), count)
        yield calls
        streams = GaugeMetricFamily("vram_scaler_open_streams", "Streams that are open.", labels=("method",))
        for method, count in sorted(self._servicer.streams.items()):
            streams.add_metric((method,), count)
        yield streams
        yield _gauge("scaled_objects", "ScaledObjects that are known.", len(self._registry))
        yield _counter(
            "scaled_objects_refused", "Calls for ScaledObjects beyond the limit.", self._registry.refused_total
        )


def _services(plan: FleetPlan) -> Iterable[Metric]:
    demand = _family("service_demand_replicas", "Replicas that the service's own fresh load needs.", _SERVICE)
    granted = _family("service_granted_replicas", "Replicas that KEDA is told.", _SERVICE)
    replicas = _family("service_replicas", "spec.replicas as read.", _SERVICE)
    active = _family("service_active", "1 while there is demand that may be served.", _SERVICE)
    verdict = _family(
        "service_verdict", "1 for the verdict in force, with the reason that binds.", (*_SERVICE, *_VERDICT)
    )
    for decision in plan.decisions.values():
        labels = (*decision.key, decision.pool)
        _add_replicas(decision, labels, demand, granted, replicas)
        if decision.granted is not None:
            active.add_metric(labels, decision.active)
        verdict.add_metric((*labels, *_verdict(decision)), 1)
    return demand, granted, replicas, active, verdict


def _add_replicas(decision: Decision, labels: tuple[str, ...], *families: GaugeMetricFamily) -> None:
    """Demand, granted and replicas, in that order, as far as they are known."""
    for family, value in zip(families, (decision.demand, decision.granted, decision.replicas), strict=True):
        if value is not None:
            family.add_metric(labels, value)


def _verdict(decision: Decision) -> tuple[str, str]:
    return str(decision.verdict), str(decision.reasons[0]) if decision.reasons else ""


def _pools(plan: FleetPlan, vetoed_since_s: Mapping[str, float]) -> Iterable[Metric]:
    free = _family("pool_free_bytes", "Free VRAM that counts for the pool.", ("pool",))
    low = _family("pool_low_watermark_bytes", "Free VRAM below which no scale-up passes.", ("pool",))
    high = _family("pool_high_watermark_bytes", "Free VRAM at which a veto may end.", ("pool",))
    veto = _family("pool_veto", "1 while no scale-up passes.", ("pool",))
    since = _family("pool_veto_since_timestamp_seconds", "Since when the veto stands (Unix time).", ("pool",))
    alarm = _family("pool_veto_alarm", "1 while a veto has stood for alarmAfter.", ("pool",))
    barrier = _family("pool_barrier", "1 while the pool is barred besides its watermark.", ("pool", "reason"))
    cards = _family("pool_cards", "Cards of the pool that are seen.", ("pool",))
    for name, pool in plan.pools.items():
        readings = (
            (free, pool.free_bytes), (low, pool.low_bytes), (high, pool.high_bytes), (veto, pool.vetoed),
            (since, vetoed_since_s.get(name)), (alarm, pool.alarm), (cards, pool.cards),
        )  # fmt: skip
        for family, value in readings:
            if value is not None:
                family.add_metric((name,), value)
        if pool.barrier is not None:
            barrier.add_metric((name, str(pool.barrier)), 1)
    return free, low, high, veto, since, alarm, barrier, cards


def _family(name: str, text: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"vram_scaler_{name}", text, labels=labels)


def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(f"vram_scaler_{name}", text)
    if value is not None:
        family.add_metric((), value)
    return family


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"vram_scaler_{name}", text, value=value)
