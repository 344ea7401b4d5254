"""Sparse blocks on storage: one zarr v3 group each, in AnnData's encoding of a CSR matrix (0.1.0).

Layout of a group::

    attributes  encoding-type "csr_matrix", encoding-version "0.1.0", shape [targets, columns]
    data        float32 (nnz,)
    indices     int32   (nnz,)   column of the whole matrix
    indptr      int64   (targets + 1,)

A block has the shape of the whole matrix and fills only the columns of its task, so that the matrix is the
sum of its blocks. Empty chunks are written: an absent chunk is damage, not a zero.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr
from scipy import sparse

from distcalib.digest import digest_arrays
from distcalib.errors import RunError

_CHUNK = 1 << 20


def block_digest(matrix: sparse.csr_array) -> str:
    """Return the content digest of a CSR matrix: values, indices, row pointers and shape."""
    return digest_arrays(
        {
            "data": matrix.data.astype(np.float32, copy=False),
            "indices": matrix.indices.astype(np.int32, copy=False),
            "indptr": matrix.indptr.astype(np.int64, copy=False),
            "shape": np.array(matrix.shape, dtype=np.int64),
        }
    )


def write_block(path: str | Path, matrix: sparse.csr_array) -> str:
    """Write a CSR matrix as one group; its name appears last.

    Returns
    -------
    str
        The content digest.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        group = zarr.open_group(str(temporary), mode="w", zarr_format=3)
        group.attrs.update(
            {
                "encoding-type": "csr_matrix",
                "encoding-version": "0.1.0",
                "shape": [int(n) for n in matrix.shape],
            }
        )
        arrays = {
            "data": matrix.data.astype(np.float32, copy=False),
            "indices": matrix.indices.astype(np.int32, copy=False),
            "indptr": matrix.indptr.astype(np.int64, copy=False),
        }
        for name, array in arrays.items():
            target = group.create_array(
                name,
                shape=array.shape,
                dtype=array.dtype,
                chunks=(min(max(len(array), 1), _CHUNK),),
                config={"write_empty_chunks": True},
            )
            target[:] = array
        # An attempt that died before its receipt may have left the name; a verified one never gets here.
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return block_digest(matrix)


def read_block(path: str | Path) -> sparse.csr_array:
    """Read a group written by `write_block`.

    Raises
    ------
    RunError
        When the group is missing, incomplete or of another encoding.
    """
    try:
        group = zarr.open_group(str(path), mode="r", zarr_format=3)
        attributes = dict(group.attrs)
        if (attributes.get("encoding-type"), attributes.get("encoding-version")) != ("csr_matrix", "0.1.0"):
            raise RunError(f"{path}: not a CSR group of encoding 0.1.0")
        n_rows, n_columns = (int(n) for n in attributes["shape"])
        data, indices, indptr = (np.asarray(group[name][:]) for name in ("data", "indices", "indptr"))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RunError(f"{path}: cannot be read as a sparse block ({error})") from error
    if len(indptr) != n_rows + 1 or indptr[-1] != len(data) or len(data) != len(indices):
        raise RunError(f"{path}: the arrays of this block do not fit each other")
    return sparse.csr_array((data, indices, indptr), shape=(n_rows, n_columns))


def assemble(paths: Sequence[str | Path]) -> sparse.csr_array:
    """Sum blocks of disjoint columns into one CSR matrix with sorted indices.

    Two passes over storage: count the nonzeros of every row, then put each block in its place. Peak memory is
    the matrix (8 bytes a nonzero) plus one block. The result does not depend on the order of `paths`.

    Raises
    ------
    RunError
        When the shapes of blocks differ or a column is filled twice.
    """
    shape: tuple[int, int] | None = None
    counts = np.zeros(0, dtype=np.int64)
    for path in paths:
        attributes = dict(zarr.open_group(str(path), mode="r", zarr_format=3).attrs)
        this = (int(attributes["shape"][0]), int(attributes["shape"][1]))
        if shape is None:
            shape, counts = this, np.zeros(this[0], dtype=np.int64)
        elif shape != this:
            raise RunError(f"{path}: block of shape {this}, the others have {shape}")
        counts += np.diff(np.asarray(zarr.open_array(f"{path}/indptr", mode="r")[:]))
    if shape is None:
        raise RunError("there are no blocks to assemble")
    indptr = np.r_[0, np.cumsum(counts)]
    data = np.empty(indptr[-1], dtype=np.float32)
    indices = np.empty(indptr[-1], dtype=np.int32)
    cursor = indptr[:-1].copy()
    for path in paths:
        block = read_block(path)
        times = np.diff(block.indptr)
        at = np.repeat(cursor - block.indptr[:-1], times) + np.arange(block.nnz)
        data[at], indices[at] = block.data, block.indices
        cursor += times
    matrix = sparse.csr_array((data, indices, indptr), shape=shape)
    matrix.sort_indices()
    repeated = np.flatnonzero(np.diff(matrix.indices) == 0)
    # Equal neighbours are a fault only within a row, not across the boundary of two.
    if repeated.size and np.setdiff1d(repeated + 1, matrix.indptr).size:
        raise RunError("two blocks fill the same column")
    return matrix
