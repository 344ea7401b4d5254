"""Which files a run has, how they become tasks, and what stands."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from every_file import carried_out, sums, with_areas, work_of

from distcalib.areas.area import Area
from distcalib.cli import main
from distcalib.config.settings import AreasConfig
from distcalib.errors import InputError, RunError
from distcalib.microdata import Microdata
from distcalib.runs.area_stage import FILE_HOUSEHOLDS, check_areas, files_of, pack, parse_only
from distcalib.runs.tasks import AreaTask, write_areas

EVERY = ["US", "US-few", "NH", "NH-01", "NH-02", "NY", "NY-10", "NY-12", "NY-13", "WY", "WY-01", "NYC"]


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


def test_only_is_an_option_of_the_command_line(planned, tmp_path):
    made, _ = planned
    asked = ["plan", made.plan.run.file, "--output", str(tmp_path / "run"), "--only"]
    assert CliRunner().invoke(main, [*asked, "nh,NY-12,NYC"]).exit_code == 0
    refused = CliRunner().invoke(main, [*asked, "NH,NY-99"])
    assert refused.exit_code == 2
    for words in ("areas.only", "'NY-99'", "did you mean 'NY-1", "a state, a district, US"):
        assert words in refused.output, refused.output
    assert not (tmp_path / "run").exists()


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
        ("{others: {a.tmp: null}}", "areas.others: is not a name"),
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
