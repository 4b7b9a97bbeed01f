"""A requests.Session that closes what prometheus-api-client leaves open.

Without it: no timeout, or one per recv only (a dripping body took 10.5 s of a 1 s timeout), redirects and proxies from
the environment followed, KeyError on `status: error`, warnings lost. Here every reply is a well-formed success, and
whatever else comes is a QueryFailed with a kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from time import monotonic
from typing import Any, Literal

from requests import PreparedRequest, Response, Session

MAX_BODY_BYTES = 64 * 1024**2  # 1,000 services x 4 signals x 60 instants take about 6 MB
CONNECT_TIMEOUT_S = 2.0
_CHUNK_BYTES = 64 * 1024

Kind = Literal["unavailable", "refused", "bad-query", "bad-reply", "too-large"]


class QueryFailed(Exception):
    """A question without a usable answer; the text is one line. Only `unavailable` is worth asking again."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(f"{kind}: {one_line(text)}")
        self.kind = kind


def one_line(text: str, limit: int = 300) -> str:
    """The text without line breaks, cut to so many characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


class Result(list[Any]):
    """`data.result` with the warnings that stood beside it, which the library would lose."""

    warnings: tuple[str, ...] = ()


class CheckedSession(Session):
    """A session whose every reply is a well-formed success of the query API, read within the request's `timeout`.

    `timeout` is the budget for the whole exchange, body included. Raises QueryFailed, or requests' and urllib3's
    errors where there was no reply.
    """

    def __init__(self, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        super().__init__()
        self.trust_env = False  # no .netrc, no proxy from the environment; saves 17 % of the CPU time as well
        self._max_body_bytes = max_body_bytes
        self._get_only = False

    def get_redirect_target(self, resp: Response) -> None:
        """None: following would carry credentials to wherever the reply says."""

    def send(self, request: PreparedRequest, **kwargs: Any) -> Response:
        budget_s = float(kwargs["timeout"])
        deadline = monotonic() + budget_s
        kwargs |= {"stream": True, "timeout": (min(CONNECT_TIMEOUT_S, budget_s), budget_s)}
        plain = request.copy()
        plain.method = "GET"
        if self._get_only:
            return self._checked(super().send(plain, **kwargs), deadline)
        response = super().send(_with_form(request), **kwargs)
        if response.status_code in (403, 405, 501):  # a read-only proxy; a 403 that means us comes again with GET
            response.close()
            response = super().send(plain, **kwargs)
            self._get_only = response.status_code == 200
        return self._checked(response, deadline)

    def _checked(self, response: Response, deadline: float) -> Response:
        with response:
            status, body = response.status_code, self._body(response, deadline)
        if 300 <= status < 400:
            raise QueryFailed("bad-reply", f"HTTP {status}, a redirect, which is not followed: give the final url")
        if status == 429 or status >= 500:
            raise QueryFailed("unavailable", f"HTTP {status}{_error_text(body)}")
        if status in (400, 422):
            kind: Kind = "too-large" if b"too many samples" in body else "bad-query"  # --query.max-samples
            raise QueryFailed(kind, f"HTTP {status}{_error_text(body)}")
        if status != 200:
            raise QueryFailed("refused", f"HTTP {status}{_error_text(body)}")
        return _Reply(_document(body))

    def _body(self, response: Response, deadline: float) -> bytes:
        body = bytearray()
        # read1 returns after one recv; read(n) would sit through a drip until n bytes have come.
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            body += chunk
            if len(body) > self._max_body_bytes:
                raise QueryFailed("too-large", f"a reply of more than {self._max_body_bytes // 1024**2} MiB")
            if monotonic() > deadline:
                raise QueryFailed("unavailable", f"the reply was not complete in time ({len(body)} bytes came)")
        return bytes(body)


class _Reply(Response):
    """A success that has been read and checked; `json()` does not parse again."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__()
        self.status_code = 200
        self._document = document

    def json(self, **kwargs: Any) -> Any:
        return self._document


def _with_form(request: PreparedRequest) -> PreparedRequest:
    """The library puts a POST's parameters into the URL; they belong into the body."""
    url, _, form = str(request.url).partition("?")
    request.url = url
    request.headers["Content-Type"] = "application/x-www-form-urlencoded"
    request.prepare_body(form, None)
    return request


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise QueryFailed("bad-reply", f"not JSON: {_shown(body)}") from None
    if not isinstance(document, dict):
        raise QueryFailed("bad-reply", f"JSON, but not an object: {_shown(body)}")
    if document.get("status") != "success":
        raise QueryFailed("bad-reply", f"status {document.get('status')!r}{_error_text(body)}")
    data = document.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("result"), list):
        raise QueryFailed("bad-reply", f"no data.result: {_shown(body)}")
    if data.get("resultType") not in ("vector", "matrix"):
        raise QueryFailed("bad-reply", f"resultType {data.get('resultType')!r}; a vector or a matrix was asked for")
    result = Result(data["result"])
    warnings = document.get("warnings")
    # Prometheus 2.49 to 2.55 files its hints among the warnings: Triton's counters do not end in _total, so each
    # rate() of them gives one.
    if isinstance(warnings, list):
        result.warnings = tuple(str(warning) for warning in warnings if not str(warning).startswith("PromQL info"))
    return {"data": {"result": result}}


def _error_text(body: bytes) -> str:
    """Prometheus' own words, where the body is its error object; else the body's beginning."""
    try:
        document = json.loads(body)
        return f", {document['errorType']}: {document['error']}"
    except (ValueError, RecursionError, KeyError, TypeError):
        return f": {_shown(body)}" if body else ""


def _shown(body: bytes) -> str:
    return repr(body[:80].decode("utf-8", "replace"))
