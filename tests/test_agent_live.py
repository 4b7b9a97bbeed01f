"""The whole way: a stand-in driver, `vram-scaler agent`, a Prometheus that scrapes it, the scaler's queries; its loss.

Scrapes and rounds every second; the windows are scaled down with them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scaler.policy import Timing
from scaler.snapshot import CardKey, HeldVram, Snapshot, WorkloadKey
from scaler.sources.prometheus import PrometheusSettings, PrometheusSource
from tests.metric_fleet import NAMESPACE, Series, dcgm, deployment, labels
from tests.nvml_standin import GIB, Node, pod_uid
from tests.prometheus_server import running_prometheus
from tests.test_agent_process import agent

E5, LLM, CARD = WorkloadKey(NAMESPACE, "e5"), WorkloadKey(NAMESPACE, "llm"), CardKey("GPU-a")
TIMING = Timing(tick_s="1s", stable_window_s="8s", burst_window_s="4s", stale_after_s="10s")


def others() -> Series:
    """kube-state-metrics, and a DCGM exporter that puts one pod's name on the shared card."""
    names = {pod_uid(1): "e5-0", pod_uid(2): "e5-1", pod_uid(3): "llm-0"}
    infos = [labels(namespace=NAMESPACE, pod=pod, uid=uid) for uid, pod in names.items()]
    return {
        **deployment("e5", ("e5-0", "e5-1"), 2),
        **deployment("llm", ("llm-0",), 1),
        **{f"kube_pod_info{info}": 1 for info in infos},
        **dcgm("GPU-a", "node-1", free=8192, used=15360, copies=[({"namespace": NAMESPACE, "pod": "e5-1"}, 50, 0)]),
    }


@contextmanager
def exporter(series: Series) -> Iterator[str]:
    """HOST:PORT of an exposition of that."""
    text = "".join(f"{name} {value}\n" for name, value in series.items()).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def until(source: PrometheusSource, seen: Callable[[Snapshot], bool]) -> Snapshot:
    give_up = time.monotonic() + 40
    while time.monotonic() < give_up:
        snapshot = source.snapshot_at(round(time.time(), 3))
        if seen(snapshot):
            return snapshot
        time.sleep(0.3)
    raise AssertionError(f"never seen; last: {snapshot}")


def test_from_the_driver_to_the_snapshot_and_back_without_the_agent(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.card("GPU-a", utilization=40)  # the exporter says 50
    node.process(0, 4001, 3 * GIB, pod=pod_uid(1), sm=40)
    node.process(0, 4002, 2 * GIB, pod=pod_uid(2), sm=10)
    node.process(0, 4003, 8 * GIB, pod=pod_uid(3), sm=25)
    node.write()
    with exporter(others()) as address, agent(node) as url:
        jobs = [
            {
                "job_name": name,
                "scrape_interval": "1s",
                "static_configs": [{"targets": [target]}],
                "honor_labels": honor,
            }
            for name, target, honor in (("others", address, True), ("agent", url.removeprefix("http://"), False))
        ]
        with running_prometheus(tmp_path / "prometheus", scrape_configs=jobs) as server:
            source = PrometheusSource(PrometheusSettings(url=server.url), TIMING)
            snapshot = until(source, lambda seen: CARD in seen.cards and len(seen.cards[CARD].held) == 2)
            assert snapshot.cards[CARD].held == {
                E5: HeldVram(5 * GIB, 3 * GIB),
                LLM: HeldVram(8 * GIB, 8 * GIB),
            }
            assert snapshot.cards[CARD].pods == {E5: 2, LLM: 1}
            assert snapshot.cards[CARD].utilization_ratio == pytest.approx(0.4)
            assert {
                key: (round(seen.gpu_busy or 0, 6), seen.gpu_busy_source) for key, seen in snapshot.workloads.items()
            } == {
                E5: (0.5, "agent"),
                LLM: (0.25, "agent"),
            }
            node.lines.append("hang nvmlDeviceGetMemoryInfo_v2")
            node.write()
            snapshot = until(source, lambda seen: not seen.cards[CARD].held)
            assert snapshot.workloads[E5].gpu_busy is None  # the agent's last figures are in its windows still
            assert snapshot.cards[CARD].pods == {E5: 1}  # what the exporter says
            assert snapshot.cards[CARD].utilization_ratio in (None, 0.5)  # as soon as it has been there for 15 s
            assert snapshot.cards[CARD].free_bytes == 8 * GIB
            node.write(without="hang")
            until(source, lambda seen: len(seen.cards[CARD].held) == 2)
