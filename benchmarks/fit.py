"""Epochs of the gate stage: the fused kernel against l0-python, on one matrix and one thread each.

    python benchmarks/fit.py [--sizes demo middle nation] [--epochs 20] [--peer-epochs 4]

The matrices have the shape of real ones: households cloned into districts, and rows for the nation, 51 states
and 436 districts. A line states CPU milliseconds an epoch (the median; l0-python stays within one call of its
own `fit`), peak resident memory beyond the caller's matrix, and how fast the kernel moves what an epoch has
to move, as a share of the bandwidth at which this machine reads a large array. Every measurement has a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

STATES, DISTRICTS = 51, 436
#: Targets, columns and cells that are wanted.
SIZES = {
    "demo": (1_278, 36_000, 23_000),
    "middle": (5_066, 500_000, 10_400_000),
    "nation": (9_264, 3_000_000, 101_000_000),
}


def matrix(size: str) -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    """Return X (CSR, float32), targets and initial weights: measures of the nation, states and districts."""
    rows, n, cells = SIZES[size]
    rng = np.random.default_rng(7)
    k = round(rows / (1 + STATES + DISTRICTS))
    state_of = np.sort(np.r_[np.arange(STATES), rng.integers(0, STATES, DISTRICTS - STATES)])
    district = rng.integers(0, DISTRICTS, n)
    has = rng.poisson(cells / (3 * n), n).clip(max=k)  # so many measures, each counted at three levels
    first = (rng.random(n) * (k - has + 1)).astype(np.int64)
    ptr = np.r_[0, np.cumsum(3 * has)]
    index, values = np.empty(ptr[-1], np.int32), np.empty(ptr[-1], np.float32)
    places = np.column_stack([np.zeros(n, np.int64), 1 + state_of[district], 1 + STATES + district])
    for a in range(0, n, 100_000):
        cut = slice(ptr[a], ptr[min(a + 100_000, n)])
        column = np.repeat(np.arange(a, min(a + 100_000, n)), 3 * has[a : a + 100_000])
        level, measure = np.divmod(np.arange(cut.start, cut.stop) - ptr[column], has[column])
        index[cut] = places[column, level] * k + first[column] + measure
        values[cut] = 1 + (column * 7 + measure * 3) % 4
    X = sp.csr_array(sp.csc_array((values, index, ptr), shape=(k * (1 + STATES + DISTRICTS), n)))
    initial = (132e6 / n) * rng.lognormal(0, 0.4, n)
    return X, (X @ initial) * rng.normal(1, 0.05, X.shape[0]), initial


def memory(name: str) -> int:
    """Return a figure of this process's memory in bytes: VmRSS (now) or VmHWM (peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def ours(size: str, epochs: int) -> dict[str, float]:
    from distcalib.fit import FitSpec
    from distcalib.fit.engines import CpuGates, starting_state
    from distcalib.fit.problem import build_problem

    X, targets, initial = matrix(size)
    spec = FitSpec(lambda_l0=1e-5)
    # Loads and compiles everything on a matrix of six cells, so that the code does not count as memory.
    small = build_problem(sp.csr_array(np.ones((3, 2), np.float32)), np.ones(3), spec, threads=1)
    CpuGates(small, spec, starting_state(small, spec)).begin(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, began = memory("VmRSS"), time.process_time()
    problem = build_problem(X, targets, spec, initial_weights=initial, threads=1)
    steps = CpuGates(problem, spec, starting_state(problem, spec))
    steps.begin(0)
    prepared, seconds, losses = time.process_time() - began, [], []
    for epoch in range(1, epochs + 1):
        start = time.process_time()
        losses.append(steps.step(epoch, spec.lambda_l0))
        seconds.append(time.process_time() - start)
    ptr, rows, values = problem.usable.arrays[:3]
    # What has to come from memory: cells and pointers once, the state once there and once back.
    state = sum(a.nbytes for a in (*steps.state.values(), steps.state["log_alpha"]))
    moved = rows.nbytes + values.nbytes + ptr.nbytes + initial.nbytes + 2 * state
    return {
        "rows": X.shape[0],
        "columns": X.shape[1],
        "cells": X.nnz,
        "ms": 1e3 * float(np.median(seconds)),
        "prepare_s": prepared,
        "memory": memory("VmHWM") - before,
        "bytes": moved,
        "loss": losses[-1],
    }


def peers(size: str, epochs: int) -> dict[str, float]:
    import torch
    from l0.calibration import SparseCalibrationWeights

    torch.set_num_threads(1)
    torch.sparse.check_sparse_tensor_invariants.disable()  # undecided, it warns
    X, targets, initial = matrix(size)
    model = SparseCalibrationWeights(X.shape[1], beta=0.35, init_keep_prob=0.999, init_weights=initial)
    optimiser_step, ends = torch.optim.Adam.step, []

    def step(self: torch.optim.Adam) -> None:
        optimiser_step(self)
        ends.append(time.process_time())

    torch.optim.Adam.step = step
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    # One epoch more: the first also converts the matrix.
    model.fit(X, targets, lambda_l0=1e-5, lr=0.15, epochs=epochs + 1, loss_type="relative")
    return {"ms": 1e3 * float(np.median(np.diff(ends))), "memory": memory("VmHWM") - before}


def bandwidth() -> dict[str, float]:
    """Return bytes a CPU second of reading a large array (a sum of float64, the best of five)."""
    large, seconds = np.ones(1 << 26), []
    for _ in range(5):
        start = time.process_time()
        large.max()
        seconds.append(time.process_time() - start)
    return {"bytes_s": large.nbytes / min(seconds)}


def measured(*arguments: str) -> dict[str, float]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--one", *arguments]
    done = subprocess.run(command, env={**os.environ, **threads}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--peer-epochs", type=int, default=4)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        what, *rest = chosen.one
        if what == "bandwidth":
            print(json.dumps(bandwidth()))
        else:
            print(json.dumps({"ours": ours, "peers": peers}[what](rest[0], int(rest[1]))))
        return
    print(f"{'targets x columns, cells':>36} {'l0 ms':>9} {'ours ms':>9} {'ratio':>6} {'l0 MB':>8} "
          f"{'ours MB':>8} {'B/cell':>7} {'allowed':>8} {'of bandwidth':>12}")  # fmt: skip
    for size in chosen.sizes:
        mine = measured("ours", size, str(chosen.epochs))
        theirs = measured("peers", size, str(chosen.peer_epochs))
        speed = mine["bytes"] / (mine["ms"] / 1e3) / measured("bandwidth")["bytes_s"]
        shape = f"{mine['rows']:,} x {mine['columns']:,}, {mine['cells']:,}"
        allowed = 10 * mine["cells"] + 60 * mine["columns"]
        figures = (
            f"{theirs['ms']:9,.1f} {mine['ms']:9,.2f} {theirs['ms'] / mine['ms']:6.0f}",
            f"{theirs['memory'] / 1e6:8,.0f} {mine['memory'] / 1e6:8,.0f}",
            f"{mine['memory'] / mine['cells']:7.1f} {allowed / 1e6:8,.0f} {speed:12.0%}",
        )
        print(f"{shape:>36}", *figures, flush=True)


if __name__ == "__main__":
    main()
