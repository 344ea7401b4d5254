"""A matrix with its tables for other programs: SciPy's .npz, or AnnData's zarr, written without anndata.

The zarr store is AnnData's on-disk format: groups X (csr_matrix 0.1.0), obs (targets) and var (columns)
(dataframe 0.2.0, columns array 0.2.0 or string-array 0.2.0), and empty mappings (dict 0.1.0).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from scipy import sparse

from distcalib.errors import InputError
from distcalib.matrix.blocks import write_block
from distcalib.matrix.calibration import CalibrationMatrix
from distcalib.storage import publish, temporary_beside

_EMPTY = ("uns", "obsm", "varm", "obsp", "varp", "layers")


def export_matrix(matrix: CalibrationMatrix, path: str | Path) -> list[Path]:
    """Write a matrix where its name says how: ``X.npz`` with two Parquet files beside it, or ``X.zarr``.

    Returns
    -------
    list of Path
        What was written. Each file, or the whole zarr store, appears complete or not at all.

    Raises
    ------
    InputError
        For another ending, and when something of the name is there.
    """
    final = Path(path)
    if final.suffix not in (".npz", ".zarr"):
        raise InputError(
            "is of no known format", place="--output", value=str(path), expected="*.npz or *.zarr"
        )
    if final.suffix == ".zarr":
        paths = [final]
    else:
        paths = [final, *(final.with_name(f"{final.stem}_{name}.parquet") for name in ("targets", "columns"))]
    for one in paths:
        if os.path.lexists(one):
            raise InputError("exists", place=one, expected="a new name")
    if final.suffix == ".zarr":
        _write_anndata(matrix, final)
        return paths
    for one, table in zip(paths[1:], (matrix.targets, matrix.columns), strict=True):
        publish(one, lambda p, t=table: t.to_parquet(p, index=False))  # type: ignore[misc]
    publish(final, lambda p: sparse.save_npz(p, matrix.to_scipy()))
    return paths


def _write_anndata(matrix: CalibrationMatrix, final: Path) -> None:
    parts = matrix.to_anndata_dict()
    temporary = temporary_beside(final)
    try:
        root = zarr.open_group(str(temporary), mode="w", zarr_format=3)
        _mark(root, "anndata", "0.1.0")
        write_block(temporary / "X", matrix.X)
        for name in ("obs", "var"):
            _write_table(root.create_group(name), parts[name])
        for name in _EMPTY:
            _mark(root.create_group(name), "dict", "0.1.0")
        origin = root["uns"].create_group("origin")
        _mark(origin, "dict", "0.1.0")
        for key, value in parts["uns"]["origin"].items():
            _write_scalar(origin, key, value)
        os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_table(group: Any, table: pd.DataFrame) -> None:
    _mark(group, "dataframe", "0.2.0")
    group.attrs.update({"_index": "_index", "column-order": list(table.columns)})
    _write_column(group, "_index", table.index)
    for name in table.columns:
        _write_column(group, name, table[name])


def _write_column(group: Any, name: str, column: pd.Series | pd.Index) -> None:
    """Write numbers as they are, nullable ones as float64 with NaN, and all else as text."""
    kind = getattr(column.dtype, "kind", "O")
    if isinstance(column.dtype, np.dtype) and kind in "iufb":
        values, encoding = np.asarray(column), "array"
    elif kind in "iufb":
        values, encoding = column.to_numpy(np.float64, na_value=np.nan), "array"
    else:
        text = column.astype(object)
        values, encoding = (
            np.array(["" if pd.isna(v) else str(v) for v in text], dtype=object),
            "string-array",
        )
    dtype = "string" if encoding == "string-array" else values.dtype
    chunks = (min(max(len(values), 1), 1 << 20),)
    target = group.create_array(name, shape=values.shape, dtype=dtype, chunks=chunks)
    target[:] = values.astype(np.dtypes.StringDType()) if encoding == "string-array" else values
    _mark(target, encoding, "0.2.0")


def _write_scalar(group: Any, name: str, value: str | int | bool) -> None:
    text = isinstance(value, str)
    target = group.create_array(name, shape=(), dtype="string" if text else np.asarray(value).dtype)
    target[()] = value
    _mark(target, "string" if text else "numeric-scalar", "0.2.0")


def _mark(node: Any, kind: str, version: str) -> None:
    node.attrs.update({"encoding-type": kind, "encoding-version": version})
