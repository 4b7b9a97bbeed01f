"""`vram-scaler explain`: the reasons of the decision now in force, asked of a running scaler."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

import click

from scaler.address import Address
from scaler.cli.faults import Unusable
from scaler.cli.options import address as address_callback
from scaler.explain import explain
from scaler.settings import Settings

TIMEOUT_S = 5.0
MOST_BYTES = 1024**2  # a decision is some 3 kB


@click.command("explain", short_help="The reasons of the decision now in force.")
@click.argument("service", metavar="NAMESPACE/NAME")
@click.option(
    "--http",
    "address",
    callback=address_callback,
    default=str(Settings().http),
    show_default=True,
    metavar="HOST:PORT",
    help="A running scaler's HTTP.",
)
def explain_command(service: str, address: Address) -> None:
    """The reasons of the decision that is in force for a ScaledObject: each number with its source, and what bound."""
    namespace, slash, name = service.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise click.UsageError(f"{service!r} is not a ScaledObject; it takes NAMESPACE/NAME, e.g. kserve-models/e5")
    decision = _ask(f"http://{address}/v1/decisions/{quote(namespace, safe='')}/{quote(name, safe='')}")
    try:
        text = explain(decision)
    except (KeyError, TypeError, ValueError) as error:
        raise Unusable(f"http://{address}: not a decision: {type(error).__name__}: {error}") from None
    click.echo(text)


def _ask(url: str) -> dict[str, Any]:
    opener = build_opener(ProxyHandler({}))  # the address was given: no proxy from the environment stands before it
    try:
        with opener.open(url, timeout=TIMEOUT_S) as response:
            decision = json.loads(response.read(MOST_BYTES))
    except HTTPError as error:
        with error:
            text = error.read(2000).decode("utf-8", "replace")
        raise Unusable(f"{url}: HTTP {error.code}: {_reason(text)}") from None
    except (URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise Unusable(f"{url}: no answer: {reason}; --http takes the address that `serve` prints") from None
    except ValueError as error:
        raise Unusable(f"{url}: not JSON: {error}") from None
    if not isinstance(decision, dict):
        raise Unusable(f"{url}: not a decision: {type(decision).__name__}")
    return decision


def _reason(body: str) -> str:
    """The scaler's own words: {"error": "..."}; of anything else, its beginning."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200]
