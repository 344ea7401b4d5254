"""The fit against public packages, on one matrix and one thread each.

    python benchmarks/fit.py [--sizes demo middle nation] [--epochs 20] [--peer-epochs 4] [--runs 1]
    python benchmarks/fit.py --microcalibrate PYTHON [--tables dense wide]

The first: epochs of the gate stage, the fused kernel against l0-python. The matrices have the shape of real
ones: households cloned into districts, and rows for the nation, 51 states and 436 districts. A line states
CPU milliseconds an epoch (the median; l0-python stays within one call of its own `fit`), peak resident memory
beyond the caller's matrix, and how fast the kernel moves what an epoch has to move, as a share of the
bandwidth at which this machine reads a large array. With several runs, which take turns, the line has the
median of each figure and the smallest and largest ratio of a run of each.

The second: whole calibrations against microcalibrate, which PYTHON (an interpreter of its own environment,
with scipy) can import. It trains all weights and then, for twice as many epochs, weights and gates. A line
states CPU seconds of both, the loss they come to (mean squared relative error), and milliseconds an epoch;
ours keeps as many records as the peer kept.

Every measurement has a process of its own.
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
#: Tables for microcalibrate: targets, households, cells; and the epochs and learning rate that it gets.
TABLES = {"dense": ((10, 100_000, 1_000_000), 300, 0.1), "wide": ((5_066, 20_000, 400_000), 100, 0.1)}
#: For its gates: at its own 0.2 they end at a loss of 0.6 on the dense table, at this one at 0.003.
GATE_RATE = 0.02


def table(name: str) -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    """Return X, targets and initial weights: ``dense`` without a cell of 0, ``wide`` as `matrix`."""
    if name != "dense":
        return matrix(name)
    rows, n, _ = TABLES[name][0]
    rng = np.random.default_rng(7)
    X = sp.csr_array(rng.lognormal(0, 1, (rows, n)).astype(np.float32))
    initial = (132e6 / n) * rng.lognormal(0, 0.4, n)
    return X, (X @ initial) * rng.normal(1, 0.1, rows), initial


def matrix(size: str) -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    """Return X (CSR, float32), targets and initial weights: measures of the nation, states and districts."""
    rows, n, cells = SIZES[size] if size in SIZES else TABLES[size][0]
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
    steps = CpuGates(problem, spec, starting_state(problem, spec, np.float32))
    steps.begin(0)
    prepared, seconds, losses = time.process_time() - began, [], []
    for epoch in range(1, epochs + 1):
        start = time.process_time()
        losses.append(steps.step(epoch, spec.lambda_l0))
        seconds.append(time.process_time() - start)
    ptr, rows, values = problem.usable.arrays[:3]
    # What has to come from memory: cells and pointers once, the state and the last gates (as large as a
    # moment) once there and once back.
    state = sum(a.nbytes for a in (*steps.state.values(), steps.state["mw"]))
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


def calibrated(name: str, kept: int) -> dict[str, float]:
    """Calibrate a table with all households, and with `kept` of them."""
    from distcalib.fit import FitSpec, fit_weights
    from distcalib.fit.engines import CpuGates, starting_state
    from distcalib.fit.problem import build_problem

    X, targets, initial = table(name)
    settings = {"initial_weights": initial, "threads": 1, "ridge": 1e-6, "lower_bound": 0.0}
    small = {**settings, "initial_weights": initial[:300], "records": 100}
    fit_weights(X[:, :300], X[:, :300] @ initial[:300], **small)  # loads and compiles everything
    found = {}
    for stage, given in (("all", {"epochs": 0}), ("some", {"records": kept})):
        start = time.process_time()
        weights = fit_weights(X, targets, **settings, **given).weights
        found[f"{stage}_s"] = time.process_time() - start
        found[f"{stage}_loss"] = float(np.mean(((X @ weights) / targets - 1) ** 2))
        found["kept"] = int(np.count_nonzero(weights))
    spec, seconds = FitSpec(lambda_l0=1e-5), []
    problem = build_problem(X, targets, spec, initial_weights=initial, threads=1)
    steps = CpuGates(problem, spec, starting_state(problem, spec))
    steps.begin(0)
    for epoch in range(1, 40):
        start = time.process_time()
        steps.step(epoch, spec.lambda_l0)
        seconds.append(time.process_time() - start)
    return {**found, "ms": 1e3 * float(np.median(seconds))}


def microcalibrated(name: str) -> dict[str, float]:
    """Calibrate a table by microcalibrate: all households, then gates."""
    import logging

    import pandas as pd
    import torch
    from microcalibrate import Calibration

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # a line or two a target
    X, targets, initial = table(name)
    _, epochs, rate = TABLES[name]
    households = pd.DataFrame(X.toarray().T, columns=[f"target {i}" for i in range(len(targets))])
    optimiser_step, ends = torch.optim.Adam.step, {1: [], 2: []}

    def step(self: torch.optim.Adam) -> None:
        optimiser_step(self)
        ends[len(self.param_groups[0]["params"])].append(time.process_time())

    torch.optim.Adam.step = step
    settings = {"epochs": epochs, "learning_rate": rate, "sparse_learning_rate": GATE_RATE}
    settings |= {"regularize_with_l0": True, "estimate_matrix": households}
    peer = Calibration(weights=initial, targets=targets, **settings)
    start = time.process_time()
    peer.calibrate()
    found = {"all_s": ends[1][-1] - start, "some_s": time.process_time() - ends[1][-1]}
    for stage, weights in (("all", peer.weights), ("some", peer.sparse_weights)):
        found[f"{stage}_loss"] = float(np.mean(((X @ weights.astype(np.float64)) / targets - 1) ** 2))
    kept = int(np.count_nonzero(peer.sparse_weights))
    return {**found, "kept": kept, "ms": 1e3 * float(np.median(np.diff(ends[2])))}


def bandwidth() -> dict[str, float]:
    """Return bytes a CPU second of reading a large array (a sum of float64, the best of five)."""
    large, seconds = np.ones(1 << 26), []
    for _ in range(5):
        start = time.process_time()
        large.max()
        seconds.append(time.process_time() - start)
    return {"bytes_s": large.nbytes / min(seconds)}


def measured(*arguments: str, python: str = sys.executable) -> dict[str, float]:
    ones = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TQDM_DISABLE")
    command = [python, __file__, "--one", *arguments]
    environment = os.environ | dict.fromkeys(ones, "1")
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--peer-epochs", type=int, default=4)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--microcalibrate", metavar="PYTHON")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        what, *rest = chosen.one
        known = (ours, peers, bandwidth, calibrated, microcalibrated)
        measure = next(function for function in known if function.__name__ == what)
        print(json.dumps(measure(*rest[:1], *map(int, rest[1:]))))
    elif chosen.microcalibrate:
        against_microcalibrate(chosen.microcalibrate, chosen.tables)
    else:
        against_l0(chosen.sizes, str(chosen.epochs), str(chosen.peer_epochs), chosen.runs)


def against_microcalibrate(python: str, tables: list[str]) -> None:
    print(f"{'targets x households, cells':>36} {'':>14} {'all s':>8} {'loss':>8} {'kept':>8} {'some s':>8} "
          f"{'loss':>8} {'ms/epoch':>9}")  # fmt: skip
    for name in tables:
        X, *_ = table(name)
        theirs = measured("microcalibrated", name, python=python)
        mine = measured("calibrated", name, str(int(theirs["kept"])))
        shape = f"{X.shape[0]:,} x {X.shape[1]:,}, {X.nnz:,}"
        for who, found in (("microcalibrate", theirs), ("distcalib", mine)):
            figures = (
                f"{found['all_s']:8.2f} {found['all_loss']:8.2e} {found['kept']:8,.0f}",
                f"{found['some_s']:8.2f} {found['some_loss']:8.2e} {found['ms']:9.2f}",
            )
            print(f"{shape:>36} {who:>14}", *figures, flush=True)


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}


def against_l0(sizes: list[str], epochs: str, peer_epochs: str, runs: int) -> None:
    print(f"{'targets x columns, cells':>36} {'l0 ms':>9} {'ours ms':>9} {'ratio':>6} {'(of a run)':>11} "
          f"{'l0 MB':>8} {'ours MB':>8} {'B/cell':>7} {'allowed':>8} {'of bandwidth':>12}")  # fmt: skip
    for size in sizes:
        pairs = [(measured("ours", size, epochs), measured("peers", size, peer_epochs)) for _ in range(runs)]
        mine, theirs = (medians(list(side)) for side in zip(*pairs, strict=True))
        ratios = [their["ms"] / our["ms"] for our, their in pairs]
        speed = mine["bytes"] / (mine["ms"] / 1e3) / measured("bandwidth")["bytes_s"]
        shape = f"{mine['rows']:,.0f} x {mine['columns']:,.0f}, {mine['cells']:,.0f}"
        allowed = 10 * mine["cells"] + 60 * mine["columns"]
        span = f"{min(ratios):.0f} to {max(ratios):.0f}"
        figures = (
            f"{theirs['ms']:9,.1f} {mine['ms']:9,.2f} {theirs['ms'] / mine['ms']:6.0f} {span:>11}",
            f"{theirs['memory'] / 1e6:8,.0f} {mine['memory'] / 1e6:8,.1f}",
            f"{mine['memory'] / mine['cells']:7.1f} {allowed / 1e6:8,.1f} {speed:12.0%}",
        )
        print(f"{shape:>36}", *figures, flush=True)


if __name__ == "__main__":
    main()
