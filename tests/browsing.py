"""Chromium for tests: headless, driven by selenium, with pictures of pages."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


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
