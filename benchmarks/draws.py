"""Speed and memory of the counter-based draws that decide take-up.

    python benchmarks/draws.py [--draws 10000000]

Each line runs in a fresh process on one thread: draws a second of CPU time, the best of three, and peak
resident memory above what the process held with its ids in place. The array of draws itself takes 8 bytes a
draw. The line `flags` is a whole `draw_take_up`: every flag that is drawn, for the bundled households cloned
until the units of all entities make up that many draws.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from distcalib.catalogue import ENTITIES, catalogue
from distcalib.microdata import bundled_microdata
from distcalib.random import uniform
from distcalib.simulation.takeup import draw_take_up, drawn_variables

N_CLONES = 430


def peak() -> int:
    """Return the peak resident memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one_id(n: int) -> tuple[Callable[[], object], int]:
    ids = np.arange(n)
    return lambda: uniform(0, "takes_up_snap_if_eligible", ids), n


def donor_and_clone(n: int) -> tuple[Callable[[], object], int]:
    ids = np.arange(n)
    clone = ids % N_CLONES
    return lambda: uniform(0, "takes_up_snap_if_eligible", ids, clone), n


def broadcast(n: int) -> tuple[Callable[[], object], int]:
    ids, clone = np.arange(n // N_CLONES)[:, None], np.arange(N_CLONES)[None, :]
    return lambda: uniform(0, "takes_up_snap_if_eligible", ids, clone), len(ids) * N_CLONES


def flags(n: int) -> tuple[Callable[[], object], int]:
    source = bundled_microdata()
    entities = [catalogue().variables[v].entity for v in drawn_variables()]
    n_clones = max(1, n // sum(source.count(e) for e in entities))
    rows, clone, state = {}, {}, {}
    fips = source.column("state_fips")
    for entity in ENTITIES:
        rows[entity] = np.tile(np.arange(source.count(entity)), n_clones)
        clone[entity] = np.repeat(np.arange(n_clones), source.count(entity))
        state[entity] = np.tile(fips[source.household_of[entity]], n_clones)
    return lambda: draw_take_up(source, rows, clone, state, 0), sum(len(rows[e]) for e in entities)


CASES = {f.__name__: f for f in (one_id, donor_and_clone, broadcast, flags)}


def measure(case: str, n: int) -> dict[str, float]:
    draw, count = CASES[case](n)
    before, seconds = peak(), []
    for _ in range(3):
        began = time.process_time()
        draw()
        seconds.append(time.process_time() - began)
    return {"draws": count, "seconds": min(seconds), "memory": peak() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000_000)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(given.case, given.draws)))
        return
    print(f"{'what':16}{'draws':>12}{'CPU s':>8}{'million/s':>11}{'memory MiB':>12}{'bytes a draw':>14}")
    for case in CASES:
        command = [sys.executable, __file__, "--case", case, "--draws", str(given.draws)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"{case:16}{found['draws']:12,}{found['seconds']:8.3f}"
            f"{found['draws'] / found['seconds'] / 1e6:11.1f}{found['memory'] / 2**20:12.1f}"
            f"{found['memory'] / found['draws']:14.1f}"
        )


if __name__ == "__main__":
    main()
