"""Cost of a state's simulation beside policyengine-us's Microsimulation, and placements a second.

    python benchmarks/simulation.py [--state CA] [--households 12000]

Each side runs in a process of its own, one after the other, with one thread, on the same households and
take-up flags, and is asked for every variable of the bundled targets. Start-up of the rules engine (import
and first calculation) is reported apart. CPU seconds; best of two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
SLICES = (500, 2_000, 6_000, 12_000, 17_000)


def columns_of(state: str, households: int):
    """Return donors, placement, that many columns of the state, rows of the targets, variables."""
    from dataclasses import replace

    import numpy as np

    from distcalib import RunConfig
    from distcalib.geography.states import STATE_FIPS
    from distcalib.matrix.measures import Rows
    from distcalib.microdata import bundled_microdata
    from distcalib.runs import make_plan
    from distcalib.runs.asked import asked_variables

    source = bundled_microdata()
    prepared = make_plan(replace(RunConfig.load("demo"), n_clones=30))
    here = np.flatnonzero(prepared.assignment.state_fips == STATE_FIPS[state])
    if len(here) < households:
        raise SystemExit(f"{state} has {len(here)} columns")
    asked = sorted(asked_variables(prepared.targets))
    return source, prepared.assignment, here[:households], Rows.of(prepared.targets.rows), asked


def side(name: str, state: str, households: int, folder: Path) -> dict:
    """Measure one side in this process."""
    import resource

    source, assignment, columns, rows, asked = columns_of(state, households)
    began = time.process_time()
    from policyengine_us import Microsimulation

    from distcalib.matrix.cells import simulate_columns
    from distcalib.simulation.place import place

    def ours(some) -> None:
        simulate_columns(source, assignment, some, rows, seed=0, take_up=True)

    def theirs(some) -> None:
        simulation = Microsimulation(dataset=str(folder / f"{len(some)}.h5"))
        for variable in asked:
            simulation.calculate(variable, 2024)

    work = ours if name == "distcalib" else theirs
    for some in (columns[:50], columns):
        place(source, assignment, some, seed=0).write(folder / f"{len(some)}.h5")
    work(columns[:50])
    start, times, walls = time.process_time() - began, [], []
    for _ in range(2):
        began, wall = time.process_time(), time.perf_counter()
        work(columns)
        times.append(time.process_time() - began)
        walls.append(time.perf_counter() - wall)
    curve = {}
    if name == "distcalib":
        for size in SLICES:
            if size <= households:
                began = time.process_time()
                work(columns[:size])
                curve[size] = size / (time.process_time() - began)
    return {
        "start": start,
        "cpu": min(times),
        "wall": min(walls),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "variables": len(asked),
        "curve": curve,
    }


def main() -> None:
    """Run both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", default="CA")
    parser.add_argument("--households", type=int, default=12_000)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(side(given.side, given.state, given.households, given.folder)))
        return
    found = {}
    with tempfile.TemporaryDirectory(prefix="distcalib-") as folder:
        for name in ("Microsimulation", "distcalib"):
            words = ["--side", name, "--folder", folder]
            command = [
                sys.executable,
                __file__,
                "--state",
                given.state,
                "--households",
                str(given.households),
            ]
            done = subprocess.run(
                [*command, *words],
                env={**os.environ, **ONE_THREAD},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found[name] = json.loads(done.stdout.splitlines()[-1])
    print(f"{given.households:,} households in {given.state}, {found['distcalib']['variables']} variables")
    print(f"{'':16}{'start-up s':>12}{'CPU s':>10}{'wall s':>10}{'peak GiB':>10}")
    for name, one in found.items():
        print(f"{name:16}{one['start']:12.1f}{one['cpu']:10.1f}{one['wall']:10.1f}{one['peak']:10.2f}")
    print(f"CPU ratio {found['Microsimulation']['cpu'] / found['distcalib']['cpu']:.2f}")
    for size, rate in found["distcalib"]["curve"].items():
        print(f"slice of {int(size):>6,} households: {rate:8,.0f} placements a CPU second")


if __name__ == "__main__":
    main()
