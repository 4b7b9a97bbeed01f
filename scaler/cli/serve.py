"""`vram-scaler serve`: answers KEDA from a Prometheus, or plays a recording as if it were now."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import sys

import click
import structlog

from scaler import __version__
from scaler.address import Address
from scaler.cli.faults import Unusable
from scaler.cli.feed import only_one_source, open_prometheus, open_recording, services_of
from scaler.cli.options import (
    address,
    all_manifests,
    config_option,
    manifests_option,
    prometheus_option,
    recording_option,
    speed,
)
from scaler.manifests import Services
from scaler.policy import METRIC_NAME, BadPolicy, ServiceKey, ServicePolicy
from scaler.serving import server
from scaler.serving.clock import Clock, Playback
from scaler.settings import Settings, load_settings
from scaler.sources.checked_session import one_line
from scaler.sources.source import Source

log = structlog.get_logger(__name__)

PLAYED_SPEED = 120.0  # the 9 h of the incident in some 5 minutes


@click.command("serve", short_help="Answer KEDA, from a Prometheus or from a recording.")
@config_option
@prometheus_option
@recording_option
@manifests_option
@click.option(
    "--shadow",
    "shadows",
    multiple=True,
    metavar="FILE",
    help="ScaledObject manifests to plan for and show while nobody acts on it; - is stdin.",
)
@click.option(
    "--speed",
    type=click.FloatRange(1, 10_000),
    callback=speed,
    help="A recording's speed, 1 to 10000; default 120.",
)
@click.option("--listen", callback=address, metavar="HOST:PORT", help="gRPC for KEDA; default 127.0.0.1:6000.")
@click.option("--http", callback=address, metavar="HOST:PORT", help="Status and metrics; default 127.0.0.1:8080.")
def serve_command(
    config: str | None,
    prometheus: str | None,
    recording: str | None,
    manifests: tuple[str, ...],
    more_manifests: tuple[str, ...],
    shadows: tuple[str, ...],
    speed: float | None,
    listen: Address | None,
    http: Address | None,
) -> None:
    """Answers KEDA. Without a Prometheus and a recording it plays the incident that comes with the package.

    ScaledObjects are learnt from KEDA's calls; those of -f are planned for from the start. Those of --shadow, and of
    `shadow` in the settings, are planned for too, and KEDA is told nothing of it.
    """
    only_one_source(recording, prometheus)
    settings = load_settings(config)
    source: Source | None = open_prometheus(settings, prometheus) if recording is None else None
    clock: Clock | None = None
    is_incident = source is None and recording is None
    if source is not None:
        if speed is not None:
            raise click.UsageError("--speed is a recording's; a Prometheus is asked as time goes by")
        told = f"asks {prometheus or (settings.prometheus and settings.prometheus.url)}"
    else:
        source = recorded = open_recording(recording, settings)
        header, speed = recorded.header, speed or PLAYED_SPEED
        if header.start_s == header.end_s:
            raise Unusable(f"{recorded.path}: one snapshot only; to be played it takes two")
        clock = Playback(header.start_s, header.end_s, speed)
        what = "the incident of 18 June 2025" if is_incident else str(recorded.path)
        told = f"plays {what}, {speed:g} times as fast, again and again"
    if shadows and not manifests:
        shadows, more_manifests = (*shadows, *more_manifests), ()  # as a shell makes of `--shadow *.yaml`
    elif shadows and more_manifests:
        raise click.UsageError(f"unexpected argument {more_manifests[0]!r}; -f or --shadow before each file")
    services = services_of(all_manifests(manifests, more_manifests), settings, is_incident and not shadows)
    shadow = _shadow_policies(shadows, settings, services)
    _log_to_stderr()

    def listening(grpc_address: Address, http_address: Address) -> None:
        click.echo(_welcome(told, services, list(shadow), grpc_address, http_address))

    try:
        asyncio.run(
            server.serve(
                source,
                settings,
                grpc_address=listen or settings.listen,
                http_address=http or settings.http,
                clock=clock,
                kept=services.policies,
                shadow=shadow,
                listening=listening,
            )
        )
    except server.CannotListen as fault:
        raise Unusable(str(fault)) from None


def _shadow_policies(files: tuple[str, ...], settings: Settings, services: Services) -> dict[ServiceKey, ServicePolicy]:
    """The shadows of the settings and of these files. None is a service of -f: it could not be both."""
    found = settings.shadow_policies()
    for key, policy in services_of(files, settings, is_incident=False).policies.items():
        if key in found:
            raise BadPolicy(f"--shadow: {'/'.join(key)} stands already under shadow of the settings")
        found[key] = policy
    for key in found:
        if key in services.policies:
            raise BadPolicy(f"{'/'.join(key)}: a shadow, and planned for by -f as well; it takes one of them")
    return found


def _welcome(
    told: str, services: Services, shadow: list[ServiceKey], grpc_address: Address, http_address: Address
) -> str:
    """What is served where, and how to ask it."""
    command = "vram-scaler" if shutil.which("vram-scaler") else sys.argv[0]
    key = next(iter([*services.policies, *shadow]), None)
    namespace, name = key or ("NAMESPACE", "NAME")
    sent = services.metadata.get(key, {}) if key is not None else {}
    metadata = {field: value for field, value in sent.items() if field != "scalerAddress"}
    asked = {
        "scaledObjectRef": {"namespace": namespace, "name": name, "scalerMetadata": metadata},
        "metricName": METRIC_NAME,
    }
    hint = (
        f"With a Prometheus: {command} serve --prometheus http://127.0.0.1:9090\n" if told.startswith("plays") else ""
    )
    at = "" if str(http_address) == "127.0.0.1:8080" else f" --http {http_address}"
    known = ", ".join("/".join(each) for each in services.policies)
    shown = f"\n  shadow    {', '.join('/'.join(each) for each in shadow)}: shown, told to nobody" if shadow else ""
    return f"""\
vram-scaler {__version__} {told}

  KEDA      {grpc_address} (gRPC, plaintext)
  HTTP      http://{http_address}/ (the status page, in a browser)
  planned   {known or "each ScaledObject from KEDA's first call on"}{shown}

Ask it, in another terminal:
  {command} explain {namespace}/{name}{at}
  curl http://{http_address}/v1/decisions
  curl http://{http_address}/metrics
  grpcurl -plaintext -d '{json.dumps(asked)}' \\
    {grpc_address} externalscaler.ExternalScaler/GetMetrics

{hint}Ctrl-C ends it. What it decides is logged below.
"""


def _log_to_stderr() -> None:
    """Coloured lines on a terminal, else one JSON object an event."""
    terminal = sys.stderr.isatty()
    renderers: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if terminal
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="logged"),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # aiohttp, gRPC and asyncio use the standard library's log, which by itself prints tracebacks.
    logging.basicConfig(handlers=[_IntoLog()], level=logging.WARNING)


class _IntoLog(logging.Handler):
    """What libraries log becomes one event of ours, its exception one line and not a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        fault = record.exc_info[1] if record.exc_info else None
        reason = {"reason": one_line(f"{type(fault).__name__}: {fault}")} if fault is not None else {}
        log.log(record.levelno, one_line(record.getMessage()), source=record.name, **reason)
