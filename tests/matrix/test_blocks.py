"""Blocks on storage and their assembly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from distcalib.errors import RunError
from distcalib.matrix.blocks import assemble, block_digest, read_block, write_block


def random_blocks(seed: int, n_rows: int, n_columns: int, n_blocks: int) -> list[sparse.csr_array]:
    """Random blocks of disjoint columns, with empty rows and an empty block among them."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, n_blocks, n_columns)
    dense = rng.normal(size=(n_rows, n_columns)).astype(np.float32) * (rng.random((n_rows, n_columns)) < 0.3)
    dense[:: max(n_rows // 3, 1)] = 0
    return [sparse.csr_array(dense * (owner == b)) for b in range(n_blocks)]


@given(
    seed=st.integers(0, 10**6),
    n_rows=st.integers(1, 12),
    n_columns=st.integers(1, 20),
    n_blocks=st.integers(1, 5),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_matrix_is_the_sum_of_its_blocks(tmp_path_factory, seed, n_rows, n_columns, n_blocks):
    folder = tmp_path_factory.mktemp("blocks")
    blocks = random_blocks(seed, n_rows, n_columns, n_blocks)
    paths = [folder / str(i) for i in range(n_blocks)]
    for path, block in zip(paths, blocks, strict=True):
        write_block(path, block)
    matrix = assemble(paths)
    expected = sum((b.toarray() for b in blocks), np.zeros((n_rows, n_columns), np.float32))
    np.testing.assert_array_equal(matrix.toarray(), expected)
    assert block_digest(assemble(paths[::-1])) == block_digest(matrix)


def test_a_block_reads_back_with_its_digest_in_anndatas_encoding(tmp_path):
    block = random_blocks(1, 9, 14, 1)[0]
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
    a, b = random_blocks(1, 4, 5, 1)[0], random_blocks(2, 4, 5, 1)[0]
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
    digest = write_block(tmp_path / "b", random_blocks(1, 9, 14, 1)[0])
    damage(tmp_path / "b" / where)
    try:
        found = block_digest(read_block(tmp_path / "b"))
    except RunError:
        return
    assert found != digest


def test_a_column_that_two_blocks_fill_is_an_error(tmp_path):
    block = random_blocks(1, 9, 14, 1)[0]
    write_block(tmp_path / "a", block)
    write_block(tmp_path / "b", block)
    with pytest.raises(RunError, match="two blocks fill the same column"):
        assemble([tmp_path / "a", tmp_path / "b"])


def test_blocks_of_different_shapes_and_no_blocks_are_errors(tmp_path):
    write_block(tmp_path / "a", random_blocks(1, 9, 14, 1)[0])
    write_block(tmp_path / "b", random_blocks(1, 9, 15, 1)[0])
    with pytest.raises(RunError, match="shape"):
        assemble([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(RunError, match="no blocks"):
        assemble([])
