"""A run whose workers die of every slice above a size, as a process of its own; for `test_split`.

Arguments: settings, run folder, number of workers, most columns of a slice, and optionally `die`: the
coordinator then kills itself when the first half of a split slice is done. Each slice that a worker begins
is a line of ``begun.txt`` beside the run folder.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

from distributed.diagnostics.plugin import WorkerPlugin


class TooLargeDies(WorkerPlugin):
    """The kernel's out-of-memory killer, for slices above a size."""

    name = "too-large-dies"

    def __init__(self, most: int, log: str) -> None:
        self.most, self.log = most, log

    def setup(self, worker: object) -> None:
        from distcalib.runs import tasks

        real, most, log = tasks.simulate_columns, self.most, self.log

        def simulate_columns(source, assignment, columns, *args, **kwargs):
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{int(assignment.state_fips[columns[0]])} {columns[0]} {len(columns)}\n")
            if len(columns) > most:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(source, assignment, columns, *args, **kwargs)

        tasks.simulate_columns = simulate_columns


def main(settings: str, folder: str, workers: str, most: str, die: str = "") -> None:
    from distcalib import ClusterConfig, Run, RunConfig
    from distcalib.cluster import local

    real = local.local_client

    @contextmanager
    def deadly_client(config):
        with real(config) as client:
            client.register_plugin(TooLargeDies(int(most), f"{folder}.begun.txt"))
            yield client

    local.local_client = deadly_client
    seen: list[dict] = []

    def watch(event: dict) -> None:
        seen.append(event)
        if die and event["event"] == "task" and any(e["event"] == "split" for e in seen):
            os.kill(os.getpid(), signal.SIGKILL)

    Run(RunConfig.load(settings), Path(folder), ClusterConfig(workers=int(workers)), [watch]).execute()


if __name__ == "__main__":
    main(*sys.argv[1:])
