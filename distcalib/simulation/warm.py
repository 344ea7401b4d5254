"""Preloaded once a machine: importing this module loads the rules engine and makes its first calculations.

A fork server imports it before any worker is forked; every worker, and every worker that replaces one, then
starts with the engine in shared memory. A worker that was not forked so imports it in a thread when it joins
(`distcalib.runs.workers`). CPython's fork server swallows an ImportError and dies of anything
else, so a failure is kept in `ERROR` and printed, and the run warns of it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback

ERROR: str | None = None
SECONDS = 0.0

# What nearly every plan asks for; the first calculation of each costs seconds that later ones do not.
FIRST = (
    "snap",
    "aca_ptc",
    "medicaid_enrolled",
    "eitc",
    "income_tax",
    "state_income_tax",
    "ssi",
    "tanf",
    "wic",
)


def threads() -> int:
    """Return the number of threads of this process; more than one makes forking unsafe."""
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1


def _warm_up() -> None:
    import numpy as np

    from distcalib.microdata.bundled_data import bundled_microdata
    from distcalib.simulation.engine import set_aside, simulate
    from distcalib.simulation.installed import rules_digest

    data = bundled_microdata()
    home = np.flatnonzero(data.column("state_fips") == 6)[:40]
    with simulate(data.take(home), "warm-up") as simulation:
        for variable in FIRST:
            simulation.calculate(variable)
    # What was loaded, not what lies there later: forks inherit the answer.
    rules_digest()
    set_aside()


def _start() -> None:
    global ERROR, SECONDS
    began = time.perf_counter()
    try:
        _warm_up()
        # In a worker it runs in a thread of its own, and nothing is forked from there.
        if threading.current_thread() is threading.main_thread() and threads() != 1:
            print(f"distcalib: warm-up left {threads()} threads; forked workers may hang", file=sys.stderr)
    except Exception:
        ERROR = traceback.format_exc()
        print(f"distcalib: warm-up failed, workers will start cold\n{ERROR}", file=sys.stderr)
    SECONDS = time.perf_counter() - began


_start()
