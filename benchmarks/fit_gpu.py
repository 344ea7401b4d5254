"""An epoch of the gates on a CUDA device against the bytes that it has to move.

    python benchmarks/fit_gpu.py [--sizes demo middle nation] [--epochs 200]

The matrices are those of `benchmarks/fit.py`. A line states milliseconds an epoch (the median of five runs of
so many epochs, replays of one graph, by the device's own clock), the bytes that an epoch reads and writes at
least (`DeviceGates.bytes_an_epoch`: both layouts of the matrix and the state of every column), the time they
take at the bandwidth at which this device copies a large array, the ratio of the two (goal: at most 3), the
memory foreseen and taken, how far the loss is from that of the CPU engine after 20 epochs, and whether two
runs gave the same bits. A bound below 20 microseconds counts as that: starting four kernels takes as long.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from fit import SIZES, matrix

from distcalib.errors import InputError
from distcalib.fit import FitSpec, device
from distcalib.fit.engines import CpuGates, starting_state
from distcalib.fit.problem import build_problem

PENALTY = 1e-5
#: Epochs after which the losses of both engines are compared.
COMPARED = 20
GOAL = 3.0
#: Milliseconds that bounds below it count as.
LEAST = 0.02


def milliseconds(work: object, times: int = 5) -> float:
    """Return the median of the device's milliseconds for `work`."""
    found = []
    for _ in range(times):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()  # type: ignore[operator]
        stop.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(stop))
    return float(np.median(found))


def bandwidth() -> float:
    """Return bytes a second, read and written, of a copy of 2 GiB (less on a small device)."""
    size = min(1 << 31, torch.cuda.mem_get_info()[0] // 4)
    source = torch.zeros(size // 4, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / (milliseconds(lambda: target.copy_(source)) / 1e3)


def measure(size: str, epochs: int, speed: float) -> tuple[str, bool]:
    """Return the line of a size, and whether it holds the goal."""
    X, targets, initial = matrix(size)
    spec = FitSpec(lambda_l0=PENALTY, epochs=COMPARED + 7 * epochs)
    problem = build_problem(X, targets, spec, initial_weights=initial)
    foreseen = device.device_bytes(*X.shape, X.nnz, problem.usable.arrays[2].itemsize, spec.epochs)
    before, began = torch.cuda.memory_allocated(), time.perf_counter()
    gates = device.DeviceGates(problem, spec, starting_state(problem, spec), "cuda")
    prepared, taken = time.perf_counter() - began, torch.cuda.memory_allocated() - before
    gates.begin(0, PENALTY, None, None)
    gates.advance(COMPARED)
    loss = gates.read()[device.LOSS]
    gates.advance(epochs)
    ms = milliseconds(lambda: gates.advance(epochs)) / epochs
    gates.fetch()
    first = {name: values.copy() for name, values in gates.state.items()}
    for name, values in starting_state(problem, spec).items():
        gates.state[name][:] = values
    gates.begin(0, PENALTY, None, None)
    gates.advance(COMPARED + 6 * epochs)
    gates.fetch()
    same = all(np.array_equal(first[name], values) for name, values in gates.state.items())
    steps = CpuGates(problem, spec, starting_state(problem, spec))
    steps.begin(0)
    expected = [steps.step(epoch, PENALTY) for epoch in range(1, COMPARED + 1)][-1]
    moved = gates.bytes_an_epoch()
    bound = 1e3 * moved / speed
    line = (
        f"{size:>8} {X.shape[0]:>7,} {X.shape[1]:>10,} {X.nnz:>12,} {prepared:>8.1f} {ms:>8.3f} "
        f"{moved / 1e6:>9.1f} {bound:>8.3f} {ms / bound:>6.1f} {foreseen / 1e9:>8.2f} {taken / 1e9:>7.2f} "
        f"{abs(loss / expected - 1):>9.1e}  {'same' if same else 'OTHER'}"
    )
    return line, same and ms <= GOAL * max(bound, LEAST)


def main() -> int:
    """Print the table; 0 where every size holds the goal and gives the same bits twice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--epochs", type=int, default=200)
    arguments = parser.parse_args()
    try:
        device.cuda_device()
    except InputError as error:
        print(f"Nothing was measured: {error}", file=sys.stderr)
        return 2
    speed = bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: copies at {speed / 1e9:,.0f} GB/s\n")
    print(
        f"{'matrix':>8} {'targets':>7} {'columns':>10} {'cells':>12} {'prep. s':>8} {'ms/epoch':>8} "
        f"{'MB/epoch':>9} {'bound ms':>8} {'ratio':>6} {'foreseen':>8} {'GB':>7} {'loss diff':>9}  bits"
    )
    good = True
    for size in arguments.sizes:
        line, holds = measure(size, arguments.epochs, speed)
        print(line, flush=True)
        good = good and holds
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
