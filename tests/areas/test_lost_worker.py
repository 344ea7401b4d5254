"""A worker that dies among the files: its task is done again by another, without what it had finished."""

from __future__ import annotations

from pathlib import Path

import dask
import pytest

from distcalib import ClusterConfig
from distcalib.cluster.local import local_client
from distcalib.runs.area_stage import area_work, files_of
from distcalib.runs.execute import DaskExecutor
from distcalib.runs.tasks import write_areas
from distcalib.storage import sha256_file

# Loaded by each worker, twice as Dask does it: the first that begins its third mapping is killed, once.
DIES = """
import os, signal
from pathlib import Path
from distcalib.areas import stack
if not hasattr(stack, "struck"):
    stack.struck, stack.real, stack.calls = Path({struck!r}), stack.write_mapping, 0
    def write_mapping(*args, **kwargs):
        stack.calls += 1
        if stack.calls == 3:
            try:
                stack.struck.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return stack.real(*args, **kwargs)
    stack.write_mapping = write_mapping
"""


@pytest.mark.slow
def test_a_lost_worker_costs_time_only(prepared, carried, tmp_path):
    made, inputs = prepared
    struck = tmp_path / "struck"
    files = files_of(made.plan.run, made.assignment)
    work = area_work(made.plan, inputs, files, made.assignment)
    with (
        dask.config.set({"distributed.worker.preload": [DIES.format(struck=str(struck))]}),
        local_client(ClusterConfig(workers=2, warm=False)) as client,
    ):
        results = list(DaskExecutor(client).run(write_areas, work.tasks))
    assert struck.exists()
    assert len(results) == len(work.tasks)
    assert len(work.receipts()) == len(files.written)
    for area in files.written:
        for path in area.outputs:
            assert sha256_file(Path(inputs.run) / path) == sha256_file(Path(carried[1].run) / path), path
    # A half-written file of the dead has a name that nothing reads, and goes with the next start.
    names = [p.name for p in Path(inputs.run).glob("areas/*/*") if ".tmp." not in p.name]
    assert len(names) == 3 * len(files.written)
