"""The live source: a fixed set of queries at one instant, or over a range of instants, -> Snapshots."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from scaler.policy import Section, Timing
from scaler.quantity import Seconds
from scaler.snapshot import Snapshot
from scaler.sources.assemble import assemble
from scaler.sources.baseline import Baseline, asked_replicas
from scaler.sources.checked_session import QueryFailed
from scaler.sources.queries import QueryOverrides, build_queries
from scaler.sources.query_client import Answer, Grid, QueryClient, QueryStats
from scaler.sources.source import SourceUnavailable

# 15 minutes of 15 s steps, where Prometheus allows 11,000 points a series: some MB for some hundred services. A
# Prometheus that shares 2 cores took 0.3 s an instant for 300 services with 900 pods.
CHUNK_INSTANTS = 60
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)


class BasicAuth(Section):
    """User and password; the file is read anew at every tick."""

    username: str = Field(min_length=1, max_length=256, description="1 to 256 characters")
    password_file: str = Field(min_length=1, description="path of a file that holds the password")


class PrometheusSettings(Section):
    """Where Prometheus is, how to be let in, and how long to wait."""

    url: str = Field(
        "http://127.0.0.1:9090", description="an http or https address, a path prefix allowed, without user and query"
    )
    bearer_token_file: str | None = Field(
        None, min_length=1, description="path of a file that holds a token; read anew at every tick"
    )
    basic_auth: BasicAuth | None = Field(None, description="username and passwordFile, in place of bearerTokenFile")
    headers: Mapping[str, str] = Field({}, description="more HTTP headers, e.g. X-Scope-OrgID: tenant; printable ASCII")
    ca_file: str | None = Field(
        None, min_length=1, description="path of the PEM certificates to trust; default: the system's"
    )
    deadline_s: Seconds = Field(
        5.0, alias="deadline", ge=0.1, le=60, description="time for all queries of one tick together, 100ms to 1m"
    )
    history_deadline_s: Seconds = Field(
        60.0, alias="historyDeadline", ge=0.1, le=600, description="the same for 60 instants of history, 100ms to 10m"
    )
    queries: QueryOverrides = Field(QueryOverrides(), description="PromQL of your own in place of built-in signals")

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if not plain or parts.username is not None or parts.query or parts.fragment or re.search(r"\s", url):
            raise ValueError("not such an address")
        return url.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ValueError(f"{name!r} is not a header that can be sent")  # not its value, which may be a secret
        return headers

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        ways = [
            name
            for name, given in (
                ("bearerTokenFile", self.bearer_token_file is not None),
                ("basicAuth", self.basic_auth is not None),
                ("headers.Authorization", any(name.lower() == "authorization" for name in self.headers)),
            )
            if given
        ]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other; give one")
        return self


class PrometheusSource:
    """Snapshots of a fleet out of a live Prometheus, now or in its past. Implements `Source`."""

    def __init__(self, settings: PrometheusSettings, timing: Timing) -> None:
        self._settings = settings
        self._queries = build_queries(timing, settings.queries)
        self._promql = {query.name: query.promql for query in self._queries}
        self._baselines: tuple[Baseline, ...] = ()
        self._client = QueryClient(settings.url, settings.ca_file)

    def evaluate(self, baselines: Sequence[Baseline]) -> None:
        """Asks these triggers' queries too from now on, and fills Snapshot.asked.

        They come from manifests: for the dry runs of an operator, never for the service, which asks its own only.
        """
        self._baselines = tuple(baselines)
        triggers = [trigger for baseline in baselines for trigger in baseline.triggers]
        self._promql |= {trigger.name: trigger.promql for trigger in triggers}

    @property
    def url(self) -> str:
        """The address, without what lets one in."""
        return self._settings.url

    @property
    def promql(self) -> Mapping[str, str]:
        """All queries by name."""
        return self._promql

    @property
    def stats(self) -> Mapping[str, QueryStats]:
        """Duration and failures by query name, for the telemetry."""
        return self._client.stats

    def close(self) -> None:
        """Releases the connections."""
        self._client.close()

    def snapshot_at(self, at_s: float) -> Snapshot:
        """See `Source`; returns or raises within the settings' deadline."""
        at_ms = round(at_s * 1000)
        return self._assembled(at_ms, self._ask(Grid(at_ms), self._settings.deadline_s))

    def snapshots(self, start_s: float, end_s: float, step_s: float) -> Iterator[Snapshot]:
        """See `Source`; times count to the millisecond. A query that fails leaves its signals None for a whole chunk.

        Raises:
            ValueError: if step is below 1 ms.
        """
        yield from self._chunks(start_s, end_s, step_s, whole=False)

    def whole_snapshots(self, start_s: float, end_s: float, step_s: float) -> Iterator[Snapshot]:
        """The same, but a query without an answer in time ends it, rather than leave a hole in what is kept.

        Raises:
            ValueError: if step is below 1 ms.
            SourceUnavailable: at the first instant for which a query finds no answer, even asked for by itself.
        """
        yield from self._chunks(start_s, end_s, step_s, whole=True)

    def _chunks(self, start_s: float, end_s: float, step_s: float, whole: bool) -> Iterator[Snapshot]:
        start_ms, end_ms, step_ms = (round(seconds * 1000) for seconds in (start_s, end_s, step_s))
        if step_ms < 1:
            raise ValueError(f"step {step_s:g} s: it takes at least 1 ms")
        size = most = CHUNK_INSTANTS
        while start_ms <= end_ms:
            grid = Grid(start_ms, step_ms, min(size, (end_ms - start_ms) // step_ms + 1))
            outcomes = self._ask(grid, self._settings.history_deadline_s)
            failures = {name: found for name, found in outcomes.items() if isinstance(found, QueryFailed)}
            kinds = {failure.kind for failure in failures.values()}
            if grid.count > 1 and ("too-large" in kinds or (whole and "unavailable" in kinds)):
                size = (grid.count + 1) // 2
                most = size if "too-large" in kinds else most
                continue
            for name, failure in failures.items() if whole else ():
                if failure.kind == "unavailable":
                    raise SourceUnavailable(f"{self._settings.url}: {name}: {failure}")
            for at_ms in grid.instants_ms():
                yield self._assembled(at_ms, outcomes)
            start_ms += step_ms * grid.count
            size = min(2 * size, most)

    def _assembled(self, at_ms: int, outcomes: Mapping[str, Answer | QueryFailed]) -> Snapshot:
        snapshot = assemble(at_ms, self._queries, outcomes)
        if not self._baselines:
            return snapshot
        asked, problems = asked_replicas(self._baselines, outcomes, snapshot.workloads, at_ms)
        return replace(snapshot, asked=asked, problems=tuple(sorted([*snapshot.problems, *problems])))

    def _ask(self, grid: Grid, deadline_s: float) -> dict[str, Answer | QueryFailed]:
        self._authorise()
        outcomes = self._client.ask(self._promql, grid, deadline_s)
        failures = [found for query in self._queries if isinstance(found := outcomes[query.name], QueryFailed)]
        too_large = any(failure.kind == "too-large" for failure in failures)
        if len(failures) == len(self._queries) and not (too_large and grid.count > 1):
            text = f"{self._queries[0].name}: {failures[0]}"
            raise SourceUnavailable(f"{self._settings.url}: all {len(failures)} queries failed; {text}")
        return outcomes

    def _authorise(self) -> None:
        """Files are read each time: tokens rotate, a mounted service account's within the hour."""
        settings = self._settings
        headers = dict(settings.headers)
        basic_auth = None
        if settings.bearer_token_file is not None:
            headers["Authorization"] = f"Bearer {_secret('bearerTokenFile', settings.bearer_token_file)}"
        if settings.basic_auth is not None:
            password = _secret("basicAuth.passwordFile", settings.basic_auth.password_file)
            basic_auth = (settings.basic_auth.username, password)
        self._client.authorise(headers, basic_auth)


def _secret(key: str, path: str) -> str:
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SourceUnavailable(f"prometheus.{key} {path}: {reason}") from None
    if not _HEADER_VALUE.fullmatch(secret):
        raise SourceUnavailable(f"prometheus.{key} {path}: it takes one line of printable ASCII")
    return secret
