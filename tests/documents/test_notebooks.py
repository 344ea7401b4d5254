"""The notebooks run from their first cell to their last, on bundled data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def execute(notebook: Path) -> dict[str, Any]:
    """Run the code cells in one namespace, as a kernel would; the cell is the file name in a traceback."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Formulas of the rules engine divide by zero where a later choice discards the result.
    with np.errstate(all="ignore"):
        yield


def test_notebooks_are_stored_without_outputs():
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
        assert path.stat().st_size < 30_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Accessing .values on a MicroSeries:UserWarning")
def test_the_first_notebook_runs(tmp_path):
    names = execute(NOTEBOOKS / "01_local_area_calibration_setup.ipynb")
    targets, X = names["targets_df"], names["X_sparse"]
    assert X.shape == (540, 19 * 1500)
    # Bundled dollars of a state are of its whole population, so they are in the geographic group.
    assert targets["stratum_group_id"].value_counts().to_dict() == {4: 488, 1: 52}
    assert names["row_info"]["geographic_id"] == "37"
    assert len(names["new_hh_ids"]) == 2
    assert not (tmp_path / "notebook_data" / "calibration_output").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Accessing .values on a MicroSeries:UserWarning")
def test_the_second_notebook_runs():
    names = execute(NOTEBOOKS / "02_calibration_matrix.ipynb")
    X, X_filtered, X_final = names["X_sparse"], names["X_filtered"], names["X_final"]
    geography, targets = names["geography"], names["targets_df"]
    n = 6000
    assert X.shape == (66, 3 * n)
    assert names["group_info"] == [
        "Group 0: National ACA PTC Person Count (1 target, value=19,771,819)",
        "Group 1: State SNAP Household Count (4 targets)",
        "Group 2: State Snap (4 targets)",
        "Group 3: District Aca Ptc (19 targets)",
        "Group 4: District ACA PTC Tax Unit Count (19 targets)",
        "Group 5: District SNAP Household Count (19 targets)",
    ]
    assert names["remaining_info"][1:] == [
        "Group 1: State Snap (4 targets)",
        "Group 2: District Aca Ptc (19 targets)",
        "Group 3: District ACA PTC Tax Unit Count (19 targets)",
        "Group 4: District SNAP Household Count (19 targets)",
    ]
    assert names["target_names"][33] == "cd_3701/household_count/[snap>0]"
    assert X_filtered.shape == X_final.shape == (62, 3 * n)
    # Three different districts of the four states for each household.
    homes = np.sort(geography.cd_geoid.reshape(3, n), axis=0)
    assert (homes[1:] > homes[:-1]).all()
    assert len(np.unique(homes)) == 19
    assert np.unique(geography.state_fips).tolist() == [2, 15, 30, 37]
    # A row of a state or a district holds only clones that live there, in every clone block.
    cells = X.tocoo()
    level = targets["geo_level"].to_numpy()[cells.row]
    where = targets["geographic_id"].to_numpy()[cells.row]
    for name, home in (("state", geography.state_fips), ("district", geography.cd_geoid)):
        there = level == name
        assert (where[there] == home[cells.col[there]].astype(str)).all()
    assert all(X[:, c * n : (c + 1) * n].nnz > 6000 for c in range(3))
    # Who counts in a district counts in its state; nobody else does.
    of_state, of_district = (X[names["target_groups"] == group].sum(axis=0) for group in (1, 5))
    np.testing.assert_array_equal(of_state, of_district)
    # What is imputed says so in every row, and no run would fit it.
    imputed = targets["source"].str.startswith("IMPUTED")
    assert (imputed == (targets["geo_level"].eq("district") & targets["domain_variable"].eq("aca_ptc"))).all()
    assert (targets["status"] == np.where(imputed, "check", "fit")).all()
    assert np.allclose(targets.loc[imputed, "hif"], 1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Where the fourth notebook was executed, and its names; the fifth reads the run that it left."""
    home = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patched, np.errstate(all="ignore"):
        patched.chdir(home)
        yield home, execute(NOTEBOOKS / "04_national_on_a_cluster.ipynb")


@pytest.mark.slow
def test_the_fourth_notebook_runs(cluster):
    home, names = cluster
    assert names["nation"].facts["columns"] == 5_160_000
    assert len(names["nation"].slices) == 285
    # Interrupted after three of six slices, and gone on from there.
    assert len(names["finished"]) == 3
    assert 3 <= names["simulated"].reused < names["simulated"].total == 6
    assert names["status"].ended == "stopped"
    simulated = names["receipts"][names["receipts"]["stage"] == "simulate"]
    assert len(simulated) == 6
    assert names["proof"]["ok"].all()
    assert names["summary"]["verification"]["largest_difference"] <= 1e-6
    assert {"areas/national/US.h5", "areas/national/US-100.h5"} <= set(names["summary"]["files"])
    assert np.count_nonzero(names["tried"].weights) == 150
    assert names["found"].settings["setting"].tolist() == ["run.fit.ridge"]
    folder = home / "notebook_data" / "cluster"
    assert json.loads((folder / "public" / "latest.json").read_text())["version"] == names["first"].version
    assert [entry.act for entry in names["history"]] == ["publish", "publish", "rollback"]
    assert (folder / "difference" / "comparison.html").is_file()
    assert not (folder / "national").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Accessing .values on a MicroSeries:UserWarning")
def test_the_fifth_notebook_reads_what_the_fourth_left(cluster, monkeypatch):
    home, _ = cluster
    monkeypatch.chdir(home)
    names = execute(NOTEBOOKS / "05_reading_the_files.ipynb")
    districts, page = names["districts"], home / "notebook_data" / "reading" / "poverty.html"
    assert districts.index.tolist() == [
        "AK-01",
        "DC-01",
        "HI-01",
        "HI-02",
        "MT-01",
        "MT-02",
        "VT-01",
        "WY-01",
    ]
    assert districts["poverty"].between(0, 1).all()
    # Taken from the area files; the notebook holds them to the table.
    assert names["from_files"].index.tolist() == ["AK-01", "HI-01", "HI-02", "MT-01", "MT-02"]
    assert names["from_files"].columns.tolist() == ["poverty", "snap_a_person"]
    assert names["from_files"]["snap_a_person"].gt(0).all()
    drawn = names["poverty_map"].select_one({"name": "districts"}).data_source.data
    assert sorted(drawn["district"]) == districts.index.tolist()
    assert "Bokeh" in page.read_text()
    assert "cdn.bokeh.org" not in page.read_text()
    # What is fitted varies less over replicates than what is not.
    assert (names["errors"]["snap"] >= 0).all()
    assert names["errors"]["in_poverty"].max() > np.median(names["errors"]["snap"])
    assert set(names["beside"].index.get_level_values("status")) == {"fit", "check"}
    assert names["mapping"]["column"].is_unique
    assert names["files"][0].name == "US-100.h5"
    assert len(names["imputed"]) == 30


def test_the_third_notebook_runs():
    names = execute(NOTEBOOKS / "03_microcalibrate.ipynb")
    dense, sparse = names["weights_dense"], names["weights_sparse"]
    assert (dense > 0).all()
    assert 0 < np.count_nonzero(sparse) < 0.8 * len(dense)
    assert 1e-4 <= names["best_lambda"] <= 1e-1
    assert names["robustness"]["std_error"] > 0
    assert names["error"].max() < 1e-3
    summary = names["cal"].summary().set_index("Metric")
    assert summary.loc["total_children", "Status"] == "excluded"
    assert np.count_nonzero(names["cal"].result.weights) == 250
