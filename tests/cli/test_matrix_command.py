"""``distcalib matrix``: rows, columns and hard targets of a matrix, and what other programs are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from click.testing import CliRunner
from scipy import sparse

from distcalib import CalibrationMatrix
from distcalib.cli import main
from distcalib.matrix.blocks import read_block
from distcalib.matrix.export import export_matrix

CELLS = np.array(
    [[5, 0, 5, 0, 1, 0], [5, 0, 5, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 2, 0, 2, 0, 0]], dtype=np.float32
)
NAMES = ["national/snap", "state_2/snap", "state_30/eitc", "cd_3001/snap"]


@pytest.fixture
def matrix() -> CalibrationMatrix:
    targets = pd.DataFrame(
        {
            "name": NAMES,
            "variable": ["snap", "snap", "eitc", "snap"],
            "geo_level": ["national", "state", "state", "district"],
            "geographic_id": ["US", "2", "30", "3001"],
            "value": [1100.0, 20.0, 7.0, 4.0],
            "stratum_group_id": pd.array([4, None, 4, 1], dtype="Int64"),
            "reason": ["", None, "", ""],
        }
    )
    columns = pd.DataFrame(
        {
            "column": range(6),
            "clone": [0, 0, 0, 1, 1, 1],
            "record": [0, 1, 2, 0, 1, 2],
            "household_id": [40, 41, 42, 40, 41, 42],
            "state_fips": [2, 30, 2, 30, 30, 2],
            "cd_geoid": [201, 3001, 201, 3001, 3002, 201],
            "county_fips": 0,
            "block_geoid": 0,
        }
    )
    return CalibrationMatrix(sparse.csr_array(CELLS), targets, columns)


@pytest.fixture
def folder(matrix, tmp_path) -> Path:
    matrix.save(tmp_path / "matrix")
    return tmp_path / "matrix"


def said(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["matrix", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


def test_shape_sparsity_hardest_and_impossible_rows_are_told(folder, matrix):
    text = said("info", folder, "--hardest", 1)
    assert "4 targets x 6 columns, 7 nonzeros" in text
    assert matrix.digest() in text
    hardest = text.split("hardest:\n")[1].splitlines()[1]
    assert hardest.split()[:2] == ["0", "national/snap"]  # 11 of 1,100
    assert "1 impossible targets" in text
    assert "state_30/eitc" in text.split("impossible")[1]


@pytest.mark.parametrize("row", ["0", "national/snap"])
def test_a_row_is_found_by_number_and_by_name(folder, row):
    told = dict(line.split(None, 1) for line in said("row", folder, row).splitlines() if " " in line.strip())
    assert told["nonzeros"] == "3 of 6 columns"
    assert (told["donors"], told["districts"], told["row_sum"]) == ("3", "2", "11.0")


def test_a_column_tells_its_place_and_its_cells(folder):
    text = said("column", folder, 2)
    assert "household_id         42" in text
    assert "2 nonzero cells" in text
    assert [line.split()[1] for line in text.splitlines()[-2:]] == NAMES[:2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["row", "4"], "0 to 3"),
        (["row", "national/snip"], "did you mean 'national/snap'"),
        (["column", 6], "0 to 5"),
        (["why", "0", 0], "does not say what it was simulated from"),
        (["export", "--output", "X.csv"], "*.npz or *.zarr"),
    ],
)
def test_what_is_not_there_is_refused(folder, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in said(words[0], folder, *words[1:], code=2)
    assert said("info", tmp_path, code=2)


def test_scipy_reads_the_npz_and_its_tables(folder, matrix, tmp_path):
    assert "X.npz: written" in said("export", folder, "--output", tmp_path / "X.npz")
    np.testing.assert_array_equal(sparse.load_npz(tmp_path / "X.npz").toarray(), CELLS)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "X_targets.parquet"), matrix.targets)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "X_columns.parquet"), matrix.columns)
    assert "exists" in said("export", folder, "--output", tmp_path / "X.npz", code=2)


def test_the_zarr_store_has_the_layout_of_anndata(matrix, tmp_path):
    export_matrix(matrix, tmp_path / "X.zarr")
    root = zarr.open_group(str(tmp_path / "X.zarr"), mode="r")
    kinds = {name: node.attrs["encoding-type"] for name, node in root.members()}
    assert root.attrs["encoding-type"] == "anndata"
    assert kinds == {
        "X": "csr_matrix", "obs": "dataframe", "var": "dataframe",
        **dict.fromkeys(("uns", "obsm", "varm", "obsp", "varp", "layers"), "dict"),
    }  # fmt: skip
    np.testing.assert_array_equal(read_block(tmp_path / "X.zarr" / "X").toarray(), CELLS)
    assert root["obs"]["name"][:].tolist() == NAMES
    assert root["obs"]["_index"][:].tolist() == ["0", "1", "2", "3"]
    assert list(root["var"].attrs["column-order"]) == list(matrix.columns)
    assert [p.name for p in tmp_path.iterdir()] == ["X.zarr"]
