"""Selecting records: the gate stage of a fit, by interchangeable engines behind one call.

An engine takes a `FitProblem` and a `FitSpec` and returns a `GateFit`; `observe` is told the state at every
`log_every` epochs and cannot change it. torch is imported by the first fit, not with this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.special
from numpy.typing import NDArray

from distcalib.errors import InputError, RunError
from distcalib.fit.problem import FitProblem
from distcalib.fit.spec import DEFAULT_LAMBDA_L0, FitSpec
from distcalib.random import uniform

Float = NDArray[np.float64]
ADAM_MOMENTS = (0.9, 0.999)
ADAM_EPS = 1e-8
#: Factor an epoch by which the penalty rises while gates close too slowly for a record budget.
PENALTY_GROWTH = 1.02
#: Share of the epochs by which the schedule reaches the budget; the rest is for the last gates.
SCHEDULE_END = 0.9
#: The penalty is held while open gates are within this factor of the schedule: rank, not haste, picks the
#: rest.
SCHEDULE_SLACK = 1.1
#: Starts, each with half the penalty of the one before.
MOST_ATTEMPTS = 8


@dataclass(frozen=True)
class GateFit:
    """State of the gates after an epoch.

    Attributes
    ----------
    epoch, attempt
        Adam steps done, and which start they belong to (1 unless a record budget restarted the stage).
    lambda_l0
        Penalty per open gate at that epoch.
    log_alpha, gate, relative_weight
        float64, one a usable column: gate parameter, deterministic gate in [0, 1], weight over initial weight
        before the gate.
    expected_open
        Sum of keep probabilities.
    """

    epoch: int
    attempt: int
    lambda_l0: float
    log_alpha: Float
    gate: Float
    relative_weight: Float
    expected_open: float


Observer = Callable[[GateFit], None]
Engine = Callable[[FitProblem, FitSpec, Observer, int], GateFit]


def torch_engine(problem: FitProblem, spec: FitSpec, observe: Observer, log_every: int) -> GateFit:
    """Train gates and weights by Adam in PyTorch, float64, one thread, with counter-based noise.

    X.w and its gradient are compressed-row products in a fixed order, and every random number is a function
    of (seed, epoch, column), so the result does not depend on threads or logging.

    With a record budget and no penalty, the penalty starts from an estimate and is held while the gates
    close: if the attainable loss falls as 1 / records, the loss per record at K of n records is (loss / n) (n
    / K)^2. It rises only when closing lags behind a schedule, because late rises close gates in haste;
    training ends when the expected number of open gates is down to the budget. A penalty that gets there in
    less than half of the epochs was too high, and training starts again with half of it.
    """
    if spec.records is None or spec.lambda_l0 is not None:
        penalty = DEFAULT_LAMBDA_L0 if spec.lambda_l0 is None else spec.lambda_l0
        return _train(problem, spec, penalty, None, 1, observe, log_every)
    n = len(problem.columns)
    loss = min(problem.loss(problem.initial), float(np.sum(problem.share)))
    penalty = spec.budget_penalty * loss * n / spec.records**2
    for attempt in range(1, MOST_ATTEMPTS + 1):
        result = _train(problem, spec, penalty, spec.records, attempt, observe, log_every)
        too_fast = result.lambda_l0 == penalty and result.epoch < spec.epochs / 2
        if not too_fast:
            break
        penalty /= 2
    return result


def _train(
    problem: FitProblem,
    spec: FitSpec,
    penalty: float,
    budget: int | None,
    attempt: int,
    observe: Observer,
    log_every: int,
) -> GateFit:
    import torch

    from distcalib.fit.gates import HardConcrete

    n = len(problem.columns)
    with one_torch_thread():
        product = _fixed_order_product(problem.matrix, problem.matrix_t)
        gates = HardConcrete(
            n,
            temperature=spec.beta,
            gamma=spec.gamma,
            zeta=spec.zeta,
            init_mean=spec.initial_keep,
            jitter=spec.log_alpha_jitter,
            seed=spec.seed,
            items=problem.columns,
        )
        start = np.zeros(n)
        if spec.log_weight_jitter > 0:
            start = scipy.special.ndtri(uniform(spec.seed, "log-weight-jitter", problem.columns))
        log_weight = torch.from_numpy(start * spec.log_weight_jitter).requires_grad_()
        low, high = _log_bounds(spec)
        goal = torch.from_numpy(problem.goal)
        step = _adam([log_weight, gates.log_alpha], spec.learning_rate)
        schedule = _budget_schedule(n, budget, spec) if budget is not None else None

        for epoch in range(1, spec.epochs + 1):
            relative = torch.exp(log_weight)
            estimate = product(relative * gates.sample(gates.noise(epoch)))
            loss = ((estimate - goal) ** 2).sum() + penalty * gates.penalty()
            if spec.lambda_l2 > 0:
                loss = loss + spec.lambda_l2 * (relative**2).sum()
            if not math.isfinite(float(loss.detach())):
                raise RunError(f"the fit diverged at epoch {epoch}: the loss is {float(loss.detach())}")
            loss.backward()
            step(epoch)
            with torch.no_grad():
                log_weight.clamp_(low, high)
                expected_open = float(gates.penalty())
            last = epoch == spec.epochs or (budget is not None and expected_open <= budget)
            if last or epoch % log_every == 0:
                with torch.no_grad():
                    state = GateFit(
                        epoch,
                        attempt,
                        penalty,
                        gates.log_alpha.numpy().copy(),
                        gates.deterministic().numpy(),
                        torch.exp(log_weight).numpy(),
                        expected_open,
                    )
                observe(state)
            if last:
                break
            if schedule is not None and expected_open > schedule(epoch):
                penalty *= PENALTY_GROWTH
        return state


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


def l0_engine(problem: FitProblem, spec: FitSpec, observe: Observer, log_every: int) -> GateFit:
    """Train the gates by l0-python's ``SparseCalibrationWeights``: the reference, in float32.

    It gets the scaled problem (so targets of 0 and -1 are sound) and all epochs in one call, because its
    optimiser starts afresh at each call; so only the end is observed. It does not bound the weights while
    training, and its gate noise comes from torch's own generator, seeded here and put back afterwards.
    """
    import torch
    from l0.calibration import SparseCalibrationWeights

    if spec.records is not None and spec.lambda_l0 is None:
        raise InputError(
            "engine 'l0' cannot raise the penalty to a record budget",
            place="fit.lambda_l0",
            expected="a penalty beside records, or engine 'torch'",
        )
    penalty = DEFAULT_LAMBDA_L0 if spec.lambda_l0 is None else spec.lambda_l0
    # l0-python leaves torch's sparse checks undecided, which torch warns of; its matrix comes from scipy.
    checks = torch.sparse.check_sparse_tensor_invariants(enable=False)
    with one_torch_thread(), torch.random.fork_rng(devices=[]), checks:
        torch.manual_seed(spec.seed)
        model = SparseCalibrationWeights(
            len(problem.columns),
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
            sp.csr_matrix(problem.matrix, dtype=np.float32),
            problem.goal,
            lambda_l0=penalty,
            lambda_l2=spec.lambda_l2,
            lr=spec.learning_rate,
            epochs=spec.epochs,
            loss_type="mse",
        )
        with torch.no_grad():
            result = GateFit(
                spec.epochs,
                1,
                penalty,
                model.log_alpha.numpy().astype(np.float64),
                model.get_deterministic_gates().numpy().astype(np.float64),
                torch.exp(model.log_weight).numpy().astype(np.float64),
                float(model.get_l0_penalty()),
            )
    if not (np.isfinite(result.log_alpha).all() and np.isfinite(result.relative_weight).all()):
        raise RunError(f"the fit diverged within {spec.epochs} epochs of engine 'l0'")
    observe(result)
    return result


#: Engines by name. ``auto`` is no engine: it is resolved when a run is planned, so that the plan names one.
ENGINES: dict[str, Engine] = {"torch": torch_engine, "l0": l0_engine}


def resolve_engine(name: str) -> str:
    """Return the engine that a name stands for (``auto`` -> ``torch``); an unknown one is an `InputError`.

    >>> resolve_engine("auto")
    'torch'
    """
    if name == "auto":
        return "torch"
    if name not in ENGINES:
        choices = ["auto", *ENGINES]
        raise InputError(
            "unknown engine",
            place="fit.engine",
            value=name,
            expected="one of " + ", ".join(choices),
            choices=choices,
        )
    return name


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run torch with one thread, whatever the process had: its sums then have one order and one result."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fixed_order_product(matrix: sp.csr_array, transpose: sp.csr_array) -> Callable[[Any], Any]:
    """Return v -> matrix @ v for torch autograd; matrix and transpose are prepared once and never rebuilt."""
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, v: Any) -> Any:
            return torch.from_numpy(matrix @ v.detach().numpy())

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return torch.from_numpy(transpose @ gradient.numpy())

    return Product.apply


def _adam(parameters: list[Any], learning_rate: float) -> Callable[[int], None]:
    """Return a step of Adam (Kingma and Ba 2015, algorithm 1), which clears the gradients it used.

    Written out because ``torch.optim`` imports the compiler (seconds) and hides the moments, which a
    checkpoint will need.
    """
    import torch

    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    b1, b2 = ADAM_MOMENTS

    @torch.no_grad()
    def step(epoch: int) -> None:
        for p, m, s in zip(parameters, first, second, strict=True):
            m.mul_(b1).add_(p.grad, alpha=1 - b1)
            s.mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
            scale = (s / (1 - b2**epoch)).sqrt_().add_(ADAM_EPS)
            p.addcdiv_(m, scale, value=-learning_rate / (1 - b1**epoch))
            p.grad = None

    return step


def _log_bounds(spec: FitSpec) -> tuple[float, float]:
    low = math.log(spec.lower_bound) if spec.lower_bound > 0 else -math.inf
    return low, math.log(spec.upper_bound)
