"""A real dashboard process and real browsers: what the tests see and press, through Bokeh's shadow roots."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
            process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


class Page:
    """One browser, on one page."""

    def __init__(self, driver: Any, pictures: Path) -> None:
        self.driver, self.pictures = driver, pictures

    def open(self, url: str, width: int = 1200, height: int = 900, mobile: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(url)
        self.tab("1 Data")

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
        self.press(".bk-tab", name)

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

    def wait(self, look: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = look()
            if found:
                return found
            time.sleep(0.1)
        self.keep("failed")
        raise AssertionError(f"no {what} within {seconds:g} s; the page says: {self.text()[-1500:]}")

    def wait_text(self, words: str, seconds: float = 30) -> str:
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


@contextmanager
def browser(profile: Path, downloads: Path, pictures: Path) -> Iterator[Page]:
    """Start a browser of its own profile."""
    import pytest
    from selenium import webdriver

    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in found.values():
        pytest.skip(f"{found} (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(found["chromedriver"]))
    try:
        yield Page(driver, pictures)
    finally:
        driver.quit()
