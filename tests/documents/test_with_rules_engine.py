"""The documents' builders with the rules engine: a cell is what it says, a file gives what X gave."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from distcalib import (
    CalibrationMatrix,
    GeographyAssignment,
    Microdata,
    SparseMatrixBuilder,
    UnifiedMatrixBuilder,
    create_sparse_cd_stacked_dataset,
    get_calculated_variables,
)
from distcalib.errors import InputError
from distcalib.geography.assign import draw_counties
from distcalib.geography.sources import county_shares
from distcalib.matrix.measures import Rows, evaluate, scatter
from distcalib.simulation.engine import open_published

# Wyoming's one district is spelled the older way, Alaska's 201 comes after Hawaii's 1501 as text.
CDS = ["1501", "201", "5600"]
GEOIDS = [1501, 201, 5601]
FILTER = {"stratum_group_ids": [4], "variables": ["snap", "eitc"]}


@pytest.fixture(scope="module")
def simulation(small_file):
    from policyengine_us import Microsimulation

    return Microsimulation(dataset=str(small_file))


@pytest.fixture(scope="module", params=[False, True], ids=["stored flags", "drawn flags"])
def built(request, small_file, simulation):
    builder = SparseMatrixBuilder("bundled", 2024, CDS, small_file, rerandomize_takeup=request.param, seed=5)
    targets, X, mapping = builder.build_matrix(simulation, target_filter=FILTER)
    return targets, X, mapping, builder.matrix, request.param


@pytest.mark.slow
def test_the_file_gives_what_the_matrix_gave(built, small_file, tmp_path, capsys):
    _, X, _, matrix, drawn = built
    n = matrix.X.shape[1] // 3
    w = np.zeros(3 * n)
    chosen = np.arange(0, 3 * n, 7)
    w[chosen] = np.linspace(0.5, 4, len(chosen))
    path = create_sparse_cd_stacked_dataset(
        w,
        CDS,
        cd_subset=["5600", "201"],
        dataset_path=small_file,
        output_path=str(tmp_path / "out" / "results.h5"),
        rerandomize_takeup=drawn,
        seed=5,
    )
    words = capsys.readouterr().out
    assert "Processing subset of 2 CDs: 5600, 201..." in words
    assert f"Total active household-CD pairs: {(w[n:] > 0).sum()}" in words
    w[:n] = 0  # Hawaii is not in the file
    rows = Rows.of(matrix.targets)
    from_file = np.zeros(X.shape[0])
    for opened in open_published(path, 2024):
        weights = opened.calculate("household_weight").astype(np.float64)
        districts = opened.calculate("congressional_district_geoid").astype(int)
        for state in (2, 56):
            which = rows.within(state)
            table = evaluate([rows.measures[m] for m in which], opened.data, opened.calculate)
            here = np.flatnonzero(districts // 100 == state)
            cells = scatter(rows, which, table[here], here, state, districts[here], len(districts))
            from_file += cells.astype(np.float64) @ weights
    assert (from_file > 0).sum() >= 6
    np.testing.assert_allclose(from_file, X.astype(np.float64) @ w.astype(np.float32), rtol=1e-12)


@pytest.mark.slow
def test_section_7_of_the_first_document(small_file, simulation, tmp_path, monkeypatch):
    """Two of its nineteen districts, weights 2.5 and 3.5 found by the mapping, and SNAP as in the matrix."""
    monkeypatch.chdir(tmp_path)
    test_cds = ["1501", "1502", "201", "3001", "3002", *(str(cd) for cd in range(3701, 3715))]
    builder = SparseMatrixBuilder("bundled", 2024, test_cds, small_file)
    targets, X_sparse, _ = builder.build_matrix(simulation, target_filter={"variables": ["snap"]})
    # The document says `.values`, of which the weighted series of a simulation warns.
    with np.errstate(all="ignore"):  # formulas divide by zero where a later `where` discards it
        household_ids = pd.Series.to_numpy(simulation.calculate("household_id", map_to="household"))
        snap = pd.Series.to_numpy(simulation.calculate("snap", map_to="household"))
    hh_id = household_ids[np.flatnonzero(snap > 0)[0]]
    hh_idx = np.where(household_ids == hh_id)[0][0]
    w = np.random.default_rng(0).binomial(n=1, p=0.3, size=X_sparse.shape[1]).astype(float)
    w[test_cds.index("3701") * len(household_ids) + hh_idx] = 2.5
    w[test_cds.index("201") * len(household_ids) + hh_idx] = 3.5
    output_path = "calibration_output/results.h5"
    made = create_sparse_cd_stacked_dataset(
        w, test_cds, cd_subset=["3701", "201"], dataset_path=small_file, output_path=output_path
    )
    assert made == output_path
    wanted = [
        "household_id",
        "congressional_district_geoid",
        "county",
        "household_weight",
        "state_fips",
        "snap",
    ]
    with np.errstate(
        all="ignore"
    ):  # as a task does: formulas divide by zero where a later `where` discards it
        after = pd.DataFrame(type(simulation)(dataset=output_path).calculate_dataframe(wanted))
    mapping = pd.read_csv("calibration_output/mappings/results_household_mapping.csv")
    new = mapping.loc[mapping.original_household_id == hh_id].new_household_id
    found = after.loc[after.household_id.isin(new)]
    assert found.congressional_district_geoid.tolist() == [201, 3701]
    assert found.household_weight.tolist() == [3.5, 2.5]
    assert found.county.str[-3:].tolist() == ["_AK", "_NC"]
    assert (found.snap > 0).all()
    np.testing.assert_array_equal(after.household_id, mapping.new_household_id)
    for state, cd in ((2, 201), (37, 3701)):
        here = (after.state_fips == state).to_numpy()
        assert here.sum() > 50
        rows = targets[(targets.variable == "snap") & (targets.geographic_id == str(state))]
        (row,) = rows.index
        block = test_cds.index(str(cd)) * len(household_ids)
        cells = X_sparse[[row]].toarray()[0][block : block + len(household_ids)]
        donors = pd.Series(np.arange(len(household_ids)), household_ids)[mapping.original_household_id[here]]
        assert (cells[donors] > 0).sum() > 5
        np.testing.assert_array_equal(after.snap[here].to_numpy(), cells[donors])


def test_ids_of_the_file_tell_district_and_donor(small_file, tmp_path):
    n = 300
    w = np.zeros(3 * n)
    w[[n + 4, n + 9, 2 * n + 4]] = [3.5, 1, 2.5]
    path = create_sparse_cd_stacked_dataset(w, CDS, output_path=tmp_path / "r.h5", dataset_path=small_file)
    data, donors = Microdata.read(path), Microdata.read(small_file)
    assert data.ids["household"].tolist() == [25_000, 25_001, 50_000]
    mapping = pd.read_csv(tmp_path / "mappings" / "r_household_mapping.csv")
    assert mapping["new_household_id"].tolist() == data.ids["household"].tolist()
    assert mapping["original_household_id"].tolist() == donors.ids["household"][[4, 9, 4]].tolist()
    assert mapping["congressional_district"].tolist() == [201, 201, 5601]
    assert data.weights.tolist() == [3.5, 1, 2.5]
    home = data.household_of["person"]
    first = {h: data.ids["person"][home == h].min() for h in (0, 2)}
    assert first == {0: 5_025_000, 2: 5_050_000}
    shares = draw_counties(donors.ids["household"][[4, 9, 4]], [201, 201, 5601], county_shares(), 0)
    assert data.column("county_fips").astype(int).tolist() == shares.tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"output_path": None}, "output_path: is needed"),
        ({"cd_subset": ["3701"]}, "not among the districts of w"),
        ({"w": np.zeros(5)}, "has another shape"),
        ({"w": np.zeros(900)}, "no household has weight"),
        ({"w": np.full(900, -1.0)}, "900 weights are negative"),
    ],
)
def test_what_cannot_be_stacked_is_said_and_nothing_written(small_file, tmp_path, change, words):
    asked = {"w": np.ones(900), "output_path": tmp_path / "x.h5", "dataset_path": small_file} | change
    with pytest.raises(InputError, match=words):
        create_sparse_cd_stacked_dataset(asked.pop("w"), CDS, **asked)
    assert list(tmp_path.iterdir()) == []


def test_more_units_than_a_range_holds_are_refused(small_file, tmp_path, monkeypatch):
    monkeypatch.setattr("distcalib.areas.ids.RANGE", 299)
    with pytest.raises(InputError, match="s than a district can have"):
        create_sparse_cd_stacked_dataset(
            np.ones(900), CDS, output_path=tmp_path / "x.h5", dataset_path=small_file
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_cell_is_explained_by_what_it_was_made_from(built, tmp_path):
    _, X, _, matrix, drawn = built
    matrix.save(tmp_path / "saved")
    matrix = CalibrationMatrix.load(tmp_path / "saved")
    n = X.shape[1] // 3
    snap = matrix.targets.index[
        (matrix.targets["variable"] == "snap") & (matrix.targets["geographic_id"] == "2")
    ][0]
    column = int(X[snap].nonzero()[1][0])
    found = matrix.why(snap, column)
    assert found.inside
    assert found.agrees
    assert found.amount == X[snap, column] > 0
    assert found.units["amount"].sum() == pytest.approx(found.amount)
    assert (found.clone, found.cd_geoid) == (1, 201)
    # Whoever receives was drawn to take up; without draws nothing is said to be drawn.
    assert ("drawn" in set(found.take_up["origin"])) == drawn
    if drawn:
        flags = found.take_up.set_index("variable")["flag"]
        assert flags.loc[["takes_up_snap_if_eligible"]].any()

    outside = matrix.why(snap, column - n)  # the same household in Hawaii
    assert not outside.inside
    assert outside.value == 0
    assert outside.agrees
    assert "0 because the place is outside its area" in str(outside)

    counted = matrix.targets.index[
        (matrix.targets["constraints"] == "snap>0") & (matrix.targets["geographic_id"] == "2")
    ]
    member = matrix.why(int(counted[0]), column)
    assert member.agrees
    assert member.value == X[counted[0], column]
    assert member.members["constraint"].unique().tolist() == ["snap>0"]
    assert (member.members["value"].astype(float) > 0).tolist() == member.members["passes"].tolist()
    assert "snap>0" in str(member)


# Drawn flags are keyed by clone, which differs here.
@pytest.mark.slow
@pytest.mark.parametrize("built", [False], indirect=True, ids=["stored flags"])
def test_the_unified_builder_simulates_a_clone_where_it_lives(small_file, simulation, built):
    matrix, n = built[3], 300
    # Everybody in Alaska, in the counties of the other builder: its second block must come out.
    there = matrix.columns.iloc[n : 2 * n]
    geography = GeographyAssignment.from_frame(there.assign(clone=0))
    builder = UnifiedMatrixBuilder("bundled", 2024, small_file)
    targets, X, names = builder.build_matrix(geography, simulation, target_filter={"variables": ["snap"]})
    mine = matrix.targets.reset_index().merge(targets[["target_id"]], on="target_id")["index"]
    assert names == matrix.targets["name"].iloc[mine].tolist()
    assert X.nnz > 50
    assert (built[1][mine.to_numpy()][:, n : 2 * n] != X).nnz == 0


@pytest.mark.slow
def test_calculated_variables_are_those_with_formulas(simulation):
    names = get_calculated_variables(simulation)
    assert {"snap", "income_tax", "household_net_income"} <= set(names)
    assert not {"household_id", "person_id", "person_household_id", "age", "state_fips"} & set(names)
    assert len(names) > 3_000
