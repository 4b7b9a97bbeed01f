"""PromQL questions to a Prometheus HTTP API (also Thanos, Mimir, VictoriaMetrics), in parallel, under one deadline."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import NamedTuple

import tenacity
from prometheus_api_client import PrometheusConnect
from requests.exceptions import Timeout
from urllib3 import Retry
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as PoolTimeoutError

from scaler.sources.checked_session import CheckedSession, QueryFailed, Result, one_line

WORKERS = 4  # Prometheus runs 20 queries at once for everybody; ours come as a handful every tick
_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Grid:
    """The instants start, start + step, ...: `count` of them, in whole Unix milliseconds."""

    start_ms: int
    step_ms: int = 1
    count: int = 1

    def instants_ms(self) -> range:
        return range(self.start_ms, self.start_ms + self.step_ms * self.count, self.step_ms)


class Series(NamedTuple):
    """One series: its labels, and its values by instant (Unix milliseconds). NaN and Inf are still in here."""

    labels: Mapping[str, str]
    values: Mapping[int, float]


class Answer(NamedTuple):
    """What one query gave. With `warnings` the server itself says that the series may not be all."""

    series: tuple[Series, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QueryStats:
    """How a query fares, for the telemetry: seconds of the last time, failures since the start."""

    last_duration_s: float = 0.0
    failures: int = 0


class QueryClient:
    """Asks sets of questions of one server. Safe for several threads."""

    def __init__(self, url: str, ca_file: str | None = None) -> None:
        self._session = CheckedSession()
        self._session.verify = ca_file or True
        # Prepared as POST: a query of some kB as part of the URL breaks the 8 kB that many proxies allow.
        self._connect = PrometheusConnect(url=url, session=self._session, retry=Retry(total=0), method="POST")
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="prometheus")
        self._stats: dict[str, QueryStats] = {}

    @property
    def stats(self) -> Mapping[str, QueryStats]:
        """By query name."""
        return dict(self._stats)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._connect.close()

    def authorise(self, headers: Mapping[str, str], basic_auth: tuple[str, str] | None) -> None:
        """Sets what is sent with every question from now on."""
        self._connect.headers = dict(headers)
        self._connect.auth = basic_auth

    def ask(self, queries: Mapping[str, str], grid: Grid, deadline_s: float) -> dict[str, Answer | QueryFailed]:
        """Asks all queries (name -> PromQL) at the grid's instants; returns within deadline_s, whatever comes.

        A question still open then is abandoned: its thread ends by itself at its own timeout.
        """
        asked_at = monotonic()
        deadline = asked_at + deadline_s
        pending = {name: self._pool.submit(self._timed, promql, grid, deadline) for name, promql in queries.items()}
        wait(pending.values(), timeout=deadline_s)
        outcomes: dict[str, Answer | QueryFailed] = {}
        for name, future in pending.items():
            outcome, duration_s = self._collect(future, deadline_s)
            outcomes[name] = outcome
            failures = self._stats.get(name, QueryStats()).failures + isinstance(outcome, QueryFailed)
            self._stats[name] = QueryStats(duration_s, failures)
        return outcomes

    @staticmethod
    def _collect(
        future: Future[tuple[Answer | QueryFailed, float]], deadline_s: float
    ) -> tuple[Answer | QueryFailed, float]:
        if future.done():
            return future.result()
        future.cancel()
        return QueryFailed("unavailable", f"no answer within {deadline_s:g} s"), deadline_s

    def _timed(self, promql: str, grid: Grid, deadline: float) -> tuple[Answer | QueryFailed, float]:
        started = monotonic()
        # A server's Retry-After is not heeded: 11 queries of some ms are no load, and it may name any delay.
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, QueryFailed) and e.kind == "unavailable"),
            wait=tenacity.wait_exponential(multiplier=0.1, max=1.0) + tenacity.wait_random(0, 0.1),
            stop=tenacity.stop_after_attempt(_ATTEMPTS) | tenacity.stop_before_delay(max(0.0, deadline - started)),
            reraise=True,
        )
        try:
            return retrying(self._once, promql, grid, deadline), monotonic() - started
        except QueryFailed as failed:
            return failed, monotonic() - started

    def _once(self, promql: str, grid: Grid, deadline: float) -> Answer:
        budget_s = deadline - monotonic()
        if budget_s <= 0:
            raise QueryFailed("unavailable", "no time left before the deadline")
        # The server is told to give up, too. Unknown parameters are ignored: nocache keeps VictoriaMetrics from
        # shifting the instants of a range of 50 points or more.
        params = {"timeout": f"{max(1, int(budget_s * 1000))}ms", "nocache": "1"}
        instants = grid.instants_ms()
        try:
            if grid.count == 1:
                params["time"] = _seconds(instants[0])
                result = self._connect.custom_query(promql, params=params, timeout=budget_s)
                return _answer(result, "value", instants)
            # The library rounds start and end to whole seconds; params come last and win.
            params |= {"start": _seconds(instants[0]), "end": _seconds(instants[-1])}
            whole = [datetime.fromtimestamp(instant / 1000, UTC) for instant in (instants[0], instants[-1])]
            result = self._connect.custom_query_range(
                promql, whole[0], whole[1], _seconds(grid.step_ms), params=params, timeout=budget_s
            )
            return _answer(result, "values", instants)
        except (Timeout, PoolTimeoutError):
            raise QueryFailed("unavailable", "no answer in time") from None
        except (OSError, HTTPError) as error:  # requests' errors are OSErrors; a missing CA file is one, too
            raise QueryFailed("unavailable", _reason(error)) from None


def _answer(result: Result, values_key: str, instants_ms: range) -> Answer:
    series = []
    for item in result:
        try:
            labels = {str(name): str(value) for name, value in item["metric"].items()}
            points = [item["value"]] if values_key == "value" else item["values"]
            values = {round(float(at_s) * 1000): float(value) for at_s, value in points}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise QueryFailed("bad-reply", f"a series that is not one: {str(item)[:120]}") from None
        if any(instant not in instants_ms for instant in values):
            raise QueryFailed("bad-reply", "values for other instants than asked; a query front end may align them")
        series.append(Series(labels, values))
    return Answer(tuple(series), tuple(one_line(warning) for warning in result.warnings))


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}"


def _reason(error: Exception) -> str:
    """The innermost cause: requests and urllib3 wrap it twice and repeat the URL, which holds the query."""
    inner = getattr(error.args[0], "reason", None) if error.args else None
    return str(inner or error)
