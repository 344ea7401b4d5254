"""The dashboard as people use it: a process of its own, Chromium, and nothing but this machine to be reached.

Screenshots are kept in the folder that DISTCALIB_SCREENSHOTS names, else in pytest's.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_tables import write_made_matrix, write_made_run
from pages_in_chromium import Page, chromium, dashboard, pictures_in

from distcalib.config.yaml_text import parse_yaml
from distcalib.dashboard.example import example
from distcalib.dashboard.problem import build
from distcalib.dashboard.work import Settings, calibrate

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dashboard")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[tuple[str, Any]]:
    """A dashboard of two runs, one worker, so that a second user must wait, and a small limit of uploads."""
    write_made_matrix(write_made_run(folder / "made", [3301, 3302]))
    write_made_run(folder / "early", [3301, 3302], failed=("assemble", "no memory"))
    arguments = ("--runs", str(folder), "--workers", "1", "--max-upload", "3MiB")
    with dashboard(*arguments, log=folder / "log.txt") as (url, process):
        yield url, process


@pytest.fixture(scope="module")
def pictures(folder: Path) -> Path:
    return pictures_in(folder / "screenshots")


@pytest.fixture(scope="module")
def page(folder: Path, pictures: Path) -> Iterator[Page]:
    with chromium(folder / "first", folder / "downloads") as driver:
        yield Page(driver, pictures)


@pytest.fixture(scope="module")
def other(folder: Path, pictures: Path) -> Iterator[Page]:
    with chromium(folder / "second", folder / "others") as driver:
        yield Page(driver, pictures)


def downloaded(folder: Path, name: str) -> bytes:
    file = folder / "downloads" / name
    until = time.monotonic() + 20
    while not file.exists() or not file.stat().st_size:
        assert time.monotonic() < until, list((folder / "downloads").glob("*"))
        time.sleep(0.1)
    content = file.read_bytes()
    file.unlink()  # else the next of this name gets another
    return content


def press_calibrate(page: Page, solver: str, **fields: object) -> None:
    page.tab("3 Calibrate")
    page.choose("Solver", solver)
    for label, value in fields.items():
        page.fill(label.replace("_", " "), value)
    page.button("Calibrate")


def press_tune(page: Page) -> None:
    """Begin a search that takes longer than any wait here, and wait until it goes on."""
    page.tab("Tune")
    page.fill("Trials", 500)
    page.fill("Epochs", 20_000)
    page.button("Tune")
    page.wait(lambda: re.search(r"fit \d+ of at most 1500", page.text()), "search that goes on")


def press_cancel(page: Page) -> None:
    page.button("Cancel")
    at = time.monotonic()
    page.wait_text("cancelled; nothing was kept", 15)
    assert time.monotonic() - at < 15


GATES, ALL = "Fewer records: L0 gates (penalty)", "All records, bounded least squares"


def test_the_example_from_loading_to_downloads(page, served, folder, pictures):
    page.open(served[0])
    page.button("Load the example")
    page.wait_text("12,000 records and 206 targets fit each other")
    page.keep("data")
    page.tab("2 Check")
    page.wait_text("off by more than 10 % before calibration")
    page.wait_text("persons_under_20 state=AK")
    page.keep("check")
    press_calibrate(page, GATES, Epochs=5000)  # a few seconds, so that a look falls within
    seen = page.wait(lambda: (drawn := page.figure("step"))[3:] and drawn, "curve that grows")
    page.wait_text("done: 1: gates")
    page.wait(lambda: len(page.figure("step")) > len(seen), "end of the curve")
    page.keep("calibrate")
    page.tab("4 Results")
    page.pick("households", "Targets of households")
    page.pick("count state=CA", "count state=CA: the 50 records that give most, of")
    page.wait_text("owned_with_mortgage")
    page.keep("results")
    survey, targets = example()
    problem = build(survey, targets, "weight", "s", "t")
    problem.save(folder / "problem")
    expected = calibrate(folder / "problem", Settings(solver="gates", epochs=5000), [].append)

    def fetch(label: str, name: str) -> io.BytesIO:
        page.button(label)
        return io.BytesIO(downloaded(folder, name))

    weights = pd.read_csv(fetch("Weights (CSV)", "weights.csv"))
    assert weights["household_id"].tolist() == survey["household_id"].tolist()
    assert weights["weight"].tolist() == expected.weights.tolist()
    pd.testing.assert_frame_equal(pd.read_parquet(fetch("Weights (Parquet)", "weights.parquet")), weights)
    table = pd.read_csv(fetch("Targets (CSV)", "calibrated_targets.csv"))
    np.testing.assert_allclose(table["after"], problem.X @ weights["weight"], rtol=1e-9)
    settings = fetch("Settings (YAML)", "settings.yaml").read().decode()
    assert parse_yaml(settings, "settings.yaml")["fit"]["selector"] == "gates"
    press_calibrate(page, "Raking", Share_of_targets_held_out=0.2)
    page.wait_text("done: 2: raking")
    page.tab("4 Results")
    page.wait_text("held out median")
    page.tab("5 Compare")
    page.wait_text("correlation of the weights")
    page.wait_text("held out median second")
    page.keep("compare")
    for number in (3, 4):
        press_calibrate(page, "Raking")
        page.wait_text(f"done: {number}: raking")
    page.tab("5 Compare")
    second = "return all(document, 'select').filter(seen)[1].value"
    last = page.wait(lambda: (v := page.run(second)).startswith("4") and v, "comparison of the last two")
    page.wait_text("correlation of the weights")
    page.choose("First", last)
    page.wait_text("Choose two different calibrations.")
    page.tab("Tune")
    for label, value in (("Trials", 2), ("Folds", 2), ("Epochs", 40)):
        page.fill(label, value)
    page.button("Tune")
    page.wait_text("chosen: l0_lambda")
    page.keep("tune")
    page.button("Use the chosen penalty")
    page.tab("3 Calibrate")
    assert page.field("Penalty").get_attribute("value") != "0.01"
    assert page.complaints() == []


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A survey and targets of somebody who has never seen the program, with markup where it could do harm."""
    rng = np.random.default_rng(1)
    n = 300
    survey = pd.DataFrame(
        {"hh": np.arange(n), "wt": 50.0, "region": rng.choice(["north", "<img src=x onerror=alert(1)>"], n),
         "people": rng.integers(1, 6, n), "income": rng.gamma(2.0, 15_000.0, n).round(),
         "<img src=y onerror=alert(2)>": 1}
    )  # fmt: skip
    survey.to_csv(tmp_path / "survey.csv", index=False)
    survey.to_parquet(tmp_path / "survey.parquet")
    targets = pd.DataFrame(
        {"variable": ["people", "people", "income", "count"], "region": ["north", None, None, None],
         "value": [26_000, 48_000, 5.1e8, 16_000]}
    )  # fmt: skip
    targets.to_csv(tmp_path / "targets.csv", index=False)
    return tmp_path


def test_own_tables_on_a_phone(page, served, mine, folder):
    page.open(served[0], 390, 844, mobile=True)
    page.upload(0, mine / "survey.csv")
    page.wait_text("survey.csv: 300 rows, 6 columns")
    page.upload(1, mine / "targets.csv")
    page.wait_text("300 records and 4 targets fit each other")
    assert page.width() <= 390
    page.keep("phone-data")
    page.tab("2 Check")
    page.wait_text("wt")
    press_calibrate(page, ALL)
    page.wait_text("done: 1: all, 300 records")
    page.keep("phone-calibrate")
    page.tab("4 Results")
    page.pick("income", "Targets of income")
    page.pick("income", "records that give most", number=1)
    page.wait_text("<img src=x")
    assert page.width() <= 390
    page.keep("phone-results")
    assert page.run("return all(document, 'img').length") == 0
    page.upload(0, mine / "survey.parquet")
    page.tab("1 Data")
    page.wait_text("survey.parquet: 300 rows, 6 columns")
    page.tab("4 Results")
    page.wait_text("Calibrate first.")
    assert page.complaints() == []


def test_a_run_is_calibrated_and_leads_from_group_to_target_to_records(page, served, folder):
    page.open(served[0])
    page.choose("Or a run", "early")
    page.wait_text("early: has no matrix yet; got 'matrix.zarr/X'")
    page.choose("Or a run", "made")
    page.wait_text("120 records and")
    page.tab("2 Check")
    page.wait_text("initial_weight")
    press_calibrate(page, GATES, Epochs=60)
    page.wait_text("done: 1: gates")
    page.wait(lambda: len(page.figure("step")) > 3, "a curve")
    page.tab("4 Results")
    page.pick("state: person_count by aca_ptc", "Targets of state: person_count by aca_ptc")
    page.pick("state_33/person_count/[aca", "records that give most, of")
    for words in ("household id", "clone", "NH-01"):
        page.wait_text(words)
    page.keep("run-calibrated")
    page.button("Settings (YAML)")
    settings = parse_yaml(downloaded(folder, "settings.yaml").decode(), "settings.yaml")
    assert settings["fit"]["group_power"] == 1.0
    press_calibrate(page, "Fewer records: reweighted L1 (exact number)")
    page.wait_text("done: 2: reweighted, 60 records, seed 3")
    page.tab("5 Compare")
    page.wait_text("correlation of the weights")
    page.tab("1 Data")
    page.button("Load the example")
    page.wait_text("12,000 records and 206 targets fit each other")
    assert page.complaints() == []


def test_bad_uploads_say_what_is_wrong_and_leave_the_page_usable(page, served, mine):
    page.open(served[0])
    page.upload(0, mine / "survey.csv")
    page.wait_text("survey.csv: 300 rows")
    pickled = pickle.dumps(pd.DataFrame({"a": [1]}))
    archive = io.BytesIO()
    np.savez(archive, weight=np.ones(3))
    for name, content, words in (
        ("mine.pkl", pickled, "mine.pkl: is a Python pickle, which can run code"),
        ("pickle.csv", pickled, "pickle.csv: is a Python pickle"),
        ("mine.npz", archive.getvalue(), "mine.npz: is a zip archive"),
        ("image.csv", b"\x00\x01\x02" * 100, "image.csv: is not text"),
        ("large.csv", b"x" * (4 << 20), "large.csv: is too large; got '4.0 MiB'; expected at most 3.0 MiB"),
        ("wrong.csv", b"variabel,value\npeople,1\n", "wrong.csv: lacks the column 'variable'"),
        ("column.csv", b"variable,value\npepole,1\n", "did you mean 'people'?"),
        (
            "number.csv",
            b"variable,value\npeople,lots\n",
            "number.csv: value, row 2: is no number; got 'lots'",
        ),
        ("place.csv", b"variable,value,region\npeople,1,nroth\n", "got 'nroth'"),
    ):
        (mine / name).write_bytes(content)
        page.upload(1, mine / name)
        page.wait_text(words)
    page.keep("bad-upload")
    page.tab("3 Calibrate")
    assert page.find("button", "Calibrate").get_attribute("disabled")
    page.tab("1 Data")
    page.upload(1, mine / "targets.csv")
    page.wait_text("300 records and 4 targets fit each other")
    page.fill("Weight", "(none: 1 each)")
    page.tab("2 Check")
    page.wait_text("1 each")
    press_calibrate(page, "Logit", Least_weight_ratio=0.99, Largest_weight_ratio=1.01)
    page.wait_text("the bounds leave 4 targets out of reach")
    assert page.complaints() == []


def test_two_users_have_a_queue_each_their_own_results_and_a_cancel_that_stops(page, other, served, mine):
    for one in (page, other):
        one.open(served[0])
    page.button("Load the example")
    page.wait_text("fit each other")
    other.upload(0, mine / "survey.csv")
    other.wait_text("survey.csv: 300 rows")
    other.upload(1, mine / "targets.csv")
    other.wait_text("300 records and 4 targets fit each other")
    press_tune(page)
    press_calibrate(other, "Raking")
    other.wait_text("waiting: 1 job of others before yours")
    other.keep("waiting")
    press_cancel(page)
    page.keep("cancelled")
    other.wait_text("done: 1: raking, 300 records")
    page.tab("4 Results")
    page.wait_text("Calibrate first.")
    press_calibrate(page, "Raking")
    page.wait_text("done: 1: raking, 12,000 records")
    other.tab("4 Results")
    other.wait_text("300 of 300")
    assert "of 12,000" not in other.text()
    # A user who goes away leaves no work behind.
    press_tune(page)
    page.driver.get("about:blank")
    press_calibrate(other, "GREG (linear)")
    # The server takes up to half a minute to discard the session of a page that is gone.
    other.wait_text("done: 2: greg", 150)
    assert page.complaints() == other.complaints() == []


def test_a_policyengine_file_is_a_survey_and_a_search_can_be_cancelled(page, served, small_file, mine):
    page.open(served[0])
    page.upload(0, small_file)
    page.wait_text(f"{small_file.name}: 300 rows")
    assert page.field("Weight").get_attribute("value") == "household_weight"
    (mine / "people.csv").write_text("variable,value\npersons,340111000\ncount,132000000\n")
    page.upload(1, mine / "people.csv")
    page.wait_text("300 records and 2 targets fit each other")
    page.button("Load the example")
    page.wait_text("12,000 records and 206 targets fit each other")
    press_tune(page)
    press_cancel(page)
    assert "chosen: l0_lambda" not in page.text()
    press_calibrate(page, "Raking")
    page.wait_text("done: 1: raking")
    assert page.complaints() == []


def test_a_page_that_is_loaded_anew_amid_an_upload_harms_nobody(page, other, served, mine):
    for one in (page, other):
        one.open(served[0])
    other.upload(0, mine / "survey.csv")
    other.wait_text("survey.csv: 300 rows")
    large = mine / "large.csv"
    large.write_text("wt,people\n" + "50,2\n" * 500_000)
    # In parts so small that there is a time between the first and the last.
    page.run("""
    for (const model of Object.values(Bokeh.documents).flatMap(d => [...d._all_models.values()]))
      if (model.data?.part) model.data.part = 500""")
    page.upload(0, large)
    some = re.compile(r"[1-9]\d? %")
    page.wait(lambda: any(some.fullmatch(t.strip()) for t in page.texts("small")), "some of the file")
    page.open(served[0])
    assert "large.csv" not in page.text()
    page.upload(0, large)
    page.wait_text("large.csv: 500,000 rows, 2 columns")
    other.upload(1, mine / "targets.csv")
    other.wait_text("300 records and 4 targets fit each other")
    press_calibrate(other, "Raking")
    other.wait_text("done: 1: raking, 300 records")
    assert page.complaints() == other.complaints() == []


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/ws", {"Origin": "http://elsewhere.example"}),
        # A name that was made to lead here: host and origin agree.
        ("/ws", {"Origin": "http://elsewhere.example:{port}", "Host": "elsewhere.example:{port}"}),
        ("/", {"Host": "elsewhere.example:{port}"}),
    ],
)
def test_pages_of_elsewhere_get_no_session(served, path, headers):
    import http.client
    from urllib.parse import urlsplit

    host = urlsplit(served[0])
    connection = http.client.HTTPConnection(host.netloc, timeout=10)
    asked = {name: value.format(port=host.port) for name, value in headers.items()}
    asked |= {} if path == "/" else {"Connection": "Upgrade", "Upgrade": "websocket",
             "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
             "Sec-WebSocket-Protocol": "bokeh, token"}  # fmt: skip
    connection.request("GET", path, headers=asked)
    assert connection.getresponse().status == 403
    connection.close()


def test_the_end_takes_the_workers_and_files_along(page, other, served, folder):
    import psutil

    _, process = served
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 1
    assert len(list((folder / "log.tmp").glob("distcalib-dashboard-*/session-*"))) >= 1
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(timeout=30) == 0
    assert list((folder / "log.tmp").glob("distcalib-*")) == []
    assert psutil.wait_procs(children, timeout=10)[1] == []
    said = (folder / "log.txt").read_text()
    assert said.rstrip().endswith("ended")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--address", "0.0.0.0"], "neither passwords nor encryption"),
        (["--port", "99999"], "--port"),
        (["--max-upload", "much"], "--max-upload"),
        (["no/such/run"], "is no run folder"),
    ],
)
def test_bad_options_end_with_2(arguments, words):
    command = [sys.executable, "-m", "distcalib", "dashboard", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert words in ended.stderr


def test_a_port_in_use_is_said(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "distcalib", "dashboard", "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert f"cannot be listened on (Address already in use); got {port}" in ended.stderr
