"""The status page, in a real browser: what it says of known fleets, and what it does to nobody."""

from __future__ import annotations

import contextlib
import gzip
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from scaler.decision import Decision, FleetPlan, PoolState, Reason, Step, Verdict
from scaler.policy import OperatorPolicy, ServiceKey, ServicePolicy
from scaler.quantity import GIB
from scaler.serving import pages as paging
from scaler.serving.bars import pool_bars
from scaler.serving.board import Board, Epoch, Grounds
from scaler.serving.hour import LastHour
from scaler.serving.lines import HEIGHT, steps_path, stretches
from scaler.serving.pages import Pages
from scaler.serving.pool_view import span
from scaler.serving.shadow import ShadowBook
from scaler.serving.view import OPEN_ROWS, overview
from scaler.snapshot import CardKey, Snapshot, WorkloadKey
from tests.browser import SLOWEST_S, OpenPage, Page
from tests.fleet import START_S, TICK_S, asking, card, key, policy, run, snapshot
from tests.serving import OUTAGE, FakeSource, ManualClock, decision, fleet_plan, unknown
from tests.status_fleet import Served, incident, large_fleet, served, small_fleet

pytest_plugins = ("tests.browser",)
VETO_S = START_S + 2.5 * 3600  # 02:30 of the incident: image-small has been vetoed since 02:14
SIZES = [(390, 844), (1280, 800), (1920, 1080)]
SETTLED = OperatorPolicy(settle_s="0s")


def fetched(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = Request(url, headers={"Accept": "text/html", **{k.replace("_", "-"): v for k, v in headers.items()}})
    try:
        with urlopen(request, timeout=30) as response:
            return response.status, dict(response.headers), response.read()
    except HTTPError as refused:
        with refused:
            return refused.code, dict(refused.headers), refused.read()


@pytest.fixture(scope="module")
def night() -> Iterator[Served]:
    with incident(VETO_S, ticks=80) as running:
        yield running


@pytest.fixture(scope="module")
def small() -> Iterator[Served]:
    source, kept = small_fleet()
    with served(source, SETTLED, kept) as running:
        yield running


# --- In a browser -------------------------------------------------------------------------------------------------


def test_the_veto_of_that_night_is_the_first_thing_one_reads(night: Served, open_page: OpenPage) -> None:
    page = open_page(night.url)
    assert page.text("h1") == "2 of 6 services held back (low-vram 2)."
    assert page.driver.title == "2 held back · vram-scaler"
    sentence = page.text(".pool .sentence")
    assert re.match(
        r"No scale-up since 2025-06-18 01:10:15Z or longer \(80 min\)\. 318 MiB free on the card that counts", sentence
    )
    rows = {
        row.find_element("css selector", "a").text: row.text for row in page.find_all("section:first-of-type tbody tr")
    }
    assert set(rows) == {"e5", "image-small"}
    assert "veto low-vram 1 2 1" in " ".join(rows["image-small"].split())
    assert (
        "held back 16 min"
        in page.find('a[href$="image-small"]')
        .find_element("xpath", "ancestor::tr")
        .find_element("css selector", "svg")
        .accessible_name
    )
    # The tightest card stands first, and says that it is short.
    assert page.text(".cards .card .words").startswith("318 MiB of 14.3 GiB free, below the low watermark (1.4 GiB)")


@pytest.mark.parametrize("scripts", [True, False])
def test_a_services_page_says_why_with_every_step(night: Served, open_page: OpenPage, scripts: bool) -> None:
    page = open_page(f"{night.url}/services/kserve-models/image-small", scripts=scripts)
    text = page.text("main")
    for part in (
        "scale-up vetoed (low-vram): stays at 1; demand 2",
        "without the veto (low-vram): 2 replicas",
        "What would change it\nVRAM that falls free",
        "Its pods sit on",
    ):
        assert part in text
    epoch = night.service.board.newest_epoch
    assert epoch is not None
    steps = epoch.plan.decisions[ServiceKey("kserve-models", "image-small")].steps
    rows = [row.text for row in page.find_all(".steps tbody tr")]
    assert [row.split()[0] for row in rows] == [step.name for step in steps]
    assert all(" ".join(step.text.split()) in " ".join(row.split()) for step, row in zip(steps, rows, strict=True))


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("path", ["/", "/services/kserve-models/image-small"])
def test_nothing_is_wider_than_the_window(
    night: Served,
    open_page: OpenPage,
    width: int,
    height: int,
    path: str,
) -> None:
    page = open_page(night.url + path, width=width, height=height)
    assert page.overflow_px() == 0
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")


def parts(page: Page, bar: WebElement) -> dict[str, tuple[float, float]]:
    """Where each part of a bar begins, and how wide it is, in parts of the bar."""
    full = page.run("return arguments[0].getBoundingClientRect()", bar)
    found = {}
    for rect in bar.find_elements(By.CSS_SELECTOR, "rect"):
        box = page.run("return arguments[0].getBoundingClientRect()", rect)
        begin, width = (box["left"] - full["left"]) / full["width"], box["width"] / full["width"]
        found[rect.get_attribute("class") or ""] = (begin, width)
    return found


def test_bars_are_as_wide_as_the_card_is_full(small: Served, open_page: OpenPage) -> None:
    """15 GiB each: 11.25 free is 25 % used, 3 free is 80 % used; watermarks of 10 and 15 % free, counted from the
    right."""
    page = open_page(small.url)
    tight, roomy = (parts(page, bar) for bar in page.find_all(".bar"))
    assert tight["used"] == pytest.approx((0.0, 0.80), abs=0.005)
    assert roomy["used"] == pytest.approx((0.0, 0.25), abs=0.005)
    for bar in (tight, roomy):
        assert bar["low"][0] == pytest.approx(0.90, abs=0.005)
        assert bar["high"][0] == pytest.approx(0.85, abs=0.005)
        assert bar["promised"][1] == pytest.approx(0, abs=0.005)


def test_what_is_promised_stands_between_used_and_free(open_page: OpenPage) -> None:
    """9 of 15 GiB free is 40 % used. Two replicas are granted, of 15 % of the card each: nothing is known of them."""
    source = FakeSource(lambda at_s: snapshot(at_s, {"e5": asking(1, 3)}, card(9.0, slots=8)))
    with served(source, SETTLED, dict(policy(SETTLED, e5={}).services)) as running:
        page = open_page(running.url)
        [bar] = (parts(page, bar) for bar in page.find_all(".bar"))
        assert bar["used"] == pytest.approx((0.0, 0.40), abs=0.005)
        assert bar["promised"] == pytest.approx((0.40, 0.30), abs=0.005)
        assert page.text(".card .words") == "9.0 GiB of 15.0 GiB free, 4.5 GiB of it promised · 8 of 8 slots free"
        assert "On the way: 0 starting, 2 granted and not seen yet." in page.text(".pool")


HOSTILE = "<img src=x onerror=document.title='owned'>\"'&</script><script>document.title='owned'</script>"


def test_hostile_names_stay_text(open_page: OpenPage) -> None:
    """Names of Kubernetes cannot look like this; what an exporter or a decision calls itself can."""
    who = WorkloadKey(HOSTILE, HOSTILE)
    shown = replace(card(3.0), node=HOSTILE, model="{{7*7}}", pods={who: 1})
    snap = Snapshot(START_S, {}, {CardKey(HOSTILE): shown})
    hostile_key = ServiceKey(HOSTILE, HOSTILE)
    step = Step(HOSTILE, 1.0, HOSTILE, HOSTILE)
    hostile = decision(steps=(step,))._replace(
        key=hostile_key, pool="default", verdict=Verdict.VETO, reasons=(Reason.LOW_VRAM,)
    )
    state = PoolState("default", 3 * GIB, 1 * GIB, 2 * GIB, CardKey(HOSTILE), True, START_S, 1)
    with served(FakeSource(lambda _: snap), SETTLED) as running:
        plan = FleetPlan(START_S, {hostile_key: hostile}, {"default": state}, ())
        _, memory = run([snap], policy(SETTLED))
        fleet = replace(
            policy(SETTLED),
            services={hostile_key: ServicePolicy(deployment="x").model_copy(update={"deployment": HOSTILE})},
        )
        running.service.board.publish(plan, running.clock.elapsed_s(), Grounds(snap, fleet, memory))
        page = open_page(running.url)
        assert page.driver.title == "1 held back · vram-scaler"
        link = page.find("tbody th a")
        assert link.text == " ".join(HOSTILE.split())
        assert page.find_all("main img") == []
        assert "{{7*7}}" in page.text(".cards")
        link.click()
        page.wait_for("document.querySelector('.steps') !== null")
        assert page.driver.title.startswith(HOSTILE)
        assert page.find_all("main img, main script") == []
        assert HOSTILE in page.text(".steps")


def eventually(page: Page, shows: Callable[[], object]) -> None:
    """Waits until that holds; an element that a renewal has just replaced is looked up again."""

    def holds(_: object) -> bool:
        with contextlib.suppress(WebDriverException):
            return bool(shows())
        return False

    WebDriverWait(page.driver, SLOWEST_S).until(holds)


def test_it_renews_itself_in_place(open_page: OpenPage) -> None:
    """The plan changes; what was opened stays open, and the reader stays where he was."""
    source, kept = large_fleet(cards=40, services=60)
    with served(source, SETTLED, kept) as running:
        running.service.pages.renew_every(0.5)
        page = open_page(running.url, width=390, height=844)
        page.run("document.querySelector('#cards-default').open = true; scrollTo(0, 500)")
        running.tick()
        eventually(page, lambda: page.text("#renewal") == "plan of 2025-06-18 00:00:15Z")
        assert page.run("return [document.querySelector('#cards-default').open, scrollY]") == [True, 500]
        button = page.find("header button")
        assert button.text == "stop updating"
        button.click()
        running.tick()
        time.sleep(1.5)  # three renewals' time, in which nothing may happen
        assert page.text("#renewal") == "plan of 2025-06-18 00:00:15Z"


def test_without_scripts_the_browser_reloads_it(open_page: OpenPage) -> None:
    source, kept = small_fleet()
    with served(source, SETTLED, kept) as running:
        running.service.pages.renew_every(2)
        page = open_page(running.url, scripts=False)
        eventually(page, lambda: page.text("#renewal") == "plan of 2025-06-18 00:00:00Z")
        running.tick()
        eventually(page, lambda: page.text("#renewal") == "plan of 2025-06-18 00:00:15Z")
        eventually(page, lambda: len(page.find_all(".card")) == 2 and not page.find_all("header button"))


def test_a_page_that_lost_its_server_says_so(open_page: OpenPage) -> None:
    source, kept = small_fleet()
    with served(source, SETTLED, kept) as running:
        running.service.pages.renew_every(0.2)
        page = open_page(running.url)
        assert page.find_all(".lost") == []
    eventually(page, lambda: page.find_all(".lost"))
    assert page.text("#renewal") == "no answer from the scaler: what stands here is old"
    page.find("header button").click()
    time.sleep(0.5)  # what it has asked already comes to its end
    assert all("ERR_CONNECTION_REFUSED" in each for each in page.complaints())


def test_while_prometheus_is_gone_the_page_says_why(open_page: OpenPage) -> None:
    source, kept = small_fleet()
    with served(source, SETTLED, kept) as running:
        source.fault = OUTAGE
        running.tick(3)
        for path in ("/", "/services/models/e5"):
            status, headers, _ = fetched(running.url + path)
            assert (status, headers.get("ETag")) == (503, None)
        page = open_page(running.url)
        assert page.text("h1") == "Not ready"
        assert page.text(".sentence") == (
            "stale: the newest plan is 45 s old, the limit is 45 s: source unavailable: http://prometheus:9090: "
            "connection refused"
        )
        assert "KEDA is told UNAVAILABLE" in page.text("main")
        assert all("503" in each for each in page.complaints())


def test_shadows_are_marked(open_page: OpenPage) -> None:
    with incident(VETO_S, ticks=4, in_shadow=True) as running:
        page = open_page(running.url)
        assert "KEDA is told nothing of it" in page.text("main")
        assert len(page.find_all("tbody .verdict.shadow")) == 6
        assert page.text("h1") == "2 of 6 services held back (low-vram 2)."
        page = open_page(f"{running.url}/services/kserve-models/e5")
        assert "A shadow: this is what would be decided." in page.text("main")
        assert "Since this instance started: agrees 5 ticks." in page.text("main")


def test_words_and_marks_stand_out_from_their_ground(night: Served, open_page: OpenPage) -> None:
    """WCAG AA: 4.5 to 1 for text, in both schemes; and no verdict is told by colour alone."""
    for dark in (False, True):
        page = open_page(night.url, dark=dark)
        low = page.run(CONTRAST)
        assert low == []
        assert all(badge.text for badge in page.find_all(".verdict"))


CONTRAST = """
const light = part => { part /= 255; return part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4; };
const lum = ([r, g, b]) => .2126 * light(r) + .7152 * light(g) + .0722 * light(b);
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const ground = node => {
  for (; node; node = node.parentElement) {
    const colour = rgb(getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
};
const says = node => [...node.childNodes].some(each => each.nodeType === 3 && each.data.trim());
const found = [];
for (const node of document.querySelectorAll('body *')) {
  if (!says(node) || !node.getClientRects().length || node.closest('svg, script')) continue;
  const [high, low] = [lum(rgb(getComputedStyle(node).color)), lum(ground(node))].sort((a, b) => b - a);
  const ratio = (high + .05) / (low + .05);
  if (ratio < 4.5) found.push(`${node.tagName} ${node.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
}
return found;
"""


def test_a_large_fleet_is_read_from_the_top(open_page: OpenPage) -> None:
    source, kept = large_fleet()
    with served(source, SETTLED, kept) as running:
        running.tick()
        page = open_page(running.url, width=390, height=844)
        assert (
            page.text("h1")
            == "100 of 1000 services held back (no-fit 100); 10 of 1000 services without an answer (stale 10)."
        )
        titles = [each.text for each in page.find_all(".services h2")]
        assert titles == ["No answer 10", "Held back 100", "Steady 890"]
        assert len([row for row in page.find_all(".services tbody tr") if row.is_displayed()]) == OPEN_ROWS
        assert page.text("#more-held-back summary") == "86 more"
        assert page.text("#cards-default summary") == "492 cards with more room"
        assert page.overflow_px() == 0
        page.find("#more-steady summary").click()
        assert page.find("#more-steady tbody a").is_displayed()
        assert page.overflow_px() == 0


# --- Over HTTP ----------------------------------------------------------------------------------------------------


def test_a_browser_gets_html_and_curl_gets_text(small: Served) -> None:
    assert fetched(small.url, Accept="text/html,*/*;q=0.8")[1]["Content-Type"] == "text/html; charset=utf-8"
    status, headers, body = fetched(small.url, Accept="*/*")
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert body.startswith(b"keda-vram-scaler: how many replicas KEDA is told, and why\n")


def test_the_policy_allows_this_page_and_nothing_else(small: Served) -> None:
    _, headers, body = fetched(small.url)
    policy_of = dict(each.split(" ", 1) for each in headers["Content-Security-Policy"].split("; "))
    assert policy_of["default-src"] == policy_of["base-uri"] == policy_of["frame-ancestors"] == "'none'"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", policy_of["script-src"])
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", policy_of["style-src"])
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    text = body.decode()
    assert re.findall(r'<[a-z]+\b[^>]* (?:src|href)="(?:/|data:)', text)
    assert not re.findall(r'<[a-z]+\b[^>]* (?:src|href)="(?!/|data:)', text)
    assert " style=" not in text


def test_an_unchanged_page_is_not_sent_again(small: Served) -> None:
    _, headers, _ = fetched(small.url)
    status, _, body = fetched(small.url, If_None_Match=headers["ETag"])
    assert (status, body) == (304, b"")
    assert fetched(small.url, If_None_Match='"other"')[0] == 200


def test_what_is_not_known_gets_near_misses(small: Served) -> None:
    status, headers, body = fetched(f"{small.url}/services/models/e6")
    assert (status, headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert "no decision for models/e6: did you mean e5? 2 known in models" in body.decode()
    assert b"<script>alert" not in fetched(f"{small.url}/services/a/%3Cscript%3Ealert")[2]


def test_it_travels_compressed(small: Served) -> None:
    _, headers, body = fetched(small.url, Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert b"<!doctype html>" in gzip.decompress(body)


async def test_a_page_is_made_once_a_plan_for_however_many_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = Pages._render

    def counted(self: Pages, template: str, **values: Any) -> Any:
        made.append(template)
        return real(self, template, **values)

    monkeypatch.setattr(paging.Pages, "_render", counted)
    board = Board(ManualClock(), 45.0)
    pages = Pages(board, LastHour(15.0), ShadowBook())
    for plan in (fleet_plan(decision()), fleet_plan(decision())):
        board.publish(plan, 0.0)
        epoch = board.newest_epoch
        assert epoch is not None
        first = await pages.overview(epoch)
        assert await pages.overview(epoch) is first
        assert await pages.service(epoch, key("e5")) is not None
        assert await pages.service(epoch, key("other")) is None
    assert made == ["overview.html", "service.html"] * 2


# --- What it is made of -------------------------------------------------------------------------------------------


def grounds(services: dict[str, Any], *cards: Any, asked: tuple[str, ...] = (), ticks: int = 1) -> Grounds:
    fleet = policy(PROMISING, **{name: {} for name in asked})
    history = [snapshot(START_S + TICK_S * index, services, *cards) for index in range(ticks)]
    _, memory = run(history, fleet)
    return Grounds(history[-1], fleet, memory)


PROMISING = OperatorPolicy.model_validate({"pools": [{"defaultFootprint": "2Gi"}], "settle": "0s"})


@pytest.mark.parametrize(
    ("running", "wanted", "ready", "cards", "expected"),
    [
        pytest.param(1, 1, 1, [card(8.0, slots=4)], [0.0], id="nothing on the way"),
        pytest.param(1, 3, 1, [card(9.0, slots=4)], [4.0], id="two granted, not seen yet: 2 GiB each"),
        pytest.param(
            1, 3, 1, [card(9.0, slots=3, pods={"e5": 1}), card(9.0, slots=1, pods={"x": 1})], [4.0, 0.0],
            id="only where there are free slots",
        ),
        pytest.param(
            1, 3, 1, [card(9.0, slots=2, pods={"e5": 1}), card(9.0, slots=3)], [2.0, 4.0],
            id="on each card what its free slots take: it may be any of them",
        ),
        pytest.param(
            2, 2, 1, [card(11.0, slots=2, pods={"e5": 2})], [2.0], id="one that starts where an exporter names it",
        ),
        pytest.param(
            2, 2, 1, [card(9.0, slots=2, pods={"e5": 2}, held_gib={"e5": (2.0, 1.5)})], [0.5],
            id="what it holds already is used, not promised",
        ),
    ],
)  # fmt: skip
def test_promised_is_what_grants_may_yet_take_of_a_card(
    running: int, wanted: int, ready: int, cards: list[Any], expected: list[float]
) -> None:
    seen = {"e5": asking(running, wanted, ready=ready)}
    bars = pool_bars(grounds(seen, *cards, asked=("e5",)))["default"].bars
    found = {bar.key.uuid: bar.promised_bytes / GIB for bar in bars}
    assert found == {f"GPU-{index}": pytest.approx(each) for index, each in enumerate(expected)}


def test_cards_stand_by_what_they_have_left_and_unseen_ones_before_all() -> None:
    cards = [card(9.0), card(1.0), card(8.0, age_s=300.0), card(5.0)]
    bars = pool_bars(grounds({}, *cards))["default"].bars
    assert [bar.key.uuid for bar in bars] == ["GPU-2", "GPU-1", "GPU-3", "GPU-0"]


def test_services_stand_by_what_they_lack() -> None:
    def of(name: str, verdict: Verdict, demand: int, granted: int) -> Decision:
        return decision(name, granted, verdict=verdict)._replace(demand=demand)

    held = [
        of("b-lacks-1", Verdict.LIMITED, 3, 2),
        of("a-lacks-1", Verdict.VETO, 2, 1),
        of("lacks-5", Verdict.VETO, 6, 1),
    ]
    steady = [of(f"steady-{index:02}", Verdict.HOLD, 2, 2) for index in range(40)]
    plan = fleet_plan(*steady, *held, unknown("silent"), of("grows", Verdict.SCALE_UP, 4, 4))
    page = overview(Epoch(plan, 0.0), LastHour(15.0), {})
    assert [(fold.title, [row.key.name for row in fold.open][:3], len(fold.folded)) for fold in page.folds] == [
        ("No answer", ["silent"], 0),
        ("Held back", ["lacks-5", "a-lacks-1", "b-lacks-1"], 0),
        ("Moving", ["grows"], 0),
        ("Steady", ["steady-00", "steady-01", "steady-02"], 40 - (OPEN_ROWS - 5)),
    ]
    assert page.verdict == "3 of 45 services held back (demand 3); 1 of 45 services without an answer (stale 1)."


def test_no_service_is_no_all_clear() -> None:
    page = overview(Epoch(FleetPlan(START_S), 0.0), LastHour(15.0), {})
    assert (page.verdict[:26], page.tone) == ("No service is known yet. K", "quiet")


@pytest.mark.parametrize(
    ("vetoed", "expected"),
    [
        pytest.param(False, ("Every service gets what it needs (1).", "good"), id="room"),
        pytest.param(True, ("Every service has what it needs (1); no scale-up in default.", "bad"), id="veto"),
    ],
)
def test_a_full_pool_is_no_all_clear(vetoed: bool, expected: tuple[str, str]) -> None:
    state = PoolState("default", 1.0, 2.0, None, None, vetoed, None, 1)
    plan = replace(fleet_plan(decision()), pools={"default": state})
    page = overview(Epoch(plan, 0.0), LastHour(15.0), {})
    assert (page.verdict, page.tone) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(45, "45 s"), (90, "2 min"), (7140, "119 min"), (8460, "2 h 21 min")]
)
def test_times_for_people(seconds: float, expected: str) -> None:
    assert span(seconds) == expected


@pytest.mark.parametrize(
    ("values", "path"),
    [
        pytest.param([], "", id="nothing"),
        pytest.param([None, None], "", id="nothing known"),
        pytest.param([0, 0], "M0 32H2", id="zero is at the bottom"),
        pytest.param([1, 1, 2], "M0 16H2V0H3", id="a step"),
        pytest.param([1, None, 1], "M0 16H1M2 16H3", id="a gap where it is unknown"),
        pytest.param([None, 2], "M1 0H2", id="known from the second point on"),
    ],
)
def test_lines_are_steps_with_gaps(values: list[float | None], path: str) -> None:
    assert HEIGHT == 32
    assert steps_path(values, 2.0) == path


@given(st.lists(st.booleans(), max_size=60))
def test_stretches_are_what_was_marked(marked: list[bool]) -> None:
    points = [begin + index for begin, length in stretches(marked) for index in range(length)]
    assert points == [index for index, is_marked in enumerate(marked) if is_marked]


class TestLastHour:
    def note(self, hour: LastHour, at_s: float, **granted: int | None) -> None:
        decisions = {key(name): decision(name, each, replicas=1) for name, each in granted.items()}
        pool = PoolState("default", at_s, GIB, GIB, None, False, None, 1)
        hour.note(at_s, decisions, {"default": pool})

    def granted(self, hour: LastHour, name: str) -> list[int | None]:
        lines = hour.service(key(name))
        assert lines is not None
        return lines.granted

    def test_holds_an_hour_and_no_more(self) -> None:
        hour = LastHour(15.0)
        for tick in range(300):
            self.note(hour, START_S + 15 * tick, e5=tick)
        assert self.granted(hour, "e5") == list(range(60, 300))
        lines = hour.service(key("e5"))
        assert lines is not None
        assert (lines.end_s, lines.step_s) == (START_S + 15 * 299, 15.0)
        pool = hour.pool("default")
        assert pool is not None
        assert pool.free_bytes[0] == START_S + 15 * 60

    @pytest.mark.parametrize(
        ("tick_s", "times", "expected"),
        [
            pytest.param(15, [0, 15, 60], [0, 1, None, None, 2], id="ticks that were missed are unknown"),
            pytest.param(5, [0, 5, 10, 15], [2, 3], id="of short ticks the newest counts"),
            pytest.param(60, [0, 60], [0, 1], id="long ticks are points of their own"),
            pytest.param(15, [0, 4000], [1], id="a pause of more than an hour leaves nothing"),
            pytest.param(15, [600, 615, 0], [2], id="a clock that steps back begins anew"),
        ],
    )
    def test_points(self, tick_s: float, times: list[float], expected: list[int | None]) -> None:
        hour = LastHour(tick_s)
        for number, at_s in enumerate(times):
            self.note(hour, START_S + at_s, e5=number)
        found = self.granted(hour, "e5")
        assert found[-len(expected) :] == expected
        assert set(found[: -len(expected)]) == {None}

    def test_unknown_is_not_zero_and_who_is_gone_is_forgotten(self) -> None:
        hour = LastHour(15.0)
        self.note(hour, START_S, e5=None, gone=1)
        assert self.granted(hour, "e5")[-1] is None
        for tick in range(1, 600):
            self.note(hour, START_S + 15 * tick, e5=2)
        assert hour.service(key("gone")) is None
        assert self.granted(hour, "e5") == [2] * 240
