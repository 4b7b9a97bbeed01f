"""A page as one HTML file: template, style, script, plotly's script and the data, all in it; nothing is asked for.

Names and texts come from tenants. Jinja2 escapes what stands in the HTML; `script_json` what stands in a script; and
the page's own policy (CSP) runs the scripts whose hashes it names and no other, and asks for nothing.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
from collections.abc import Sequence
from functools import cache
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from scaler import __version__
from scaler.report.page import Chart, Curve, Page, Telling

DIGITS = 4  # of a value in a chart: a pixel of 500 is 0.2 %


class PlotlyMissing(Exception):
    """The extra that draws is not installed."""

    def __init__(self) -> None:
        super().__init__("--report takes plotly, which is not installed: pip install 'keda-vram-scaler[report]'")


@cache
def plotly_script() -> str:
    """plotly.js as it travels in plotly's wheel; raises PlotlyMissing."""
    try:
        return str(importlib.import_module("plotly.offline").get_plotlyjs())
    except ImportError:
        raise PlotlyMissing from None


def write_page(path: Path, page: Page) -> int:
    """Puts the file in place only when it is whole. Returns its bytes.

    Raises:
        PlotlyMissing: if the extra is not installed.
        OSError: if the file cannot be written, with its name.
    """
    text = render(page)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        error.filename = str(path)  # of a full disk the system names no file, and the other one is gone
        partial.unlink(missing_ok=True)
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return os.path.getsize(path)


def render(page: Page) -> str:
    """The page as HTML."""
    charts = [chart for section in page.sections for chart in section.charts]
    counter = count()
    sections = [(section, [(next(counter), chart) for chart in section.charts]) for section in page.sections]
    scripts = (plotly_script(), _asset("page.js"))
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            version=__version__,
            style=Markup(_asset("page.css")),
            scripts=[Markup(text) for text in scripts],
            hashes=[_hash(text) for text in scripts],
            data=script_json(_data(page, charts)),
            sections=sections,
            legend=_legend,
        )
    )


def script_json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in, nor a line of JavaScript: <, >, & and the two line
    separators that JSON allows in strings are written as escapes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)


def _data(page: Page, charts: Sequence[Chart]) -> dict[str, Any]:
    return {
        "start": page.start_s,
        "step": page.step_s,
        "steps": page.steps,
        "clock": page.is_clock,
        "charts": [_chart(chart) for chart in charts],
        "tellings": {
            each.subject: {
                "start": each.start,
                "leftOut": each.left_out,
                "settings": [[name, [_telling(one) for one in told]] for name, told in each.by_settings.items()],
            }
            for each in page.tellings
        },
    }


def _chart(chart: Chart) -> dict[str, Any]:
    return {
        "rows": [row._asdict() for row in chart.rows],
        "subject": chart.subject,
        "curves": [_curve(curve) for curve in chart.curves],
        "bands": [[band.start, band.end, int(band.is_other)] for band in chart.bands],
    }


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "row": curve.row,
        "name": curve.name,
        "role": curve.role,
        "at": list(curve.at),
        "values": [None if value is None else _rounded(value) for value in curve.values],
        "step": curve.is_step,
        "quiet": curve.is_quiet,
    }


def _rounded(value: float) -> float | int:
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() else short


def _telling(told: Telling) -> list[Any]:
    return [told.at, told.headline, told.steps, told.reasons, told.without, told.changed_by]


def _legend(chart: Chart) -> list[tuple[str, str]]:
    """Each role once, with the names of its curves (single cards have none here); then the bands."""
    named: dict[str, list[str]] = {}
    for curve in chart.curves:
        names = named.setdefault(curve.role, [])
        name = "each card" if curve.role == "card" else curve.name
        if name not in names:
            names.append(name)
    found: list[tuple[str, str]] = [(role, "; ".join(names)) for role, names in named.items()]
    is_compared = "other" in named
    if any(not band.is_other for band in chart.bands):
        found.append(("veto", "veto, A" if is_compared else "veto"))
    if any(band.is_other for band in chart.bands):
        found.append(("veto-other", "veto, B"))
    return found


@cache
def _asset(name: str) -> str:
    return resources.files("scaler.report").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """As the page's policy names a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    loader = PackageLoader("scaler.report", ".")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
