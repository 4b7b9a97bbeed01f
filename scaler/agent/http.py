"""/metrics and the probes, by the standard library: aiohttp alone would take 14 MB of the agent's 40."""

from __future__ import annotations

from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from scaler.address import Address
from scaler.agent.exposition import Exposition
from scaler.agent.sampler import Sampler

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_INDEX = """keda-vram-scaler node agent: whose VRAM and whose work on this node's cards

/metrics  Prometheus exposition
/readyz   200 while the driver answers, else 503 and why not
/livez    503 once the driver has refused to initialise for 10 minutes: a new container may find its new libraries
"""


def agent_app(sampler: Sampler, exposition: Exposition) -> WSGIApplication:
    """The paths of the index. None of them asks the driver."""
    metrics: WSGIApplication = make_wsgi_app(exposition.registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _text(start_response, "405 Method Not Allowed", "it takes GET\n")
        if path == "/metrics":
            return metrics(environ, start_response)
        if path == "/":
            return _text(start_response, "200 OK", _INDEX)
        if path == "/livez":
            if sampler.is_unusable():
                return _text(start_response, "503 Service Unavailable", f"{sampler.fault()}\n")
            return _text(start_response, "200 OK", "ok\n")
        if path == "/readyz":
            fault = sampler.fault()
            return _text(start_response, "503 Service Unavailable" if fault else "200 OK", f"{fault or 'ok'}\n")
        return _text(start_response, "404 Not Found", "/ lists what there is\n")

    return app


def listen(address: Address, app: WSGIApplication) -> WSGIServer:
    """A server that is bound, not serving yet; raises OSError."""
    return make_server(address.host, address.port, app, _Server, _Handler)


def _text(start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 5  # a client that sends nothing keeps its thread no longer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """A line for each scrape says nothing."""
