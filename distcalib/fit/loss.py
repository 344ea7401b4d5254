"""What a fit minimises over its targets: how far an estimate is from its target, and how much each counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import InputError

Float = NDArray[np.float64]

#: ``squared`` e^2; ``huber`` e^2 up to a knee, then a line; ``capped_mape`` min(|e|, cap).
LOSSES = ("squared", "huber", "capped_mape")
#: Where ``huber`` turns into a line and where ``capped_mape`` is capped, when nobody says.
KNEES = {"squared": 1.0, "huber": 0.1, "capped_mape": 1.0}
#: A quadratic that touches |e| has a curvature of 1 / |e|; below this error it stays what it is here.
SHARPEST = 1e-4


@dataclass(frozen=True)
class Loss:
    """Sum over targets of share times penalty of the error, e = (estimate - target) / scale.

    Where a target has a tolerance, |e| counts only as far as it goes beyond it. Build one with `loss_for`.

    Fits work with residuals, r = sqrt(share) e: the squared loss is the sum of their squares.

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

    @cached_property
    def factor(self) -> Float:
        """sqrt(share) / scale, float64 (n_targets,): a residual is factor * estimate - goal."""
        return np.asarray(np.sqrt(self.share) / self.scale)

    @cached_property
    def goal(self) -> Float:
        """Factor times target, float64 (n_targets,)."""
        return self.factor * self.target

    @cached_property
    def plain(self) -> bool:
        """Whether this is the sum of squared residuals, without tolerances."""
        return self.name == "squared" and not self.tolerance.any()

    @cached_property
    def _root(self) -> Float:
        return np.asarray(np.sqrt(self.share))

    @cached_property
    def _band(self) -> Float:
        return self._root * self.tolerance

    @cached_property
    def _knee(self) -> Float:
        return self._root * self.knee

    def take(self, rows: NDArray[Any]) -> Loss:
        """Return the loss of some of the targets."""
        return Loss(
            self.name, self.target[rows], self.scale[rows], self.share[rows], self.tolerance[rows], self.knee
        )

    def with_target(self, target: float, scale: float, share: float) -> Loss:
        """Return the loss of these targets and one more, without tolerance."""
        return Loss(
            self.name,
            np.append(self.target, target),
            np.append(self.scale, scale),
            np.append(self.share, share),
            np.append(self.tolerance, 0.0),
            self.knee,
        )

    def value(self, estimate: Float) -> float:
        """Return the loss of `estimate`, float64 (n_targets,)."""
        return float(np.sum(self.terms(estimate)))

    def terms(self, estimate: Float) -> Float:
        """Return the part of each target in the loss, float64 (n_targets,)."""
        return self.terms_of(self._residual(estimate))

    def derivative(self, estimate: Float) -> Float:
        """Return the derivative of the loss by each estimate, float64 (n_targets,)."""
        return self.factor * self.slope_of(self._residual(estimate))

    def terms_of(self, residual: Float) -> Float:
        """Return the part of each target in the loss, of residuals (n_targets,)."""
        if self.plain:
            return residual * residual
        size = np.abs(self._beyond(residual))
        if self.name == "squared":
            return size * size
        inner = np.minimum(size, self._knee)
        return inner * (2.0 * size - inner) if self.name == "huber" else self._root * inner

    def slope_of(self, residual: Float) -> Float:
        """Return the derivative of the loss by each residual, (n_targets,)."""
        if self.plain:
            return 2.0 * residual
        beyond = self._beyond(residual)
        if self.name == "squared":
            return 2.0 * beyond
        if self.name == "huber":
            return 2.0 * np.clip(beyond, -self._knee, self._knee)
        return np.where(np.abs(beyond) < self._knee, self._root * np.sign(beyond), 0.0)

    def curvature_of(self, residual: Float) -> Float | None:
        """Return half the second derivative of the quadratic that touches the loss at each residual.

        Its slope over the residual: where a tolerance or a cap leaves no slope it is 0, for `huber` and
        `capped_mape` it lies above the loss (Huber and Ronchetti 2009, "Robust Statistics", section 7.8).
        None stands for 1 everywhere: the squared loss without tolerances.
        """
        if self.plain:
            return None
        size = np.abs(self._beyond(residual))
        if self.name == "squared":
            return np.where(size > 0, 1.0, 0.0)
        if self.name == "huber":
            inner = np.minimum(size, self._knee)
            return np.divide(inner, size, out=np.zeros_like(size), where=size > 0)
        sharp = 0.5 * self._root / np.maximum(size, SHARPEST * np.where(self._root > 0, self._root, 1.0))
        return np.where((size > 0) & (size < self._knee), sharp, 0.0)

    def _residual(self, estimate: Float) -> Float:
        # Not factor * estimate - goal: a target that is met has a residual of exactly 0.
        return self.factor * (estimate - self.target)

    def _beyond(self, residual: Float) -> Float:
        """Return the residual less its tolerance, 0 within it."""
        return residual - np.clip(residual, -self._band, self._band)


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
    knee = KNEES[name] if knee is None else knee
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


def furthest(residual: Float) -> int:
    """Return the number of the target with the largest |residual|; NaN counts as infinite."""
    return int(np.argmax(np.where(np.isnan(residual), np.inf, np.abs(residual))))


def row_furthest_off(residual: Float) -> str:
    """Name the target that is `furthest` off, for an error, where nothing but its number is known."""
    return f"row {furthest(residual)}"


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
