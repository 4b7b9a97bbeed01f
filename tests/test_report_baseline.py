"""What the present triggers asked for, drawn beside what ran and what is granted: in Chromium, light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from scaler.cli.commands import cli
from scaler.incident import RECORDING, SCALED_OBJECTS
from scaler.snapshot import Snapshot, WorkloadKey
from scaler.sources.recording import RecordingSource
from scaler.sources.recording_format import RecordingHeader
from scaler.sources.recording_writer import write_recording

if TYPE_CHECKING:
    from tests.browser import OpenPage
    from tests.browser import Page as OpenedPage

pytest_plugins = ("tests.browser",)

NAME = "asked by the present triggers"
DRAWN = "document.querySelector('.plot[data-drawn]') !== null"
POOL, E5 = "Pool default", "kserve-models/e5 "  # how their charts' labels begin
START_S, STEP_S = 1_750_215_600.0, 15.0  # 2025-06-18 03:00:00 UTC; queues of retries come at 03:15
UNKNOWN = range(40, 60)  # ten to fifteen minutes after the start: a trigger could not be evaluated


def asking(snapshot: Snapshot, names: tuple[str, ...] | None) -> Snapshot:
    """One replica for every 3 requests that wait, 1 to 11, as KEDA's own trigger of the incident's tenant."""
    asked = {}
    for key, reading in snapshot.workloads.items():
        is_known = names is None or key.deployment.removesuffix("-predictor") in names
        if is_known and reading.queued is not None:
            asked[key] = min(11, max(1, math.ceil(reading.queued / 3)))
    return replace(snapshot, asked=asked)


def reported(folder: Path, names: tuple[str, ...] | None) -> Path:
    """The report of one hour, in which the triggers of these services (None: of all) could be evaluated."""
    source = RecordingSource(RECORDING)
    end_s = START_S + 3600

    def snapshots() -> Iterator[Snapshot]:
        for number, each in enumerate(source.snapshots(START_S, end_s, STEP_S)):
            yield each if number in UNKNOWN else asking(each, names)

    header = RecordingHeader(START_S, end_s, STEP_S, source.header.timing, {"made by": "a test"})
    write_recording(folder / "hour.jsonl.gz", header, snapshots())
    arguments = ["replay", "--recording", str(folder / "hour.jsonl.gz"), "-f", str(SCALED_OBJECTS)]
    result = CliRunner().invoke(cli, [*arguments, "--report", str(folder / "hour.html")])
    assert result.exit_code == 0, result.output
    return folder / "hour.html"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported(tmp_path_factory.mktemp("one"), ("e5",))


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported(tmp_path_factory.mktemp("every"), None)


def curves(page: OpenedPage, chart: str) -> dict[str, dict[str, Any]]:
    """The first row's curves as plotly draws them, by name."""
    plot = page.find(f'.plot[aria-label^="{chart}"]')
    page.run("arguments[0].closest('details').open = true; arguments[0].scrollIntoView({block: 'center'})", plot)
    page.wait_for(f"document.querySelector('.plot[aria-label^=\"{chart}\"]').dataset.drawn === 'yes'")
    script = (
        "return arguments[0]._fullData.filter((each) => each.yaxis === 'y')"
        ".map((each) => ({name: each.name, color: each.line.color, dash: each.line.dash, width: each.line.width,"
        " y: Array.from(each.y)}))"
    )
    return {each["name"]: each for each in page.run(script, plot)}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_a_thin_dashed_line_in_the_colour_of_what_happened(open_page: OpenPage, one: Path, dark: bool) -> None:
    page = open_page(one.as_uri(), dark=dark)
    drawn = curves(page, E5)
    assert list(drawn) == ["real replicas", "granted", "demand", NAME]
    asked, real = drawn[NAME], drawn["real replicas"]
    assert asked["color"] == real["color"] == ("#ff9a56" if dark else "#c2410c")
    assert (real["dash"], asked["dash"]) == ("solid", "6px,3px")
    assert asked["width"] < min(real["width"], drawn["granted"]["width"])
    [item] = page.find_all(".legend .role-asked")[:1]
    assert item.text == NAME
    line = page.find(".legend .role-asked i")
    assert line.value_of_css_property("border-top-style") == "dashed"
    assert line.value_of_css_property("border-top-color") in (
        ("rgba(255, 154, 86, 1)", "rgb(255, 154, 86)") if dark else ("rgba(194, 65, 12, 1)", "rgb(194, 65, 12)")
    )


def test_it_is_what_the_recording_says_and_a_gap_where_it_says_nothing(open_page: OpenPage, one: Path) -> None:
    drawn = curves(open_page(one.as_uri()), E5)[NAME]["y"]
    recorded = RecordingSource(RECORDING).snapshots(START_S, START_S + 3600, STEP_S)
    key = WorkloadKey("kserve-models", "e5-predictor")
    expected = [
        None if number in UNKNOWN else asking(each, ("e5",)).asked.get(key) for number, each in enumerate(recorded)
    ]
    assert drawn[: len(expected)] == expected
    assert max(value for value in expected if value is not None) == 11


def test_a_moment_and_the_tables_say_it_too(open_page: OpenPage, one: Path) -> None:
    page = open_page(one.as_uri(), scripts=False)
    [row] = [each for each in page.find_all("#services tr") if "times, first" in each.text]
    assert row.text.startswith("kserve-models/e5 11 ")
    page = open_page(one.as_uri())
    page.wait_for(DRAWN)
    page.run(
        "const field = document.getElementById('moment-time'); field.value = arguments[0];"
        "field.dispatchEvent(new Event('change'));",
        "03:12",
    )
    assert f"{NAME} unknown" in page.text("#moment-told")


def test_a_pool_has_it_only_where_all_its_services_are_known(open_page: OpenPage, one: Path, every: Path) -> None:
    assert NAME not in curves(open_page(one.as_uri()), POOL)
    page = open_page(every.as_uri())
    pool, e5 = curves(page, POOL)[NAME]["y"], curves(page, E5)[NAME]["y"]
    assert all((a is None) == (b is None) for a, b in zip(pool, e5, strict=True))
    assert all(a >= b + 5 for a, b in zip(pool, e5, strict=True) if a is not None)  # five others ask for 1 at least


def test_where_nothing_was_evaluated_nothing_is_drawn(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(reported(tmp_path, ()).as_uri())
    assert list(curves(page, E5)) == ["real replicas", "granted", "demand"]
    assert not page.find_all(".legend .role-asked")
    assert "triggers asked" not in page.text("#services")


def test_wide_tables_scroll_by_themselves(open_page: OpenPage, one: Path) -> None:
    assert open_page(one.as_uri()).find(".scroll").value_of_css_property("overflow-x") == "auto"
