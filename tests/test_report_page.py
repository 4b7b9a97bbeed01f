"""The report in a browser: what a reader sees at three sizes, light and dark, with scripts off, hostile names."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from scaler.cli.commands import cli
from scaler.explain import explanation
from scaler.report.page import Band, Chart, Column, Curve, Figure, Page, Row, Section, Table, Telling, Tellings
from scaler.report.write import plotly_script, script_json, write_page

if TYPE_CHECKING:
    from tests.browser import OpenPage
    from tests.browser import Page as OpenedPage

pytest_plugins = ("tests.browser",)

SIZES = [(390, 844), (1280, 800), (1920, 1080)]
DRAWN = "document.querySelector('.plot[data-drawn]') !== null"


def invoked(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ("replay", *arguments), prog_name="vram-scaler")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The incident's report, and its decisions."""
    path = tmp_path_factory.mktemp("report") / "night.html"
    result = invoked("--report", str(path), "--json", "-")
    size_mb = path.stat().st_size / 1e6
    assert (result.exit_code, result.stderr) == (0, f"{path}: {size_mb:.1f} MB, opens in a browser without network\n")
    return path, [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    (folder / "b.yaml").write_text("pools: [{name: default, lowWatermark: 50%, highWatermark: 60%}]")
    window = ("--start", "2025-06-18T05:00:00Z", "--end", "2025-06-18T06:30:00Z")
    assert invoked(*window, "--against", str(folder / "b.yaml"), "--report", str(folder / "r.html")).exit_code == 0
    return folder / "r.html"


def test_the_first_screen_tells_the_night(open_page: OpenPage, night: tuple[Path, list[dict[str, Any]]]) -> None:
    page = open_page(night[0].as_uri(), width=1280, height=800)
    assert page.text("#verdict h1") == (
        "Free VRAM ran out at 00:10; our veto stood from 00:09, 33 minutes before the first request failed."
    )
    assert page.text("#verdict p") == (
        "37 of 39 real scale-ups would have been withheld, 36 of these because the service's own load did not "
        "ask. When traffic grew by 63 % afterwards, e5 2→3 would have been granted at 05:59:45, "
        "6 minutes before the real autoscaler."
    )
    page.wait_for(DRAWN)
    plot = page.find(".plot")
    assert plot.location["y"] + plot.size["height"] < 800  # the pool's whole chart, down to the failed requests
    assert "UTC" in page.text(".subtitle")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES, ids=["phone", "laptop", "wide"])
def test_it_fits_its_window(
    open_page: OpenPage,
    night: tuple[Path, list[dict[str, Any]]],
    width: int,
    height: int,
    dark: bool,
) -> None:
    page = open_page(night[0].as_uri(), width=width, height=height, dark=dark)
    page.wait_for(DRAWN)
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.overflow_px() == 0
    ground = "rgb(16, 20, 24)" if dark else "rgb(255, 255, 255)"
    assert page.find("body").value_of_css_property("background-color").replace("rgba", "rgb").startswith(ground[:-1])
    assert page.run("return document.querySelector('.plot')._fullLayout.paper_bgcolor") == (
        "#101418" if dark else "#ffffff"
    )


def test_the_charts_change_with_the_scheme(open_page: OpenPage, night: tuple[Path, list[dict[str, Any]]]) -> None:
    page = open_page(night[0].as_uri())
    page.wait_for(DRAWN)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    page.wait_for("document.querySelector('.plot')._fullLayout.paper_bgcolor === '#101418'")


def told(page: OpenedPage) -> str:
    return page.text("#moment-told h3")


def click_at(page: OpenedPage, plot: Any, clock: str, below_middle: int = 0) -> None:
    """Clicks into a chart where that moment of 18 June is."""
    x = page.run(
        "const axis = arguments[0]._fullLayout.xaxis; return axis._offset + axis.d2p(Date.parse(arguments[1]));",
        plot,
        f"2025-06-18T{clock}Z",
    )
    page.run("arguments[0].scrollIntoView({block: 'center'})", plot)
    from_middle = round(x - plot.size["width"] / 2)
    ActionChains(page.driver).move_to_element_with_offset(plot, from_middle, below_middle).pause(0.2).click().perform()


def test_a_click_tells_the_decision_of_that_moment(
    open_page: OpenPage,
    night: tuple[Path, list[dict[str, Any]]],
) -> None:
    page = open_page(night[0].as_uri())
    page.wait_for(DRAWN)
    page.run("document.getElementById('service-kserve-models-image-small').open = true")
    plot = page.find("#service-kserve-models-image-small .plot")
    page.run("arguments[0].scrollIntoView({block: 'center'})", plot)
    page.wait_for("document.querySelector('#service-kserve-models-image-small .plot').dataset.drawn === 'yes'")
    click_at(page, plot, "02:30:00")
    page.wait_for("document.getElementById('moment-subject').value === 'kserve-models/image-small'")
    # A pixel is 42 s here; the decision stands from 02:14:15, and nothing of it changed until after 02:30.
    assert page.find("#moment-time").get_attribute("value")[:16] in ("2025-06-18 02:29", "2025-06-18 02:30")  # type: ignore[index]
    began = next(each for each in night[1] if each["name"] == "image-small" and each["verdict"] == "veto")
    expected = explanation(began)
    assert told(page) == expected.headline
    assert "02:14:15Z: scale-up vetoed (low-vram): stays at 1; demand 2" in expected.headline
    steps = [each.text.split("\n") for each in page.find_all("#moment-told li")]
    assert [{step, value, text} for step, value, text in expected.steps] == [set(each) for each in steps]
    assert "without the veto (low-vram): 2 replicas" in page.text("#moment-told")
    between_rows = plot.size["height"] / 2 - 170 - 12  # under the first row, of 170 px; plotly hears no click there
    click_at(page, plot, "03:00:00", -round(between_rows))
    assert str(page.find("#moment-time").get_attribute("value"))[:16] in ("2025-06-18 02:59", "2025-06-18 03:00")
    # The line of the moment stands in all charts.
    assert page.run("return document.querySelector('.plot')._fullLayout.shapes.at(-1).type") == "line"


def test_the_time_field_the_buttons_and_the_keys_pick_a_moment(
    open_page: OpenPage,
    night: tuple[Path, list[dict[str, Any]]],
) -> None:
    page = open_page(night[0].as_uri())
    page.wait_for(DRAWN)
    field = page.find("#moment-time")

    def value() -> str:
        return str(field.get_attribute("value"))

    def enter(text: str) -> None:
        field.send_keys(Keys.CONTROL + "a")
        field.send_keys(text + Keys.ENTER)

    enter("01:45")
    assert value() == "2025-06-18 01:45:00"
    assert "01:38:00Z: scale-up vetoed (low-vram): stays at 1; demand 2" in told(page)
    page.find("#moment-before").click()
    assert value() == "2025-06-18 01:38:00"
    page.find(".plot").send_keys(Keys.ARROW_RIGHT)
    assert value() == "2025-06-18 01:38:15"
    page.find(".plot").send_keys(Keys.SHIFT, Keys.ARROW_LEFT)
    assert value() == "2025-06-18 01:38:00"
    enter("23:50:00")  # of the day before, on which the recording begins
    assert value() == "2025-06-17 23:50:00"
    enter("soon")
    assert value() == "2025-06-17 23:50:00"


def test_on_a_phone_the_reasons_open_with_a_click(
    open_page: OpenPage, night: tuple[Path, list[dict[str, Any]]]
) -> None:
    page = open_page(night[0].as_uri(), width=390, height=844)
    page.wait_for(DRAWN)
    assert not page.find("#moment-body").is_displayed()
    click_at(page, page.find(".plot"), "01:45:00")
    assert page.find("#moment-body").is_displayed()
    assert page.find("#moment").rect["height"] <= 0.56 * 844
    page.find("#moment-toggle").click()
    assert not page.find("#moment-body").is_displayed()


def test_with_scripts_off_the_tables_tell_it(open_page: OpenPage, night: tuple[Path, list[dict[str, Any]]]) -> None:
    page = open_page(night[0].as_uri(), width=390, height=844, scripts=False)
    assert "33 minutes before the first request failed" in page.text("#verdict h1")
    rows = page.find_all("#services tbody tr")
    assert len(rows) == 6
    assert rows[0].text.split("\n")[0] == "kserve-models/e5"
    assert "03:56:00" in page.text("#service-kserve-models-e5")
    assert page.find(".without-scripts").is_displayed()
    assert not any(each.is_displayed() for each in page.find_all(".chart, #moment"))


def test_b_is_drawn_beside_a(open_page: OpenPage, compared: Path) -> None:
    page = open_page(compared.as_uri())
    page.wait_for(DRAWN)
    assert "grants something else first at 05:59:45 (e5)" in page.text("#verdict")
    names = page.run("return document.querySelector('.plot').data.map((each) => each.name)")
    assert {"granted, A", "granted, B", "low watermark, A", "low watermark, B"} <= set(names)
    assert [each.text[:2] for each in page.find_all("#moment-told h4") if each.text[1:2] == ":"] == ["A:", "B:"]
    headlines = [each.text for each in page.find_all("#moment-told h3")]
    assert "scale up from 2 to 3" in headlines[0]
    assert "scale-up vetoed (low-vram): stays at 2" in headlines[1]


HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<a href='javascript:void(0)'><b>bold</b></a><!--<script>\u2028\u2029'\"{{7*7}}</title></style></select>&lt;b&gt;"
)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    name = HOSTILE
    curve = Curve(0, name, "real", (0, 2), (1.0, 2.0), is_step=True)
    chart = Chart(name, (Row(name, 200),), (curve,), (Band(1, 2),), subject=name)
    table = Table(name, (Column(name), Column(name, True)), ((name, name),), name)
    telling = Telling(0, name, ((name, name, name),), (name,), (name,), (name,))
    page = Page(
        title=name, subtitle=name, verdict=(name, name), details=(name,), figures=(Figure(name, name),),
        sections=(Section(name, name, name, (chart,), (table,)),), notes=(name,), start_s=0.0, step_s=15.0, steps=3,
        tellings=(Tellings(name, {name: (telling,), "B": (telling,)}, 0, 1),),
    )  # fmt: skip
    write_page(tmp_path / "hostile.html", page)
    return tmp_path / "hostile.html"


def test_names_and_texts_of_tenants_are_text(open_page: OpenPage, hostile: Path) -> None:
    page = open_page(hostile.as_uri())
    page.wait_for(DRAWN)
    seen = " ".join(HOSTILE.split())
    for selector in ("h1", "caption", "td", "summary h2", "#moment-told h3", "#moment-told b", "option", ".subtitle"):
        shown = page.find(selector).get_attribute("textContent") or ""
        assert " ".join(shown.split()) == seen, selector
    assert page.run("return document.title.includes('owned') && document.title.includes('</script>')")  # as text
    # No element came of it, in the page or in the charts, whether or not the page's policy would have stopped it.
    assert page.run("return document.querySelectorAll('img, main script, [onerror], .plot a').length") == 0
    assert page.run("return document.scripts.length") == 3
    assert "49" not in page.text("h1")
    title = page.run("return document.querySelector('.plot .annotation-text').textContent")
    assert title.startswith("</script><script>document.title")
    assert page.overflow_px() == 0


def test_json_in_a_script_cannot_end_it() -> None:
    text = str(script_json({HOSTILE: HOSTILE}))
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {HOSTILE: HOSTILE}


def test_the_page_asks_for_nothing(night: tuple[Path, list[dict[str, Any]]]) -> None:
    """Outside of plotly's own script there is no address at all."""
    text = night[0].read_text(encoding="utf-8").replace(plotly_script(), "")
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert not night[0].with_name("night.html.partial").exists()


@pytest.fixture
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plotly_script.cache_clear()
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    yield
    plotly_script.cache_clear()


@pytest.mark.usefixtures("without_plotly")
def test_without_plotly_one_line_says_what_to_install(tmp_path: Path) -> None:
    result = invoked("--report", str(tmp_path / "r.html"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == ("--report takes plotly, which is not installed: pip install 'keda-vram-scaler[report]'\n")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        pytest.param("/none/r.html", "/none/r.html: no such directory\n", id="no folder"),
        pytest.param("/", "/: not a regular file\n", id="a folder"),
        pytest.param("-", "vram-scaler replay: --report: it takes the name of a file\n", id="standard output"),
    ],
)
def test_where_it_cannot_be_written_is_said_before_the_replay(where: str, expected: str) -> None:
    result = invoked("--report", where)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", expected)


def luminance(colour: str) -> float:
    """WCAG 2's, of #rrggbb."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_and_curves_stand_out_from_their_ground(scheme: int) -> None:
    """4.5 to 1 for text (WCAG 1.4.3); the two hues of curves are as strong, and need 3 only (1.4.11)."""
    style = (Path(write_page.__code__.co_filename).parent / "page.css").read_text(encoding="utf-8")
    colours = {name: found[scheme] for name in NAMES if (found := re.findall(rf"--{name}: (#[0-9a-f]{{6}})", style))}
    assert set(colours) == set(NAMES)
    for ground in ("ground", "panel"):
        for name in ("text", "muted", "real", "ours"):
            pair = sorted((luminance(colours[name]), luminance(colours[ground])))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, ground)


NAMES = ("ground", "panel", "text", "muted", "real", "ours")
