"""The national run's simulation: 12,000 households x 430 clones, written as blocks; curve and projection.

    python benchmarks/national.py --output runs/national [--workers 2] [--memory 7GiB]

Carries the preset `national` out up to its blocks, or goes on with what the folder holds, and prints what the
receipts and events say: placements a second of wall time, CPU seconds, largest worker, and what N workers
would take. The projection hands the measured tasks, largest first, to N workers of this speed: it assumes a
core and 7 GiB for each, a storage that keeps up, and a start as measured here; a coordinator hands out some
hundreds of tasks a second, so that is left out. About half an hour on two cores.
"""

from __future__ import annotations

import argparse
import heapq
import json
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.geography.states import STATE_CODES
from distcalib.report.console import Progressing, make_console

WORKERS = (1, 2, 16, 64, 256)


def duration(seconds: np.ndarray, workers: int) -> float:
    """Return how long tasks take that are handed out in their order to whoever is free."""
    free = [0.0] * workers
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def tasks_of(folder: Path) -> pd.DataFrame:
    """Return one row a simulation task of the run, largest first: its size, cost and when it ended."""
    events = [json.loads(line) for line in (folder / "events.ndjson").read_text().splitlines()]
    ended = {e["id"]: e["time"] for e in events if e["event"] == "task" and e["stage"] == "simulate"}
    receipts = [json.loads(p.read_text()) for p in (folder / "receipts/simulate").glob("*.json")]
    table = pd.DataFrame([{**r, **r["facts"]} for r in receipts])
    return table.assign(ended=table["id"].map(ended)).sort_values(
        "columns", ascending=False, ignore_index=True
    )


def attempts_of(folder: Path) -> list[dict[str, float]]:
    """Return of each attempt when it started, when its workers were ready, and when its last task ended."""
    found: list[dict[str, float]] = []
    for event in map(json.loads, (folder / "events.ndjson").read_text().splitlines()):
        if event["event"] == "start":
            found.append({"start": event["time"]})
        elif event["event"] == "workers":
            found[-1]["ready"] = event["time"]
        elif event["event"] == "task" and event["stage"] == "simulate":
            found[-1]["end"] = event["time"]
    return [one for one in found if "end" in one]


def main() -> None:
    """Carry the run out, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--preset", default="national")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", default="7GiB", help="of a worker")
    asked = parser.parse_args()
    cluster = ClusterConfig(workers=asked.workers, memory_limit=asked.memory)
    Run(RunConfig.load(asked.preset), asked.output, cluster, [Progressing(make_console())]).execute(
        until="simulate"
    )

    tasks, attempts = tasks_of(asked.output), attempts_of(asked.output)
    placements = int(tasks["columns"].sum())
    ready = sum(one["ready"] - one["start"] for one in attempts)
    wall = sum(one["end"] - one["ready"] for one in attempts)
    bytes_of = sum(p.stat().st_size for p in (asked.output / "matrix.zarr").rglob("*") if p.is_file())
    print(
        f"{placements:,} placements in {len(tasks)} tasks, {len(attempts)} attempts: workers ready after "
        f"{ready:.0f} s, simulated in {wall / 60:.1f} min; together {(ready + wall) / 60:.1f} min"
    )
    print(
        f"{placements / wall:,.0f} placements a second of wall time, "
        f"{placements / tasks['cpu_seconds'].sum():,.0f} a CPU second; CPU "
        f"{tasks['cpu_seconds'].sum() / tasks['seconds'].sum():.0%} of the tasks' time, tasks "
        f"{tasks['seconds'].sum() / wall / asked.workers:.1%} of the workers'"
    )
    print(
        f"{int(tasks['nonzeros'].sum()):,} cells, {bytes_of / 1e9:.2f} GB of blocks; "
        f"largest worker {tasks['peak_bytes'].max() / 2**30:.2f} GiB of {asked.memory}"
    )
    print("\nplacements a second, by tenths of the tasks as they ended")
    ended = tasks.sort_values("ended")
    tenths = [ended.iloc[part] for part in np.array_split(np.arange(len(ended)), 10)]
    print("  ".join(f"{t['columns'].sum() / t['seconds'].sum() * asked.workers:,.0f}" for t in tenths))
    rate = tasks.groupby("state_fips")[["columns", "cpu_seconds"]].sum()
    rate = (rate["columns"] / rate["cpu_seconds"]).sort_values()
    slow, fast = (
        ", ".join(f"{STATE_CODES[s]} {r:,.0f}" for s, r in part.items())
        for part in (rate.head(5), rate.tail(5))
    )
    print(f"placements a CPU second, slowest states: {slow}; fastest: {fast}")
    print(f"\n{'workers':>8}{'simulation':>13}{'with the start':>16}{'busy':>7}")
    start = ready / len(attempts)
    for workers in WORKERS:
        seconds = duration(tasks["seconds"].to_numpy(), workers)
        busy = tasks["seconds"].sum() / seconds / workers
        print(f"{workers:8}{seconds / 60:9.1f} min{(seconds + start) / 60:12.1f} min{busy:7.0%}")


if __name__ == "__main__":
    main()
