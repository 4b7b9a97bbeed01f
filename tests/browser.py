"""Debian's Chromium, headless, for the tests of pages: any size, light or dark, with and without scripts.

    def test_it(open_page: OpenPage) -> None:
        page = open_page(path.as_uri(), width=390, height=844, dark=True)
        assert page.text("h1") == "..."

The fixture fails its test, whatever else it asserts, if the page logged an error or asked for anything outside of its
own origin. A test module takes it with `pytest_plugins = ("tests.browser",)`.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
LOCAL = ("data:", "blob:", "about:", "chrome:", "chrome-untrusted:", "chrome-extension:")
SLOWEST_S = 30.0  # two cores shared by many; nothing here measures time


class Page:
    """An open page: what a reader sees of it, and what it did behind their back."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self._origin = _origin(url)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that this JavaScript returns, run in the page."""
        return self.driver.execute_script(script, *arguments)

    def wait_for(self, script: str) -> Any:
        """The value of that expression once it is true."""
        return WebDriverWait(self.driver, SLOWEST_S).until(lambda _: self.run(f"return {script}"), script)

    def overflow_px(self) -> int:
        """By how much the page is wider than its window."""
        root = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})
        return int(root["cssContentSize"]["width"] - root["cssLayoutViewport"]["clientWidth"])

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """What the window shows, or the whole page."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Errors that the page logged since the last call, and requests that left its origin."""
        logged = [str(each["message"]) for each in self.driver.get_log("browser") if each["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
        asked = []
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if _origin(url) != self._origin and not url.startswith(LOCAL):
                    asked.append(f"asked for {url}")
        return logged + asked


class OpenPage(Protocol):
    def __call__(
        self, url: str, *, width: int = 1280, height: int = 800, dark: bool = False, scripts: bool = True
    ) -> Page: ...


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests of a process; starting it takes longer than most of them."""
    binary, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver_path is None:
        pytest.skip("no chromium and chromedriver here; `make debian` installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver_path))
    driver.set_script_timeout(SLOWEST_S)
    yield driver
    driver.quit()


@pytest.fixture
def open_page(chromium: webdriver.Chrome) -> Iterator[OpenPage]:
    """Opens pages one after the other; see the module."""
    opened: list[Page] = []
    complaints: list[str] = []

    def open_(url: str, *, width: int = 1280, height: int = 800, dark: bool = False, scripts: bool = True) -> Page:
        complaints.extend(each for page in opened[-1:] for each in page.complaints())
        # The window of a headless Chromium is at least 500 px wide: a phone's size has to be emulated.
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        page = Page(chromium, url)
        opened.append(page)
        chromium.get(url)
        return page

    yield open_
    complaints.extend(each for page in opened[-1:] for each in page.complaints())
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    chromium.get("about:blank")
    chromium.get_log("browser")  # type: ignore[no-untyped-call]
    chromium.get_log("performance")  # type: ignore[no-untyped-call]
    assert not complaints, "\n".join(complaints)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"
