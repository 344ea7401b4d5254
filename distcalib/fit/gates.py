"""Hard-concrete gates (Louizos, Welling and Kingma 2017) with l0-python's conventions, in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.fit.loss import Loss
from distcalib.fit.problem import FitProblem
from distcalib.fit.spec import ADAM_EPS, ADAM_MOMENTS, LOG_ALPHA_BOUND, UNIFORM_EPS, FitSpec
from distcalib.random import uniform


class HardConcrete(torch.nn.Module):
    """Gates in [0, 1] that are exactly 0 or 1 with positive probability, with a differentiable L0 penalty.

    Parameters
    ----------
    n_items
        Number of gates.
    temperature
        beta; smaller is closer to a coin toss.
    gamma, zeta
        The concrete variable in (0, 1) is stretched to (gamma, zeta) and clipped to [0, 1]; gamma < 0 < 1 <
        zeta.
    init_mean
        Keep probability that log alpha starts from: log alpha = logit(init_mean), before jitter.
    jitter
        Standard deviation of the normal noise on the starting log alpha.
    seed
        Of jitter and gate noise; both are counter-based, keyed by (seed, draw, item).
    items
        Item numbers that key the noise, shape (n_items,); None: 0, 1, 2, ...

    Attributes
    ----------
    log_alpha
        float64 parameter, shape (n_items,).
    """

    def __init__(
        self,
        n_items: int,
        temperature: float = 0.35,
        gamma: float = -0.1,
        zeta: float = 1.1,
        init_mean: float = 0.999,
        jitter: float = 0.0,
        seed: int = 0,
        items: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        if not 0 < init_mean < 1:
            raise InputError("must lie between 0 and 1", place="HardConcrete.init_mean", value=init_mean)
        self.temperature, self.gamma, self.zeta, self.seed = temperature, gamma, zeta, seed
        self.items = np.arange(n_items) if items is None else np.asarray(items)
        self.draws = 0
        start = np.full(n_items, math.log(init_mean / (1 - init_mean)))
        if jitter > 0:
            start += jitter * scipy.special.ndtri(uniform(seed, "log-alpha-jitter", self.items))
        self.log_alpha = torch.nn.Parameter(torch.from_numpy(start))

    def noise(self, draw: int) -> torch.Tensor:
        """Return uniform noise, float64, shape (n_items,): a function of (seed, draw, item)."""
        u = np.clip(uniform(self.seed, "gate", draw, self.items), UNIFORM_EPS, 1 - UNIFORM_EPS)
        return torch.from_numpy(u)

    def sample(self, u: torch.Tensor) -> torch.Tensor:
        """Return the gates for uniform noise `u` in (0, 1) (equation 10)."""
        return self._stretch((torch.log(u) - torch.log1p(-u) + self._bounded()) / self.temperature)

    def deterministic(self) -> torch.Tensor:
        """Return the gates used after training: as for noise of one half."""
        return self._stretch(self._bounded() / self.temperature)

    def keep_probability(self) -> torch.Tensor:
        """Return the probability that each gate is not 0 (equation 12)."""
        return torch.sigmoid(self._bounded() - self.temperature * math.log(-self.gamma / self.zeta))

    def penalty(self) -> torch.Tensor:
        """Return the expected number of gates that are not 0."""
        return self.keep_probability().sum()

    def forward(self) -> torch.Tensor:
        """Return sampled gates in training mode (a new draw at each call), else the deterministic ones."""
        if not self.training:
            return self.deterministic()
        self.draws += 1
        return self.sample(self.noise(self.draws))

    def _bounded(self) -> torch.Tensor:
        return self.log_alpha.clamp(-LOG_ALPHA_BOUND, LOG_ALPHA_BOUND)

    def _stretch(self, logit: torch.Tensor) -> torch.Tensor:
        return (torch.sigmoid(logit) * (self.zeta - self.gamma) + self.gamma).clamp(0, 1)


class TorchGates:
    """Adam steps of gates and weights in PyTorch, float64, with autograd: the check on the fused kernel.

    It holds the scaled matrix and its transpose in float64 besides the compact one. See
    `distcalib.fit.engines.Steps` for what the attributes and methods mean.
    """

    def __init__(self, problem: FitProblem, spec: FitSpec, start: dict[str, NDArray[np.float64]]) -> None:
        self.problem, self.spec = problem, spec
        columns = problem.columns
        matrix = problem.usable.scaled_csr(problem.factor, problem.initial[columns])
        self._product = _fixed_order_product(matrix, matrix.T.tocsr())
        self.state = start
        self._gates = HardConcrete(
            len(columns),
            temperature=spec.beta,
            gamma=spec.gamma,
            zeta=spec.zeta,
            seed=spec.seed,
            items=columns,
        )
        # The same memory, so that what a step does to the one is seen in the other.
        self._gates.log_alpha = torch.nn.Parameter(torch.from_numpy(start["log_alpha"]))
        self._log_weight = torch.from_numpy(start["log_weight"]).requires_grad_()
        self._moments = [torch.from_numpy(start[name]) for name in ("mw", "vw", "ma", "va")]
        self._goal = torch.from_numpy(problem.goal)
        self._loss = _loss(problem.objective)

    def begin(self, epoch: int) -> None:
        """Make ready for the step after `epoch`."""
        self._look()

    def step(self, epoch: int, penalty: float) -> float:
        """Take a step; return the loss of the epoch's sample before it."""
        with one_torch_thread():
            relative = torch.exp(self._log_weight)
            estimate = self._product(relative * self._gates.sample(self._gates.noise(epoch)))
            residual = estimate - self._goal
            self.residual = residual.detach().numpy()
            loss = self._loss(residual) + penalty * self._gates.penalty()
            if self.spec.lambda_l2 > 0:
                loss = loss + self.spec.lambda_l2 * (relative**2).sum()
            if math.isfinite(float(loss.detach())):
                loss.backward()
                self._adam(epoch)
                self._look()
        return float(loss.detach())

    @torch.no_grad()
    def _adam(self, epoch: int) -> None:
        """Take a step of Adam (Kingma and Ba 2015, algorithm 1), and clear the gradients."""
        (b1, b2), rate = ADAM_MOMENTS, self.spec.learning_rate
        mw, vw, ma, va = self._moments
        for p, m, s in ((self._log_weight, mw, vw), (self._gates.log_alpha, ma, va)):
            m.mul_(b1).add_(p.grad, alpha=1 - b1)
            s.mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
            scale = (s / (1 - b2**epoch)).sqrt_().add_(ADAM_EPS)
            p.addcdiv_(m, scale, value=-rate / (1 - b1**epoch))
            p.grad = None
        self._log_weight.clamp_(*self.spec.log_bounds())

    @torch.no_grad()
    def _look(self) -> None:
        self.expected_open = float(self._gates.penalty())
        self.open = int(torch.count_nonzero(self._gates.deterministic()))


def _fixed_order_product(matrix: Any, transpose: Any) -> Any:
    """Return v -> matrix @ v for torch autograd; matrix and transpose are prepared once and never rebuilt."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, v: Any) -> Any:
            return torch.from_numpy(matrix @ v.detach().numpy())

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return torch.from_numpy(transpose @ gradient.numpy())

    return Product.apply


def _loss(objective: Loss) -> Any:
    """Return residual -> loss for torch autograd."""

    class Total(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, residual: Any) -> Any:
            ctx.save_for_backward(residual)
            return torch.tensor(np.sum(objective.terms_of(residual.detach().numpy())))

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient * torch.from_numpy(objective.slope_of(ctx.saved_tensors[0].numpy()))

    return Total.apply


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run torch with one thread, whatever the process had: its sums then have one order and one result."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
