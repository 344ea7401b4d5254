"""Blocks on storage and their assembly."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from distcalib.errors import InputError, RunError
from distcalib.matrix.blocks import assemble, block_digest, read_block, read_rows, write_block


def random_blocks(
    seed: int, n_rows: int, n_columns: int, n_blocks: int
) -> tuple[list[sparse.csr_array], np.ndarray]:
    """Random blocks of disjoint columns, with empty rows and blocks, and each column's block."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, n_blocks, n_columns)
    dense = rng.normal(size=(n_rows, n_columns)).astype(np.float32) * (rng.random((n_rows, n_columns)) < 0.3)
    dense[:: max(n_rows // 3, 1)] = 0
    return [sparse.csr_array(dense * (owner == b)) for b in range(n_blocks)], owner


def one_block(seed: int, n_rows: int, n_columns: int) -> sparse.csr_array:
    return random_blocks(seed, n_rows, n_columns, 1)[0][0]


@given(
    seed=st.integers(0, 10**6),
    n_rows=st.integers(1, 12),
    n_columns=st.integers(1, 20),
    n_blocks=st.integers(1, 5),
    chunk=st.sampled_from([7, 1 << 20]),
    data=st.data(),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_assembly_in_any_order_equals_hstack(
    tmp_path_factory, seed, n_rows, n_columns, n_blocks, chunk, data
):
    """Blocks of any columns, empty ones among them, of many chunks or one."""
    folder = tmp_path_factory.mktemp("blocks")
    blocks, owner = random_blocks(seed, n_rows, n_columns, n_blocks)
    paths = [folder / str(i) for i in range(n_blocks)]
    with mock.patch("distcalib.matrix.blocks._CHUNK", chunk):
        for path, block in zip(paths, blocks, strict=True):
            write_block(path, block)
        matrix = assemble(data.draw(st.permutations(paths)))
    own = [np.flatnonzero(owner == b) for b in range(n_blocks)]
    stacked = sparse.hstack(
        [block[:, columns] for block, columns in zip(blocks, own, strict=True)], format="csr"
    )
    expected = stacked[:, np.argsort(np.concatenate(own))]
    expected.sort_indices()
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(matrix, name), getattr(expected, name), err_msg=name)
    assert matrix.shape == (n_rows, n_columns)
    assert (matrix.data.dtype, matrix.indices.dtype) == (np.float32, np.int32)
    assert matrix.has_canonical_format


def test_assembly_needs_little_more_than_the_matrix(tmp_path):
    """Peak memory, of two large blocks as of many small ones: 1.3 times the matrix and a constant."""
    rng = np.random.default_rng(0)
    n_rows, n_columns, each = 200, 40_000, 20_000
    values = rng.random(n_rows * each, dtype=np.float32)
    paths = []
    for block in range(2):
        indices = np.tile(np.arange(block, n_columns, 2, dtype=np.int32), n_rows)
        indptr = np.arange(n_rows + 1, dtype=np.int64) * each
        paths.append(tmp_path / str(block))
        write_block(paths[-1], sparse.csr_array((values, indices, indptr), shape=(n_rows, n_columns)))
    del indices, values
    tracemalloc.start()
    with mock.patch("distcalib.matrix.blocks._CHUNK", 1 << 17):
        matrix = assemble(paths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    assert size > 60e6
    assert peak < 1.3 * size + 4e6
    np.testing.assert_array_equal(matrix.indices[:n_columns], np.arange(n_columns))


def test_a_block_reads_back_with_its_digest_in_anndatas_encoding(tmp_path):
    block = one_block(1, 9, 14)
    digest = write_block(tmp_path / "b", block)
    again = read_block(tmp_path / "b")
    assert block_digest(again) == digest
    np.testing.assert_array_equal(again.toarray(), block.toarray())
    stored = json.loads((tmp_path / "b" / "zarr.json").read_text())
    assert stored["zarr_format"] == 3
    assert stored["attributes"] == {
        "encoding-type": "csr_matrix",
        "encoding-version": "0.1.0",
        "shape": [9, 14],
    }
    kinds = {
        n: json.loads((tmp_path / "b" / n / "zarr.json").read_text())["data_type"]
        for n in ("data", "indices", "indptr")
    }
    assert kinds == {"data": "float32", "indices": "int32", "indptr": "int64"}


def test_chunks_of_zeros_are_written(tmp_path):
    empty = sparse.csr_array((np.zeros(3, np.float32), np.arange(3, dtype=np.int32), [0, 3]), shape=(1, 3))
    write_block(tmp_path / "b", empty)
    assert (tmp_path / "b" / "data" / "c" / "0").is_file()


def test_writing_again_replaces_and_leaves_nothing_else(tmp_path):
    a, b = one_block(1, 4, 5), one_block(2, 4, 5)
    write_block(tmp_path / "b", a)
    digest = write_block(tmp_path / "b", b)
    assert block_digest(read_block(tmp_path / "b")) == digest
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(bytes(raw))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (shutil.rmtree, "data"),
        (Path.unlink, "indptr/c/0"),
        (Path.unlink, "zarr.json"),
        (truncate, "data/c/0"),
        (flip, "data/c/0"),
        (empty, "indices/c/0"),
        (truncate, "zarr.json"),
        (truncate, "indptr/zarr.json"),
    ],
)
def test_a_damaged_block_is_an_error_or_has_another_digest(tmp_path, damage, where):
    digest = write_block(tmp_path / "b", one_block(1, 9, 14))
    damage(tmp_path / "b" / where)
    try:
        found = block_digest(read_block(tmp_path / "b"))
    except RunError:
        return
    assert found != digest


def test_a_column_that_two_blocks_fill_is_an_error(tmp_path):
    block = one_block(1, 9, 14)
    write_block(tmp_path / "a", block)
    write_block(tmp_path / "b", block)
    with pytest.raises(RunError, match="two blocks fill the same column"):
        assemble([tmp_path / "a", tmp_path / "b"])


def test_blocks_of_different_shapes_and_no_blocks_are_errors(tmp_path):
    write_block(tmp_path / "a", one_block(1, 9, 14))
    write_block(tmp_path / "b", one_block(1, 9, 15))
    with pytest.raises(RunError, match="shape"):
        assemble([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(RunError, match="no blocks"):
        assemble([])


def test_some_rows_are_read_without_the_others(tmp_path):
    matrix = one_block(5, 9, 40)
    write_block(tmp_path / "X", matrix)
    rows = [7, 0, 2, 7]
    found = read_rows(tmp_path / "X", rows)
    assert found.dtype == np.float32
    assert np.array_equal(found.toarray(), matrix.toarray()[rows])
    assert read_rows(tmp_path / "X", []).shape == (0, 40)
    for row in (-1, 9):
        with pytest.raises(InputError, match=f"got {row}"):
            read_rows(tmp_path / "X", [row])


def test_rows_are_read_by_the_chunks_that_hold_them(tmp_path):
    with mock.patch("distcalib.matrix.blocks._CHUNK", 16):
        matrix = one_block(6, 40, 50)
        write_block(tmp_path / "X", matrix)
    first = int(matrix.indptr[30]) // 16
    for name in ("data", "indices"):
        for chunk in (tmp_path / "X" / name / "c").iterdir():
            if int(chunk.name) < first:
                chunk.write_bytes(b"damaged")
    assert np.array_equal(read_rows(tmp_path / "X", [30, 39]).toarray(), matrix.toarray()[[30, 39]])
    with pytest.raises(RunError, match="cannot be read"):
        read_rows(tmp_path / "X", [1])
