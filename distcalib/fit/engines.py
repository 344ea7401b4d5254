"""Selecting records: the gate stage of a fit, by interchangeable engines behind one call.

An engine takes a `FitProblem` and a `FitSpec` and returns a `GateFit`; `observe` is told the state at every
`log_every` epochs and cannot change it. numba and torch are imported by the first fit, not with this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.special
from numpy.typing import NDArray

from distcalib.errors import InputError, RunError
from distcalib.fit.checkpoint import Checkpoint
from distcalib.fit.problem import FitProblem
from distcalib.fit.spec import ADAM_MOMENTS, DEFAULT_LAMBDA_L0, LOG_ALPHA_BOUND, FitSpec
from distcalib.random import uniform

Float = NDArray[np.float64]
#: Factor an epoch by which the penalty rises while gates close too slowly for a record budget.
PENALTY_GROWTH = 1.02
#: Share of the epochs by which the schedule reaches the budget; the rest is for the last gates.
SCHEDULE_END = 0.9
#: The penalty is held while open gates are within this factor of the schedule: rank, not haste, picks the
#: rest.
SCHEDULE_SLACK = 1.1
#: Starts, each with half the penalty of the one before.
MOST_ATTEMPTS = 8
#: Columns that are looked at together where a temporary array for all of them would be felt.
_BLOCK, _FEW = 1 << 16, 1 << 12


@dataclass(frozen=True)
class GateFit:
    """State of the gates after an epoch. The arrays are the engine's own: read them at once, or at the end.

    Attributes
    ----------
    epoch, attempt
        Adam steps done, and which start they belong to (1 unless a record budget restarted the stage).
    lambda_l0
        Penalty per open gate at that epoch.
    log_alpha, log_weight
        float64, one a usable column: gate parameter, log of weight over initial weight before the gate.
    expected_open
        Sum of keep probabilities.
    closed_since
        Epoch since which no gate is open without noise; None where one is.
    """

    epoch: int
    attempt: int
    lambda_l0: float
    log_alpha: Float
    log_weight: Float
    expected_open: float
    closed_since: int | None

    def gate(self, spec: FitSpec) -> Float:
        """Return the deterministic gates, in [0, 1]."""
        out = np.empty_like(self.log_alpha)
        for a in range(0, len(out), _BLOCK):
            bounded = np.clip(self.log_alpha[a : a + _BLOCK], -LOG_ALPHA_BOUND, LOG_ALPHA_BOUND)
            stretched = scipy.special.expit(bounded / spec.beta) * (spec.zeta - spec.gamma) + spec.gamma
            out[a : a + _BLOCK] = np.clip(stretched, 0.0, 1.0)
        return out

    def relative_weight(self, spec: FitSpec) -> Float:
        """Return weight over initial weight, gates applied."""
        out = self.gate(spec)
        for a in range(0, len(out), _BLOCK):
            out[a : a + _BLOCK] *= np.exp(self.log_weight[a : a + _BLOCK])
        return out


Observer = Callable[[GateFit], None]
Engine = Callable[[FitProblem, FitSpec, Observer, int, Checkpoint | None], GateFit]


class Steps(Protocol):
    """What `train` drives: epochs of Adam over the arrays of `state`, which it changes in place.

    Attributes
    ----------
    state
        log_weight, log_alpha, float64, and their first and second moments mw, vw, ma, va, one a column.
    expected_open, open
        After the last step: sum of keep probabilities, number of gates open without noise.
    residual
        factor * (estimate - target) of the last step's sample, (n_targets,).
    """

    state: dict[str, Float]
    expected_open: float
    open: int
    residual: Float

    def begin(self, epoch: int) -> None:
        """Make ready for the step after `epoch`, from `state` alone."""

    def step(self, epoch: int, penalty: float) -> float:
        """Take a step; return the loss of the epoch's sample before it."""


class CpuGates:
    """Adam steps of gates and weights by the fused kernel: one pass over the columns an epoch.

    Moments are kept in float32 (and computed in float64): 32 bytes a column of state, and 4 for the gate of
    the sample. Any number of threads gives the same bits.
    """

    def __init__(self, problem: FitProblem, spec: FitSpec, start: dict[str, Float]) -> None:
        for name in ("mw", "vw", "ma", "va"):
            start[name] = start[name].astype(np.float32, copy=False)
        self.problem, self.spec, self.state = problem, spec, start
        n_targets, n = problem.usable.shape
        self._drawn = np.zeros(n, dtype=np.float32)
        self._parts = np.empty((len(problem.usable.borders) - 1, n_targets))
        self._sums = np.empty((len(self._parts), 3))
        self._goal = problem.goal
        chosen = problem.usable.columns
        self._initial = problem.initial[chosen] if len(chosen) else problem.initial.view()
        self._initial.flags.writeable = False
        self.residual = np.zeros(n_targets)

    def begin(self, epoch: int) -> None:
        """Make ready for the step after `epoch`."""
        self._pass(epoch, 0.0, False)

    def step(self, epoch: int, penalty: float) -> float:
        """Take a step; return the loss of the epoch's sample before it."""
        with np.errstate(over="ignore", invalid="ignore"):
            loss = float(np.sum(self.problem.objective.terms_of(self.residual)))
        loss += penalty * self.expected_open + self.spec.lambda_l2 * self._squares
        if math.isfinite(loss):
            self._pass(epoch, penalty, True)
        return loss

    def _pass(self, epoch: int, penalty: float, move: bool) -> None:
        from distcalib.fit import kernel

        spec, p, (b1, b2) = self.spec, self.problem, ADAM_MOMENTS
        settings = (
            *(float(v) for v in (spec.beta, spec.gamma, spec.zeta)),
            -spec.beta * math.log(-spec.gamma / spec.zeta),
            *spec.log_bounds(),
            float(penalty),
            float(spec.lambda_l2),
            spec.learning_rate / (1 - b1 ** max(epoch, 1)),
            1 - b2 ** max(epoch, 1),
        )
        key, state = kernel.noise_key(spec.seed, epoch + 1), (*self.state.values(), self._drawn)
        slope = p.factor * p.objective.slope_of(self.residual)

        def work(i: int, start: int, stop: int) -> None:
            kernel.epoch_of_chunk(
                p.usable.arrays,
                self._initial,
                state,
                key,
                settings,
                slope,
                self._parts[i],
                self._sums[i],
                start,
                stop,
                move,
            )

        p.usable.each_chunk(work)
        self.residual = p.factor * self._parts.sum(axis=0) - self._goal
        expected, squares, still_open = self._sums.sum(axis=0).tolist()
        self.expected_open, self._squares, self.open = expected, squares, int(still_open)


def cpu_engine(
    problem: FitProblem, spec: FitSpec, observe: Observer, log_every: int, saved: Checkpoint | None = None
) -> GateFit:
    """Train by the fused kernel (`CpuGates`)."""
    return train(CpuGates, problem, spec, observe, log_every, saved, moments=np.float32)


def torch_engine(
    problem: FitProblem, spec: FitSpec, observe: Observer, log_every: int, saved: Checkpoint | None = None
) -> GateFit:
    """Train by PyTorch (`distcalib.fit.gates.TorchGates`), with the same noise."""
    from distcalib.fit.gates import TorchGates

    return train(TorchGates, problem, spec, observe, log_every, saved)


def cuda_engine(
    problem: FitProblem, spec: FitSpec, observe: Observer, log_every: int, saved: Checkpoint | None = None
) -> GateFit:
    """Train on a CUDA device (`distcalib.fit.device`), with the same noise."""
    from distcalib.fit.device import cuda_device, train_on

    return train_on(cuda_device(), problem, spec, observe, log_every, saved)


def starting_state(problem: FitProblem, spec: FitSpec, moments: type = np.float64) -> dict[str, Float]:
    """Return the `Steps.state` that a fit starts from: gates open, initial weights, and jitter."""
    n = problem.usable.shape[1]
    state: dict[str, Any] = {name: np.zeros(n) for name in ("log_weight", "log_alpha")}
    state |= {name: np.zeros(n, dtype=moments) for name in ("mw", "vw", "ma", "va")}
    start_anew(state, problem, spec)
    return state


def start_anew(state: dict[str, Float], problem: FitProblem, spec: FitSpec) -> None:
    """Set the arrays of a `Steps.state` to what a fit starts from."""
    for values in state.values():
        values[:] = 0.0
    state["log_alpha"] += math.log(spec.initial_keep / (1 - spec.initial_keep))
    jitters = (("log_weight", "log-weight-jitter", spec.log_weight_jitter),
               ("log_alpha", "log-alpha-jitter", spec.log_alpha_jitter))  # fmt: skip
    chosen, n = problem.usable.columns, problem.usable.shape[1]
    for a in range(0, n, _FEW):
        columns = chosen[a : a + _FEW] if len(chosen) else np.arange(a, min(a + _FEW, n))
        for name, stream, deviation in jitters:
            if deviation > 0:
                drawn = deviation * scipy.special.ndtri(uniform(spec.seed, stream, columns))
                state[name][a : a + _FEW] += drawn


def train(
    make: Callable[[FitProblem, FitSpec, dict[str, Float]], Any],
    problem: FitProblem,
    spec: FitSpec,
    observe: Observer,
    log_every: int,
    saved: Checkpoint | None = None,
    attempt: Callable[..., GateFit] | None = None,
    moments: type = np.float64,
) -> GateFit:
    """Train gates and weights by Adam, float64, with counter-based noise.

    `make` gives `Steps`, or has only their `state` where `attempt` is there to drive it; it is handed a state
    with `moments` of that type.

    Every random number is a function of (seed, epoch, column) and every sum has one order, so the result does
    not depend on threads or logging.

    With a record budget and no penalty, the penalty starts from an estimate and is held while the gates
    close: if the attainable loss falls as 1 / records, the loss per record at K of n records is (loss / n) (n
    / K)^2. It rises only when closing lags behind a schedule, because late rises close gates in haste;
    training ends when the expected number of open gates is down to the budget. A penalty that gets there in
    less than half of the epochs was too high, and training starts again with half of it.
    """
    n = problem.usable.shape[1]
    budget = spec.records if spec.lambda_l0 is None else None
    first = DEFAULT_LAMBDA_L0 if spec.lambda_l0 is None else spec.lambda_l0
    if budget is not None:
        loss = min(problem.loss(problem.initial), float(np.sum(problem.share)))
        first = spec.budget_penalty * loss * n / budget**2
    schedule = _budget_schedule(n, budget, spec) if budget is not None else None
    at = {"attempt": 1, "epoch": 0, "penalty": first, "closed_since": None, "ended": False}
    steps = make(problem, spec, starting_state(problem, spec, moments))
    if saved is not None:
        at = saved.load(steps.state) or at
    while True:
        result = (attempt or _attempt)(steps, problem, spec, at, schedule, budget, observe, log_every, saved)
        too_fast = result.lambda_l0 == first / 2 ** (result.attempt - 1) and result.epoch < spec.epochs / 2
        if budget is None or not too_fast or result.attempt == MOST_ATTEMPTS:
            return result
        at = {**at, "attempt": result.attempt + 1, "epoch": 0, "closed_since": None, "ended": False}
        at["penalty"] = first / 2**result.attempt
        start_anew(steps.state, problem, spec)


def _attempt(
    steps: Steps,
    problem: FitProblem,
    spec: FitSpec,
    at: dict[str, Any],
    schedule: Callable[[int], float] | None,
    budget: int | None,
    observe: Observer,
    log_every: int,
    saved: Checkpoint | None,
) -> GateFit:
    """Train from where `at` says, to the last epoch or to the budget."""
    steps.begin(at["epoch"])
    attempt, penalty, closed_since = at["attempt"], at["penalty"], at["closed_since"]

    def state(epoch: int) -> GateFit:
        arrays = steps.state["log_alpha"], steps.state["log_weight"]
        return GateFit(epoch, attempt, penalty, *arrays, steps.expected_open, closed_since)

    epoch, ended = at["epoch"], at["ended"]
    while not ended:
        epoch += 1
        loss = steps.step(epoch, penalty)
        if not math.isfinite(loss):
            worst = problem.worst(steps.residual)
            raise RunError(f"the fit diverged at epoch {epoch}: the loss is {loss} ({worst} is furthest off)")
        closed_since = None if steps.open else closed_since or epoch
        ended = epoch == spec.epochs or (budget is not None and steps.expected_open <= budget)
        if ended or epoch % log_every == 0:
            observe(state(epoch))
        if not ended and schedule is not None and steps.expected_open > schedule(epoch):
            penalty *= PENALTY_GROWTH
        if saved is not None:
            now = {"attempt": attempt, "epoch": epoch, "penalty": penalty}
            saved.offer({**now, "closed_since": closed_since, "ended": ended}, steps.state)
    return state(epoch)


def _budget_schedule(n: int, budget: int, spec: FitSpec) -> Callable[[int], float]:
    """Return epoch -> number of open gates above which the penalty rises.

    Nothing is asked before a gate can have closed: log alpha moves by at most the learning rate an epoch.
    Then the logarithm of the number falls as a parabola, as it does by itself under the right penalty
    (measured), and reaches the budget (with some slack) at SCHEDULE_END of the epochs.
    """
    opening = math.log(spec.initial_keep / (1 - spec.initial_keep))
    closing = spec.beta * math.log(-spec.gamma / spec.zeta)
    travel = math.ceil((opening - closing) / spec.learning_rate)
    span = max(SCHEDULE_END * spec.epochs - travel, 1.0)

    def allowed(epoch: int) -> float:
        if epoch < travel:
            return math.inf
        left = max(1.0 - (epoch - travel) / span, 0.0)
        return float(budget * (n / budget) ** (left * left)) * SCHEDULE_SLACK

    return allowed


def l0_engine(
    problem: FitProblem, spec: FitSpec, observe: Observer, log_every: int, saved: Checkpoint | None = None
) -> GateFit:
    """Train the gates by l0-python's ``SparseCalibrationWeights``: the reference, in float32.

    It gets the scaled problem (so targets of 0 and -1 are sound) and all epochs in one call, because its
    optimiser starts afresh at each call; so only the end is observed. It does not bound the weights while
    training, and its gate noise comes from torch's own generator, seeded here and put back afterwards. It
    keeps no checkpoints.
    """
    import torch
    from l0.calibration import SparseCalibrationWeights

    from distcalib.fit.gates import one_torch_thread

    if not problem.objective.plain:
        raise InputError(
            "engine 'l0' knows the squared loss without tolerances alone", place="fit.loss",
            value=spec.loss, expected="squared, or engine 'cpu'",
        )  # fmt: skip
    if spec.records is not None and spec.lambda_l0 is None:
        raise InputError(
            "engine 'l0' cannot raise the penalty to a record budget", place="fit.lambda_l0",
            expected="a penalty beside records, or engine 'cpu'",
        )  # fmt: skip
    penalty = DEFAULT_LAMBDA_L0 if spec.lambda_l0 is None else spec.lambda_l0
    # l0-python leaves torch's sparse checks undecided, which torch warns of; its matrix comes from scipy.
    checks = torch.sparse.check_sparse_tensor_invariants(enable=False)
    with one_torch_thread(), torch.random.fork_rng(devices=[]), checks:
        torch.manual_seed(spec.seed)
        model = SparseCalibrationWeights(
            problem.usable.shape[1],
            beta=spec.beta,
            gamma=spec.gamma,
            zeta=spec.zeta,
            init_keep_prob=spec.initial_keep,
            init_weights=1.0,
            log_weight_jitter_sd=spec.log_weight_jitter,
            log_alpha_jitter_sd=spec.log_alpha_jitter,
            seed=spec.seed,
        )
        model.fit(
            problem.usable.scaled_csr(problem.factor, problem.initial[problem.columns], np.float32),
            problem.goal,
            lambda_l0=penalty,
            lambda_l2=spec.lambda_l2,
            lr=spec.learning_rate,
            epochs=spec.epochs,
            loss_type="mse",
        )
        with torch.no_grad():
            gates = model.get_deterministic_gates()
            result = GateFit(
                spec.epochs, 1, penalty, model.log_alpha.numpy().astype(np.float64),
                model.log_weight.numpy().astype(np.float64), float(model.get_l0_penalty()),
                None if bool((gates > 0).any()) else spec.epochs,
            )  # fmt: skip
    if not (np.isfinite(result.log_alpha).all() and np.isfinite(result.log_weight).all()):
        raise RunError(f"the fit diverged within {spec.epochs} epochs of engine 'l0'")
    observe(result)
    return result


#: Engines by name. ``auto`` is no engine: it is resolved when a run is planned, so that the plan names one.
ENGINES: dict[str, Engine] = {"cpu": cpu_engine, "torch": torch_engine, "cuda": cuda_engine, "l0": l0_engine}


def resolve_engine(name: str) -> str:
    """Return the engine that a name stands for (``auto`` -> ``cpu``); an unknown one is an `InputError`.

    >>> resolve_engine("auto")
    'cpu'
    """
    if name == "auto":
        return "cpu"
    if name not in ENGINES:
        choices = ["auto", *ENGINES]
        raise InputError(
            "unknown engine", place="fit.engine", value=name,
            expected="one of " + ", ".join(choices), choices=choices,
        )  # fmt: skip
    return name
