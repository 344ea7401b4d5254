"""Chromium for tests: a real browser, headless, on pages and on a dashboard."""

from __future__ import annotations

import base64
import os
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
    # Nothing but this machine can be reached.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip
#: Every element below all shadow roots that a selector finds and that can be seen.
_DEEP = """
const all = (root, selector) => {
  const found = [...root.querySelectorAll(selector)]
  for (const node of root.querySelectorAll("*"))
    if (node.shadowRoot) found.push(...all(node.shadowRoot, selector))
  return found
}
const shown = {visibilityProperty: true, opacityProperty: true}
const seen = node => node.type === "file" || node.checkVisibility(shown)
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
def chromium(profile: Path, downloads: Path | None = None) -> Iterator[Any]:
    """Start a browser with a profile of its own; skip the test where there is none."""
    from selenium import webdriver

    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in found.values():
        pytest.skip(f"{found} (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(found["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def dashboard(*arguments: str, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve a dashboard of its own process; give its address."""
    command = [sys.executable, "-m", "distcalib", "dashboard", "--port", "0", *arguments]
    temporary = log.with_suffix(".tmp")
    temporary.mkdir()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)},
        )
    try:
        until = time.monotonic() + 90
        while "http://" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield "http://" + log.read_text().split("http://")[1].split()[0], process
    finally:
        if process.poll() is None:
            process.terminate()
        assert process.wait(timeout=60) == 0


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


class Page:
    """One browser, on one page of a dashboard."""

    def __init__(self, driver: Any, pictures: Path, url: str = "") -> None:
        self.driver, self.pictures, self.url = driver, pictures, url

    def open(self, url: str, width: int = 1200, height: int = 900, mobile: bool = False) -> None:
        size(self.driver, width, height, mobile)
        self.driver.get(url)
        self.tab("1 Data")

    def open_run(self, run: str, other: str = "") -> None:
        """Choose a run, or two beside each other, on the page of runs."""
        self.driver.get(self.url)
        self.tab("Runs")
        self.choose("Run", run)
        if other:
            self.find(".bk-tab", "Overview")
            self.choose("Compare with", other)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(_DEEP + script, *arguments)

    def texts(self, selector: str) -> list[str]:
        script = "return all(document, arguments[0]).filter(seen).map(node => node.innerText ?? '')"
        return self.run(script, selector)

    def text(self) -> str:
        """All that can be read, without what is hidden."""
        script = """
        const told = all(document, "*").filter(n => !["STYLE", "SCRIPT"].includes(n.tagName) && seen(n))
          .flatMap(n => [...n.childNodes].filter(c => c.nodeType === 3).map(c => c.textContent.trim()))
        const before = all(document, ".said").filter(seen)
          .map(n => getComputedStyle(n, "::before").content + n.innerText)
        return told.concat(before).filter(t => t).join("\\n")"""
        return self.run(script)

    def all(self, selector: str, text: str = "") -> list[Any]:
        """What a selector finds now, of what can be seen, with this text in it."""
        return [one for one in self.run("return all(document, arguments[0]).filter(seen)", selector)
                if text in one.text]  # fmt: skip

    def find(self, selector: str, text: str = "", number: int = 0) -> Any:
        script = (
            "return all(document, arguments[0]).filter(seen)"
            ".filter(node => (node.innerText || '').includes(arguments[1]))[arguments[2]]"
        )
        return self.wait(lambda: self.run(script, selector, text, number), f"{selector} {text!r}")

    def press(self, selector: str, text: str = "", number: int = 0) -> None:
        from selenium.common.exceptions import WebDriverException

        def click() -> bool:
            found = self.find(selector, text, number)
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
            try:
                found.click()
            except WebDriverException:  # it was drawn anew, or something lies above it for a moment
                return False
            return True

        self.wait(click, f"{selector} {text!r} to press")

    def tab(self, name: str) -> None:
        self.wait(lambda: next(t for t in self.all(".bk-tab") if t.text == name).click() is None, name)

    def pick(self, text: str, words: str, number: int = 0) -> None:
        """Click a cell of a table until the page says so: one that is drawn anew meanwhile loses a click."""

        def picked() -> str:
            self.press(".tabulator-cell", text, number)
            try:
                return self.wait_text(words, 5)
            except AssertionError:
                return ""

        self.wait(picked, f"{words!r} after a click on {text!r}")

    def button(self, name: str) -> None:
        self.press("button, a.bk-btn", name)

    def figure(self, column: str) -> list[float]:
        """What the browser's own copy of a column of a figure's source holds."""
        script = """
        for (const view of Object.values(Bokeh.documents).flatMap(d => [...d._all_models.values()]))
          if (view.type === "ColumnDataSource" && view.data[arguments[0]]) return [...view.data[arguments[0]]]
        return []"""
        return self.run(script, column)

    def upload(self, number: int, file: Path) -> None:
        script = "return all(document, 'input[type=file]')[arguments[0]]"
        self.wait(lambda: self.run(script, number), "a file button").send_keys(str(file))

    def field(self, label: str) -> Any:
        script = """
        return all(document, ".bk-input-group").filter(seen)
          .filter(g => g.innerText.startsWith(arguments[0])).map(g => g.querySelector("input, select"))[0]"""
        return self.wait(lambda: self.run(script, label), f"field {label!r}")

    def choose(self, label: str, text: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.field(label)).select_by_visible_text(text)

    def fill(self, label: str, value: object) -> None:
        field = self.field(label)
        script = (
            "const [f, v] = arguments; f.value = v; f.dispatchEvent(new Event('change', {bubbles: true}))"
        )
        self.driver.execute_script(script, field, str(value))

    def wait(self, look: Callable[[], Any], what: str, seconds: float = 90) -> Any:
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
        self.keep("failed")
        raise AssertionError(f"no {what} within {seconds:g} s; the page says: {self.text()[-1500:]}")

    def wait_text(self, words: str, seconds: float = 90) -> str:
        return self.wait(lambda: next((t for t in [self.text()] if words in t), ""), repr(words), seconds)

    def keep(self, name: str) -> None:
        """Keep a picture of the page, as long as it is."""
        self.driver.execute_script("scrollTo(0, 0)")
        time.sleep(0.5)  # tables draw what has come into view
        height = self.driver.execute_script("return Math.min(document.documentElement.scrollHeight, 6000)")
        width = self.driver.execute_script("return document.documentElement.clientWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
        )
        (self.pictures / f"dashboard-{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """What the browser's console says of errors."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]

    def rows(self, table: int) -> list[list[str]]:
        """Return the texts of the rows of a table that are drawn."""
        script = """
        return [...arguments[0].querySelectorAll(".tabulator-row")].map(
          row => [...row.querySelectorAll(".tabulator-cell")].filter(cell => cell.getClientRects().length)
            .map(cell => cell.textContent.trim()))"""
        return self.driver.execute_script(script, self.all(".tabulator")[table])

    def still(self, look: Callable[[], Any], what: str) -> Any:
        """Return what a look gives once it gives the same five times: a page is laid out in several steps."""
        seen: list[Any] = []

        def same() -> bool:
            seen.append(look())
            return len(seen) >= 5 and all(one == seen[-1] for one in seen[-5:])

        self.wait(same, what)
        return seen[-1]

    def width(self) -> int:
        """Return how wide the page is once it is laid out."""
        script = "return document.documentElement.scrollWidth"
        return self.still(lambda: self.driver.execute_script(script), "a width that stays")

    def click(self, table: int, row: int, selector: str, text: str = "") -> None:
        """Click a row of a table until something is there: one that is drawn anew meanwhile loses a click."""

        def cell() -> Any:
            found = self.all(".tabulator")[table].find_elements("css selector", ".tabulator-row")[row]
            return next(c for c in found.find_elements("css selector", ".tabulator-cell") if c.is_displayed())

        def clicked() -> Any:
            self.still(lambda: cell().rect, "a row to click")
            cell().click()
            try:
                return self.wait(lambda: self.all(selector, text), f"{selector} {text}", 5)
            except AssertionError:
                return None

        self.wait(clicked, f"{selector} {text} after a click")

    def map(self) -> dict[str, dict[str, Any]]:
        """Return the tiles of the map that is drawn, by district."""
        return self.wait(lambda: dict(self.driver.execute_script(_MAP)), "the map")

    def facts(self) -> dict[str, str]:
        """Return the facts on the page, by name."""
        return {
            row.find_element("css selector", "th").text: row.find_element("css selector", "td").text
            for row in self.all("tr")
            if row.find_elements("css selector", "td")
        }
