"""What a fit minimises over its targets: how far an estimate is from its target, and how much each counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import InputError

Float = NDArray[np.float64]

#: ``squared`` e^2; ``huber`` e^2 up to a knee, then a line; ``capped_mape`` min(|e|, cap).
LOSSES = ("squared", "huber", "capped_mape")


@dataclass(frozen=True)
class Loss:
    """Sum over targets of share times penalty of the error, e = (estimate - target) / scale.

    Where a target has a tolerance, |e| counts only as far as it goes beyond it. Build one with `loss_for`.

    Attributes
    ----------
    name
        One of `LOSSES`.
    target, scale, share, tolerance
        float64 (n_targets,): target, divisor of its error (> 0), its share in the loss (>= 0), and relative
        tolerance (>= 0).
    knee
        Where ``huber`` turns into a line, or ``capped_mape`` is capped (from where its derivative is 0).
    """

    name: str
    target: Float
    scale: Float
    share: Float
    tolerance: Float
    knee: float

    def value(self, estimate: Float) -> float:
        """Return the loss of `estimate`, float64 (n_targets,)."""
        return float(np.sum(self.terms(estimate)))

    def terms(self, estimate: Float) -> Float:
        """Return the part of each target in the loss, float64 (n_targets,)."""
        size = np.abs(self._beyond(estimate))
        if self.name == "squared":
            return self.share * size * size
        if self.name == "huber":
            inner = np.minimum(size, self.knee)
            return self.share * inner * (2.0 * size - inner)
        return self.share * np.minimum(size, self.knee)

    def derivative(self, estimate: Float) -> Float:
        """Return the derivative of the loss by each estimate, float64 (n_targets,)."""
        beyond = self._beyond(estimate)
        if self.name == "squared":
            slope = 2.0 * beyond
        elif self.name == "huber":
            slope = 2.0 * np.clip(beyond, -self.knee, self.knee)
        else:
            slope = np.where(np.abs(beyond) < self.knee, np.sign(beyond), 0.0)
        return self.share * slope / self.scale

    def _beyond(self, estimate: Float) -> Float:
        """Return the relative error less its tolerance, 0 within it."""
        error = (estimate - self.target) / self.scale
        return error - np.clip(error, -self.tolerance, self.tolerance)


def loss_for(
    targets: ArrayLike,
    *,
    name: str = "squared",
    gross: ArrayLike | None = None,
    scale_floor: float = 0.1,
    tolerance: ArrayLike = 0.0,
    knee: float | None = None,
    groups: ArrayLike | None = None,
    importance: ArrayLike | None = None,
) -> Loss:
    """Build a loss over targets of which any may be zero or negative.

    Parameters
    ----------
    targets
        (n_targets,), finite.
    name
        One of `LOSSES`.
    gross
        What the microdata hold, sum of ``|x|`` times the design weights, (n_targets,) >= 0. The scale of an
        error is max(``|target|``, scale_floor * gross), so a target of zero, or one far below what the
        microdata hold, neither divides by zero nor drowns the others; 1 where both are 0. None: 0.
    scale_floor
        0 or more.
    tolerance
        Relative to the scale, scalar or (n_targets,), >= 0: errors within it cost nothing.
    knee
        Of ``huber`` (default 0.1) and ``capped_mape`` (default 1), above 0.
    groups
        Group of each target, (n_targets,): each group has a share of 1, divided among its targets by
        importance. None: each target has a share of 1 on average.
    importance
        (n_targets,), >= 0, not all 0; default 1 each. A target of importance 0 has no share.

    Raises
    ------
    InputError
        An unknown name, or values out of range.

    >>> loss = loss_for([100.0, -1.0], name="capped_mape")
    >>> loss.value(np.array([90.0, -1.0])), loss.derivative(np.array([90.0, -1.0])).tolist()
    (0.1, [-0.01, 0.0])
    """
    if name not in LOSSES:
        raise InputError(
            "unknown loss", place="loss", value=name, expected="one of " + ", ".join(LOSSES), choices=LOSSES
        )
    t = np.asarray(targets, dtype=np.float64)
    if t.ndim != 1 or not np.isfinite(t).all():
        raise InputError("must be a vector of finite numbers", place="targets", value=t.shape)
    knee = {"huber": 0.1}.get(name, 1.0) if knee is None else knee
    for place, number, holds in (("knee", knee, knee > 0), ("scale_floor", scale_floor, scale_floor >= 0)):
        if not (np.isfinite(number) and holds):
            raise InputError("out of range", place=f"loss.{place}", value=number)
    mass, band, weight = (
        _not_negative(values, len(t), place)
        for values, place in (
            (0.0 if gross is None else gross, "gross"),
            (tolerance, "tolerance"),
            (1.0 if importance is None else importance, "importance"),
        )
    )
    if not weight.any():
        raise InputError("must not be all 0", place="loss.importance")
    scale = np.maximum(np.abs(t), scale_floor * mass)
    return Loss(name, t, np.where(scale > 0, scale, 1.0), equal_shares(weight, groups), band, float(knee))


def equal_shares(importance: Float, groups: ArrayLike | None) -> Float:
    """Divide a share of 1 a group (without groups, of 1 a target) by importance, (n_targets,)."""
    if groups is None:
        return importance * (np.count_nonzero(importance) / np.sum(importance))
    codes, _ = pd.factorize(np.asarray(groups), sort=True)
    if codes.shape != importance.shape or (codes < 0).any():
        raise InputError("one group for each target is needed", place="loss.groups", value=codes.shape)
    total = np.bincount(codes, weights=importance)[codes]
    return np.divide(importance, total, out=np.zeros_like(importance), where=total > 0)


def _not_negative(values: ArrayLike, n: int, place: str) -> Float:
    try:
        array = np.broadcast_to(np.asarray(values, dtype=np.float64), (n,)).copy()
    except (TypeError, ValueError) as error:
        raise InputError("not a number, nor one for each target", place=f"loss.{place}") from error
    if not np.isfinite(array).all() or (array < 0).any():
        first = int(np.flatnonzero(~(np.isfinite(array) & (array >= 0)))[0])
        raise InputError("must be 0 or more", place=f"loss.{place}[{first}]", value=float(array[first]))
    return array
