"""The whole way, live: an exporter with real names, a real Prometheus that scrapes it, `vram-scaler serve`, KEDA.

Time is scaled down: scrapes and ticks every second, windows of 8 s and 4 s. Three services share two cards; what they
do is set by hand, the queries, the decisions and the wire are the product's.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import requests
import yaml

from scaler._pb import externalscaler_pb2 as pb
from scaler._pb import externalscaler_pb2_grpc as pb_grpc
from tests.prometheus_server import running_prometheus

COMMAND = Path(sys.executable).with_name("vram-scaler")
SETTINGS = {
    "timing": {
        "tick": "1s", "stableWindow": "8s", "burstWindow": "4s", "staleAfter": "10s", "learnEvery": "1s",
        "learnWindow": "10m", "watermarkWindow": "5m",
    },
    "pools": [{"lowWatermark": "1536Mi", "highWatermark": "2304Mi", "releaseAfter": "3s", "scaleDownWindow": "10s"}],
    "settle": "0s",
}  # fmt: skip
METADATA = {
    "e5": {"deployment": "e5-predictor", "targetConcurrency": "4"},
    "bundle": {"deployment": "bundle-predictor", "targetConcurrency": "4"},
    "llm": {"deployment": "llm-predictor", "targetConcurrency": "4"},
}


@dataclass
class Encoder:
    """A Triton service: what its counters show, at the rates of now."""

    replicas: int
    success_per_s: float
    executing: float
    pending: float = 0.0
    failure_per_s: float = 0.0
    counters: dict[str, float] = field(default_factory=dict)

    def advance(self, seconds: float) -> None:
        for name, per_s in (
            ("success", self.success_per_s),
            ("failure", self.failure_per_s),
            ("infer_us", self.executing * 1e6),
            ("request_us", (self.executing + self.pending) * 1e6),
        ):
            self.counters[name] = self.counters.get(name, 1000.0) + per_s * seconds


class Fleet:
    """What the exporters show. Counters advance with real time, at every scrape."""

    def __init__(self) -> None:
        self.e5 = Encoder(replicas=2, success_per_s=100.0, executing=5.0)  # 5/4: two replicas
        self.bundle = Encoder(replicas=1, success_per_s=20.0, executing=3.0)  # 3/4: one
        self.llm_running = 9.0  # 9/4: three, and it has one
        self.free_mib = [8000.0, 9000.0]
        self.utilization = 30
        self._scraped_at = time.monotonic()
        self._lock = threading.Lock()

    def exposition(self) -> str:
        with self._lock:
            now = time.monotonic()
            for encoder in (self.e5, self.bundle):
                encoder.advance(now - self._scraped_at)
            self._scraped_at = now
            lines = [*self._cards(), *self._encoder("e5", self.e5), *self._encoder("bundle", self.bundle), *self._llm()]
        return "\n".join([*lines, ""])

    def _cards(self) -> Iterator[str]:
        for index, free in enumerate(self.free_mib):
            card = f'gpu="{index}",UUID="GPU-{index}",device="nvidia{index}",modelName="Tesla T4",Hostname="node-1"'
            yield f"DCGM_FI_DEV_FB_FREE{{{card}}} {free}"
            yield f"DCGM_FI_DEV_FB_USED{{{card}}} {15000 - free}"
            yield f"DCGM_FI_DEV_GPU_UTIL{{{card}}} {self.utilization}"

    def _encoder(self, name: str, encoder: Encoder) -> Iterator[str]:
        deployment = f"{name}-predictor"
        yield from _kube(deployment, encoder.replicas)
        for index in range(encoder.replicas):
            pod = f"{deployment}-6d5c7f9b8-{index:05d}"
            who = f'namespace="models",pod="{pod}",model="{name}",version="1"'
            gpu = f'{who},gpu_uuid="GPU-{index % 2}"'
            share = {counter: value / encoder.replicas for counter, value in encoder.counters.items()}
            yield f"nv_inference_request_success{{{gpu}}} {share['success']}"
            yield f"nv_inference_exec_count{{{gpu}}} {share['success']}"
            yield f"nv_inference_count{{{gpu}}} {share['success']}"
            yield f'nv_inference_request_failure{{{gpu},reason="BACKEND"}} {share["failure"]}'
            yield f"nv_inference_request_duration_us{{{gpu}}} {share['request_us']}"
            yield f"nv_inference_queue_duration_us{{{gpu}}} 0"
            yield f"nv_inference_compute_input_duration_us{{{gpu}}} 0"
            yield f"nv_inference_compute_infer_duration_us{{{gpu}}} {share['infer_us']}"
            yield f"nv_inference_compute_output_duration_us{{{gpu}}} 0"
            yield f"nv_inference_pending_request_count{{{who}}} {encoder.pending / encoder.replicas}"

    def _llm(self) -> Iterator[str]:
        yield from _kube("llm-predictor", 1)
        who = 'namespace="models",pod="llm-predictor-5b6f7d8c9-00000",engine="0",model_name="llama"'
        yield f"vllm:num_requests_running{{{who}}} {self.llm_running}"
        yield f"vllm:num_requests_waiting{{{who}}} 0"
        for reason in ("stop", "error"):
            yield f'vllm:request_success_total{{{who},finished_reason="{reason}"}} 5'


def _kube(deployment: str, replicas: int) -> Iterator[str]:
    names = f'namespace="models",deployment="{deployment}"'
    yield f"kube_deployment_spec_replicas{{{names}}} {replicas}"
    yield f"kube_deployment_status_replicas_ready{{{names}}} {replicas}"
    replica_set = f"{deployment}-{'5b6f7d8c9' if deployment.startswith('llm') else '6d5c7f9b8'}"
    for index in range(replicas):
        pod = f'namespace="models",pod="{replica_set}-{index:05d}"'
        yield f'kube_pod_owner{{{pod},owner_kind="ReplicaSet",owner_name="{replica_set}",owner_is_controller="true"}} 1'


@contextmanager
def exporting(fleet: Fleet) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = fleet.exposition().encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n\r\n"
            self.wfile.write(head.encode() + body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Keda:
    """Asks as KEDA does, and reads the decisions over HTTP."""

    def __init__(self, grpc_port: int, http_port: int) -> None:
        self._stub = pb_grpc.ExternalScalerStub(grpc.insecure_channel(f"127.0.0.1:{grpc_port}"))
        self._http = f"http://127.0.0.1:{http_port}"

    def granted(self, name: str) -> float | grpc.StatusCode:
        ref = pb.ScaledObjectRef(name=name, namespace="models", scalerMetadata=METADATA[name])
        try:
            spec = self._stub.GetMetricSpec(ref, timeout=2).metricSpecs[0]
            request = pb.GetMetricsRequest(scaledObjectRef=ref, metricName=f"s0-{spec.metricName}")
            reply = self._stub.GetMetrics(request, timeout=2)
            self._stub.IsActive(ref, timeout=2)
        except grpc.RpcError as error:
            return error.code()
        assert spec.targetSizeFloat == 1
        return float(reply.metricValues[0].metricValueFloat)

    def decision(self, name: str) -> dict[str, Any]:
        reply = requests.get(f"{self._http}/v1/decisions/models/{name}", timeout=2)
        return dict(reply.json()) if reply.status_code == 200 else {}

    def all_granted(self) -> list[float | grpc.StatusCode]:
        return [self.granted(name) for name in METADATA]

    def demands(self) -> list[int]:
        return [self.decision(name)["demand"] for name in METADATA]


def eventually(what: Callable[[], bool], within_s: float) -> float:
    """Waits until it holds; returns the seconds that it took, fails after `within_s`."""
    begun = time.monotonic()
    while time.monotonic() - begun < within_s:
        if what():
            return time.monotonic() - begun
        time.sleep(0.1)
    raise AssertionError(f"did not come true within {within_s} s")


@contextmanager
def serving(directory: Path, prometheus_url: str) -> Iterator[Keda]:
    config = directory / "vram-scaler.yaml"
    config.write_text(yaml.safe_dump(SETTINGS))
    ports = free_port(), free_port()
    command = [
        str(COMMAND), "serve", "--config", str(config), "--prometheus", prometheus_url,
        "--listen", f"127.0.0.1:{ports[0]}", "--http", f"127.0.0.1:{ports[1]}",
    ]  # fmt: skip
    with (directory / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield Keda(*ports)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0, (directory / "serve.log").read_text()[-2000:]


def scrape_config(target: str) -> dict[str, Any]:
    return {
        "job_name": "fleet",
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "honor_labels": True,
        "static_configs": [{"targets": [target]}],
    }


def test_live(tmp_path: Path) -> None:
    fleet = Fleet()
    with (
        exporting(fleet) as target,
        running_prometheus(tmp_path / "prometheus", scrape_configs=[scrape_config(target)]) as prometheus,
    ):
        started_s = time.time()
        with serving(tmp_path, prometheus.url) as keda:
            # The right numbers: 5/4 -> 2 as it is, 3/4 -> 1 as it is, 9/4 -> 3 where one is.
            eventually(lambda: keda.all_granted() == [2.0, 1.0, 3.0], within_s=40)
            time.sleep(10)  # a window of quiet, to learn from
            assert keda.demands() == [2, 1, 3]

            # A neighbour takes the cards: everything of e5 takes three times as long, its arrivals are the same.
            fleet.utilization, fleet.e5.executing, fleet.e5.pending = 98, 15.0, 0.0
            seen = watch(keda, seconds=12)
            assert seen == {(2, 1, 3)}
            contended = keda.decision("e5")
            assert contended["reasons"][-1] == "contended", contended
            fleet.utilization, fleet.e5.executing = 30, 5.0
            time.sleep(9)

            # The card runs full: no scale-up within two scrapes (and the tick that reads them). llm was told 3 for less
            # than a minute and shows 1: until it is clear that nobody acts on it, an answer of 1 could take 2 back.
            fleet.free_mib[0] = 300.0
            took_s = eventually(lambda: keda.granted("llm") != 3.0, within_s=10)
            assert took_s < 2 * 1.0 + 1.0 + 0.5
            assert keda.decision("llm")["verdict"] in ("veto", "unknown")
            assert keda.all_granted()[:2] == [2.0, 1.0]
            eventually(lambda: keda.granted("llm") == 1.0, within_s=60)
            assert keda.decision("llm")["verdict"] == "veto"

            # A retry storm: 40 % fail, two retries: 156 attempts/s for 100 fresh, 93.6 succeed, the rest waits again.
            fleet.e5.success_per_s, fleet.e5.failure_per_s, fleet.e5.executing = 93.6, 62.4, 14.0
            assert watch(keda, seconds=14) == {(2, 1, 3)}
            assert any(step["name"] == "fresh-in-flight" for step in keda.decision("e5")["steps"])
            fleet.e5.success_per_s, fleet.e5.failure_per_s, fleet.e5.executing = 100.0, 0.0, 5.0
            time.sleep(9)

            # Room again: released after 3 s at the high watermark.
            fleet.free_mib[0] = 8000.0
            took_s = eventually(lambda: keda.granted("llm") == 3.0, within_s=12)
            assert took_s > 2.0

            # Prometheus goes: what was granted stands until it is stale, then nobody is told a number.
            prometheus.stop()
            assert keda.all_granted() == [2.0, 1.0, 3.0]
            eventually(lambda: keda.all_granted() == [grpc.StatusCode.UNAVAILABLE] * 3, within_s=20)
        ended_s = time.time() - 25

    # The same range, recorded and replayed, and replayed straight from Prometheus: the same decisions.
    with running_prometheus(tmp_path / "prometheus") as prometheus:
        live = replayed(tmp_path, "--prometheus", prometheus.url, *during(started_s, ended_s))
        recording = tmp_path / "recording.jsonl.gz"
        vram_scaler(tmp_path, "record", "--prometheus", prometheus.url, *during(started_s, ended_s), "-o", recording)
    assert replayed(tmp_path, "--recording", recording) == live
    assert len(live) > 60
    assert {each["verdict"] for each in live} >= {"hold", "scale-up", "veto"}


def watch(keda: Keda, seconds: float) -> set[tuple[int, ...]]:
    """Every combination of demands that is seen in that time."""
    seen, until = set(), time.monotonic() + seconds
    while time.monotonic() < until:
        seen.add(tuple(keda.demands()))
        time.sleep(0.3)
    return seen


def during(start_s: float, end_s: float) -> list[str]:
    return ["--start", str(int(start_s)), "--end", str(int(end_s)), "--step", "1s"]


def vram_scaler(directory: Path, *arguments: object) -> str:
    command = [str(COMMAND), *map(str, arguments), "--config", str(directory / "vram-scaler.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def replayed(directory: Path, *source: object) -> list[dict[str, Any]]:
    manifests = directory / "scaledobjects.yaml"
    manifests.write_text(
        yaml.safe_dump_all(
            {
                "apiVersion": "keda.sh/v1alpha1",
                "kind": "ScaledObject",
                "metadata": {"name": name, "namespace": "models"},
                "spec": {
                    "scaleTargetRef": {"name": metadata["deployment"]},
                    "triggers": [{"type": "external", "metadata": {"scalerAddress": "vram-scaler:6000", **metadata}}],
                },
            }
            for name, metadata in METADATA.items()
        )
    )
    printed = vram_scaler(directory, "replay", *source, "-f", manifests, "--json", "-")
    return [json.loads(line) for line in printed.splitlines()]
