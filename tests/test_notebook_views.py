"""What notebooks show: small tables, every text escaped."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import scipy.sparse as sp

from distcalib import ClusterConfig, District, Plan, Run, RunConfig, fit_weights


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


def test_a_plan_shows_sizes_and_warnings_escaped():
    names = ("households", "persons", "columns", "districts", "states", "measures", "bytes")
    facts = dict.fromkeys(names, 7) | {f"targets_{status}": 2 for status in ("fit", "check", "excluded")}
    facts |= {"tasks": {"fit": 1}, "task_bytes": {"fit": 2**30}, "far": [], "cpu_seconds": 1}
    plan = Plan(RunConfig(name="<trial>"), {}, {}, {}, "torch", (), facts, ("a & b",))  # type: ignore[arg-type]
    shown = cells(plan)
    assert shown[0].endswith(": <trial>")
    assert "2 to fit, 2 to check, 2 excluded; 7 measures" in shown
    assert "a & b" in shown
    assert "&lt;trial&gt;" in plan._repr_html_()


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
