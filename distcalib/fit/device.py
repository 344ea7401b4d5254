"""Gates on a torch device: many epochs between two looks of the host, and every sum in one order.

The matrix and its transpose are laid out once, as float32 values (float64 where the matrix needs it) and
int32 indices. Products are sums over rows of the one and of the other, so no thread adds to what another adds
to. The schedule of the penalty and the end of the training are decided on the device, in `DeviceGates.now`.

On CUDA an epoch is four Triton kernels (`distcalib.fit.device_kernels`), captured as a graph; on other
devices the same arithmetic in torch operations (`distcalib.fit.device_torch`). Parameters, moments and sums
are float64 and gates float32, as in `distcalib.fit.kernel`; what a column weighs in the product is rounded to
float32. Import this module when a fit begins.
"""

from __future__ import annotations

import gc
import importlib.util
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from distcalib.errors import InputError, RunError
from distcalib.fit.checkpoint import Checkpoint
from distcalib.fit.engines import GateFit, Observer, train
from distcalib.fit.gates import one_torch_thread
from distcalib.fit.problem import FitProblem
from distcalib.fit.spec import ADAM_MOMENTS, FitSpec
from distcalib.random import stream_key

Float = NDArray[np.float64]

#: Where the training stands: places of `DeviceGates.now`, float64. `CLOSED_SINCE` is 0 while a gate is open.
EPOCH, PENALTY, USED_PENALTY, CLOSED_SINCE, STOP, EXPECTED, SQUARES, OPEN, LOSS = range(9)
#: Values of `STOP`: epochs that follow change nothing.
RUNNING, ENDED, DIVERGED = 0.0, 1.0, 2.0
#: Places of `DeviceGates.settings`, float64.
BETA, GAMMA, ZETA, SHIFT, LOW, HIGH, L2, SHUT, BUDGET, LAST = range(10)
#: Columns of `DeviceGates.table`: open gates above which the penalty rises, learning rate over Adam's first
#: correction, and Adam's second correction, by epoch.
ALLOWED, RATE, CORRECTION = range(3)
#: Cells of a row that are added up together: a row's sum is the sum of its pieces', in order.
PIECE = 2048
#: Columns that one block handles.
BLOCK = 128
#: Most epochs between two looks at whether a checkpoint is due.
AT_ONCE = 100
#: As in `distcalib.fit.kernel`: of a log weight, of a logit, and of a gradient.
LARGEST, FLAT, STEEPEST = 87.0, 60.0, 1e18
_STATE = ("log_weight", "log_alpha", "mw", "vw", "ma", "va")


def train_on(
    device: str,
    problem: FitProblem,
    spec: FitSpec,
    observe: Observer,
    log_every: int,
    saved: Checkpoint | None = None,
    fused: bool | None = None,
) -> GateFit:
    """Train gates as `distcalib.fit.engines.train` does, on a torch device.

    Parameters
    ----------
    device
        Of torch: ``"cuda"``, ``"cuda:1"``, ``"cpu"``.
    problem, spec, observe, log_every, saved
        As of any engine. `observe` and `saved` are what the host waits for; nothing else is.
    fused
        Whether an epoch is Triton kernels; None: on CUDA.

    Raises
    ------
    RunError
        The device has too little free memory (found before anything is allocated), or the fit diverged.
    """

    def make(problem: FitProblem, spec: FitSpec, start: dict[str, Float]) -> DeviceGates:
        return DeviceGates(problem, spec, start, device, fused)

    return train(make, problem, spec, observe, log_every, saved, _attempt)


def cuda_device() -> str:
    """Return ``"cuda"``, or raise an `InputError` that says what was found in its place."""
    found = None
    if not torch.cuda.is_available():
        built = torch.version.cuda
        found = f"torch {torch.__version__}" + ("" if built else ", built without CUDA") + ": no CUDA device"
    elif importlib.util.find_spec("triton") is None:
        found = f"torch {torch.__version__} on {torch.cuda.get_device_name()}, without the package triton"
    if found:
        raise InputError(
            "engine 'cuda' needs a CUDA device and triton", place="fit.engine", value=found,
            expected="such a device, or engine 'cpu'",
        )  # fmt: skip
    return "cuda"


def device_bytes(
    n_targets: int, n_columns: int, n_cells: int, value_bytes: int = 4, epochs: int = 500
) -> int:
    """Return the bytes of device memory that `DeviceGates` takes on CUDA.

    Parameters
    ----------
    n_targets, n_columns, n_cells
        Of the usable part of the matrix.
    value_bytes
        Of a cell's value: 4, or 8 where float32 does not hold the matrix exactly.
    epochs
        Of the fit.
    """
    cells = 2 * n_cells * (4 + value_bytes)
    # State, concrete variable, weight, initial weight, number, pointer; a share of the block's sums.
    columns = n_columns * (8 * len(_STATE) + 4 + 4 + 8 + 8 + 8) + 8 + 24 * -(-n_columns // BLOCK)
    pieces = 16 * (n_cells // PIECE + n_targets + 1)  # at most
    targets = n_targets * 8 * 9
    return cells + columns + pieces + targets + 24 * (epochs + 1) + 8 * 32


class DeviceGates:
    """Adam steps of gates and weights on a torch device.

    Attributes
    ----------
    state
        On the host, as of `distcalib.fit.engines.Steps`: `begin` sends it, `fetch` brings it back.
    now
        float64 (9,), on the device: places `EPOCH` to `LOSS`.
    residual
        float64 (n_targets,), on the device: factor * estimate - goal of the last step's sample.
    """

    def __init__(
        self,
        problem: FitProblem,
        spec: FitSpec,
        start: dict[str, Float],
        device: str = "cpu",
        fused: bool | None = None,
    ) -> None:
        self.state, self.device = start, torch.device(device)
        ptr, rows, values = problem.usable.compressed()
        self.n_targets, self.n = problem.usable.shape
        fused = self.device.type == "cuda" if fused is None else fused
        _require_memory(
            self.device, device_bytes(self.n_targets, self.n, len(rows), values.itemsize, spec.epochs)
        )
        # Rows of the transpose are the columns as they are; those of the matrix are sorted here, once.
        matrix = sp.csc_array((values, rows.astype(np.int32), ptr), shape=problem.usable.shape)
        by_row, put = matrix.tocsr(), self._put
        self.rows, self.values, self.ptr = put(matrix.indices, np.int32), put(values), put(ptr, np.int64)
        self.row_columns, self.row_values = put(by_row.indices, np.int32), put(by_row.data)
        starts, of_row = pieces_of(by_row.indptr.astype(np.int64))
        self.piece_starts, self.row_pieces = put(starts), put(of_row)
        self.initial = put(problem.initial[problem.columns])
        self.columns = put(problem.columns, np.int64)
        loss = problem.objective
        root = np.sqrt(loss.share)
        self.loss = loss.name
        self.factor, self.goal, self.root = put(loss.factor), put(loss.goal), put(root)
        self.band, self.knee = put(root * loss.tolerance), put(root * loss.knee)
        self.residual, self.slope, self.terms = (self._zeros(self.n_targets) for _ in range(3))
        self.partial = self._zeros(len(starts) - 1)
        self.sums = self._zeros(3 * -(-self.n // BLOCK))
        self.stream = put(np.array([stream_key(spec.seed, "gate")]).view(np.int64))
        shut = spec.beta * math.log(-spec.gamma / spec.zeta)
        budget = spec.records if spec.records is not None and spec.lambda_l0 is None else -1
        figures = (spec.beta, spec.gamma, spec.zeta, -shut, *spec.log_bounds(), spec.lambda_l2, shut, budget)
        self.settings = put(np.array([*figures, spec.epochs], dtype=np.float64))
        steps, (b1, b2) = np.arange(1, spec.epochs + 1), ADAM_MOMENTS
        table = np.full((spec.epochs + 1, 3), np.inf)
        table[1:, RATE], table[1:, CORRECTION] = spec.learning_rate / (1 - b1**steps), 1 - b2**steps
        self.table = put(table)
        self.tensors = {name: put(values) for name, values in start.items()}
        self.drawn = torch.zeros(self.n, dtype=torch.float32, device=self.device)
        self.weight = torch.zeros_like(self.drawn)
        self.now = self._zeros(9)
        if fused:
            from distcalib.fit.device_kernels import epoch_of
        else:
            from distcalib.fit.device_torch import epoch_of
        self._epoch: Callable[[bool], None] = epoch_of(self)
        self._graph: Any = None
        if self.device.type == "cuda":
            with self._in_order():
                self._capture()

    def begin(
        self, epoch: int, penalty: float, closed_since: int | None, schedule: Callable[[int], float] | None
    ) -> None:
        """Send `state`, and make ready for the step after `epoch`."""
        for name, values in self.state.items():
            self.tensors[name].copy_(torch.from_numpy(values))
        if schedule is not None:
            allowed = [math.inf, *(schedule(e) for e in range(1, len(self.table)))]
            self.table[:, ALLOWED] = torch.tensor(allowed, dtype=torch.float64)
        now = np.zeros(9)
        now[[EPOCH, PENALTY, USED_PENALTY, CLOSED_SINCE]] = epoch, penalty, penalty, closed_since or 0
        self.now.copy_(torch.from_numpy(now))
        with self._in_order():
            self._epoch(False)

    def advance(self, epochs: int) -> None:
        """Order so many steps; on CUDA they run behind the host's back. After the end they change nothing."""
        with self._in_order():
            for _ in range(epochs):
                if self._graph is None:
                    self._epoch(True)
                else:
                    self._graph.replay()

    def read(self) -> list[float]:
        """Wait for the ordered steps; return `now`."""
        found: list[float] = self.now.tolist()
        return found

    def fetch(self, *names: str) -> None:
        """Bring arrays of `state` back to the host; none named: all."""
        for name in names or _STATE:
            torch.from_numpy(self.state[name]).copy_(self.tensors[name])

    def bytes_an_epoch(self) -> int:
        """Return the bytes that a step reads and writes at least, where every gate is open."""
        read = (self.rows, self.values, self.row_columns, self.row_values, self.ptr, self.initial)
        ids = self.columns.nbytes * self.numbered
        both = (*self.tensors.values(), self.drawn, self.weight)
        return sum(t.nbytes for t in read) + ids + 2 * sum(t.nbytes for t in both)

    @property
    def numbered(self) -> bool:
        """Whether the columns' numbers have to be read: some column of the matrix is not used."""
        return self.n > 0 and int(self.columns[-1]) != self.n - 1

    def _put(self, values: NDArray[Any], dtype: type | None = None) -> torch.Tensor:
        # Always a copy of its own: on the CPU torch would share the caller's memory.
        return torch.tensor(np.ascontiguousarray(values, dtype), device=self.device)

    def _zeros(self, n: int) -> torch.Tensor:
        return torch.zeros(n, dtype=torch.float64, device=self.device)

    def _in_order(self) -> Any:
        if self.device.type == "cuda":
            return torch.cuda.device(self.device)
        return one_torch_thread() if self.device.type == "cpu" else nullcontext()

    def _capture(self) -> None:
        """Record an epoch as a graph; it runs once before, ended, so that its kernels are compiled."""
        self.now[STOP] = ENDED
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self._epoch(True)
            self._epoch(False)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._epoch(True)


def pieces_of(indptr: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut the rows of a CSR matrix into pieces of at most `PIECE` cells.

    Returns
    -------
    tuple
        First cell of each piece, and the number of cells, int64 (pieces + 1,); first piece of each row, and
        the number of pieces, int64 (rows + 1,).

    >>> [part.tolist() for part in pieces_of(np.array([0, 3, 3, 5003]))]
    [[0, 3, 2051, 4099, 5003], [0, 1, 1, 4]]
    """
    number = -(-np.diff(indptr) // PIECE)
    first = np.concatenate([[0], np.cumsum(number)])
    row = np.repeat(np.arange(len(number)), number)
    starts = indptr[row] + PIECE * (np.arange(first[-1]) - first[row])
    return np.append(starts, indptr[-1]).astype(np.int64), first.astype(np.int64)


def _attempt(
    steps: DeviceGates,
    problem: FitProblem,
    spec: FitSpec,
    at: dict[str, Any],
    schedule: Callable[[int], float] | None,
    budget: int | None,
    observe: Observer,
    log_every: int,
    saved: Checkpoint | None,
) -> GateFit:
    """Train from where `at` says, to the last epoch or to the budget; the host waits for logs alone."""
    steps.begin(at["epoch"], at["penalty"], at["closed_since"], schedule)
    now, ended = steps.read(), at["ended"]

    def state() -> GateFit:
        steps.fetch("log_alpha", "log_weight")
        arrays, since = (steps.state["log_alpha"], steps.state["log_weight"]), int(now[CLOSED_SINCE]) or None
        return GateFit(int(now[EPOCH]), at["attempt"], now[USED_PENALTY], *arrays, now[EXPECTED], since)

    while not ended:
        epoch = int(now[EPOCH])
        until = min(epoch - epoch % log_every + log_every, spec.epochs)
        if saved is not None:
            until = min(until, epoch + (AT_ONCE if saved.seconds else 1))
        steps.advance(until - epoch)
        now = steps.read()
        epoch, ended = int(now[EPOCH]), now[STOP] != RUNNING
        if now[STOP] == DIVERGED:
            worst = problem.worst(steps.residual.cpu().numpy())
            raise RunError(
                f"the fit diverged at epoch {epoch}: the loss is {now[LOSS]} ({worst} is furthest off)"
            )
        if ended or epoch % log_every == 0:
            observe(state())
        if saved is not None and saved.due(ended):
            steps.fetch()
            where = {"attempt": at["attempt"], "epoch": epoch, "penalty": now[PENALTY]}
            saved.offer(
                {**where, "closed_since": int(now[CLOSED_SINCE]) or None, "ended": ended}, steps.state
            )
    return state()


def _require_memory(device: torch.device, needed: int) -> None:
    if device.type != "cuda":
        return
    gc.collect()  # gates and the kernels that are bound to them refer to each other
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if needed > free:
        raise RunError(
            f"the fit takes {needed / 2**30:.1f} GiB of device memory; {torch.cuda.get_device_name(device)} "
            f"has {free / 2**30:.1f} GiB free: use engine 'cpu', or another device"
        )
