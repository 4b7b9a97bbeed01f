"""A real Prometheus for tests: Debian's, on a free port, filled with history or scraping live targets.

    with running_prometheus(tmp_path, openmetrics(series, start, end)) as server:
        PrometheusSettings(url=server.url)

Mind: after the start of a scraping server the first scrape comes only 5 s later (the discovery manager's tick), however
short the interval. A server that was filled answers at once, with `time=` in the filled range.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

Value = float | Callable[[float], float | None]


@dataclass(frozen=True)
class PrometheusServer:
    """A server that is ready; `stop()` may be called early, to see what its absence does."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def arguments(self) -> list[str]:
        """Its command line."""
        return [str(word) for word in self.process.args] if isinstance(self.process.args, list) else []

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


@contextmanager
def running_prometheus(
    directory: Path,
    history: str = "",
    scrape_configs: Sequence[Mapping[str, Any]] = (),
    flags: Sequence[str] = (),
) -> Iterator[PrometheusServer]:
    """Starts a server with its data in `directory`; `history` is OpenMetrics text, `scrape_configs` as Prometheus'."""
    directory.mkdir(parents=True, exist_ok=True)
    data, config = directory / "data", directory / "prometheus.yml"
    config.write_text(yaml.safe_dump({"scrape_configs": list(scrape_configs)}))
    if history:
        fill(data, history)
    server = _start(config, data, directory / "prometheus.log", flags)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def fill(data: Path, history: str) -> None:
    """Writes OpenMetrics text with timestamps into a data directory, before its server starts."""
    text = data.parent / "history.om"
    text.write_text(history)
    done = subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(data)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout


def openmetrics(series: Mapping[str, Value], start_s: float, end_s: float, step_s: float = 15.0) -> str:
    """OpenMetrics text of series (`name{label="..."}` -> a constant, or the value at a time; None: no sample then)."""
    families: dict[str, list[str]] = {}
    for name, value in series.items():
        lines = families.setdefault(name.partition("{")[0], [])
        for index in range(int((end_s - start_s) / step_s) + 1):
            at_s = start_s + index * step_s
            sample = value(at_s) if callable(value) else value
            if sample is not None:
                lines.append(f"{name} {sample} {at_s:.3f}")
    return "\n".join([line for lines in families.values() for line in lines] + ["# EOF", ""])


def _start(config: Path, data: Path, log: Path, flags: Sequence[str]) -> PrometheusServer:
    for _ in range(3):  # another process may take the port between its choice and its use
        port = _free_port()
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={data}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--storage.tsdb.retention.time=100y",
                    "--log.level=warn",
                    *flags,
                ],
                stdout=output,
                stderr=output,
            )
        if _ready(process, f"http://127.0.0.1:{port}"):
            return PrometheusServer(f"http://127.0.0.1:{port}", process)
        process.kill()
        process.wait()
    raise AssertionError(f"prometheus did not start: {log.read_text()}")


def _ready(process: subprocess.Popen[bytes], url: str) -> bool:
    give_up = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < give_up:
        try:
            if requests.get(f"{url}/-/ready", timeout=1).status_code == 200:
                return True
        except requests.RequestException:
            pass
        time.sleep(0.02)  # it offers no event; it is ready after some 40 ms
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
