"""Seconds and memory of the dashboard's pages of a run folder, national by default.

    python benchmarks/run_pages.py [--households 12000] [--clones 430] [--records 1000000] [--share 0.1]
    python benchmarks/run_pages.py --run runs/demo

The folder is made in a temporary one, as `benchmarks/report.py` does, with a matrix in which each target has
a share of the columns of its area. `--run` takes a folder that is there. Chromium opens the dashboard of a
server process; a page is drawn when its last part is in the window. Memory is the server's own (USS). The
goal is an overview drawn less than 5 s after the request: exit code 1 where it is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from made_tables import write_made_matrix, write_made_run
from pages_in_chromium import Page, chromium, dashboard, size

#: Seconds from the request to the overview drawn.
GOAL = 5.0
#: What is drawn last on a page: selector, and a text in it.
LAST = {
    "Fit": (".tabulator-col", "cause of the miss"),
    "Weights": (".tabulator-col", "records"),
    "Other figures": (".tabulator-col", "why it is not fitted"),
    "Timeline": (".tabulator-col", "core-hours"),
    "Downloads": ("a, button", "fit/weights.npy"),
}


def main() -> int:
    """Open the pages, print the table and whether the goal is met."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--households", type=int, default=12_000)
    options.add_argument("--clones", type=int, default=430)
    options.add_argument("--records", type=int, default=1_000_000)
    options.add_argument("--share", type=float, default=0.1, help="of an area's columns in a target")
    options.add_argument("--run", type=Path)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = asked.run
        if run is None:
            run = Path(temporary) / "run"
            kept = asked.records / (asked.households * asked.clones)
            write_made_run(run, households=asked.households, clones=asked.clones, kept=kept, slices=6)
            nonzeros = write_made_matrix(run, asked.share).nnz
            print(f"{asked.households * asked.clones:,} columns, {asked.records:,} records, "
                  f"{nonzeros:,} nonzeros")  # fmt: skip
        served = dashboard(str(run), log=Path(temporary) / "log.txt")
        with served as (url, server), chromium(Path(temporary) / "profile") as browser:
            size(browser, 1200, 3000)
            page = Page(browser, Path(temporary), url)
            opened = measure(page, run.name, psutil.Process(server.pid))
    met = opened < GOAL
    print(
        f"goal, the overview drawn in less than {GOAL:.0f} s: {'met' if met else 'MISSED'} ({opened:.2f} s)"
    )
    return 0 if met else 1


def measure(session: Page, run: str, server: psutil.Process) -> float:
    """Print seconds and memory of every page; return the seconds of the slower of both openings."""
    print(f"load {os.getloadavg()[0]:.1f}\n{'':44}{'seconds':>8}{'GiB':>7}")

    def step(words: str, do: Callable[[], Any]) -> float:
        began = time.perf_counter()
        do()
        seconds = time.perf_counter() - began
        print(f"{words:44}{seconds:8.2f}{server.memory_full_info().uss / 2**30:7.2f}")
        return seconds

    def opened() -> None:
        session.open_run(run)
        session.find(".cards")

    def page(name: str) -> None:
        session.tab(name)
        session.find(*LAST[name])

    def target(area: str) -> None:
        field = session.all(".tabulator")[1].find_elements("css selector", "input")[0]
        field.clear()
        field.send_keys(area)
        session.wait(lambda: {cells[0] for cells in session.rows(1)} == {area}, area)
        session.click(1, 0, "h3", f"{area}: ")
        session.find(".tabulator-col", "contribution")

    def district() -> None:
        from selenium.webdriver.support.ui import Select

        Select(session.all("select")[3]).select_by_visible_text("CA-06")
        session.find("h3", "CA-06 (606)")
        session.find(".tabulator-col", "cause of the miss")

    print(f"{'the server before the first request':52}{server.memory_full_info().uss / 2**30:7.2f}")
    slower = step("from the request to the overview drawn", opened)
    slower = max(slower, step("the same in another session", opened))
    step("fit: groups and all targets", lambda: page("Fit"))
    step("a target of the nation, with its records", lambda: target("US"))
    step("a target of a district", lambda: target("CA-06"))

    def districts() -> None:
        session.tab("Districts")
        session.map()

    step("districts: the map", districts)
    step("one district", district)
    for name in ("Weights", "Other figures", "Timeline", "Downloads"):
        step(name.lower(), lambda name=name: page(name))  # type: ignore[misc]
    return slower


if __name__ == "__main__":
    sys.exit(main())
