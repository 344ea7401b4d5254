"""Peak memory of assembling a matrix of national shape from its blocks, beside scipy's own ways.

    python benchmarks/assembly.py [--columns 5160000] [--blocks 215] [--naive-columns 1032000]

Synthetic blocks of 10,000 targets are written to a temporary folder, about 20 nonzeros a column as in a real
run (8 national rows, 8 of the state, 4 of the district), the columns of a state dealt out to its blocks at
random. Then each way of assembling runs in a fresh process, and reports its peak resident memory: whole, and
above what the process held after its imports, the latter also as a ratio to the size of the final matrix.
scipy's ways run on the smaller number of columns only, with ours beside them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import sparse

from distcalib.matrix.blocks import assemble, block_digest, read_block, write_block

NATIONAL, STATES, PER_STATE, DISTRICTS, PER_DISTRICT = 112, 51, 40, 436, 18
ROWS = NATIONAL + STATES * PER_STATE + DISTRICTS * PER_DISTRICT


def write_blocks(folder: Path, n_columns: int, n_blocks: int) -> None:
    """Write blocks of equal size; every column is in one state, one of its districts and one block."""
    rng = np.random.default_rng(0)
    dealt = rng.permutation(n_columns)
    for block, columns in enumerate(np.array_split(dealt, n_blocks)):
        columns = np.sort(columns)
        state = block * STATES // n_blocks
        district = rng.integers(state * DISTRICTS // STATES, (state + 1) * DISTRICTS // STATES, len(columns))
        first_of_state, first_of_district = NATIONAL + state * PER_STATE, NATIONAL + STATES * PER_STATE
        rows = np.concatenate(
            [
                distinct(rng, len(columns), NATIONAL, 8),
                first_of_state + distinct(rng, len(columns), PER_STATE, 8),
                (first_of_district + district * PER_DISTRICT)[:, None]
                + distinct(rng, len(columns), PER_DISTRICT, 4),
            ],
            axis=1,
        )
        values = rng.random(rows.size, dtype=np.float32) + 1
        columns = np.repeat(columns.astype(np.int32), rows.shape[1])
        write_block(
            folder / str(block),
            sparse.coo_array((values, (rows.ravel(), columns)), shape=(ROWS, n_columns)).tocsr(),
        )


def distinct(rng: np.random.Generator, n: int, of: int, k: int) -> np.ndarray:
    """Return k different numbers below `of` for each of n, shape (n, k)."""
    return rng.random((n, of), dtype=np.float32).argpartition(k, axis=1)[:, :k]


def assemble_and_write(paths: list[Path]) -> sparse.csr_array:
    matrix = assemble(paths)
    write_block(paths[0].parent / "X", matrix)
    return matrix


def concatenated_triplets(paths: list[Path]) -> sparse.csr_array:
    blocks = [read_block(path).tocoo() for path in paths]
    values, rows, columns = (
        np.concatenate(parts)
        for parts in ([b.data for b in blocks], [b.row for b in blocks], [b.col for b in blocks])
    )
    return sparse.coo_array((values, (rows, columns)), shape=blocks[0].shape).tocsr()


def scipy_hstack(paths: list[Path]) -> sparse.csr_array:
    blocks = [read_block(path) for path in paths]
    own = [np.unique(block.indices) for block in blocks]
    slim = [
        sparse.csr_array((b.data, np.searchsorted(o, b.indices), b.indptr), shape=(b.shape[0], len(o)))
        for b, o in zip(blocks, own, strict=True)
    ]
    return sparse.hstack(slim, format="csr")[:, np.argsort(np.concatenate(own))]


WAYS: dict[str, Callable[[list[Path]], sparse.csr_array]] = {
    "distcalib assemble": assemble,
    "distcalib assemble, write X": assemble_and_write,
    "triplets of all blocks, tocsr": concatenated_triplets,
    "scipy hstack, columns in order": scipy_hstack,
}


def measure(way: str, folder: Path) -> dict[str, object]:
    """Run one way in this process, which must be fresh, and say what it cost."""
    paths = sorted((p for p in folder.iterdir() if p.name != "X"), key=lambda p: int(p.name))
    read_block(paths[0])  # what the first use of the storage loads is part of the start
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    matrix = WAYS[way](paths)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    matrix.sum_duplicates()
    size = 8 * matrix.nnz + 8 * len(matrix.indptr)  # float32 values, int32 indices, int64 row pointers
    return {
        "way": way,
        "nonzeros": matrix.nnz,
        "seconds": seconds,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "start": before.ru_maxrss * 1024,
        "peak": after.ru_maxrss * 1024,
        "size": size,
        "digest": block_digest(matrix),
    }


def compare(n_columns: int, n_blocks: int, ways: list[str]) -> float:
    """Print a table of ways at one size; return our own ratio."""
    with tempfile.TemporaryDirectory(prefix="assembly-") as folder:
        command = [sys.executable, __file__, "--columns", str(n_columns), "--blocks", str(n_blocks)]
        subprocess.run([*command, "--write", folder], check=True)
        found = []
        for way in ways:
            out = subprocess.run([*command, "--measure", way, folder], check=True, capture_output=True)
            found.append(json.loads(out.stdout))
    assert len({f["digest"] for f in found}) == 1, "the ways disagree"
    head = found[0]
    print(f"\n{ROWS:,} x {n_columns:,}, {head['nonzeros']:,} nonzeros in {n_blocks} blocks; ", end="")
    print(f"final CSR {head['size'] / 1e6:,.0f} MB")
    print(f"{'':32}{'seconds':>9}{'CPU s':>9}{'peak MB':>10}{'- start':>10}{'ratio':>8}{'whole':>8}")
    for f in found:
        above = f["peak"] - f["start"]
        print(
            f"{f['way']:32}{f['seconds']:9.1f}{f['cpu']:9.1f}{f['peak'] / 1e6:10,.0f}{above / 1e6:10,.0f}"
            f"{above / f['size']:8.2f}{f['peak'] / f['size']:8.2f}"
        )
    return (head["peak"] - head["start"]) / head["size"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--columns", type=int, default=5_160_000)
    parser.add_argument("--blocks", type=int, default=215)
    parser.add_argument("--naive-columns", type=int, default=1_032_000)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_blocks(given.write, given.columns, given.blocks)
    elif given.measure:
        print(json.dumps(measure(given.measure[0], Path(given.measure[1]))))
    else:
        ours = list(WAYS)[:2]
        ratio = compare(given.columns, given.blocks, ours)
        blocks = max(round(given.blocks * given.naive_columns / given.columns), 1)
        compare(given.naive_columns, blocks, list(WAYS))
        print(f"\npeak above start over the final CSR: {ratio:.2f}, at most 1.3 wanted")


if __name__ == "__main__":
    main()
