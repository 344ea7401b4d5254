"""The real anndata reads what this package writes, in an environment of its own.

anndata 0.12, the last that runs on Python 3.11, needs pandas < 3 and this package pandas 3, so that the two
cannot be installed together. pip fetches it from the package index: about half a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from distcalib import CalibrationMatrix
from distcalib.matrix.blocks import write_block
from distcalib.matrix.calibration import Origin
from distcalib.matrix.export import export_matrix

PINNED = (
    "anndata==0.12.19",
    "zarr==3.1.6",
    "numpy==2.4.6",
    "scipy==1.17.1",
    "pandas==2.3.3",
    "h5py==3.16.0",
    "pyarrow==26.0.1",
)

# Reads a group whole and, as a dataset on storage, some of its rows.
READ_GROUP = """
import sys
from importlib.metadata import version
from pathlib import Path
import anndata, numpy as np, zarr

folder = Path(sys.argv[1])
group = zarr.open_group(str(folder / "X"), mode="r")
X = anndata.io.read_elem(group)
stored = anndata.io.sparse_dataset(group)
assert (type(X).__name__, stored.format, version("anndata")) == ("csr_matrix", "csr", sys.argv[2])
rows = stored[1:4].toarray()
arrays = {"data": X.data, "indices": X.indices, "indptr": X.indptr, "shape": X.shape}
np.savez(folder / "read.npz", dense=X.toarray(), some_rows=rows, **arrays)
"""

# Makes the view, and reads it again from anndata's own file.
READ_VIEW = (
    READ_GROUP
    + """
import json
import pandas as pd

tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("obs", "var")}
made = anndata.AnnData(X=X, uns=json.loads((folder / "uns.json").read_text()), **tables)
made.write_h5ad(folder / "view.h5ad")
view = anndata.read_h5ad(folder / "view.h5ad")
assert view.shape == X.shape and (view.X != X).nnz == 0
view.obs.to_parquet(folder / "obs_read.parquet")
view.var.to_parquet(folder / "var_read.parquet")
(folder / "uns_read.json").write_text(json.dumps(view.uns, default=lambda scalar: scalar.item()))
"""
)


# Opens a store that `distcalib matrix export` wrote, as its users do.
READ_STORE = """
import sys
from pathlib import Path
import anndata, numpy as np

folder = Path(sys.argv[1])
read = anndata.read_zarr(folder / "X.zarr")
np.savez(folder / "read.npz", dense=read.X.toarray())
read.obs.to_parquet(folder / "obs_read.parquet")
read.var.to_parquet(folder / "var_read.parquet")
assert type(read.X).__name__ == "csr_matrix" and not read.layers and not read.obsm
assert read.uns["origin"]["microdata"] == "donors.h5" and read.uns["origin"]["period"] == 2024
assert read.uns["origin"]["take_up"] == True
"""


def run(*command: str | Path) -> None:
    """Run a command, and fail with what it says when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    if done.returncode:
        words = " ".join(map(str, command))[:200]
        pytest.fail(f"{words}\nended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


@pytest.fixture(scope="module")
def anndata_python(tmp_path_factory) -> Path:
    """Return the interpreter of a fresh environment that has anndata and nothing of ours."""
    home = tmp_path_factory.mktemp("anndata") / "venv"
    run(sys.executable, "-m", "venv", home)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    patient = ("--retries", "10", "--timeout", "60")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *patient, *PINNED)
    return python


def random_csr(seed: int) -> sparse.csr_array:
    """Amounts of either sign in 7 x 11 cells, a row and the last columns empty."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(7, 11)).astype(np.float32) * (rng.random((7, 11)) < 0.4)
    dense[2] = 0
    dense[:, 9:] = 0
    return sparse.csr_array(dense)


def read_by_anndata(python: Path, script: str, folder: Path, X: sparse.csr_array) -> None:
    """Have anndata read `folder`, and compare every array of X with what it read."""
    run(python, "-I", "-W", "error", "-c", script, folder, PINNED[0].partition("==")[2])
    with np.load(folder / "read.npz") as read:
        for name in ("data", "indices", "indptr", "shape"):
            np.testing.assert_array_equal(read[name], getattr(X, name), err_msg=name)
        assert read["data"].dtype == np.float32
        np.testing.assert_array_equal(read["dense"], X.toarray())
        np.testing.assert_array_equal(read["some_rows"], X.toarray()[1:4])


@pytest.mark.slow
def test_anndata_reads_a_block(anndata_python, tmp_path):
    X = random_csr(1)
    assert 0 < X.nnz < 77
    write_block(tmp_path / "X", X)
    read_by_anndata(anndata_python, READ_GROUP, tmp_path, X)


@pytest.mark.slow
def test_anndata_reads_a_block_without_nonzeros(anndata_python, tmp_path):
    X = sparse.csr_array((7, 11), dtype=np.float32)
    write_block(tmp_path / "X", X)
    read_by_anndata(anndata_python, READ_GROUP, tmp_path, X)


@pytest.mark.slow
def test_anndata_makes_and_keeps_the_view_of_a_matrix(anndata_python, tmp_path):
    targets = pd.DataFrame(
        {
            "name": [f"cd_370{i}/snap" for i in range(7)],
            "value": np.arange(7) * 1.5,
            "stratum_group_id": pd.array([4, None, 4, 1, None, 119, 2], dtype="Int64"),
        }
    )
    columns = pd.DataFrame({"clone": np.arange(11) // 6, "household_id": 40 + np.arange(11)})
    origin = Origin("donors.h5", "ab12", 2024, 3, True)
    matrix = CalibrationMatrix(random_csr(2), targets, columns, origin)
    parts = matrix.to_anndata_dict()
    write_block(tmp_path / "X", parts["X"])
    for name in ("obs", "var"):
        parts[name].to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "uns.json").write_text(json.dumps(parts["uns"]))

    read_by_anndata(anndata_python, READ_VIEW, tmp_path, matrix.X)
    for name in ("obs", "var"):
        again = pd.read_parquet(tmp_path / f"{name}_read.parquet")
        pd.testing.assert_frame_equal(again, parts[name])
    assert json.loads((tmp_path / "uns_read.json").read_text()) == {"origin": asdict(origin)}


@pytest.mark.slow
def test_anndata_opens_an_exported_matrix(anndata_python, tmp_path):
    targets = pd.DataFrame(
        {
            "name": [f"cd_370{i}/snap" for i in range(7)],
            "value": np.arange(7) * 1.5,
            "stratum_group_id": pd.array([4, None, 4, 1, None, 119, 2], dtype="Int64"),
            "active": [True, False] * 3 + [True],
            "reason": ["", None, "far", "", "", "", "é"],
        }
    )
    columns = pd.DataFrame({"clone": np.arange(11) // 6, "household_id": 40 + np.arange(11)})
    matrix = CalibrationMatrix(random_csr(4), targets, columns, Origin("donors.h5", "ab12", 2024, 3, True))
    export_matrix(matrix, tmp_path / "X.zarr")
    run(anndata_python, "-I", "-W", "error", "-c", READ_STORE, tmp_path)
    with np.load(tmp_path / "read.npz") as read:
        np.testing.assert_array_equal(read["dense"], matrix.X.toarray())
    obs = pd.read_parquet(tmp_path / "obs_read.parquet")
    assert obs.index.tolist() == [str(i) for i in range(7)]
    assert obs["name"].tolist() == targets["name"].tolist()
    assert obs["reason"].tolist() == ["", "", "far", "", "", "", "é"]
    np.testing.assert_array_equal(obs["value"], targets["value"])
    np.testing.assert_array_equal(obs["active"], targets["active"])
    np.testing.assert_array_equal(
        obs["stratum_group_id"], targets["stratum_group_id"].to_numpy(float, na_value=np.nan)
    )
    var = pd.read_parquet(tmp_path / "var_read.parquet")
    pd.testing.assert_frame_equal(var.reset_index(drop=True), columns)
