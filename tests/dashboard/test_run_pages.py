"""The pages of a run folder as people see them: a small real run in Chromium, and what must not get out.

Screenshots are kept in the folder that DISTCALIB_SCREENSHOTS names, else in pytest's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_tables import write_made_frontier
from pages_in_chromium import Page, chromium, dashboard, picture, pictures_in, size

from distcalib.report.comparison import compare_runs
from distcalib.report.comparison_page import difference_maps
from distcalib.report.drill import by_donor, records_of_target, target_list
from distcalib.report.map_data import district_table
from distcalib.report.run_tables import RunTables


@pytest.fixture(scope="module")
def runs(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run, one with other estimates and a hostile name, one that goes on, one of garbage."""
    parent = tmp_path_factory.mktemp("shown")
    for name in ("small", "other", "going on", "garbage"):
        shutil.copytree(small_run, parent / name)
    other = parent / "other"
    targets = pd.read_csv(other / "fit/diagnostics.csv", keep_default_na=False)
    targets["estimate"] *= np.where(targets["geographic_id"].astype(str) == "5601", 1.5, 1.0)
    targets.to_csv(other / "fit/diagnostics.csv", index=False)
    for name in ("other", "going on"):
        plan = json.loads((parent / name / "plan.json").read_text())
        plan["run"]["name"] = f"<i id=bad>{name}</i>"
        (parent / name / "plan.json").write_text(json.dumps(plan))
    begun = parent / "going on"
    excluded = pd.read_parquet(begun / "excluded.parquet")
    excluded.assign(reason="<i id=bad>because</i>").to_parquet(begun / "excluded.parquet", index=False)
    lines = (begun / "events.ndjson").read_text().splitlines(keepends=True)
    last = next(i for i, line in enumerate(lines) if json.loads(line).get("stage") == "areas")
    (begun / "events.ndjson").write_text("".join(lines[:last]))
    (begun / "rest").write_text("".join(lines[last:]))
    (begun / "manifest.json").rename(begun / "later")
    for name in ("report.html", "verify", "areas"):
        shutil.rmtree(begun / name, ignore_errors=True)
    (parent / "garbage" / "plan.json").write_text('{"run": 3')
    return parent


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def session(
    runs: Path, downloads: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    own = tmp_path_factory.mktemp("served")
    served = dashboard("--runs", str(runs), log=own / "log.txt")
    with served as (url, _), chromium(own / "profile", downloads) as browser:
        size(browser, 1200, 1400)
        yield Page(browser, pictures, url)
        loaded = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        assert [name for name in browser.execute_script(loaded) if not name.startswith(url)] == []
        errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
        assert [line for line in errors if "favicon" not in line["message"]] == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures_in(tmp_path_factory.mktemp("screenshots"))


@pytest.mark.browser
def test_from_a_group_to_a_target_to_the_records_that_carry_it(session, runs, pictures):
    tables = RunTables.read(runs / "small")
    session.open_run("small")
    figures = session.find(".cards").text
    assert f"{tables.summary['records_kept']:,}" in figures
    assert "finished: every file is written and proven" in session.find(".state").text
    picture(session.driver, pictures / "run-overview.png")
    session.tab("Fit")
    groups = session.wait(lambda: session.rows(1) and session.rows(0), "both tables")
    targets = target_list(tables)
    group = groups[2]
    session.click(0, 2, "h3", f"{group[0]}, {group[1]}, {group[2]}")
    most = min(int(group[3]), 12)
    shown = session.wait(lambda: len(rows := session.rows(1)) == most and rows, "its targets")
    clicked = shown[0]
    session.click(1, 0, "th", "carried by")
    facts = session.facts()
    row = int(facts["row of the matrix"].replace(",", ""))
    assert targets.loc[row, ["area", "geo_level", "what", "status"]].tolist() == clicked[:4]
    donors = by_donor(records_of_target(tables, row))
    shown = session.wait(lambda: session.rows(2), "donors")
    assert [int(cells[0]) for cells in shown] == donors["household_id"].head(10).tolist()
    assert shown[0][5] == f"{donors['share'].iloc[0]:.2%}"
    session.tab("Records")
    records = session.wait(lambda: len(session.rows(2)[0]) > 7 and session.rows(2), "records")
    assert int(records[0][3].replace(",", "")) == records_of_target(tables, row)["column"].iloc[0]
    picture(session.driver, pictures / "run-target.png")


@pytest.mark.browser
def test_targets_are_searched_on_the_server_and_the_clicked_one_is_the_one_shown(session, runs):
    tables = RunTables.read(runs / "small")
    session.open_run("small")
    session.tab("Fit")
    session.wait(lambda: session.rows(1), "targets")
    fields = session.all(".tabulator")[1].find_elements("css selector", "input")
    fields[0].send_keys("WY-01")
    session.wait(lambda: {cells[0] for cells in session.rows(1)} == {"WY-01"}, "those of an area")
    session.all(".tabulator")[1].find_elements("css selector", "input")[2].send_keys("age 5 to")
    found = session.wait(lambda: len(session.rows(1)) == 1 and session.rows(1), "one target")
    session.click(1, 0, "th", "carried by")
    name = session.facts()["name"]
    targets = target_list(tables).set_index("name")
    assert targets.loc[name, ["area", "what"]].tolist() == [found[0][0], found[0][2]]
    assert targets.loc[name, "area"] == "WY-01"


@pytest.mark.browser
def test_a_district_is_chosen_on_the_map_and_by_its_name(session, runs, pictures):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.ui import Select

    tables = RunTables.read(runs / "small")
    known = district_table(tables).set_index("district")
    session.open_run("small")
    session.tab("Districts")

    def tapped() -> bool:
        # A map that is drawn anew meanwhile loses a tap.
        tile = session.still(session.map, "the map")["NH-02"]
        chain = ActionChains(session.driver)
        chain.w3c_actions.pointer_action.move_to_location(tile["x"], tile["y"]).click()
        chain.perform()
        try:
            return bool(session.wait(lambda: session.all("h3", "NH-02 (3302)"), "NH-02", 5))
        except AssertionError:
            return False

    session.wait(tapped, "NH-02 after a tap")
    facts = session.facts()
    assert facts["records with weight"] == f"{known.loc['NH-02', 'records']:,.0f}"
    assert (
        facts["effective sample size by donor"]
        == f"{known.loc['NH-02', 'effective_sample_size_by_donor']:.3g}"
    )
    session.wait(lambda: session.rows(0), "its targets")
    menu = Select(session.all("select")[3])
    assert menu.first_selected_option.text == "NH-02"
    menu.select_by_visible_text("WY-01")
    session.find("h3", "WY-01 (5601)")
    assert (
        session.facts()["population in its file against the official one"]
        == f"{known.loc['WY-01', 'population']:+.2%}"
    )
    Select(session.all("select")[2]).select_by_visible_text("Population error")
    error = known["population"].to_dict()
    session.wait(
        lambda: {name: tile["value"] for name, tile in session.map().items()} == pytest.approx(error),
        "errors on the map",
    )
    assert [name for name, tile in session.map().items() if tile["marked"]] == ["WY-01"]
    picture(session.driver, pictures / "run-district.png")


@pytest.mark.browser
@pytest.mark.parametrize(
    "name", ["fit/weights.npy", "verify/areas.csv", "fit/diagnostics.csv", "areas/districts/NH-01.h5"]
)
def test_what_is_downloaded_is_the_file(session, runs, downloads, name):
    session.open_run("small")
    session.tab("Downloads")
    session.find(".bk-btn, a, button", "fit/weights.npy")
    session.find("a, button", name).click()
    file = downloads / Path(name).name
    session.wait(file.exists, f"the download {file}")
    assert file.read_bytes() == (runs / "small" / name).read_bytes()


@pytest.mark.browser
def test_two_runs_stand_beside_each_other(session, runs, pictures):
    found = compare_runs(runs / "small", runs / "other")
    session.open_run("small", "other")
    assert "<i id=bad>other</i>" in session.find("td", "other").text
    session.wait(lambda: "<i id=bad>other</i>" in session.rows(0)[0][2], "the setting as text")
    assert session.all("#bad") == []
    session.tab("Targets")
    rows = session.wait(lambda: session.rows(0)[0][0] == "WY-01" and session.rows(0), "targets")
    moved = found.targets.loc[found.targets["area"] == "WY-01", "relative"]
    assert {cells[0] for cells in rows} == {"WY-01"}
    assert {cells[9] for cells in rows} == {"+50.00%"} == {f"{v:+.2%}" for v in moved[moved != 0]}
    session.tab("Map of differences")
    _, variables = difference_maps(found)
    drawn = {name: tile["value"] for name, tile in session.map().items()}
    assert drawn == pytest.approx(dict(zip(["NH-01", "NH-02", "WY-01"], variables[0].values, strict=True)))
    picture(session.driver, pictures / "run-comparison.png")
    session.open_run("small", "going on")
    assert "finished" in session.find("div", "manifest.json").text


@pytest.mark.browser
def test_a_run_that_goes_on_shows_what_is_there_and_is_followed(session, runs, pictures):
    session.open_run("going on")
    assert "not finished" in session.find(".state").text
    assert "not done" in session.find("li", "verify/population.csv").text
    session.tab("Other figures")
    session.wait(lambda: session.rows(1)[0][2] == "<i id=bad>because</i>", "the reason as text")
    assert session.all("#bad") == []
    session.tab("Districts")
    assert set(session.map()) == {"NH-01", "NH-02", "WY-01"}
    session.tab("Overview")
    picture(session.driver, pictures / "run-goes-on.png")
    run = runs / "going on"
    rest = (run / "rest").read_text()
    begun = json.loads(rest.splitlines()[0])
    failed = {"event": "stage_failed", "stage": "areas", "seconds": 1.0, "cause": "no memory"}
    with (run / "events.ndjson").open("a") as events:
        for event in (begun, failed | {"time": begun["time"]}):
            events.write(json.dumps(event) + "\n")
    assert "no memory" in session.find(".state", "failed in areas").text
    # The same command again: it is followed to its end, and what is made of it afterwards is seen.
    with (run / "events.ndjson").open("a") as events:
        events.write(rest)
    (run / "later").rename(run / "manifest.json")
    session.find(".state", "finished: every file is written and proven")
    session.tab("Weights")
    session.find(".tabulator-col", "records")
    session.wait_text("refit")
    assert "by column" not in session.text()
    write_made_frontier(run)

    def frontier() -> str:
        for name in ("Overview", "Weights"):  # a page is made anew when it is opened again
            session.tab(name)
        try:
            return session.wait_text("by column", 5)
        except AssertionError:
            return ""

    session.wait(frontier, "the frontier")


@pytest.mark.browser
def test_a_folder_that_cannot_be_read_says_why(session):
    session.open_run("garbage")
    assert "plan.json: is not the plan of a run" in session.find("div", "garbage/plan.json").text


@pytest.mark.browser
def test_it_fits_a_phone(session, pictures):
    session.open_run("small")
    try:
        size(session.driver, 390, 844)
        parts = {"Overview": (".cards", ""), "Fit": (".tabulator-col", "targets of"),
                 "Districts": ("label", "District"), "Weights": (".tabulator-col", "records"),
                 "Other figures": (".tabulator-col", "figure"),
                 "Timeline": (".tabulator-col", "stage"),
                 "Downloads": ("a, button", "fit/weights.npy")}  # fmt: skip
        for name, (selector, text) in parts.items():
            session.tab(name)
            session.find(selector, text)
            if name == "Districts":
                session.map()
            picture(session.driver, pictures / f"run-phone-{name.split()[0].lower()}.png")
            assert session.width() <= 390, name
    finally:
        size(session.driver, 1200, 1400)


def test_nothing_outside_of_the_run_folder_can_be_downloaded(tmp_path):
    from distcalib.dashboard.run_pages import FILES, inside

    run = tmp_path / "run"
    (run / "fit").mkdir(parents=True)
    (tmp_path / "secret.csv").write_text("secret")
    (run / "fit/areas.csv").write_text("area")
    (run / "fit/log.csv").symlink_to(tmp_path / "secret.csv")
    (run / "fit/groups.csv").symlink_to(run / "fit/areas.csv")
    assert inside(run, "fit/areas.csv") == inside(run, "fit/groups.csv") == run / "fit/areas.csv"
    for name in ("fit/log.csv", "../secret.csv", str(tmp_path / "secret.csv"), "fit", "fit/none.csv"):
        assert inside(run, name) is None
    assert {Path(name).suffix for name in FILES} <= {
        ".csv",
        ".html",
        ".json",
        ".jsonld",
        ".npy",
        ".parquet",
        "",
    }
