"""HTTP for people, probes and Prometheus. Read-only; the decisions are those that KEDA is told."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from scaler.decision import Decision, FleetPlan
from scaler.policy import ServiceKey
from scaler.serving.board import Board, NoPlan
from scaler.serving.telemetry import Telemetry

INDEX = """keda-vram-scaler: how many replicas KEDA is told, and why

/v1/decisions                     the decisions in force, one JSON object a line
/v1/decisions/{namespace}/{name}  one of them
/metrics                          telemetry, Prometheus exposition
/readyz                           200 while answers are given, else 503 and why not
/livez                            200 while the tick loop runs
"""


def status_app(board: Board, telemetry: Telemetry, is_alive: Callable[[], bool]) -> web.Application:
    """The paths of `INDEX`. Long texts are made in a thread: a scrape must not hold up KEDA's calls."""

    async def index(_: web.Request) -> web.Response:
        return web.Response(text=INDEX)

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
            plan = board.in_force()
        except NoPlan as fault:
            return _error(503, str(fault))
        return web.Response(text=await asyncio.to_thread(_lines, plan), content_type="application/x-ndjson")

    async def one(request: web.Request) -> web.Response:
        key = ServiceKey(request.match_info["namespace"], request.match_info["name"])
        try:
            plan = board.in_force()
        except NoPlan as fault:
            return _error(503, str(fault))
        decision = plan.decisions.get(key)
        if decision is None:
            return _error(404, f"no decision for {'/'.join(key)}: {_known(plan, key)}")
        return web.Response(text=_line(decision), content_type="application/json")

    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/v1/decisions", decisions)
    app.router.add_get("/v1/decisions/{namespace}/{name}", one)
    return app


def _lines(plan: FleetPlan) -> str:
    return "".join(_line(decision) for _, decision in sorted(plan.decisions.items()))


def _line(decision: Decision) -> str:
    return json.dumps(_finite(decision.as_json()), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: what is not a number is null, as everything unknown is."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _known(plan: FleetPlan, key: ServiceKey) -> str:
    """At most ten of the known ScaledObjects, those of the same namespace first, and how many there are."""
    if not plan.decisions:
        return "no ScaledObject is known yet; KEDA's first call makes one known"
    nearest = sorted(plan.decisions, key=lambda known: (known.namespace != key.namespace, known))[:10]
    more = ", ..." if len(plan.decisions) > len(nearest) else ""
    return f"known ({len(plan.decisions)}): {', '.join('/'.join(known) for known in nearest)}{more}"


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
