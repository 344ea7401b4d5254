"""Validation and scaling: what every engine and the refit solve, as one sparse least-squares problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from distcalib.digest import digest_arrays
from distcalib.errors import InputError
from distcalib.fit.columns import Columns
from distcalib.fit.diagnostics import reachable_targets
from distcalib.fit.loss import Loss, furthest, loss_for
from distcalib.fit.spec import FitSpec
from distcalib.random import uniform

Float = NDArray[np.float64]


@dataclass(frozen=True)
class FitProblem:
    """The loss of X @ w over weights w = v * initial, v > 0 the relative weights.

    Attributes
    ----------
    X
        The caller's matrix, compact, (n_targets, n_columns).
    usable
        Its columns with a positive initial weight; the cells are shared.
    initial
        float64 (n_columns,), derived where none was given.
    objective
        Of all targets, (n_targets,): what is not fitted has no share in it.
    fitted, held_out
        Boolean masks over targets.
    excluded
        Row number -> reason, of targets that no weights can reach; in neither mask.
    group_codes, group_names
        Group of each target; None where the caller gave no groups.
    names, group_labels
        What errors call each target and its group, (n_targets,); None where nobody said.
    """

    X: Columns
    usable: Columns
    initial: Float
    objective: Loss
    fitted: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    excluded: dict[int, str]
    group_codes: NDArray[np.int64] | None
    group_names: list[object]
    names: NDArray[np.object_] | None = None
    group_labels: NDArray[np.object_] | None = None

    @property
    def targets(self) -> Float:
        """float64 (n_targets,)."""
        return self.objective.target

    @property
    def scale(self) -> Float:
        """Divisor of each target's error, (n_targets,)."""
        return self.objective.scale

    @property
    def share(self) -> Float:
        """Weight of each target in the loss (0 where not fitted), (n_targets,)."""
        return self.objective.share

    @property
    def factor(self) -> Float:
        """sqrt(share) / scale of each target, (n_targets,); 0 where it is not fitted."""
        return self.objective.factor

    @property
    def goal(self) -> Float:
        """Factor * targets, (n_targets,)."""
        return self.objective.goal

    @property
    def columns(self) -> NDArray[np.int64]:
        """Numbers of the usable columns."""
        return self.usable.columns if len(self.usable.columns) else np.arange(self.usable.shape[1])

    def loss(self, weights: Float) -> float:
        """Return the loss of `weights` (n_columns,)."""
        return self.loss_of(self.X.estimate(weights))

    @np.errstate(over="ignore", invalid="ignore")  # who fits says that a loss is infinite
    def loss_of(self, estimate: Float) -> float:
        """Return the loss of an estimate (n_targets,)."""
        return float(np.sum(self.objective.terms(estimate)[self.fitted]))

    def held_out_error(self, weights: Float) -> float:
        """Return the mean over held-out targets of min(|relative error|, 1)."""
        return self.held_out_error_of(self.X.estimate(weights))

    def held_out_error_of(self, estimate: Float) -> float:
        """Return `held_out_error` of an estimate (n_targets,)."""
        error = ((estimate - self.targets) / self.scale)[self.held_out]
        return float(np.mean(np.minimum(np.abs(error), 1.0)))

    def worst(self, residual: Float) -> str:
        """Name the target with the largest residual, and its group, for an error."""
        row = furthest(residual)
        said = f"row {row}" if self.names is None else f"row {row} ({self.names[row]})"
        return said if self.group_labels is None else f"{said}, group {self.group_labels[row]!r}"

    def digest(self) -> str:
        """Return the digest of everything that the selection and its log depend on."""
        arrays = {
            "initial": self.initial,
            "factor": self.factor,
            "targets": self.targets,
            "tolerance": self.objective.tolerance,
            "held_out": self.held_out,
        }
        return digest_arrays(arrays) + self.usable.digest()


def build_problem(
    X: sp.spmatrix | sp.sparray,
    targets: ArrayLike,
    spec: FitSpec,
    *,
    groups: ArrayLike | None = None,
    initial_weights: ArrayLike | None = None,
    holdout: float | ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    group_multipliers: Mapping[Any, float] | None = None,
    tolerance: ArrayLike = 0.0,
    names: ArrayLike | None = None,
    group_labels: ArrayLike | None = None,
    threads: int | None = None,
) -> FitProblem:
    """Validate the inputs of a fit and scale them; arguments as in `distcalib.fit.fit_weights`."""
    matrix = Columns.of(X, threads)
    n_targets, n_columns = matrix.shape
    t = _vector(targets, n_targets, "targets", "targets")
    signs = matrix.signs()
    reachable = reachable_targets(t, *signs)
    excluded = {
        int(i): "no cell has the sign of the target" if signs[0][i] or signs[1][i] else "empty row"
        for i in np.flatnonzero(~reachable)
    }
    if not reachable.any():
        raise InputError("no target can be reached by any weights", place="X", value=f"{n_targets} rows")
    initial = _initial_weights(matrix, t, reachable, initial_weights, n_columns)
    n_usable = np.count_nonzero(initial)
    if not n_usable:
        raise InputError("every initial weight is 0", place="initial_weights")
    if spec.records is not None and spec.records > n_usable:
        raise InputError(
            "more records asked for than there are columns with a positive initial weight",
            place="fit.records",
            value=spec.records,
            expected=f"at most {n_usable}",
        )
    held_out = _held_out(holdout, reachable, spec.seed)
    fitted = reachable & ~held_out
    if not fitted.any():
        raise InputError("no target is left to fit", place="holdout")

    codes, group_names = _groups(groups, n_targets)
    importance = np.ones(n_targets)
    if target_weights is not None:
        importance = _vector(target_weights, n_targets, "target_weights", "targets")
        if (importance < 0).any() or not importance[fitted].any():
            raise InputError("must be 0 or more, and not all 0", place="target_weights")
    objective = loss_for(
        t,
        name=spec.loss,
        gross=matrix.estimate(initial, absolute=True),
        scale_floor=spec.scale_floor,
        tolerance=tolerance,
        knee=spec.loss_knee,
        groups=codes,
        importance=np.where(fitted, importance, 0.0),
    )
    if group_multipliers:
        objective = replace(
            objective, share=objective.share * _multipliers(group_multipliers, codes, group_names)
        )
    return FitProblem(
        X=matrix,
        usable=matrix if n_usable == n_columns else matrix.take(np.flatnonzero(initial)),
        initial=initial,
        objective=objective,
        fitted=fitted,
        held_out=held_out,
        excluded=excluded,
        group_codes=codes,
        group_names=group_names,
        names=_words(names, n_targets, "names"),
        group_labels=_words(groups if group_labels is None else group_labels, n_targets, "group_labels"),
    )


def column_vector(values: ArrayLike, n_columns: int, place: str) -> NDArray[np.generic]:
    """Return `values` as a 1-d array of one element a column, or raise an `InputError`."""
    array = np.asarray(values)
    if array.shape != (n_columns,):
        raise InputError(
            "wrong shape", place=place, value=array.shape, expected=f"({n_columns},), one a column of X"
        )
    return array


def _vector(values: ArrayLike, n: int, place: str, unit: str) -> Float:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("not numeric", place=place, value=values) from error
    if array.shape != (n,):
        raise InputError(
            "wrong shape", place=place, value=array.shape, expected=f"({n},), one a row or column"
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise InputError(
            f"{len(bad)} {unit} are NaN or infinite", place=f"{place}[{bad[0]}]", value=float(array[bad[0]])
        )
    return array


def _initial_weights(
    matrix: Columns, targets: Float, reachable: NDArray[np.bool_], given: ArrayLike | None, n: int
) -> Float:
    if given is not None:
        initial = _vector(given, n, "initial_weights", "weights")
        if (initial < 0).any():
            first = int(np.flatnonzero(initial < 0)[0])
            raise InputError(
                "negative weight",
                place=f"initial_weights[{first}]",
                value=float(initial[first]),
                expected=">= 0",
            )
        return initial
    # One scale for all columns: the median over targets of target / row sum, where both have the same sign.
    row_sum = matrix.estimate(np.ones(n))
    usable = reachable & (targets * row_sum > 0)
    if not usable.any():
        raise InputError(
            "cannot be derived: no target has the sign of its row",
            place="initial_weights",
            expected="weights",
        )
    return np.full(n, float(np.median(targets[usable] / row_sum[usable])))


def _held_out(
    holdout: float | ArrayLike | None, reachable: NDArray[np.bool_], seed: int
) -> NDArray[np.bool_]:
    if holdout is None:
        return np.zeros(len(reachable), dtype=bool)
    given = np.asarray(holdout)
    if given.dtype == bool:
        if given.shape != reachable.shape:
            raise InputError(
                "wrong shape", place="holdout", value=given.shape, expected=f"({len(reachable)},) mask"
            )
        return given & reachable
    if given.ndim != 0 or given.dtype.kind != "f" or not 0 < float(given) < 1:
        raise InputError(
            "neither mask nor fraction", place="holdout", value=holdout, expected="0 < holdout < 1"
        )
    rows = np.flatnonzero(reachable)
    order = np.argsort(uniform(seed, "holdout", rows), kind="stable")
    mask = np.zeros(len(reachable), dtype=bool)
    mask[rows[order[: max(1, round(float(given) * len(rows)))]]] = True
    return mask


def _groups(groups: ArrayLike | None, n: int) -> tuple[NDArray[np.int64] | None, list[object]]:
    if groups is None:
        return None, []
    values = np.asarray(groups)
    if values.shape != (n,):
        raise InputError("wrong shape", place="groups", value=values.shape, expected=f"({n},), one a target")
    codes, names = pd.factorize(values, sort=True)
    if (codes < 0).any():
        raise InputError("missing group", place=f"groups[{int(np.flatnonzero(codes < 0)[0])}]")
    return codes.astype(np.int64), list(names.tolist())


def _words(given: ArrayLike | None, n: int, place: str) -> NDArray[np.object_] | None:
    if given is None:
        return None
    words = np.asarray(given, dtype=object)
    if words.shape != (n,):
        raise InputError("wrong length", place=place, value=words.size, expected=str(n))
    return words


def _multipliers(given: Mapping[Any, float], codes: NDArray[np.int64] | None, names: list[object]) -> Float:
    """Return the multiplier of each target's share, 1 where its group has none."""
    if codes is None:
        raise InputError("multiply groups, and there are none", place="group_multipliers", expected="groups")
    of_group = pd.Series(1.0, index=pd.Index(names, dtype=object))
    for group, value in given.items():
        place = f"group_multipliers[{group!r}]"
        if group not in of_group.index:
            raise InputError("no such group", place=place, value=group, choices=[str(n) for n in names])
        if not (isinstance(value, int | float) and np.isfinite(value) and value >= 0):
            raise InputError("out of range", place=place, value=value, expected="0 or more")
        of_group[group] = value
    return of_group.to_numpy(np.float64)[codes]


def first_names(rows: Sequence[int] | NDArray[np.int64], names: Sequence[str] | None) -> list[str]:
    """Return the names of target rows (``row 12`` where the caller gave none)."""
    return [str(names[i]) if names is not None else f"row {i}" for i in np.asarray(rows, dtype=int).tolist()]
