"""Runs whose simulations write a few bytes and need no rules engine; everything around them is real.

As a script it is ``distcalib run ...`` with such simulations, of a quarter of a second each.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from distcalib.matrix.blocks import write_block
from distcalib.runs import run as run_module
from distcalib.runs.tasks import SimulateTask, finished

ROWS, COLUMNS = 7, 300


def block_of(task: SimulateTask) -> tuple[list[str], dict[str, Any]]:
    """Write a block of a run of two states and 300 columns, with one cell a column."""
    at = np.arange(task.start, task.stop)
    if task.state_fips == 56:
        at = COLUMNS - 1 - at
    cells = (np.float32(1 + at), (at % ROWS, at))
    made = sparse.csr_array(sparse.coo_array(cells, shape=(ROWS, COLUMNS)))
    path = f"matrix.zarr/blocks/{task.id}"
    write_block(Path(task.inputs.run) / path, made)
    where = {"state_fips": task.state_fips, "start": task.start, "stop": task.stop}
    return [path], {"columns": len(at), "nonzeros": int(made.nnz), **where}


simulate = finished(block_of)


@finished
def slowly(task: SimulateTask) -> tuple[list[str], dict[str, Any]]:
    time.sleep(0.25)
    return block_of(task)


if __name__ == "__main__":
    from distcalib.cli import main

    run_module.simulate_slice = slowly
    main()
