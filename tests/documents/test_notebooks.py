"""The notebooks run from their first cell to their last, on bundled data."""

from __future__ import annotations

import json
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
    assert X.shape == (540, 3 * 1500)
    assert X_filtered.shape[0] == 489
    assert X_final.shape[0] == names["achievable_mask"].sum() > 300
    assert names["remaining_info"][2] == "Group 2: State MEDICAID ENROLLED Person Count (51 targets)"
    geography, targets = names["geography"], names["targets_df"]
    cells = X.tocoo()
    districts = (targets["geo_level"] == "district").to_numpy()[cells.row]
    lives = geography.cd_geoid[cells.col[districts]].astype(str)
    assert (targets["geographic_id"].to_numpy()[cells.row[districts]] == lives).all()
