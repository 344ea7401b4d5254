"""What the files hold: every household traced, parts equal to wholes, the same bytes however they are cut."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from every_file import areas_of, arrays, write_everything

from distcalib.areas import stack
from distcalib.areas.area import PRESETS, Area, kept
from distcalib.areas.filters import read_filter
from distcalib.areas.ids import range_ids, units
from distcalib.areas.stack import Placing, part_of, parts, write_together
from distcalib.catalogue import ENTITIES, GROUP_ENTITIES, catalogue
from distcalib.errors import InputError, RunError
from distcalib.microdata import Microdata, hdf5_stream
from distcalib.microdata.hdf5 import write_hdf5, write_parts
from distcalib.microdata.hdf5_slice import Layout, require_part
from distcalib.microdata.plausible import require_plausible
from distcalib.simulation.place import GEOGRAPHY, place
from distcalib.simulation.takeup import drawn_variables


def nothing(area, facts) -> None:
    pass


def trace(folder: Path, small: Microdata, placing: Placing, weights: np.ndarray) -> int:
    """By the mapping alone: the donor's values, its persons in their order, its place and its weight."""
    donor_row = {h: i for i, h in enumerate(small.ids["household"].tolist())}
    set_anew = {*GEOGRAPHY, *drawn_variables(), "household_weight"}
    seen = []
    _, states = areas_of(placing.assignment, weights)
    for area in [d for _, districts in states for d in districts]:
        data = Microdata.read(folder / area.file)
        mapping = pd.read_csv(folder / area.mapping)
        np.testing.assert_array_equal(mapping["new_household_id"], data.ids["household"])
        column, clone = mapping["column"].to_numpy(), mapping["clone"].to_numpy()
        donors = np.array([donor_row[h] for h in mapping["original_household_id"]])
        np.testing.assert_array_equal(column, clone * small.count() + donors)
        np.testing.assert_array_equal(placing.assignment.cd_geoid[column], area.code)
        np.testing.assert_array_equal(data.weights, weights[column])
        np.testing.assert_array_equal(data.column("congressional_district_geoid"), area.code)
        county = np.char.mod("%05d", placing.assignment.county_fips[column]).astype("S5")
        np.testing.assert_array_equal(data.column("county_fips"), county)
        for entity in ENTITIES:
            rows = small.rows_of(entity, donors)[0]
            owner = small.rows_of(entity, donors)[1]
            np.testing.assert_array_equal(
                data.ids[entity], clone[owner] * small.count(entity) + rows, err_msg=entity
            )
            for name, values in small.values[entity].items():
                if name.split("/")[0] in set_anew or name not in data.values[entity]:
                    assert name.split("/")[0] in set_anew, name
                    continue
                np.testing.assert_array_equal(data.values[entity][name], values[rows], err_msg=name)
        for entity in GROUP_ENTITIES:
            np.testing.assert_array_equal(
                small.links[entity][small.rows_of("person", donors)[0]],
                data.ids[entity][data.links[entity]] % small.count(entity),
            )
        seen.append(column)
    assert len(seen) == len(np.unique(placing.assignment.cd_geoid[weights > 0]))
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.flatnonzero(weights))
    return len(seen)


def test_every_household_of_every_district_is_traced_to_donor_clone_and_column(
    files, small, placing, weights
):
    assert trace(files[0], small, placing, weights) > 40


@pytest.mark.slow
def test_every_household_of_all_436_districts_is_traced(small, placing, tmp_path):
    weights = np.random.default_rng(4).random(placing.assignment.n_columns).astype(np.float32) + 0.5
    told = write_everything(tmp_path, placing, weights.astype(np.float64))
    assert len(told) == 488
    assert trace(tmp_path, small, placing, weights.astype(np.float64)) == 436


def test_districts_make_the_state_and_states_the_nation_array_by_array(files, placing, weights):
    folder, _ = files
    nation, states = areas_of(placing.assignment, weights)
    whole = []
    for state, districts in states:
        of_state = arrays(folder / state.file)
        found = [arrays(folder / d.file) for d in districts]
        for name, expected in of_state.items():
            made = np.concatenate([one[name] for one in found])
            assert made.dtype == expected.dtype, (state.name, name)
            np.testing.assert_array_equal(made, expected, err_msg=f"{state.name} {name}")
        assert all(one.keys() == of_state.keys() for one in found)
        whole.append(of_state)
    of_nation = arrays(folder / nation.file)
    assert of_nation["vtd/2024"].dtype == "S3"
    assert all(a.dtype.kind != "i" or a.dtype == np.int32 for a in of_nation.values())
    for name, expected in of_nation.items():
        made = np.concatenate([one[name] for one in whole])
        assert made.dtype == expected.dtype
        np.testing.assert_array_equal(made, expected, err_msg=name)
    order = pd.read_parquet(folder / nation.mapping_parquet)
    keys = order[["state_fips", "congressional_district", "column"]]
    assert keys.apply(tuple, axis=1).is_monotonic_increasing


def test_a_file_in_parts_is_what_all_placed_at_once_are(placing, weights, tmp_path, monkeypatch):
    nation = Area("national", "US")
    columns = kept(nation, placing.assignment, weights)
    at_once = place(
        placing.source, placing.assignment, columns, weights=weights[columns], seed=3, take_up=True
    )
    write_parts(tmp_path / "once.h5", {e: at_once.count(e) for e in ENTITIES}, [at_once])
    expected = arrays(tmp_path / "once.h5")
    write_hdf5(at_once, tmp_path / "plain.h5")
    plain = arrays(tmp_path / "plain.h5")
    assert all(plain[name].dtype == values.dtype for name, values in expected.items())
    assert all(np.array_equal(plain[name], values) for name, values in expected.items())
    monkeypatch.setattr(stack, "PART", 29)
    write_together(tmp_path / "parts", placing, weights, nation, (), nothing)
    assert (tmp_path / "parts" / nation.file).read_bytes() == (tmp_path / "once.h5").read_bytes()
    monkeypatch.setattr(hdf5_stream, "CHUNK", 100)  # many chunks, which no part fills
    for most in (29, 29, 300):
        monkeypatch.setattr(stack, "PART", most)
        write_together(tmp_path / f"{most}", placing, weights, nation, (), nothing)
        found = arrays(tmp_path / f"{most}" / nation.file)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name].dtype == values.dtype
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_districts_larger_than_a_part_have_the_same_bytes(placing, weights, files, tmp_path, monkeypatch):
    monkeypatch.setattr(stack, "PART", 5)
    _, states = areas_of(placing.assignment, weights)
    state, districts = next((s, d) for s, d in states if s.name == "NH")
    told = {}
    write_together(tmp_path, placing, weights, state, districts, lambda a, f: told.update({a.name: f}))
    assert all(told[d.name]["households"] > 5 for d in districts)
    for area in (state, *districts):
        for path in area.outputs:
            assert (tmp_path / path).read_bytes() == (files[0] / path).read_bytes(), path
    write_together(tmp_path / "alone", placing, weights, None, districts[:1], nothing)
    file = districts[0].file
    assert (tmp_path / "alone" / file).read_bytes() == (files[0] / file).read_bytes()


def test_the_edges_of_parts_cut_no_district_that_fits(monkeypatch):
    monkeypatch.setattr(stack, "PART", 20)
    assert parts(np.array([0, 10, 15]), 18) == [0, 18]
    assert parts(np.array([0, 10, 25]), 60) == [0, 10, 25, 45, 60]
    assert parts(np.array([0, 40, 41]), 50) == [0, 20, 40, 50]
    assert parts(np.array([0]), 61) == [0, 20, 40, 60, 61]
    draw = np.random.default_rng(0)
    for _ in range(50):
        sizes = draw.integers(1, 45, 30)
        begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        edges = parts(begins, int(sizes.sum()))
        assert edges[0] == 0
        assert edges[-1] == sizes.sum()
        assert min(np.diff(edges)) > 0
        assert max(np.diff(edges)) <= 20
        cut = {int(np.searchsorted(begins, e, side="right")) - 1 for e in edges if e not in begins}
        assert all(sizes[i] > 20 for i in cut if i < 29 or edges[-1] != sizes.sum())


def test_memory_does_not_grow_with_the_file(placing, tmp_path, monkeypatch):
    monkeypatch.setattr(stack, "PART", 300)
    monkeypatch.setattr(hdf5_stream, "CHUNK", 1024)
    nation, peaks, numbers = Area("national", "US"), [], [1, 1000, 9000]
    for number in numbers:
        weights = (np.arange(placing.assignment.n_columns) < number) * 1.0
        tracemalloc.start()
        write_together(tmp_path / str(number), placing, weights, nation, (), nothing)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    size = sum(a.nbytes for a in arrays(tmp_path / "9000" / nation.file).values())
    # The list of columns, and where each is, is all that there is of every household.
    assert peaks[2] - peaks[1] < 8000 * 80 < size / 8, (peaks, size)


def test_what_is_told_of_a_file_is_what_it_holds(files):
    folder, told = files
    assert len(told) > 50
    for path in ("areas/districts/NY-12.h5", "areas/states/NH.h5", "areas/national/US.h5"):
        data = Microdata.read(folder / path)
        assert told[path] == {
            "households": data.count(),
            "persons": data.count("person"),
            "weight": pytest.approx(data.weights.sum(), rel=1e-12),
            "bytes": (folder / path).stat().st_size,
        }


def test_the_two_forms_of_a_mapping_are_equal(files):
    folder, _ = files
    area = Area("states", "NY", 36)
    table = pd.read_csv(folder / area.mapping)
    assert list(table) == [
        "new_household_id", "original_household_id", "clone", "column", "congressional_district",
        "state_fips", "county_fips",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(table, pd.read_parquet(folder / area.mapping_parquet), check_dtype=False)
    assert (table["county_fips"] // 1000 == 36).all()
    assert (folder / area.mapping).read_text().splitlines()[0] == ",".join(table)


@pytest.fixture(scope="module")
def two_years(small, assignment, weights, tmp_path_factory) -> tuple[Path, str]:
    """A state and its district from donors who have incomes of 2024 and of 2025; and which incomes."""
    name = next(p for p in small.values["person"] if p.startswith("employment_income"))
    earlier = small.values["person"][name]
    later = {**small.values["person"], name.replace("2024", "2025"): earlier * 2 + 100}
    more = Microdata(2024, small.ids, small.links, {**small.values, "person": later})
    folder = tmp_path_factory.mktemp("years")
    wyoming, district = Area("states", "WY", 56), Area("districts", "WY-01", 5601)
    placing = Placing(more, assignment, 3, True)
    write_together(folder, placing, weights, wyoming, [district], nothing)
    return folder, name


def test_columns_of_other_years_are_carried_along_and_checked(two_years, tmp_path):
    folder, name = two_years
    path = folder / "areas/states/WY.h5"
    part = Path(shutil.copy(folder / "areas/districts/WY-01.h5", tmp_path))
    found = arrays(path)
    np.testing.assert_array_equal(found[name.replace("2024", "2025")], found[name] * 2 + 100)
    assert [n for n in found if n.endswith("/2025")] == [name.replace("2024", "2025")]
    whole, own = Layout.of(path, 2024), Layout.of(part, 2024)
    require_plausible(whole)
    require_part(whole, np.arange(whole.households), own)
    with h5py.File(part, "r+") as h5:
        h5[name.replace("2024", "2025")][3] += 1
    with pytest.raises(InputError, match=name.replace("2024", "2025")):
        require_part(whole, np.arange(whole.households), own)


@pytest.mark.slow
def test_policyengine_reads_each_year_of_a_file(two_years):
    from policyengine_us import Microsimulation

    folder, name = two_years
    path = folder / "areas/states/WY.h5"
    found, simulation = arrays(path), Microsimulation(dataset=str(path))
    for year in (2024, 2025):
        values = pd.Series.to_numpy(simulation.calculate(name.split("/")[0], year))
        np.testing.assert_array_equal(values, found[name.replace("2024", str(year))])
    with np.errstate(all="ignore"):
        assert simulation.calculate("household_net_income", 2025).sum() > 0


def test_only_inputs_and_ids_are_written(files):
    known = catalogue().variables
    names = {path.split("/")[0] for path in arrays(files[0] / "areas/districts/WY-01.h5")}
    ids = {n for n in names if n.endswith("_id")}
    assert all(known[n].is_input for n in names - ids)
    assert {"county_fips", "block_geoid", "tract_geoid", "vtd", "place_fips", "zcta"} < names
    assert set(drawn_variables()) < names


@pytest.fixture(scope="module")
def ranged(placing, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranges")
    mine = Placing(placing.source, placing.assignment, 3, True, "ranges")
    write_everything(folder, mine, weights)
    return folder, mine


def test_ranges_give_a_unit_one_id_in_every_file_and_no_two_the_same(ranged, files, weights, placing):
    folder, mine = ranged
    nation, states = areas_of(placing.assignment, weights)
    whole = arrays(folder / nation.file)
    geoids = np.unique(placing.assignment.cd_geoid)
    for entity in ENTITIES:
        ids = whole[f"{entity}_id/2024"]
        assert len(np.unique(ids)) == len(ids)
        assert ids.dtype == np.int32
    household = whole["household_id/2024"]
    np.testing.assert_array_equal(geoids[household // 25_000], whole["congressional_district_geoid/2024"])
    assert 5_000_000 <= whole["person_id/2024"].min() < whole["person_id/2024"].max() < 2**31 / 100
    for name, values in arrays(files[0] / nation.file).items():
        if not name.split("/")[0].endswith("_id"):
            np.testing.assert_array_equal(whole[name], values)  # ids decide nothing
    parts_of_it = [arrays(folder / d.file) for _, districts in states for d in districts]
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([one[name] for one in parts_of_it]), values)
    # An area that holds some households of a district has the ids that they have elsewhere.
    where = read_filter(PRESETS["NYC"], placing.assignment, "NYC")
    nyc = Area("others", "NYC", where=where)
    write_together(folder, mine, weights, nyc, (), nothing)
    of_nyc, of_mapping = arrays(folder / nyc.file), pd.read_csv(folder / nyc.mapping)
    everywhere = pd.read_csv(folder / nation.mapping).set_index("column")["new_household_id"]
    np.testing.assert_array_equal(everywhere[of_mapping["column"]], of_nyc["household_id/2024"])
    assert set(of_nyc["person_id/2024"]) < set(whole["person_id/2024"])
    assert set(of_nyc["county_fips/2024"].tolist()) == {b"36005", b"36047", b"36061", b"36081", b"36085"}
    in_city = np.isin(placing.assignment.county_fips, [36005, 36047, 36061, 36081, 36085]) & (weights > 0)
    np.testing.assert_array_equal(np.sort(of_mapping["column"]), np.flatnonzero(in_city))


def test_a_district_that_is_too_large_for_its_range_is_named(placing, weights, monkeypatch, tmp_path):
    mine = Placing(placing.source, placing.assignment, 3, True, "ranges")
    area = Area("districts", "WY-01", 5601)
    columns = kept(area, placing.assignment, weights)
    persons = placing.count(columns)["person"]
    assert persons > len(columns)
    monkeypatch.setattr("distcalib.areas.ids.RANGE", persons - 1)
    words = f"more persons than a district can have; got {persons}; expected at most {persons - 1}"
    with pytest.raises(InputError, match=f"district WY-01: {words}"):
        write_together(tmp_path, mine, weights, area, (), nothing)
    assert not (tmp_path / "areas").exists()


def test_districts_whose_person_ids_would_overflow_are_refused(small):
    """The rules engine has drawn by 100 x the person id, as a 32-bit number: there are ranges for 658."""
    sizes = units(small)

    def ids(number: int):
        record = np.arange(number) % small.count()
        return range_ids(sizes, record, np.arange(number), [f"d{i}" for i in range(number)])

    assert 100 * (ids(658)["person"].max() + 25_000) < 2**31
    with pytest.raises(InputError, match=r"ids: are more districts than ranges of person ids; got 659"):
        ids(659)


def test_a_list_of_places_is_an_area(placing, weights, files, tmp_path):
    """By codes that a crosswalk gave the blocks, as counties are listed."""
    codes = ["1", "9", "51"]
    where = read_filter(f"vtd in {' '.join(codes)} and state != NJ", placing.assignment, "here")
    some = Area("others", "places", where=where)
    write_together(tmp_path, placing, weights, some, (), nothing)
    found, mapping = arrays(tmp_path / some.file), pd.read_csv(tmp_path / some.mapping)
    assert set(found["vtd/2024"].astype(str)) <= set(codes)
    assert 34 not in found["state_fips/2024"]
    of_all = np.asarray(placing.assignment.fields()["vtd"]).astype(str)
    wanted = np.isin(of_all, codes) & (placing.assignment.state_fips != 34) & (weights > 0)
    np.testing.assert_array_equal(np.sort(mapping["column"]), np.flatnonzero(wanted))
    assert wanted.sum() > 10


def test_an_area_without_weight_is_no_file(placing, weights, tmp_path):
    none_here = np.where(placing.assignment.cd_geoid == 3301, 0, weights)
    districts = [Area("districts", "NH-01", 3301), Area("districts", "NH-02", 3302)]
    with pytest.raises(RunError, match="NH-01: no household has weight there"):
        write_together(tmp_path, placing, none_here, Area("states", "NH", 33), districts, nothing)
    assert not list(tmp_path.rglob("*.h5"))


def test_a_slice_of_placed_households_is_them(placing, weights):
    columns = kept(Area("states", "NH", 33), placing.assignment, weights)
    data = placing.place(columns, weights[columns], {})
    inside = np.arange(3, 9)
    ids = {e: data.ids[e][data.rows_of(e, inside)[0]] for e in ENTITIES}
    assert part_of(data, 3, 9).digest() == data.take(inside, ids).digest()


def test_parts_that_differ_are_refused(small, tmp_path: Path):
    sizes = {e: 2 * small.count(e) for e in ENTITIES}
    other = small.with_columns({"county_fips": np.full(small.count(), b"36061")})
    wider = other.with_columns({"county_fips": np.full(small.count(), b"36061-x")})

    def fill(*some: Microdata) -> None:
        with hdf5_stream.HDF5Stream(tmp_path / "a.h5", sizes) as stream:
            for one in some:
                stream.append(one)

    with pytest.raises(ValueError, match="differ in their columns: county_fips/2024"):
        fill(other, small)
    with pytest.raises(ValueError, match=r"differ in county_fips/2024: .S7, not .S5"):
        fill(other, wider)
    with pytest.raises(ValueError, match=r"not full: \w+/2024"):
        fill(small)
    fill(small, small)


@pytest.mark.parametrize("number", [1, 64, 256, 257])
@pytest.mark.parametrize("width", [1, 300])
def test_columns_of_any_length_and_width_are_read_back(small, number, width, tmp_path):
    some = small.take(np.arange(number))
    text = np.array([b"x" * (i % width) for i in range(number)], dtype=f"S{width}")
    some = some.with_columns({"block_geoid": text})
    sizes = {e: some.count(e) for e in ENTITIES}
    write_parts(tmp_path / "a.h5", sizes, [some])
    again = Microdata.read(tmp_path / "a.h5")
    assert again.digest() == some.digest()
    assert again.column("block_geoid").dtype == f"S{width}"
    write_parts(tmp_path / "b.h5", sizes, [some])
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
