"""A false Prometheus that misbehaves on demand. Header and body leave in one send: two would wait 40 ms for an ACK."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Reply:
    """What is sent. `dripping` comes byte by byte, every 20 ms, and never ends; `silent` is nothing at all."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    dripping: Literal["", "header", "body"] = ""
    silent: bool = False


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    form: Mapping[str, str]  # the parameters of address and body together
    in_address: str
    headers: Mapping[str, str]

    @property
    def query(self) -> str:
        return self.form.get("query", "")


Answering = Callable[[Asked], Reply]


def vector(*series: tuple[Mapping[str, str], str], warnings: Sequence[str] = ()) -> Reply:
    """A success as Prometheus gives it: labels and the value as text, at the instant that was asked for."""
    result = [{"metric": dict(labels), "value": [0, value]} for labels, value in series]
    return success({"resultType": "vector", "result": result}, warnings)


def success(data: Any, warnings: Sequence[str] = ()) -> Reply:
    return Reply(body=json.dumps({"status": "success", "data": data, "warnings": list(warnings)}).encode())


class FakePrometheus:
    """Answers every query with what `answering` says; the timestamps of vectors are set to the instant asked for."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.asked: list[Asked] = []
        self._closing = threading.Event()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while asked := _read(self.rfile):
                    outer.asked.append(asked)
                    outer._send(self, asked, outer.answering(asked))

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def close(self) -> None:
        """Ends what drips and what is silent."""
        self._closing.set()

    def _send(self, handler: socketserver.StreamRequestHandler, asked: Asked, reply: Reply) -> None:
        if reply.silent:
            self._closing.wait()
            return
        body = _at_instant(reply.body, asked.form.get("time"))
        length = 1_000_000 if reply.dripping else len(body)
        headers = {"Content-Type": "application/json", "Content-Length": str(length), **reply.headers}
        head = f"HTTP/1.1 {reply.status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        try:
            end_of_head = b"X-Endless: " if reply.dripping == "header" else b"\r\n"
            handler.wfile.write(head.encode() + end_of_head + (b"" if reply.dripping else body))
            while reply.dripping and not self._closing.wait(0.02):
                handler.wfile.write(b" ")
        except OSError:  # the client has left
            return


def _at_instant(body: bytes, instant: str | None) -> bytes:
    try:
        document = json.loads(body)
        for item in document["data"]["result"]:
            item["value"][0] = float(instant or 0)
    except (ValueError, KeyError, TypeError, RecursionError):
        return body
    return json.dumps(document).encode()


def _read(stream: Any) -> Asked | None:
    try:
        line = stream.readline().decode()
        if not line:
            return None
        method, target, _ = line.split(" ", 2)
        headers = {}
        while (header := stream.readline().decode().strip()) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", "0"))).decode()
    except (OSError, ValueError):
        return None
    parts = urlsplit(target)
    form = {name: values[0] for name, values in parse_qs(parts.query + "&" + body).items()}
    return Asked(method, parts.path, form, parts.query, headers)
