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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zarr
from scipy import sparse

from distcalib.digest import digest_arrays
from distcalib.errors import InputError, RunError, StorageError
from distcalib.storage import passing, persistently, temporary_beside

# Nonzeros a chunk: 4 MiB of values.
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

    Raises
    ------
    StorageError
        When storage fails again and again (`distcalib.storage.persistently`).
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    persistently(lambda: _write_group(final, matrix), final)
    return block_digest(matrix)


def _write_group(final: Path, matrix: sparse.csr_array) -> None:
    temporary = temporary_beside(final)
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
            # In parts: zarr holds the compressed chunks of one assignment in memory until all are written.
            for start in range(0, len(array), 8 * _CHUNK):
                target[start : start + 8 * _CHUNK] = array[start : start + 8 * _CHUNK]
        # An attempt that died before its receipt may have left the name; a verified one never gets here.
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_block(path: str | Path) -> sparse.csr_array:
    """Read a group written by `write_block`.

    Raises
    ------
    RunError
        When the group is missing, incomplete or of another encoding.
    """
    with _readable(path):
        group, shape, indptr = _open(path)
        data, indices = (np.asarray(group[name][:]) for name in ("data", "indices"))
    return _csr(data, indices, indptr, shape)


def read_rows(path: str | Path, rows: Sequence[int]) -> sparse.csr_array:
    """Read some rows of a group written by `write_block`: of its values only the chunks that hold them.

    Returns
    -------
    csr_array
        float32, shape (len(rows), n columns), in the order asked for.

    Raises
    ------
    RunError
        When the group is missing, incomplete or of another encoding.
    InputError
        For a row that it has not.
    """
    with _readable(path):
        group, (n_rows, n_columns), indptr = _open(path)
        for row in rows:
            if not 0 <= row < n_rows:
                expected = f"0 to {n_rows - 1}"
                raise InputError("no such row", place=path, value=row, expected=expected)
        spans = [slice(int(indptr[row]), int(indptr[row + 1])) for row in rows]
        data, indices = (
            np.concatenate([np.zeros(0, kind), *(group[name][span] for span in spans)])
            for name, kind in (("data", np.float32), ("indices", np.int32))
        )
    ends = np.cumsum([0, *(span.stop - span.start for span in spans)])
    return _csr(data, indices, ends, (len(rows), n_columns))


def assemble(paths: Sequence[str | Path]) -> sparse.csr_array:
    """Sum blocks of disjoint columns into one CSR matrix with sorted indices.

    Two passes over storage: count the nonzeros of every row, then put the blocks in their places, chunk by
    chunk. Peak memory is the matrix (8 bytes a nonzero) and a few chunks of a million nonzeros, however large
    the blocks are. The result does not depend on the order of `paths`.

    Raises
    ------
    RunError
        When a block cannot be read, shapes differ or a column is filled twice.
    """
    shape: tuple[int, int] | None = None
    counts = np.zeros(0, dtype=np.int64)
    for path in paths:
        with _readable(path):
            _, this, block_indptr = _open(path)
        if shape is None:
            shape, counts = this, np.zeros(this[0], dtype=np.int64)
        elif shape != this:
            raise RunError(f"{path}: block of shape {this}, the others have {shape}")
        counts += np.diff(block_indptr)
    if shape is None:
        raise RunError("there are no blocks to assemble")
    indptr = np.r_[0, np.cumsum(counts)]
    data = np.empty(indptr[-1], dtype=np.float32)
    indices = np.empty(indptr[-1], dtype=np.int32)
    cursor = indptr[:-1].copy()
    for path in paths:
        with _readable(path):
            group, _, block_indptr = _open(path)
            shift = cursor - block_indptr[:-1]
            for start in range(0, int(block_indptr[-1]), _CHUNK):
                stop = min(start + _CHUNK, int(block_indptr[-1]))
                # How many of these nonzeros each row has.
                times = np.diff(block_indptr.clip(start, stop))
                at = np.repeat(shift, times)
                at += np.arange(start, stop)
                data[at], indices[at] = group["data"][start:stop], group["indices"][start:stop]
        cursor += np.diff(block_indptr)
    matrix = _csr(data, indices, indptr, shape)
    matrix.sort_indices()
    _refuse_repeats(matrix)
    return matrix


def _csr(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]
) -> sparse.csr_array:
    """Make a matrix of 8 bytes a nonzero: scipy would copy the indices to int64 for row pointers of int64."""
    if indptr[-1] <= np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)
    return sparse.csr_array((data, indices, indptr), shape=shape)


def _refuse_repeats(matrix: sparse.csr_array) -> None:
    """Raise `RunError` where a row has two entries in one column; indices must be sorted."""
    for start in range(0, matrix.nnz - 1, _CHUNK):
        stop = min(start + _CHUNK, matrix.nnz - 1)
        second = (
            start + 1 + np.flatnonzero(matrix.indices[start:stop] == matrix.indices[start + 1 : stop + 1])
        )
        # Equal neighbours are a fault only within a row, not across the boundary of two.
        if np.setdiff1d(second, matrix.indptr).size:
            raise RunError("two blocks fill the same column")


def _open(path: str | Path) -> tuple[zarr.Group, tuple[int, int], np.ndarray]:
    """Return a group, its shape and its row pointers, when its arrays fit each other."""
    group = zarr.open_group(str(path), mode="r", zarr_format=3)
    attributes = dict(group.attrs)
    if (attributes.get("encoding-type"), attributes.get("encoding-version")) != ("csr_matrix", "0.1.0"):
        raise RunError(f"{path}: not a CSR group of encoding 0.1.0")
    n_rows, n_columns = (int(n) for n in attributes["shape"])
    indptr = np.asarray(group["indptr"][:])
    if len(indptr) != n_rows + 1 or not indptr[-1] == group["data"].size == group["indices"].size:
        raise RunError(f"{path}: the arrays of this block do not fit each other")
    return group, (n_rows, n_columns), indptr


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Turn what damaged storage raises into a `RunError` that names the block."""
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        kind = StorageError if passing(error) else RunError
        raise kind(f"{path}: cannot be read as a sparse block ({error})") from error
