"""Simulation of a run with 1 worker and with 2: wall and CPU seconds, what Dask costs, and equal digests.

    python benchmarks/workers.py [--preset demo] [--workers 1 2] [--slices 400 700 6000]

Each line is a run of its own in a new folder, up to the matrix. `wall` is that of the stage `simulate`, from
its first task to its last receipt; `in tasks` the share of the workers' time that tasks took; `CPU s` of the
tasks, and `around` the CPU seconds of everything else meanwhile (scheduler, client, heartbeats, transfer) in
per cent of the tasks'. The blocks of equal slices, and X of all, must have equal digests: exit 1 if not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil

from distcalib import ClusterConfig, Run, RunConfig


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its descendants that live."""
    total = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


def measure(config: RunConfig, workers: int, memory: str, folder: Path) -> dict:
    """Carry a run out up to the matrix; return what it cost and the digests of blocks and X."""
    clock: dict[str, tuple[float, float]] = {}

    def listen(event: dict) -> None:
        if event["event"] in ("stage", "stage_done"):
            clock[f"{event['stage']} {event['event']}"] = time.perf_counter(), cpu_seconds()

    run = Run(config, folder, ClusterConfig(workers=workers, memory_limit=memory), [listen])
    run.execute(until="assemble")
    (wall, cpu), (wall_end, cpu_end) = clock["simulate stage"], clock["simulate stage_done"]
    read = [json.loads(p.read_text()) for p in folder.glob("receipts/*/*.json")]
    tasks = [r for r in read if r["stage"] == "simulate"]
    spent = sum(r["cpu_seconds"] for r in tasks)
    return {
        "tasks": len(tasks),
        "wall": wall_end - wall,
        "cpu": spent,
        "share": sum(r["seconds"] for r in tasks) / (wall_end - wall) / workers,
        "around": (cpu_end - cpu - spent) / spent,
        "blocks": {d for r in tasks for d in r["outputs"].values()},
        "X": next(d for r in read if r["stage"] == "assemble" for d in r["outputs"].values()),
    }


def main() -> int:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--clones", type=int, help="other than the preset's")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument(
        "--slices", type=int, nargs="*", default=[], help="other slice sizes, with all workers"
    )
    parser.add_argument("--memory", default="4GiB", help="of a worker")
    asked = parser.parse_args()
    config = RunConfig.load(asked.preset)
    config = config.changed(n_clones=asked.clones or config.n_clones)
    most = max(asked.workers)
    cases = [(n, config.simulation.slice_households) for n in asked.workers] + [
        (most, k) for k in asked.slices
    ]
    found = []
    heads = {"workers": 8, "slices of": 11, "tasks": 7, "wall s": 9, "in tasks": 10, "CPU s": 8, "around": 8}
    print("".join(f"{head:>{width}}" for head, width in heads.items()) + "  X")
    for workers, size in cases:
        cut = config.changed(simulation=replace(config.simulation, slice_households=size))
        with tempfile.TemporaryDirectory(prefix="distcalib-") as folder:
            one = measure(cut, workers, asked.memory, Path(folder) / "run")
        found.append(one)
        print(
            f"{workers:8}{size or 'by costs':>11}{one['tasks']:7}{one['wall']:9.1f}{one['share']:10.1%}"
            f"{one['cpu']:8.1f}{one['around']:8.1%}  {one['X'][:16]}",
            flush=True,
        )
    same_cut = found[: len(asked.workers)]
    equal = len({one["X"] for one in found}) == 1 and all(c["blocks"] == found[0]["blocks"] for c in same_cut)
    if len(same_cut) > 1:
        a, b = same_cut[0], same_cut[-1]
        print(f"wall {a['wall'] / b['wall']:.2f} x shorter, CPU seconds {b['cpu'] / a['cpu']:.2f} x")
    print("blocks and X: " + ("equal" if equal else "DIFFERENT"))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
