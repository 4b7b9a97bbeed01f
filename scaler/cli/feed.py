"""Where a command reads from: a recording, a Prometheus, or the bundled recording of the incident."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import click
from pydantic import ValidationError

from scaler.check.lint import refusal
from scaler.cli.faults import Unusable, warn
from scaler.cli.options import given_namespace
from scaler.explain import at
from scaler.incident import RECORDING, SCALED_OBJECTS
from scaler.manifests import Services, read_services
from scaler.policy import OperatorPolicy, describe
from scaler.settings import Settings
from scaler.sources.prometheus import PrometheusSettings, PrometheusSource
from scaler.sources.recording import RecordingSource

MOST_STEPS = 10_000_000  # 4 years of 15 s; more is a mistyped year


class Range(NamedTuple):
    """The instants start, start + step, ... up to and including end (Unix seconds)."""

    start_s: float
    end_s: float
    step_s: float

    @property
    def steps(self) -> int:
        """How many they are."""
        return math.floor((self.end_s - self.start_s) / self.step_s + 1e-6) + 1


def open_prometheus(settings: Settings, url: str | None) -> PrometheusSource | None:
    """The Prometheus of the flag, else of the settings; None where neither names one."""
    wanted = settings.prometheus
    if url is not None:
        try:
            flagged = PrometheusSettings.model_validate({"url": url})
        except ValidationError as error:
            raise Unusable(f"--prometheus: {'; '.join(describe(error, PrometheusSettings))}") from None
        wanted = (wanted or flagged).model_copy(update={"url": flagged.url})
    return PrometheusSource(wanted, settings.timing) if wanted is not None else None


def evaluate_triggers(source: PrometheusSource, services: Services) -> None:
    """Has the manifests' prometheus triggers evaluated as well, and says which cannot be."""
    for text in services.unplayable:
        warn(text)
    source.evaluate(services.baselines)


def open_recording(path: str | None, settings: Settings) -> RecordingSource:
    """That recording, by default the incident's. Warns if its signals were measured over other windows."""
    source = RecordingSource(Path(path) if path is not None else RECORDING)
    for name in ("stable_window_s", "burst_window_s"):
        recorded_s, wanted_s = getattr(source.header.timing, name), getattr(settings.timing, name)
        if recorded_s != wanted_s:
            key = type(settings.timing).model_fields[name].alias
            warn(f"{source.path}: its signals were measured with timing.{key} {recorded_s:g}s, not {wanted_s:g}s")
    return source


def services_of(manifests: tuple[str, ...], operator: OperatorPolicy, is_incident: bool) -> Services:
    """The services of these manifests; without any, those of the incident if that is what is played. Says what it
    doubts on standard error."""
    paths = manifests or ((str(SCALED_OBJECTS),) if is_incident else ())
    services = read_services(paths, operator, given_namespace(), refusal)
    for text in services.warnings:
        warn(text)
    return services


def only_one_source(recording: str | None, prometheus: str | None) -> None:
    """Refuses two."""
    if recording is not None and prometheus is not None:
        raise click.UsageError("--recording and --prometheus: it takes one of them", click.get_current_context())


def time_range(
    start_s: float | None,
    end_s: float | None,
    step_s: float | None,
    settings: Settings,
    recording: RecordingSource | None,
) -> Range:
    """The range of the flags; a recording fills in what they leave out, a Prometheus has no beginning to fill in."""
    header = recording.header if recording is not None else None
    if header is not None:
        start_s = header.start_s if start_s is None else start_s
        end_s = header.end_s if end_s is None else end_s
        step_s = header.step_s if step_s is None else step_s
    if start_s is None or end_s is None:
        missing = "--start" if start_s is None else "--end"
        raise click.UsageError(
            f"{missing} is missing: a Prometheus takes --start and --end", click.get_current_context()
        )
    step_s = settings.timing.tick_s if step_s is None else step_s
    if not start_s <= end_s:
        raise click.UsageError(f"--end {at(end_s)} is before --start {at(start_s)}", click.get_current_context())
    if (end_s - start_s) / step_s > MOST_STEPS:
        raise click.UsageError(
            f"--step {step_s:g}s makes more than {MOST_STEPS} steps of that time", click.get_current_context()
        )
    return Range(start_s, end_s, step_s)
