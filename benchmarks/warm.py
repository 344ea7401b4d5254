"""How workers start: time until they compute, memory at rest, and time until a killed one computes again.

    python benchmarks/warm.py [--workers 2]

Each line is a cluster in a fresh process. `up`: cluster started, workers asked what they are, rules engine
loaded. `own`: largest memory that ends with a worker (USS), before its first task, and `later`, at rest after
it. `first`: one task on each worker, a simulation of 100 households (SNAP, ACA credit). `after SIGKILL`: from
the signal to the end of such a task on the worker that replaces the killed one. On a busy machine times are
longer; memory is not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HOUSEHOLDS = 100
# Workers are held to this process alone.
NO_PLAN: dict[str, dict[str, str]] = {"versions": {}, "code": {}}


def simulate_some(state: int) -> float:
    """Simulate some households of a state on a worker; return their SNAP in dollars."""
    from distcalib.microdata import bundled_microdata
    from distcalib.simulation.engine import simulate

    data = bundled_microdata()
    home = np.flatnonzero(data.column("state_fips") == state)[:HOUSEHOLDS]
    with simulate(data.take(home)) as simulation:
        simulation.calculate("aca_ptc")
        return float(simulation.calculate("snap").sum())


def measure(method: str, workers: int) -> dict[str, float]:
    from distcalib import ClusterConfig
    from distcalib.cluster.local import local_client
    from distcalib.runs.workers import check

    began = time.perf_counter()
    with local_client(ClusterConfig(workers=workers, warm=method == "forkserver")) as client:
        said = check(client, NO_PLAN)
        up, began = time.perf_counter() - began, time.perf_counter()
        tasks = [client.submit(simulate_some, 36, workers=[a], pure=False) for a in said["addresses"]]
        client.gather(tasks)
        first = time.perf_counter() - began
        later = check(client, NO_PLAN)["own_bytes"] / 2**30
        began = time.perf_counter()
        os.kill(client.run(os.getpid, workers=said["addresses"][:1])[said["addresses"][0]], signal.SIGKILL)
        while not (new := set(client.scheduler_info(n_workers=-1)["workers"]) - set(said["addresses"])):
            if time.perf_counter() - began > 300:
                raise SystemExit("no worker replaced the killed one within five minutes")
            time.sleep(0.05)
        client.submit(simulate_some, 6, workers=[*new], pure=False).result()
        after = time.perf_counter() - began
    gib = {name: said[f"{name}_bytes"] / 2**30 for name in ("own", "shared")}
    return {"up": up, **gib, "later": later, "first": first, "after": after}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--method", choices=("forkserver", "spawn"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        print(json.dumps(measure(options.method, options.workers)))
        return
    load = os.getloadavg()[0]
    print(f"{options.workers} workers, {os.cpu_count()} cores, load {load:.1f} before the start")
    heads = ("up s", "own GiB", "later", "shared", "first s", "after SIGKILL s")
    print(f"{'method':12}" + "".join(f"{head:>{len(head) + 4}}" for head in heads))
    for method in ("forkserver", "spawn"):
        command = [sys.executable, str(Path(__file__)), "--method", method, "--workers", str(options.workers)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        r = json.loads(done.stdout.splitlines()[-1])
        keys = ("up", "own", "later", "shared", "first", "after")
        cells = (f"{r[key]:{len(head) + 4}.2f}" for key, head in zip(keys, heads, strict=True))
        print(f"{method:12}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
