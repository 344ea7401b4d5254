"""What notebooks show: small tables, every text escaped."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import scipy.sparse as sp

from distcalib import CalibrationMatrix, ClusterConfig, District, Plan, Run, RunConfig, fit_weights
from distcalib.runs.plan import Prepared


class Cells(HTMLParser):
    """Texts of the cells of tables; fails on a tag that nothing of ours writes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.open = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open = tag

    def handle_data(self, data):
        if self.open in ("td", "th", "b") and data.strip():
            self.cells.append(data)


def cells(thing: object) -> list[str]:
    read = Cells()
    read.feed(thing._repr_html_())  # type: ignore[attr-defined]
    assert read.tags <= {"b", "table", "thead", "tbody", "tr", "th", "td"}
    return read.cells


def test_a_district_shows_its_spellings():
    assert cells(District.parse("0606")) == [
        "District CA-06", "state", "CA (06)", "GEOID", "606", "Congress", "119",
    ]  # fmt: skip


def test_a_fit_shows_what_it_kept_and_how_close_it_is():
    rng = np.random.default_rng(3)
    X = sp.random_array((8, 90), density=0.5, rng=rng, format="csr", dtype=np.float32)
    result = fit_weights(X, X @ rng.uniform(1, 3, 90), initial_weights=np.full(90, 2.0), epochs=5)
    shown = cells(result)
    assert f"{(result.weights > 0).sum():,} of 90 columns" in shown
    assert "8 fitted, 0 held out" in shown
    assert "within_10" in shown
    assert "held_out" not in shown
    assert "100.0%" in shown


def test_a_plan_shows_sizes_and_warnings_escaped():
    names = ("households", "persons", "columns", "districts", "states", "measures", "bytes")
    facts = dict.fromkeys(names, 7) | {f"targets_{status}": 2 for status in ("fit", "check", "excluded")}
    facts |= {
        "tasks": {"fit": 1},
        "task_bytes": {"fit": 2**30},
        "coordinator_bytes": 2**29,
        "far": [],
        "cpu_seconds": 1,
    }
    warned = ("a & b", "c" * 200)
    plan = Plan(RunConfig(name="<trial>"), {}, {}, {}, "torch", (), facts, warned)  # type: ignore[arg-type]
    shown = cells(plan)
    assert shown[0].endswith(": <trial>")
    assert "2 to fit, 2 to check, 2 excluded; 7 measures" in shown
    assert shown[-3:] == ["warnings", *warned]  # a row each, and whole
    assert "&lt;trial&gt;" in plan._repr_html_()
    assert Prepared(plan, *(None,) * 3)._repr_html_() == plan._repr_html_()  # type: ignore[arg-type]


def test_a_run_shows_how_far_it_is(tmp_path):
    run = Run(RunConfig(name="<i>"), tmp_path / "run", ClusterConfig(kind="serial"))
    assert "not begun" in cells(run)
    run.folder.mkdir()
    plan = {"slices": []} | {part: {} for part in ("code", "inputs", "versions", "engines")}
    (run.folder / "plan.json").write_text(json.dumps({**plan, "digest": "ab" * 32, "run": {"name": "<i>"}}))
    events = [
        {"event": "start", "time": 1.0, "columns": 9},
        {"event": "stage", "time": 2.0, "stage": "simulate", "tasks": 12, "reused": 2},
    ]
    (run.folder / "events.ndjson").write_text("".join(json.dumps(e) + "\n" for e in events))
    shown = cells(run)
    assert {"Run <i>", "serial, 1 workers", "silent", "simulate", "12"} <= set(shown)
    assert not {"None", "nan", "NaN"} & set(shown)  # how long is left is not known yet


def test_a_matrix_shows_values_in_figures_and_states_by_number():
    targets = pd.DataFrame({"name": ["nation/" + "x" * 80], "value": [1_319_565_105_000.0]})
    columns = pd.DataFrame({"record": range(13), "clone": 0, "cd_geoid": np.arange(101, 1401, 100)})
    columns["state_fips"] = [1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13, 15, 16]
    shown = cells(CalibrationMatrix(sp.csr_array(np.ones((1, 13), np.float32)), targets, columns))
    assert {"13 districts of 13 states", "1,319,565,105,000", targets["name"][0]} <= set(shown)
