"""`vram-scaler agent`: NVML's view of this node's cards, for Prometheus."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from pathlib import Path

import click

from scaler.address import Address
from scaler.cli.faults import Unusable
from scaler.cli.options import address
from scaler.duration import parse_duration

_LEAST_S, _MOST_S = 1.0, 60.0


def _every(_: click.Context, __: click.Parameter, value: str) -> float:
    try:
        every_s = parse_duration(value)
        if not _LEAST_S <= every_s <= _MOST_S:
            raise ValueError("out of range")
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}; it takes a duration such as 5s, 1s to 1m") from None
    return every_s


@click.command("agent", short_help="Tell whose VRAM and whose work is on this node's cards.")
@click.option(
    "--http", callback=address, default="127.0.0.1:9410", metavar="HOST:PORT", show_default=True,
    help="Metrics and probes.",
)  # fmt: skip
@click.option(
    "--every", "every_s", callback=_every, default="5s", metavar="DURATION", show_default=True,
    help="Time between two rounds, 1s to 1m.",
)  # fmt: skip
@click.option(
    "--proc", type=click.Path(exists=True, file_okay=False, path_type=Path), default="/proc", metavar="DIR",
    show_default=True, help="The host's /proc: PIDs are the host's.",
)  # fmt: skip
@click.option(
    "--pod-resources", type=click.Path(path_type=Path), metavar="SOCKET",
    help="The kubelet's socket, for pods without a process yet: /var/lib/kubelet/pod-resources/kubelet.sock.",
)  # fmt: skip
@click.option("--node", default="", envvar="NODE_NAME", metavar="NAME", help="The node's name; default: $NODE_NAME.")
def agent_command(http: Address, every_s: float, proc: Path, pod_resources: Path | None, node: str) -> None:
    """Asks the driver every few seconds and exposes, per card and pod, what is held and who ran.

    Without a driver it waits for one. Needs the host's PIDs to tell pods apart, no CUDA, and nothing from Kubernetes.
    """
    from scaler.agent.exposition import Exposition
    from scaler.agent.http import agent_app, listen
    from scaler.agent.nvml import Driver
    from scaler.agent.sampler import Sampler

    _log_to_stderr()
    kubelet = None
    if pod_resources is not None:
        from scaler.agent.kubelet import Kubelet

        kubelet = Kubelet(pod_resources)
    sampler = Sampler(Driver(), proc, every_s, kubelet)
    try:
        server = listen(http, agent_app(sampler, Exposition(sampler, node)))
    except OSError as fault:
        raise Unusable(f"--http {http}: {fault.strerror or fault}") from None
    ended = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: ended.set())
    sampler.start()
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    click.echo(f"metrics on http://{Address(http.host, server.server_port)}/metrics, a round every {every_s:g} s")
    ended.wait()
    sampler.stop()
    server.shutdown()


class _JsonLines(logging.Formatter):
    """One JSON object an event, as `serve` logs, without structlog's 15 MB."""

    def format(self, record: logging.LogRecord) -> str:
        fault = record.exc_info[1] if record.exc_info else None
        reason = {"reason": " ".join(f"{type(fault).__name__}: {fault}".split())} if fault is not None else {}
        logged = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        event = {"event": record.getMessage(), "level": record.levelname.lower(), "logged": logged, **reason}
        return json.dumps(event)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
