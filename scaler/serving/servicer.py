"""KEDA's five calls, answered from the plan in force. No call does I/O, waits for another, or writes a log line."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from grpc import aio

from scaler._pb.externalscaler_pb2 import (
    GetMetricSpecResponse,
    GetMetricsRequest,
    GetMetricsResponse,
    IsActiveResponse,
    MetricSpec,
    MetricValue,
    ScaledObjectRef,
)
from scaler._pb.externalscaler_pb2_grpc import ExternalScalerServicer
from scaler.decision import Decision, Verdict
from scaler.policy import METRIC_NAME, ServiceKey
from scaler.serving.board import Board, NoPlan
from scaler.serving.registry import Registry, ScaledObject

log = structlog.get_logger(__name__)
Request = TypeVar("Request")
Response = TypeVar("Response")
Context = aio.ServicerContext[Any, Any]

# KEDA's wait between two attempts grows from 2 s to 60 s and starts anew only after a stream that ended with OK. So
# streams end by themselves, well within the age and grace that the server gives a connection.
STREAM_MOST_S = 600.0
LONGEST_TEXT = 500


class Refusal(Exception):
    """A call that cannot be answered; the text becomes KEDA's event."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(" ".join(text.split())[:LONGEST_TEXT])
        self.code = code


class Servicer(ExternalScalerServicer):
    """Answers KEDA. KEDA sets no deadline and a call that hangs blocks its operator, so every answer is at hand.

    Attributes:
        calls_total: calls that ended, by method and status code.
        streams: streams that are open now, by method.
    """

    def __init__(self, registry: Registry, board: Board, stream_most_s: float = STREAM_MOST_S) -> None:
        self._registry, self._board, self._stream_most_s = registry, board, stream_most_s
        self._seen_faults: set[tuple[str, type[BaseException]]] = set()
        self.calls_total: Counter[tuple[str, str]] = Counter()
        self.streams: Counter[str] = Counter()

    async def GetMetricSpec(self, request: ScaledObjectRef, context: Context) -> GetMetricSpecResponse:  # noqa: N802
        return await self._answer("GetMetricSpec", self._spec, request, context)

    async def GetMetrics(self, request: GetMetricsRequest, context: Context) -> GetMetricsResponse:  # noqa: N802
        return await self._answer("GetMetrics", self._granted, request, context)

    async def IsActive(self, request: ScaledObjectRef, context: Context) -> IsActiveResponse:  # noqa: N802
        return await self._answer("IsActive", self._active, request, context)

    # gRPC takes a handler for a stream only where the method itself is an asynchronous generator.
    async def StreamIsActive(  # noqa: N802
        self, request: ScaledObjectRef, context: Context
    ) -> AsyncIterator[IsActiveResponse]:
        async with contextlib.aclosing(self._stream("StreamIsActive", self._activations(request), context)) as sent:
            async for response in sent:
                yield response

    async def StreamMetricSpec(  # noqa: N802
        self, request: ScaledObjectRef, context: Context
    ) -> AsyncIterator[GetMetricSpecResponse]:
        async with contextlib.aclosing(self._stream("StreamMetricSpec", self._specs(request), context)) as sent:
            async for response in sent:
                yield response

    def _spec(self, request: ScaledObjectRef) -> GetMetricSpecResponse:
        """A pure function of the metadata: it answers before the first plan, without Prometheus, at all times."""
        self._scaled_object(request)
        return GetMetricSpecResponse(
            metricSpecs=[MetricSpec(metricName=METRIC_NAME, targetSize=1, targetSizeFloat=1.0)]
        )

    def _granted(self, request: GetMetricsRequest) -> GetMetricsResponse:
        granted = self._decision(self._scaled_object(request.scaledObjectRef).key).granted
        if granted is None or not math.isfinite(granted):
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "unknown: no number was decided")
        # Both fields carry it: KEDA before 2.17 reads the integer, and a float of 0 makes newer ones read it too.
        value = MetricValue(metricName=request.metricName, metricValue=granted, metricValueFloat=granted)
        return GetMetricsResponse(metricValues=[value])

    def _active(self, request: ScaledObjectRef) -> IsActiveResponse:
        return IsActiveResponse(result=self._decision(self._scaled_object(request).key).active)

    async def _activations(self, request: ScaledObjectRef) -> AsyncGenerator[IsActiveResponse, None]:
        """A `true` whenever the service turns active, and at the opening where there is one to wake.

        KEDA only acts on `true`: it scales from 0 and refreshes lastActiveTime. Sent on each opening it would keep a
        service with replicas from its cooldown; at 0 replicas it is the transition that fell between two streams.
        """
        key, was_active = self._scaled_object(request).key, None
        while True:
            change = self._board.next_change  # taken before the look: no plan falls in between
            self._registry.keep(key)
            decision = self._decision_if_known(key)
            if decision is not None:
                is_first_at_zero = was_active is None and not decision.replicas
                if decision.active and (was_active is False or is_first_at_zero):
                    yield IsActiveResponse(result=True)
                was_active = decision.active
            if self._board.is_closing:
                return
            await change.wait()

    async def _specs(self, request: ScaledObjectRef) -> AsyncGenerator[GetMetricSpecResponse, None]:
        yield self._spec(request)
        while not self._board.is_closing:
            await self._board.next_change.wait()

    def _scaled_object(self, request: ScaledObjectRef) -> ScaledObject:
        asked = self._registry.ask(request.namespace, request.name, request.scalerMetadata)
        if asked.policy is None:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, asked.fault)
        return asked

    def _decision(self, key: ServiceKey) -> Decision:
        try:
            decision = self._board.in_force().decisions.get(key)
        except NoPlan as fault:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, str(fault)) from None
        if decision is None:
            full = f": {len(self._registry)} ScaledObjects are known, no more are taken in"
            text = f"no decision yet: the next tick plans for it{full if self._registry.is_full else ''}"
            raise Refusal(grpc.StatusCode.UNAVAILABLE, text)
        if decision.verdict is Verdict.UNKNOWN:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, unknown_text(decision))
        return decision

    def _decision_if_known(self, key: ServiceKey) -> Decision | None:
        try:
            return self._decision(key)
        except Refusal:
            return None

    async def _answer(
        self, method: str, work: Callable[[Request], Response], request: Request, context: Context
    ) -> Response:
        try:
            response = work(request)
        except Exception as fault:
            await self._abort(method, fault, context)
        self.calls_total[method, "OK"] += 1
        return response

    async def _stream(
        self, method: str, responses: AsyncGenerator[Response, None], context: Context
    ) -> AsyncGenerator[Response, None]:
        """Passes a stream on until it ends, its time is over (both OK), its client leaves, or it fails."""
        code = "CANCELLED"
        end_s = asyncio.get_running_loop().time() + self._stream_most_s
        self.streams[method] += 1
        try:
            async with contextlib.aclosing(responses):
                while True:
                    async with asyncio.timeout_at(end_s):
                        response = await anext(responses)
                    yield response
        except (StopAsyncIteration, TimeoutError):
            code = "OK"
        except Exception as fault:
            code = ""
            await self._abort(method, fault, context)
        finally:
            self.streams[method] -= 1
            if code:
                self.calls_total[method, code] += 1

    async def _abort(self, method: str, fault: Exception, context: Context) -> NoReturn:
        """Refusals end with their own code, anything else as INTERNAL, logged once a kind and method."""
        code = fault.code if isinstance(fault, Refusal) else grpc.StatusCode.INTERNAL
        text = str(fault) if isinstance(fault, Refusal) else f"{method}: {type(fault).__name__}: {fault}"
        if code is grpc.StatusCode.INTERNAL and (method, type(fault)) not in self._seen_faults:
            self._seen_faults.add((method, type(fault)))
            log.error("call failed", method=method, exc_info=fault)
        self.calls_total[method, code.name] += 1
        await context.abort(code, " ".join(text.split())[:LONGEST_TEXT])


def unknown_text(decision: Decision) -> str:
    """An unknown decision in a line: its reasons, and its last step, which says what cannot be known."""
    reasons = ", ".join(decision.reasons)
    return f"unknown ({reasons}): {decision.steps[-1].text}" if decision.steps else f"unknown ({reasons})"
