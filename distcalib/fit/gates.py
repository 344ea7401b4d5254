"""Hard-concrete gates (Louizos, Welling and Kingma 2017) with l0-python's conventions, in PyTorch."""

from __future__ import annotations

import math

import numpy as np
import scipy.special
import torch

from distcalib.errors import InputError
from distcalib.random import uniform

#: log alpha is clamped to this before use: beyond it the sigmoid is flat and its gradient gone.
LOG_ALPHA_BOUND = 20.0
#: Gate noise is clamped to (eps, 1 - eps), so that its log-odds stay finite.
UNIFORM_EPS = 1e-6


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
