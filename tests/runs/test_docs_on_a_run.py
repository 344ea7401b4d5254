"""The pages against a real run: its files, what changes redo, and each command that is cheap to carry out."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from click.testing import CliRunner
from command_lines import fenced

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.cli import main
from distcalib.errors import InputError
from distcalib.targets.database import write_database_file
from distcalib.targets.sources import bundled_targets

DOCS = Path(__file__).parents[2] / "docs"
FORMATS = (DOCS / "reference/formats.md").read_text(encoding="utf-8")


def rows_of(table: str) -> list[list[str]]:
    """Return the cells of the first table of a text, without its head."""
    lines = re.search(r"(^\|.*\n)+", table, re.MULTILINE)
    assert lines is not None
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[0].splitlines()]
    return [[cell.strip() for cell in row] for row in cells[2:]]


def section(heading: str) -> list[list[str]]:
    """Return the table under a heading of the page of formats."""
    found = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", FORMATS, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return rows_of(found[1])


def told(heading: str) -> dict[str, str]:
    """Return column -> type of a table, in order; one type may stand for several columns."""
    out = {}
    for names, kinds, *_ in section(heading):
        columns, types = re.findall(r"`([^`]+)`", names), kinds.split(", ")
        out |= dict(zip(columns, types * len(columns) if len(types) == 1 else types, strict=len(types) > 1))
    return out


TABLES = [
    ("targets.parquet", "targets.parquet"),
    ("columns.parquet", "columns.parquet"),
    *((f"{name}.csv", f"{folder}/{name}.csv") for folder in ("fit", "fits/few")
      for name in ("diagnostics", "groups", "areas", "epochs", "log")),
    *((f"verify/{name}.csv", f"verify/{name}.csv")
      for name in ("targets", "areas", "population", "checks", "gates", "files")),
    ("consistency.csv", "fit/consistency.csv"),
    ("areas/mappings/NAME.csv and NAME.parquet", "areas/mappings/WY-01.parquet"),
    ("verify/parts", "verify/parts/*.parquet"),
]  # fmt: skip


@pytest.mark.parametrize(("heading", "file"), TABLES, ids=[file for _, file in TABLES])
def test_a_table_has_the_columns_and_types_that_the_page_says(small_run, heading, file):
    path, said = next(small_run.glob(file)), told(heading)
    texts = {name: "str" for name, dtype in said.items() if dtype == "text"}
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=texts)
    assert list(table.columns) == list(said)
    # A CSV file says nothing of the type of an empty column, and little of that of whole numbers.
    plain = [name for name in table if not (path.suffix == ".csv" and table[name].isna().all())]
    loose = {"int64": "float64"} if path.suffix == ".csv" else {}
    found = {name: "text" if name in texts else str(table[name].dtype) for name in plain}
    assert all(said[name] in (dtype, loose.get(dtype)) for name, dtype in found.items()), found
    if path.suffix == ".parquet":
        assert all(isinstance(table[name].dtype, pd.StringDtype) for name in texts)


def test_arrays_and_datasets_are_as_the_page_says(small_run):
    group = zarr.open_group(small_run / "matrix.zarr/X", mode="r")
    assert {name: str(array.dtype) for name, array in group.arrays()} == told("matrix.zarr")
    assert group.attrs["encoding-type"] == "csr_matrix"
    assert np.load(small_run / "fit/weights.npy").dtype == np.float64
    with h5py.File(small_run / "areas/districts/WY-01.h5") as file:
        types = {name: file[name]["2024"].dtype for name in file}
    entities = {"household", "person", "family", "tax_unit", "spm_unit", "marital_unit"}
    ids = {f"{e}_id" for e in entities} | {f"person_{e}_id" for e in entities - {"person"}}
    whole = {"state_fips", "congressional_district_geoid"}
    assert {str(types[name]) for name in ids | whole} == {"int32"}
    assert str(types["household_weight"]) == "float32"
    assert (types["county_fips"].kind, types["takes_up_snap_if_eligible"].kind) == ("S", "b")


@pytest.mark.parametrize(
    ("heading", "file"),
    [
        ("plan.json", "plan.json"),
        ("receipts/STAGE/ID.json", "receipts/simulate/*.json"),
        ("manifest.json", "manifest.json"),
    ],
)
def test_a_json_file_has_the_keys_that_the_page_says(small_run, heading, file):
    held = json.loads(next(small_run.glob(file)).read_text())
    assert set(held) == set(re.findall(r"`(\w+)`", " ".join(row[0] for row in section(heading))))


def test_events_have_the_keys_that_the_page_says(small_run):
    said = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in section("events.ndjson")}
    events = [json.loads(line) for line in (small_run / "events.ndjson").read_text().splitlines()]
    held: dict[str, set[str]] = {}
    for event in events:
        held.setdefault(event["event"], set()).update(set(event) - {"event", "time"})
    assert {name: said[name] for name in held} == held
    assert {e["event"] for e in events} >= {"start", "stage", "workers", "task", "stage_done", "done"}


# -- what changed, and what to rerun -------------------------------------------------------------------------

CHANGES = {
    "name": "other", "simulation.slice_households": 50, "verify.slice_households": 500, "verify.plain": 0,
    "areas.only": ["WY"],
    "verify.tolerance": 1e-5, "verify.totals": ["income_tax"], "verify.accept": ["snap: known"],
    "verify.population": 0.5,
    "areas.others": {"North": "state in NH"}, "areas.districts": False, "areas.states": False,
    "areas.national": False, "areas.ids": "ranges",
    "fit": {"fit.ridge": 0.5}, "design_weights": "equal", "fits": {"fits": {"few": {"records": 50}}},
    "households": 200, "n_clones": 2, "seed": 4,
    "geography": {"geography.districts": ["WY-01", "NH-01"]}, "simulation.take_up": False,
}  # fmt: skip
# They need files that have to be made.
NOT_SETTINGS = {
    "geography.crosswalk",
    "geography.cbsa",
    "simulation.costs",
    "simulation.take_up_rates",
    "period",
}


def changes() -> list:
    """Return each setting that the page names, with the stage that it says is done anew."""
    text = (DOCS / "how-to/what-to-rerun.md").read_text(encoding="utf-8")
    out = []
    for changed, differs, _, command in rows_of(text):
        stage = re.search(r"--force (\w+)", command)
        names = [n for n in re.findall(r"`([\w.]+)`", changed) if n not in NOT_SETTINGS]
        assert bool(stage) == (differs not in ("nothing", "`code`, by stage")), changed
        out += [pytest.param(name, stage[1] if stage else None, id=name) for name in names]
    assert {one.values[0] for one in out} == set(CHANGES)
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stage"), changes())
def test_a_change_of_a_setting_is_told_as_the_page_says(small_run, small_settings, name, stage):
    value = CHANGES[name]
    dotted = name in ("fit", "fits", "geography")
    config = RunConfig.load(small_settings, value if dotted else {name: value})
    run = Run(config, small_run, ClusterConfig(workers=2))
    if stage is None:
        run.prepare()
        return
    with pytest.raises(InputError, match=f"--force {stage}: "):
        run.prepare()


@pytest.mark.slow
def test_what_the_page_says_is_done_again_is_done_again_and_nothing_else(small_run, small_settings, tmp_path):
    copy = Path(shutil.copytree(small_run, tmp_path / "copy"))
    (copy / "events.ndjson").unlink()
    config = RunConfig.load(small_settings, {"areas.others": {"North": "state in NH"}})
    Run(config, copy, ClusterConfig(workers=2), force="areas").execute()
    events = [json.loads(line) for line in (copy / "events.ndjson").read_text().splitlines()]
    done = {e["stage"]: e["tasks"] - e["reused"] for e in events if e["event"] == "stage"}
    assert (done["simulate"], done["assemble"], done["fit"]) == (0, 0, 0)
    assert done["areas"] > 0 < done["verify"]
    assert (copy / "areas/others/North.h5").is_file()
    assert (copy / "fit/weights.npy").read_bytes() == (small_run / "fit/weights.npy").read_bytes()


# -- commands that are carried out ---------------------------------------------------------------------------

# What is not: it needs another machine, a store, or minutes; each is tested elsewhere.
ELSEWHERE = (
    "s3://", "national", "RUN", "--cluster", "data check", "data take-up", "households=300", "runs/other",
    "--until assemble", "--force areas", "verify runs/mine", "make setup", "source ",
)  # fmt: skip
# What the small run has, in place of what the page says.
INSTEAD = {"county_fips == 17031": "county_fips == 33011", "fit.records=10000": "fit.records=100"}
REFUSED = ("distcalib plan my.yaml --output runs/mine --set fit.records=100",)


def carried_out(page: Path) -> int:
    """Carry out what a page says, in its order, in the current folder; return how many commands."""
    number, output = 0, ""
    for language, code in fenced(page.read_text(encoding="utf-8")):
        if language == "yaml" and (file := re.match(r"# (\w+\.yaml)\n", code)):
            Path(file[1]).write_text(code)
        elif language == "python":
            heard = io.StringIO()
            with contextlib.redirect_stdout(heard):
                exec(compile(code, str(page), "exec"), {})
            output = heard.getvalue()
            print(output)  # shown where the test fails
        elif language == "text":
            missing = [
                line for line in code.splitlines() if bare(line) not in bare(output) and "..." not in line
            ]
            assert missing == [], f"{missing}\n\n{output}"
        elif language == "bash":
            output = ""
            for line in code.replace("\\\n", " ").splitlines():
                if line.strip() and not any(mark in line for mark in ELSEWHERE):
                    output += command(line)
                    number += 1
    return number


def command(line: str) -> str:
    words = shlex.split(line, comments=True)
    if words[0] != "distcalib":
        subprocess.run(words, check=True)
        return ""
    done = CliRunner().invoke(main, words[1:])
    print(f"$ {line}\n{done.output}")
    assert done.exit_code == (2 if line in REFUSED else 0), f"{line}\n{done.output}"
    return done.output


def bare(text: str) -> str:
    """Return words without what a terminal draws around them."""
    return " ".join(re.sub(r"[─-╿]", " ", text).split())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [
    ("own-data", 6), ("resume", 4), ("add-a-target", 9), ("add-an-area", 1), ("what-to-rerun", 2),
])  # fmt: skip
def test_commands_of_a_how_to_are_carried_out(
    small_run, small_settings, small_file, tmp_path, monkeypatch, name, least
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    shutil.copyfile(small_file, "mine.h5")
    if name == "own-data":
        write_database_file(bundled_targets(), "policy_data.db")
    else:
        for run in ("mine", "demo"):
            shutil.copytree(small_run, f"runs/{run}")
        shutil.copyfile(small_settings, "my.yaml")
    page = tmp_path / "page.md"
    text = (DOCS / f"how-to/{name}.md").read_text(encoding="utf-8")
    text = text.partition("5. **Try it small**")[0]  # a run of all districts
    for theirs, ours in INSTEAD.items():
        text = text.replace(theirs, ours)
    page.write_text(text)
    assert carried_out(page) >= least


@pytest.mark.slow
def test_the_tutorial_is_carried_out_and_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    assert carried_out(DOCS / "tutorial.md") == 9
