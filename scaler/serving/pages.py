"""The status page: HTML for people, made on the server, once a plan, in a thread, so that KEDA's calls do not wait.

A page needs nothing but itself: no script, no font and no picture from elsewhere, and a policy by which a browser would
not load any. A small script renews it in place, since reloading it whole would close what was opened and lose the place
read; without scripts the browser reloads it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from scaler import __version__
from scaler.policy import ServiceKey
from scaler.serving.board import Board, Epoch
from scaler.serving.hour import LastHour
from scaler.serving.lines import HEIGHT
from scaler.serving.pool_view import Since
from scaler.serving.shadow import ShadowBook
from scaler.serving.view import clock, overview, service_page

MOST_KEPT = 64  # pages of one plan; the next plan empties the store


class Html(NamedTuple):
    """A page, and a name for exactly these bytes."""

    body: bytes
    etag: str


class Pages:
    """Pages of the plan in force, each made once.

    Attributes:
        headers: what every page is sent with.
    """

    def __init__(self, board: Board, hour: LastHour, shadows: ShadowBook, refresh_s: float = 15.0) -> None:
        self._board, self._hour, self._shadows = board, hour, shadows
        self._environment = Environment(
            loader=PackageLoader("scaler.serving"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {"clock": clock, "segment": partial(quote, safe="")}
        style, script = (self._source(name) for name in ("page.css", "page.js"))
        self._shared = {
            "style": style,
            "script": script,
            "version": __version__,
            "line_height": HEIGHT,
        }
        self.renew_every(refresh_s)
        policy = (
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
        self.headers: Mapping[str, str] = {
            "Content-Security-Policy": "; ".join(policy),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
            "Vary": "Accept",
        }
        self._lock = asyncio.Lock()
        self._of: Epoch | None = None
        self._kept: dict[ServiceKey | None, Html] = {}

    def renew_every(self, refresh_s: float) -> None:
        """How often an open page asks for a newer one; pages that are made already stay as they are."""
        self._shared["refresh_s"] = f"{refresh_s:g}"

    async def overview(self, epoch: Epoch) -> Html:
        """All pools and services."""
        vetoed = self._vetoed()
        return await self._once(
            epoch, None, lambda: self._render("overview.html", page=overview(epoch, self._hour, vetoed))
        )

    async def service(self, epoch: Epoch, key: ServiceKey) -> Html | None:
        """One service; None where the plan has no decision for it."""
        decision, vetoed = epoch.decision(key), self._vetoed()
        if decision is None:
            return None
        account = self._shadows.accounts.get(key)
        return await self._once(
            epoch,
            key,
            lambda: self._render("service.html", page=service_page(epoch, decision, self._hour, vetoed, account)),
        )

    async def fault(self, title: str, text: str, says: str) -> Html:
        """A page in place of one that cannot be shown, and why."""
        return await asyncio.to_thread(self._render, "fault.html", title=title, text=text, says=says)

    def _vetoed(self) -> dict[str, Since]:
        board = self._board
        return {name: Since(since_s, name in board.vetoed_longer) for name, since_s in board.vetoed_since_s.items()}

    async def _once(self, epoch: Epoch, key: ServiceKey | None, make: Callable[[], Html]) -> Html:
        """One page is made at a time, for however many readers."""
        async with self._lock:
            if self._of is not epoch or len(self._kept) >= MOST_KEPT:
                self._of, self._kept = epoch, {}
            if key not in self._kept:
                self._kept[key] = await asyncio.to_thread(make)
            return self._kept[key]

    def _render(self, template: str, **values: Any) -> Html:
        body = self._environment.get_template(template).render(**self._shared, **values).encode()
        return Html(body, hashlib.sha256(body).hexdigest()[:32])

    def _source(self, name: str) -> str:
        loader = self._environment.loader
        assert loader is not None
        return loader.get_source(self._environment, name)[0]


def _hash(text: str) -> str:
    """What a content security policy calls exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
