"""Which files a run has, how they become tasks, what stands, and what a disturbed writing leaves."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from distcalib.areas.area import Area
from distcalib.config.settings import AreasConfig
from distcalib.errors import InputError, RunError
from distcalib.microdata import Microdata
from distcalib.runs.area_stage import FILE_HOUSEHOLDS, area_work, check_areas, files_of, pack, parse_only
from distcalib.runs.folder import sweep
from distcalib.runs.tasks import AreaTask, write_areas
from distcalib.storage import sha256_file

EVERY = ["US", "US-few", "NH", "NH-01", "NH-02", "NY", "NY-10", "NY-12", "NY-13", "WY", "WY-01", "NYC"]


def sums(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in folder.glob("areas/*/*")}


def with_areas(plan, **values):
    return replace(plan, run=plan.run.changed(areas=replace(plan.run.areas, **values)))


def work_of(made, inputs, plan=None):
    plan = plan or made.plan
    return area_work(plan, inputs, files_of(plan.run, made.assignment), made.assignment)


def carried_out(made, inputs, plan=None):
    work = work_of(made, inputs, plan)
    for task in work.tasks:
        write_areas(task)
    return work


def test_a_run_has_these_files(carried):
    made, inputs = carried
    files = files_of(made.plan.run, made.assignment)
    assert [a.name for a in files.written] == EVERY
    assert files.written[1].file == "areas/national/US-few.h5"
    assert files.written[1].weights == "fits/US-few/weights.npy"
    assert files.written[-1].outputs == (
        "areas/others/NYC.h5", "areas/mappings/NYC.csv", "areas/mappings/NYC.parquet",
    )  # fmt: skip
    folder, work = Path(inputs.run), work_of(made, inputs)
    assert (work.tasks, work.reused) == ([], len(EVERY))
    assert sorted(sums(folder)) == sorted(path for area in files.written for path in area.outputs)
    receipts = work.receipts()
    assert len(receipts) == len(EVERY)
    for area, receipt in zip(files.written, receipts, strict=True):
        assert set(receipt.outputs) == set(area.outputs)
        weights = np.load(folder / area.weights)
        data = Microdata.read(folder / area.file)
        facts = receipt.facts["areas"][area.name]
        assert facts["bytes"] == (folder / area.file).stat().st_size
        assert facts["households"] == data.count()
        column = pd.read_csv(folder / area.mapping)["column"]
        np.testing.assert_array_equal(data.weights, weights[column])
        if area.kind == "national":
            np.testing.assert_array_equal(np.sort(column), np.flatnonzero(weights))
    told = work.summary()
    assert told["districts"] == 6
    assert told["others"] == 1
    assert told["bytes"] == sum(
        r.facts["areas"][a.name]["bytes"] for a, r in zip(work.ids, receipts, strict=True)
    )


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"districts": False}, ["US", "US-few", "NH", "NY", "WY", "NYC"]),
        ({"states": False, "national": False}, ["NH-01", "NH-02", "NY-10", "NY-12", "NY-13", "WY-01", "NYC"]),
        ({"only": ("NH",)}, ["NH", "NH-01", "NH-02"]),
        ({"only": ("nh", "3612", "NYC")}, ["NH", "NH-01", "NH-02", "NY-12", "NYC"]),
        ({"only": ("US", "WY-00")}, ["US", "WY-01"]),
        ({"only": ("US-few",), "others": {}}, ["US-few"]),
        ({"only": ("NYC",), "others": {}}, ["NYC"]),
        ({"only": ("NH", "NH-02"), "districts": True}, ["NH", "NH-01", "NH-02"]),
    ],
)
def test_settings_and_only_choose_among_them(planned, asked, names):
    made, _ = planned
    files = files_of(with_areas(made.plan, **asked).run, made.assignment)
    assert [a.name for a in files.written] == names
    assert {a.name for s, d in files.states for a in (s, *d)}.isdisjoint(a.name for a in files.alone)


def test_a_list_of_areas_is_read():
    assert parse_only("MN, CA-12,NYC,,US") == ("MN", "CA-12", "NYC", "US")
    with pytest.raises(InputError, match="--only: names no area"):
        parse_only(" ,")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"only": ("MN",)}, ["areas.only", "is no area that this run has a file of", "'MN'", "'NH'"]),
        ({"only": ("NH-03",)}, ["areas.only", "'NH-03'", "'NH-02'"]),
        ({"only": ("US",), "national": False}, ["is no area that this run has a file of", "'US'"]),
        ({"others": {"Boston": None}}, ["areas.others.Boston", "has no filter", "county_fips in"]),
        ({"others": {"a": "county_fips == 36999"}}, ["areas.others.a: county_fips: is no county", "'36999'"]),
        ({"others": {"a": "zcta == 10001"}}, ["areas.others.a", "is a field that this placement lacks"]),
        ({"others": {"a": "state == NH and county_fips == 36061"}}, ["holds no household of this run"]),
        ({"others": {"NH": "state == NH"}}, ["areas.others", "is the name of another area", "'NH'"]),
        ({"others": {"US-few": "state == NH"}}, ["fits", "is the name of another area", "'US-few'"]),
    ],
)
def test_what_cannot_be_written_is_refused_by_the_plan(planned, small, asked, words):
    made, _ = planned
    with pytest.raises(InputError) as error:
        check_areas(with_areas(made.plan, **asked).run, made.assignment, small)
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"


def test_the_plan_warns_of_counties_without_a_household_and_refuses_ids_that_are_too_large(planned, small):
    made, _ = planned
    run = with_areas(made.plan, others={"a": "county_fips in 36061 36001"}).run
    (warning,) = check_areas(run, made.assignment, small)
    assert "areas.others.a: no household is placed in 1 counties: 36001" in warning
    assert check_areas(with_areas(made.plan, others={}).run, made.assignment, small) == []
    many = replace(small, ids={**small.ids, "person": np.arange(3_000_000)})
    with pytest.raises(
        InputError, match=r"areas\.ids: gives person ids of up to 24,000,000.*expected ranges"
    ):
        check_areas(made.plan.run, made.assignment, many)
    assert check_areas(with_areas(made.plan, ids="ranges", others={}).run, made.assignment, many) == []


def test_settings_are_read_and_typed(run_folder):
    made, _ = run_folder(
        "areas: {others: {Albany: 'county_fips == 36001', NYC: null}, ids: ranges, only: [NH]}\n"
    )
    assert made.plan.run.areas == AreasConfig(
        others={"Albany": "county_fips == 36001", "NYC": None}, ids="ranges", only=("NH",)
    )
    for text, words in (
        ("{others: {a/b: null}}", "areas.others: is not a name"),
        ("{others: [a]}", "areas.others: is not a table of texts"),
        ("{others: {a: 3}}", "areas.others.a: has the wrong type"),
        ("{only: NH}", "areas.only: is one value where a list is wanted"),
        ("{ids: range}", "areas.ids: is not a valid choice.*'ranges'"),
    ):
        with pytest.raises(InputError, match=words):
            run_folder(f"areas: {text}\n")


def test_packs_hold_every_file_once_and_are_even():
    areas: dict[Area, int] = {Area("national", "US"): 1_000_000}
    share = np.random.default_rng(1).dirichlet(np.full(50, 1.2)) * 1_000_000
    for state, households in enumerate(share, 1):
        areas[Area("states", f"s{state}", state)] = int(households)
        number = max(1, round(households / 2300))
        for district in range(1, number + 1):
            areas[Area("districts", f"{state}-{district}", state * 100 + district)] = int(households / number)
    packs = pack(areas)
    assert sorted(a.name for p in packs for a in p) == sorted(a.name for a in areas)
    cost = [sum(FILE_HOUSEHOLDS + areas[a] for a in p) for p in packs]
    assert cost == sorted(cost, reverse=True)
    assert packs[0] == (Area("national", "US"),)
    fair = sum(cost) / 32
    largest_state = max(n for a, n in areas.items() if a.kind == "states")
    assert max(cost[1:]) <= max(2 * fair, largest_state + FILE_HOUSEHOLDS)
    assert len(packs) <= 45
    few = {Area("states", "NH", 33): 10, Area("districts", "NH-01", 3301): 5, Area("states", "WY", 56): 3}
    assert sum(map(len, pack(few))) == 3


def test_any_packing_gives_the_same_bytes(prepared, carried):
    made, inputs = prepared
    first = sums(Path(carried[1].run))
    work = work_of(made, inputs)
    assert work.standing == {}
    for area, one in work.ids.items():  # a task a file, districts without their states
        write_areas(AreaTask(inputs, one, (area,), (one,)))
    assert sums(Path(inputs.run)) == first


def test_only_leaves_what_is_of_these_weights_and_nothing_else(finished):
    made, inputs = finished
    before = sums(Path(inputs.run))
    narrow = with_areas(made.plan, only=("NH",))
    work = work_of(made, inputs, narrow)
    assert work.tasks == []
    assert set(before) <= work.used()
    assert len(work.receipts()) == 3
    weights = np.load(Path(inputs.run) / "fit/weights.npy")
    weights[np.flatnonzero(weights)[0]] *= 2
    np.save(Path(inputs.run) / "fit/weights.npy", weights)
    moved = made.assignment.state_fips[np.flatnonzero(weights)[0]]
    work = carried_out(made, inputs, narrow)
    stale = {path for path in before if path not in work.used()}
    state = {33: "NH", 36: "NY", 56: "WY"}[int(moved)]
    assert "areas/national/US.h5" in stale
    assert "areas/national/US-few.h5" not in stale
    for path in stale:
        assert re.search(rf"/(US|NYC|{state}(-\d\d)?)\.\w+$", path), path
    assert {f"areas/states/{s}.h5" for s in ("NH", "NY", "WY")} & stale == (
        {f"areas/states/{state}.h5"} - {"areas/states/NH.h5"}
    )


@pytest.mark.parametrize("how", ["cut", "flipped", "gone", "mapping", "receipt"])
def test_what_is_damaged_is_found_and_written_alone(finished, how):
    made, inputs = finished
    folder = Path(inputs.run)
    before = sums(folder)
    times = {path: (folder / path).stat().st_mtime_ns for path in before}
    area = Area("districts", "NY-12", 3612)
    hurt = folder / (area.mapping if how == "mapping" else area.file)
    content = bytearray(hurt.read_bytes())
    if how == "cut":
        hurt.write_bytes(content[:-7])
    elif how == "gone":
        hurt.unlink()
    elif how == "receipt":
        work = work_of(made, inputs)
        (folder / "receipts/areas" / f"{work.ids[area]}.json").write_text("{}")
    else:
        content[len(content) // 2] ^= 1
        hurt.write_bytes(content)
    work = carried_out(made, inputs)
    assert [a.name for task in work.tasks for a in task.areas] == ["NY-12"]
    assert sums(folder) == before
    again = {path for path in before if (folder / path).stat().st_mtime_ns != times[path]}
    assert again == set(area.outputs)


STEPS = {
    "first column": ("distcalib.microdata.hdf5_stream._Column.append", 1),
    "in the midst of a file": ("distcalib.microdata.hdf5_stream._Column.append", 200),
    "file closed": ("distcalib.microdata.hdf5.count_columns", 2),
    "file synced": ("os.fsync", 4),
    "before the rename": ("os.replace", 6),
    "between file and mapping": ("distcalib.areas.stack.write_mapping", 2),
    "before the receipt": ("distcalib.runs.tasks.write_receipt", 3),
}

KILLED = """
import json, os, pickle, signal, sys
from importlib import import_module
task, name, at = pickle.loads(bytes.fromhex(sys.argv[1]))
from distcalib.runs.tasks import write_areas
owner, attribute = name.rsplit(".", 1)
try:
    owner = import_module(owner)
except ImportError:
    module, kind = owner.rsplit(".", 1)
    owner = getattr(import_module(module), kind)
real, calls = getattr(owner, attribute), 0
def dies(*args, **kwargs):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(owner, attribute, dies)
write_areas(task)
"""


def killed(task: AreaTask, name: str, at: int) -> int:
    import pickle

    argument = pickle.dumps((task, name, at)).hex()
    return subprocess.run([sys.executable, "-c", KILLED, argument], timeout=120).returncode


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_no_file_is_half_there_and_the_next_start_finishes(prepared, carried, step):
    made, inputs = prepared
    made = replace(made, plan=with_areas(made.plan, only=("NH", "NYC")))
    folder, whole = Path(inputs.run), sums(Path(carried[1].run))
    work = work_of(made, inputs)
    task = AreaTask(inputs, "all", tuple(work.ids), tuple(work.ids.values()))
    assert killed(task, *STEPS[step]) == -signal.SIGKILL
    for path in folder.glob("areas/*/*"):
        name = path.relative_to(folder).as_posix()
        half = path.name.startswith(".") and ".tmp." in path.name
        assert half or sha256_file(path) == whole[name], name
    receipts = folder / "receipts/areas"
    done = {p.stem: p.stat().st_mtime_ns for p in receipts.glob("[!.]*.json")}
    assert len(done) == {"before the receipt": 2, "between file and mapping": 1}.get(step, len(done))
    sweep(folder)
    work = carried_out(made, inputs)
    assert set(work.standing) == set(done)
    assert len(work.receipts()) == len(work.ids) == 4
    assert sums(folder) == {path: whole[path] for area in work.ids for path in area.outputs}
    assert {one: (receipts / f"{one}.json").stat().st_mtime_ns for one in done} == done


FULL = """
import pickle, resource, signal, sys
task, most = pickle.loads(bytes.fromhex(sys.argv[1]))
from distcalib.runs.execute import SerialExecutor
from distcalib.runs.tasks import load_inputs, write_areas
load_inputs(task.inputs)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    list(SerialExecutor().run(write_areas, [task]))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("most", [5_000, 60_000])
def test_a_file_that_finds_no_room_is_an_error_and_no_file(prepared, most):
    """A limit on the size of files stops the writer in the middle of one, as a full disk does."""
    import pickle

    made, inputs = prepared
    folder, work = Path(inputs.run), work_of(made, inputs)
    nation = Area("national", "US")
    task = AreaTask(inputs, work.ids[nation], (nation,), (work.ids[nation],))
    argument = pickle.dumps((task, most)).hex()
    ended = subprocess.run(
        [sys.executable, "-c", FULL, argument], timeout=120, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("RunError areas "), ended.stdout + ended.stderr
    assert "(US): " in ended.stdout
    assert re.search("File too large|errno = 27", ended.stdout), ended.stdout
    assert [p for p in folder.rglob("*") if "US.h5" in p.name] == []
    assert not (folder / "receipts/areas").exists()
    write_areas(task)
    assert (folder / nation.file).is_file()


def test_a_full_disk_at_the_sync_leaves_the_old_file(prepared, monkeypatch):
    made, inputs = prepared
    work = work_of(made, inputs)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_areas(work.tasks[0])
    assert not list(Path(inputs.run).glob("areas/*/.*"))
    assert not (Path(inputs.run) / "receipts/areas").exists()


def test_an_area_that_has_no_weight_ends_the_stage_before_it_begins(prepared):
    made, inputs = prepared
    weights = np.load(Path(inputs.run) / "fit/weights.npy")
    weights[np.isin(made.assignment.cd_geoid, [3302, 5601])] = 0
    np.save(Path(inputs.run) / "fit/weights.npy", weights)
    with pytest.raises(RunError, match="NH-02, WY, WY-01: no household has weight there"):
        work_of(made, inputs)
    assert not (Path(inputs.run) / "areas").exists()


def test_ranges_are_another_files_id(finished):
    made, inputs = finished
    work = carried_out(made, inputs, with_areas(made.plan, ids="ranges", only=("NYC",)))
    assert work.standing == {}
    with h5py.File(Path(inputs.run) / "areas/others/NYC.h5") as nyc:
        ids, geoids = nyc["household_id/2024"][:], np.unique(made.assignment.cd_geoid)
        np.testing.assert_array_equal(geoids[ids // 25_000], nyc["congressional_district_geoid/2024"][:])
