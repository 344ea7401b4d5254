"""A report as people see it: opened from disk in Chromium without a network, on a desk, a phone and paper.

Screenshots are kept in the folder that DISTCALIB_SCREENSHOTS names, else in pytest's.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_tables import write_made_frontier, write_made_run
from pages_in_chromium import chromium, picture, pictures_in, size

from distcalib.report import figures
from distcalib.report.run_report import write_report
from distcalib.report.run_tables import RunTables

pytestmark = pytest.mark.browser


#: Of each picture the least size of what is written in it, in pixels of the page.
_WRITTEN = """
return Object.fromEntries([...document.querySelectorAll("svg")].map((svg, at) => {
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width
  const sizes = [...svg.querySelectorAll("text")].map(text => parseFloat(getComputedStyle(text).fontSize))
  return [svg.id || String(at), Math.min(...sizes) * scale]
}))"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_made_run(tmp_path_factory.mktemp("nation") / "run", households=3000, name="nation")
    write_made_frontier(folder)
    return write_report(folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield driver


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures_in(tmp_path_factory.mktemp("screenshots"))


def show(browser: Any, file: Path, width: int, height: int, media: str = "", mobile: bool = False) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
    size(browser, width, height, mobile)
    browser.get(file.as_uri())


@pytest.mark.parametrize(
    ("name", "window", "more"),
    [
        ("desktop", (1200, 900), {}),
        ("phone", (390, 844), {"mobile": True}),
        ("print", (1030, 720), {"media": "print"}),
    ],
)
def test_it_fits_every_page_and_loads_nothing(browser, report, pictures, name, window, more):
    show(browser, report, *window, **more)
    picture(browser, pictures / f"report-{name}.png")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= window[0]
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []
    tiles = browser.execute_script("return document.querySelectorAll('#tiles g').length")
    assert tiles == 436
    titles = browser.execute_script(
        "return [...document.querySelectorAll('#tiles g title')].map(title => title.textContent)"
    )
    assert all(re.match(r"[A-Z]{2}-\d\d: .", title) for title in titles)
    written = browser.execute_script(_WRITTEN)
    if name == "phone":
        # Numbers in the tiles are the smallest: 8 of 15 units of a tile.
        assert len(written) == 7
        assert {svg: size for svg, size in written.items() if size < (7.9 if svg == "tiles" else 10)} == {}
    if name == "print":
        for hidden in ("nav", ".choose"):
            style = "return getComputedStyle(document.querySelector(arguments[0])).display"
            assert browser.execute_script(style, hidden) == "none"
        printed(browser, pictures / "report.pdf")


def printed(browser: Any, file: Path) -> bytes:
    """Print the page as a person would, into a file."""
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    file.write_bytes(base64.b64decode(pdf["data"]))
    return file.read_bytes()


def test_paper_has_the_districts_and_says_what_it_lacks(browser, report, pictures):
    show(browser, report, 1030, 720, "print")
    browser.execute_script(
        """
        const all = [...document.querySelectorAll("#districts tbody tr")]
        const rows = () => all.filter(row => row.checkVisibility())
        window.before = rows().length
        addEventListener("beforeprint", () => {
          window.rows = rows().length
          window.folded = [...document.querySelectorAll("details:not([open]) > summary")].map(
            one => getComputedStyle(one, "::after").content + one.checkVisibility())
        })"""
    )
    pages = printed(browser, pictures / "report.pdf").count(b"/Type /Page\n")
    found = browser.execute_script("return [before, rows, document.querySelector('#districts').open]")
    assert found == [0, 436, False]
    said = browser.execute_script("return folded")
    assert said
    assert set(said) == {'" (folded in the browser, so left out on paper)"true'}
    browser.execute_script("document.getElementById('districts').remove()")
    assert pages > printed(browser, pictures / "without.pdf").count(b"/Type /Page\n") + 8


def test_the_map_changes_with_the_menu_and_says_what_a_tile_is(browser, report, pictures):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    show(browser, report, 1200, 900)
    before = browser.execute_script(
        "return [...document.querySelectorAll('#tiles g')].map(g => g.className.baseVal)"
    )
    menu = Select(browser.find_element(By.ID, "variable"))
    menu.select_by_visible_text("Population error")
    after = browser.execute_script(
        "return [...document.querySelectorAll('#tiles g')].map(g => g.className.baseVal)"
    )
    assert set(before) <= {f"c{letter}" for letter in "abcdefgx"}
    assert set(after) <= {f"c{letter}" for letter in "ABCDEFGHIx"}
    assert browser.find_element(By.ID, "shown").text == "Population error"
    assert "within 1 %" in browser.find_element(By.ID, "legend").text
    tile = browser.find_elements(By.CSS_SELECTOR, "#tiles g")[100]
    tile.click()
    said = browser.find_element(By.ID, "chosen").text
    assert "persons in the file" in said
    picture(browser, pictures / "report-map-population.png", "figure")
    menu.select_by_visible_text("person count, age 0 to <5")
    assert browser.find_element(By.ID, "chosen").text.startswith(said.split(":")[0])
    assert browser.find_element(By.ID, "chosen").text != said
    for option in menu.options:
        menu.select_by_visible_text(option.text)
    tile.click()
    assert browser.find_element(By.ID, "chosen").text == ""
    assert browser.get_log("browser") == []


def test_the_map_is_used_by_keys_alone(browser, report):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(browser, report, 1200, 900)
    browser.find_element(By.ID, "variable").send_keys(Keys.TAB)

    def focus() -> Any:
        return browser.switch_to.active_element

    def said() -> str:
        return browser.find_element(By.ID, "chosen").text

    def names(*keys: str) -> list[str]:
        """The tile that each key leads to, as a screen reader calls it."""
        out = []
        for key in keys:
            focus().send_keys(key)
            assert focus().aria_role == "button"
            out.append(focus().accessible_name.split(":")[0])
        return out

    assert focus().accessible_name.startswith("AL-01: ")
    assert said() == ""
    assert names(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN) == ["AL-02", "AL-03", "AL-06"]
    focus().send_keys(Keys.ENTER)
    assert said().startswith("AL-06: ")
    assert focus().get_attribute("aria-pressed") == "true"
    assert names(Keys.ARROW_RIGHT)[0].startswith("GA-")
    focus().send_keys(Keys.SPACE)
    assert said().startswith("GA-")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#tiles [aria-pressed=true]")) == 1
    # From one end of the country to the other; nothing is beyond it.
    west = names(*[Keys.ARROW_LEFT] * 40)
    assert west[-1] == west[-2]
    assert west[-1].startswith("CA-")
    assert names(*[Keys.ARROW_UP] * 20)[-1] == "AK-01"
    reached = """
    const tiles = [...document.querySelectorAll("#tiles g")], seen = new Set([tiles[0]]), next = [tiles[0]]
    while (next.length) {
      const from = next.pop()
      for (const key of ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]) {
        from.focus()
        from.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}))
        const to = document.activeElement
        if (!seen.has(to)) { seen.add(to); next.push(to) }
      }
    }
    return seen.size"""
    assert browser.execute_script(reached) == 436
    # The map is one stop of the way by Tab.
    assert len(browser.find_elements(By.CSS_SELECTOR, "#tiles [tabindex='0']")) == 1
    focus().send_keys(Keys.TAB)
    assert focus().tag_name == "summary"
    assert browser.get_log("browser") == []


def test_shares_by_size_of_the_error_stand_beside_the_bar(browser, report):
    from selenium.webdriver.common.by import By

    show(browser, report, 1200, 900)
    found = figures.levels(RunTables.read(report.parent).targets)
    rows = browser.find_elements(By.CSS_SELECTOR, "#fit ~ .wide tbody tr")[: len(found)]
    for row, shares in zip(rows, found[list(figures.SHARES)].to_numpy(), strict=True):
        cells = [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "td.n")]
        assert cells[1:5] == [f"{share:.1%}" for share in shares]
    heads = browser.find_element(By.CSS_SELECTOR, "#fit ~ .wide thead").text
    for words in ("within 1 %", "1 to 5 %", "5 to 10 %", "beyond 10 %"):
        assert words in heads


def test_tables_sort_by_figure_and_by_text(browser, report):
    from selenium.webdriver.common.by import By

    show(browser, report, 1200, 900)

    def column(number: int) -> list[str]:
        cells = browser.find_elements(By.CSS_SELECTOR, f"#weights ~ .long tbody td:nth-child({number})")
        return [cell.text for cell in cells[:52]]

    def press(number: int) -> None:
        button = browser.find_element(By.CSS_SELECTOR, f"#weights ~ .long th:nth-child({number}) button")
        browser.execute_script("arguments[0].click()", button)

    press(2)
    records = [int(text.replace(",", "")) for text in column(2)]
    assert records == sorted(records, reverse=True)
    press(2)
    assert column(2) == [f"{n:,}" for n in sorted(records)]
    press(1)
    # As in a dictionary: "all areas" after "AL".
    assert column(1) == sorted(column(1), key=str.casefold)


def test_without_script_tables_and_a_map_are_there(browser, report, pictures):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, report, 1200, 900)
        found = browser.execute_cdp_cmd("DOM.getDocument", {"depth": 0})["root"]["nodeId"]

        def count(selector: str) -> int:
            asked = {"nodeId": found, "selector": selector}
            return len(browser.execute_cdp_cmd("DOM.querySelectorAll", asked)["nodeIds"])

        assert count("#tiles g.cg, #tiles g.cf, #tiles g.ce") > 0
        assert count("#tiles g") == 436
        assert count(".choose[hidden]") == 1
        assert count("table.sortable th button") == 0
        assert count("table.sortable tbody tr") > 500
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
