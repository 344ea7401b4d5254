"""Chromium for tests: headless, driven by selenium, with pictures of pages."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


#: Elements that a selector finds, in shadow trees too.
FIND = """
const found = [];
const look = root => root.querySelectorAll("*").forEach(one => {
  if (one.matches(arguments[0]) && one.getClientRects().length) found.push(one);
  if (one.shadowRoot) look(one.shadowRoot);
});
look(document);
return found;
"""
# The map that is drawn: its figures by district, which one is marked, and where a tile is in the window.
_MAP = """
const views = [];
const look = view => { views.push(view); for (const child of view.children()) look(child); };
for (const root of Bokeh.index) look(root);
const view = views.find(v => v.model.name === "districts");
const box = view.parent.canvas_view.el.getBoundingClientRect(), source = view.model.data_source;
return source.data.district.map((name, i) => [name, {
  value: source.data.value[i], marked: source.selected.indices.includes(i),
  x: Math.round(box.x + view.coordinates.x_scale.compute(source.data.x[i])),
  y: Math.round(box.y + view.coordinates.y_scale.compute(source.data.y[i]))}]);
"""


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """Start a browser with a profile of its own; skip the test where there is none."""
    from selenium import webdriver

    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in found.values():
        pytest.skip(f"{found} (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(found["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def dashboard(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve a dashboard by a process of its own that ends as it should; give its address and the process."""
    command = [sys.executable, "-m", "distcalib", "dashboard", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = (re.search(r"http://\S+", line) for line in server.stdout)
            url = next((one[0] for one in found if one), "")
            assert url, "the server ended"
            yield url, server
        finally:
            server.terminate()
        assert server.wait(20) == 0


def pictures_in(otherwise: Path) -> Path:
    """Return the folder that DISTCALIB_SCREENSHOTS names, or another one."""
    folder = Path(os.environ.get("DISTCALIB_SCREENSHOTS") or otherwise)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def size(browser: Any, width: int, height: int, mobile: bool = False) -> None:
    """Set the size of the page's window."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def picture(browser: Any, file: Path, selector: str = "body", most: int = 8000) -> None:
    """Keep a picture of an element; of a long one the first lines."""
    script = "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
    box = browser.execute_script(
        script + "return [r.x + scrollX, r.y + scrollY, r.width, r.height]", selector
    )
    clip = dict(zip(("x", "y", "width", "height"), box, strict=True)) | {"scale": 1}
    clip["height"] = min(clip["height"], most)
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    file.write_bytes(base64.b64decode(shot["data"]))


class Session:
    """A browser on the dashboard's page of runs."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser, self.url = browser, url

    def find(self, selector: str, text: str = "") -> list[Any]:
        return [one for one in self.browser.execute_script(FIND, selector) if text in one.text]

    def wait(self, look: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        """Return what a look gives as soon as it gives something."""
        from selenium.common.exceptions import WebDriverException

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if found := look():
                    return found
            except (WebDriverException, IndexError, StopIteration):
                pass  # drawn anew in between
            time.sleep(0.05)
        raise AssertionError(f"{what}: not within {seconds} s")

    def one(self, selector: str, text: str = "") -> Any:
        return self.wait(lambda: self.find(selector, text), f"{selector} {text}")[0]

    def open(self, run: str, other: str = "") -> None:
        from selenium.webdriver.support.ui import Select

        self.browser.get(self.url)
        for menu, name in ((0, run), (1, other)):
            if menu and name:
                self.one(".bk-tab", "Overview")
            if name:
                menus = self.wait(lambda: len(self.find("select")) > 1 and self.find("select"), "menus")
                Select(menus[menu]).select_by_visible_text(name)

    def choose(self, label: str, option: str) -> None:
        """Choose an option of the menu of a label."""
        from selenium.webdriver.support.ui import Select

        def menu() -> Any:
            fields = [one for one in self.find(".bk-input-group", label) if one.text.startswith(label)]
            return fields[0].find_element("css selector", "select")

        Select(self.wait(menu, label)).select_by_visible_text(option)

    def tab(self, name: str) -> None:
        self.wait(lambda: next(t for t in self.find(".bk-tab") if t.text == name).click() is None, name)

    def rows(self, table: int) -> list[list[str]]:
        """Return the texts of the rows of a table that are drawn."""
        script = """
        return [...arguments[0].querySelectorAll(".tabulator-row")].map(
          row => [...row.querySelectorAll(".tabulator-cell")].filter(cell => cell.getClientRects().length)
            .map(cell => cell.textContent.trim()))"""
        return self.browser.execute_script(script, self.find(".tabulator")[table])

    def still(self, look: Callable[[], Any], what: str) -> Any:
        """Return what a look gives once it gives the same five times: a page is laid out in several steps."""
        seen: list[Any] = []

        def same() -> bool:
            seen.append(look())
            return len(seen) >= 5 and all(one == seen[-1] for one in seen[-5:])

        self.wait(same, what)
        return seen[-1]

    def click(self, table: int, row: int, selector: str, text: str = "") -> None:
        """Click a row of a table until something is there: one that is drawn anew meanwhile loses a click."""

        def cell() -> Any:
            found = self.find(".tabulator")[table].find_elements("css selector", ".tabulator-row")[row]
            return next(c for c in found.find_elements("css selector", ".tabulator-cell") if c.is_displayed())

        def clicked() -> Any:
            self.still(lambda: cell().rect, "a row to click")
            cell().click()
            try:
                return self.wait(lambda: self.find(selector, text), f"{selector} {text}", 5)
            except AssertionError:
                return None

        self.wait(clicked, f"{selector} {text} after a click")

    def map(self) -> dict[str, dict[str, Any]]:
        """Return the tiles of the map that is drawn, by district."""
        return self.wait(lambda: dict(self.browser.execute_script(_MAP)), "the map")

    def facts(self) -> dict[str, str]:
        """Return the facts on the page, by name."""
        return {
            row.find_element("css selector", "th").text: row.find_element("css selector", "td").text
            for row in self.find("tr")
            if row.find_elements("css selector", "td")
        }
