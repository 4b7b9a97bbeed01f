"""HTTP for people, probes and Prometheus. Read-only; the decisions are those that KEDA is told."""

from __future__ import annotations

import asyncio
import difflib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client.exposition import choose_encoder

from scaler.decision import Decision
from scaler.explain import explanation
from scaler.policy import ServiceKey
from scaler.serving.board import Board, Epoch, NoPlan
from scaler.serving.pages import Html, Pages
from scaler.serving.telemetry import Telemetry

log = structlog.get_logger(__name__)

INDEX = """keda-vram-scaler: how many replicas KEDA is told, and why

/                                 the status page, for browsers
/services/{namespace}/{name}      a service's page: its decision, each step, its last hour
/v1/decisions                     the decisions in force, one JSON object a line
/v1/decisions/{namespace}/{name}  one of them
/metrics                          telemetry, Prometheus exposition
/readyz                           200 while answers are given, else 503 and why not
/livez                            200 while the tick loop runs
"""


KEDA_IS_TOLD = "Until then KEDA is told UNAVAILABLE with this reason, and every HPA keeps the replicas that it has."


def status_app(board: Board, telemetry: Telemetry, pages: Pages, is_alive: Callable[[], bool]) -> web.Application:
    """The paths of `INDEX`. Long texts are made in a thread: a scrape must not hold up KEDA's calls."""

    def html(request: web.Request, page: Html, status: int = 200) -> web.Response:
        headers = dict(pages.headers)
        if status == 200:
            headers["ETag"] = f'"{page.etag}"'
            if any(page.etag == each.value for each in request.if_none_match or ()):
                return web.Response(status=304, headers=headers)
        response = web.Response(
            body=page.body, status=status, content_type="text/html", charset="utf-8", headers=headers
        )
        response.enable_compression()
        return response

    async def index(request: web.Request) -> web.Response:
        if not _is_browser(request):
            return web.Response(text=INDEX, headers={"Vary": "Accept"})
        try:
            epoch = board.epoch_in_force()
        except NoPlan as fault:
            return html(request, await pages.fault("Not ready", str(fault), KEDA_IS_TOLD), 503)
        return html(request, await pages.overview(epoch))

    async def service(request: web.Request) -> web.Response:
        key = ServiceKey(request.match_info["namespace"], request.match_info["name"])
        try:
            epoch = board.epoch_in_force()
        except NoPlan as fault:
            return html(request, await pages.fault("Not ready", str(fault), KEDA_IS_TOLD), 503)
        page = await pages.service(epoch, key)
        if page is None:
            text = f"no decision for {'/'.join(key)}: {_known(epoch, key)}"
            return html(request, await pages.fault("Not known", text, ""), 404)
        return html(request, page)

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if is_alive() else web.Response(status=503, text="the tick loop has ended\n")

    async def readyz(_: web.Request) -> web.Response:
        fault = board.fault()
        return web.Response(text="ok\n") if fault is None else web.Response(status=503, text=f"{fault}\n")

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await asyncio.to_thread(encode, telemetry.exposition)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def decisions(_: web.Request) -> web.Response:
        try:
            epoch = board.epoch_in_force()
        except NoPlan as fault:
            return _error(503, str(fault))
        return web.Response(text=await asyncio.to_thread(_lines, epoch), content_type="application/x-ndjson")

    async def one(request: web.Request) -> web.Response:
        key = ServiceKey(request.match_info["namespace"], request.match_info["name"])
        try:
            epoch = board.epoch_in_force()
        except NoPlan as fault:
            return _error(503, str(fault))
        decision = epoch.decision(key)
        if decision is None:
            return _error(404, f"no decision for {'/'.join(key)}: {_known(epoch, key)}")
        return web.Response(text=_explained(decision, epoch), content_type="application/json")

    app = web.Application(middlewares=[_faults_as_text])
    app.router.add_get("/", index)
    app.router.add_get("/services/{namespace}/{name}", service)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/v1/decisions", decisions)
    app.router.add_get("/v1/decisions/{namespace}/{name}", one)
    return app


def _is_browser(request: web.Request) -> bool:
    """Whether HTML is asked for by name: curl and probes take anything, and get text."""
    return "text/html" in request.headers.get("Accept", "").lower()


def _lines(epoch: Epoch) -> str:
    return "".join(_line(decision, epoch) for decision in epoch.decisions().values())


def _line(decision: Decision, epoch: Epoch) -> str:
    return _json(_marked(decision, epoch))


def _explained(decision: Decision, epoch: Epoch) -> str:
    """One decision, and in words what bound it, what it would have been otherwise, and what would change it."""
    told = explanation(decision.as_json())
    words = {"reasons": told.reasons, "without": told.without, "changedBy": told.changed_by}
    return _json({**_marked(decision, epoch), "explanation": {"headline": told.headline, **words}})


def _marked(decision: Decision, epoch: Epoch) -> dict[str, Any]:
    """The contract's object; a shadow's says that it is one."""
    mark = {} if decision.key in epoch.plan.decisions else {"shadow": True}
    return {**decision.as_json(), **mark}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(_finite(dict(value)), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: what is not a number is null, as everything unknown is."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _known(epoch: Epoch, key: ServiceKey) -> str:
    """At most five near misses of the same namespace and how many are known there: other namespaces are others'."""
    names = sorted(known.name for known in epoch.decisions() if known.namespace == key.namespace)
    if not names:
        return f"no ScaledObject is known in {key.namespace}; KEDA's first call makes one known"
    near = ", ".join(difflib.get_close_matches(key.name, names, n=5, cutoff=0.5))
    meant = f"did you mean {near}? " if near else ""
    return f"{meant}{len(names)} known in {key.namespace}"


@web.middleware
async def _faults_as_text(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever no path answers is one line: a JSON error under /v1, plain text elsewhere."""
    allowed: dict[str, str] = {}
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as refused:
        allowed["Allow"] = ", ".join(sorted(refused.allowed_methods))
        status, text = refused.status, f"{request.method} is not answered here; it takes {allowed['Allow']}"
    except web.HTTPException as refused:
        status, text = refused.status, f"{refused.reason}: {request.rel_url.raw_path[:200]}; / lists what there is"
    except Exception as fault:
        log.exception("request failed", path=request.path)
        status, text = 500, f"internal fault: {type(fault).__name__}"
    is_json = f"{request.path}/".startswith("/v1/")
    response = _error(status, text) if is_json else web.Response(status=status, text=f"{text}\n")
    response.headers.update(allowed)
    return response


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
