"""Renew the pictures of docs/images: `make screenshots`, or `python docs/screenshots.py RUN`, a finished run.

report.png is the top of the run's report with the map of districts, dashboard.png its district page in the
dashboard. Chromium and chromedriver have to be there.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))
from pages_in_chromium import Page, chromium, dashboard, picture, size  # noqa: E402

WIDTH = 1200


def main(run: Path, images: Path = DOCS / "images") -> None:
    """Write both pictures."""
    with tempfile.TemporaryDirectory() as temporary, chromium(Path(temporary) / "profile") as browser:
        shot = Path(temporary) / "shot.png"
        size(browser, WIDTH, 900)
        browser.get((run / "report.html").resolve().as_uri())
        parts = []
        for selector, most in (("body", 285), ("figure", 900)):
            picture(browser, shot, selector, most)
            parts.append(Image.open(io.BytesIO(shot.read_bytes())).convert("RGB"))
        keep(images / "report.png", parts)
        with dashboard(str(run), log=Path(temporary) / "log.txt") as (url, _):
            size(browser, WIDTH, 1560)
            page = Page(browser, Path(temporary), url)
            page.open_run(run.name)
            page.find(".cards")
            page.tab("Districts")
            page.choose("District", "CA-12")
            page.find("h3", "CA-12 (612)")
            page.find(".tabulator-col", "official")
            page.still(page.map, "the map")
            picture(browser, shot, "body", 1425)
            seen = Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")
            keep(images / "dashboard.png", [seen])


def keep(file: Path, parts: list[Image.Image]) -> None:
    """Write pictures below each other, in 128 colours."""
    whole = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, ((WIDTH - part.width) // 2, top))
        top += part.height
    file.parent.mkdir(exist_ok=True)
    whole.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {whole.width} x {whole.height}, {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
