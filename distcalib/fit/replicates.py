"""Replicate weights: a bootstrap of donor households, for those who need a variance."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import DistcalibWarning, InputError
from distcalib.fit.calibrate import fit_with_spec
from distcalib.fit.spec import FitSpec
from distcalib.random import uniform

Float = NDArray[np.float64]

#: Perturbation of calibrated replicates. A full bootstrap leaves out 37 % of the donors, and where districts
#: have few the rest cannot meet the targets any more: on the demonstration 49 % of them were within 5 % where
#: the run had 80 %, and SNAP was 7 % low, which would pass for variance. With a quarter 79 % were.
CALIBRATED_PERTURBATION = 0.25


def bootstrap_factors(
    donors: ArrayLike,
    strata: ArrayLike,
    replicate: int,
    *,
    seed: int = 0,
    certain: ArrayLike | None = None,
    perturbation: float = 1.0,
) -> Float:
    """Return the factor by which each donor's weight is multiplied in one bootstrap replicate.

    The rescaled bootstrap: of the n donors of a stratum n - 1 are drawn with replacement, and a donor drawn k
    times gets n / (n - 1) k. The expected factor is 1, and the variance over replicates of a total is the
    usual estimate for a stratified sample drawn with replacement. A donor that was certain to be drawn, and a
    donor alone in its stratum, keeps its weight: neither adds to the variance.

    Parameters
    ----------
    donors
        Household ids, int, unique, shape (n_donors,).
    strata
        Design stratum of each donor, shape (n_donors,).
    replicate
        Number of the replicate; each is a function of (seed, replicate, donors by stratum) alone, whatever
        the order of donors and whichever other replicates are drawn.
    seed
        Seed of the draws.
    certain
        Boolean, shape (n_donors,): donors that the design drew with certainty. None: no donor was.
    perturbation
        Share of the change that is made, above 0 to 1: the factor is 1 + perturbation (f - 1). Below 1 no
        donor drops out, and deviations of replicates are to be divided by it (see `standard_error`).

    Returns
    -------
    ndarray of float64, shape (n_donors,)

    Raises
    ------
    InputError
        When ids repeat or the perturbation is out of range.

    References
    ----------
    Rao, Wu and Yue (1992), "Some recent work on resampling methods for complex surveys", Survey Methodology
    18, 209-217, section 2, with n - 1 draws in each stratum. Perturbation: Judkins (1990), "Fay's method for
    variance estimation", Journal of Official Statistics 6, 223-239.
    """
    if not 0 < perturbation <= 1:
        raise InputError("out of range", place="perturbation", value=perturbation, expected="above 0 to 1")
    ids = np.asarray(donors, dtype=np.int64)
    if len(np.unique(ids)) != len(ids):
        raise InputError("a donor occurs more than once", place="donors", expected="one row a donor")
    factors = np.ones(len(ids))
    drawn = np.flatnonzero(~np.asarray(certain, bool)) if certain is not None else np.arange(len(ids))
    codes = pd.factorize(np.asarray(strata)[drawn], sort=True)[0]
    order = np.lexsort((ids[drawn], codes))
    at, code = drawn[order], codes[order]
    size = np.bincount(code)
    first = np.cumsum(size) - size
    # The draws of a stratum are keyed by its donors; the last donor's is left out, which makes n - 1.
    key = np.delete(np.arange(len(at)), first + size - 1)
    hit = uniform(seed, "donor bootstrap", np.int64(replicate), ids[at[key]])
    n, start = size[code[key]], first[code[key]]
    times = np.bincount(start + np.minimum((hit * n).astype(np.int64), n - 1), minlength=len(at))
    many = size[code] > 1
    factors[at[many]] = times[many] * (size / np.maximum(size - 1, 1))[code[many]]
    return 1 + perturbation * (factors - 1)


def scaled_weights(weights: ArrayLike, factors: ArrayLike) -> Float:
    """Return a replicate without calibration: weights times factors, shape (n_columns,), float32 values."""
    product = np.asarray(weights, np.float64) * np.asarray(factors, np.float64)
    return product.astype(np.float32).astype(np.float64)


def refitted_weights(
    X: sp.spmatrix | sp.sparray,
    targets: ArrayLike,
    initial_weights: ArrayLike,
    kept: ArrayLike,
    factors: ArrayLike,
    spec: FitSpec,
    *,
    target_weights: ArrayLike | None = None,
    tolerance: ArrayLike = 0.0,
    holdout: float | ArrayLike | None = None,
    areas: ArrayLike | None = None,
) -> Float:
    """Return a replicate that is calibrated like the run: its own refit, from the replicate's design weights.

    Targets, bounds, ridge and the number of steps are the run's. The choice of columns is not made anew, so
    its variance is left out.

    Parameters
    ----------
    X, targets, target_weights, tolerance, holdout, areas
        As the run gave them to `fit_weights`: (n_targets, n_columns) and (n_targets,).
    initial_weights
        Design weights of the columns, (n_columns,).
    kept
        Which columns the run kept, boolean, (n_columns,).
    factors
        Of the columns' donors, (n_columns,).
    spec
        The run's settings.

    Returns
    -------
    ndarray of float64, shape (n_columns,), float32 values; 0 where the donor was not drawn.
    """
    initial = np.asarray(initial_weights, np.float64)
    start = initial * np.asarray(kept, bool) * np.asarray(factors, np.float64)
    if not start.any():
        raise InputError("no donor that the run kept is in this replicate", place="replicates")
    # Like the run, start at the mass of all design weights, so that few columns can stand for all.
    scale = float(np.sum(initial) / np.sum(start))
    start *= scale
    # The limit is to the design weights themselves; where few donors were drawn, they need more.
    ratio = None if spec.weight_ratio is None else max(spec.weight_ratio / scale, 1.0)
    refit_only = FitSpec(**{**spec.as_dict(), "epochs": 0, "records": None, "weight_ratio": ratio})
    with warnings.catch_warnings():
        # An area that a replicate leaves uneven is a matter of its draw, not of the run.
        warnings.simplefilter("ignore", DistcalibWarning)
        return fit_with_spec(
            X,
            targets,
            refit_only,
            initial_weights=start,
            target_weights=target_weights,
            tolerance=tolerance,
            holdout=holdout,
            areas=areas,
        ).weights


def standard_error(estimates: ArrayLike, replicates: ArrayLike, perturbation: float = 1.0) -> Float:
    """Return ``sqrt(mean over replicates of (replicate - estimate)^2) / perturbation``.

    Parameters
    ----------
    estimates
        Estimates with the weights themselves, any shape.
    replicates
        The same estimates with each replicate's weights, shape ``(number of replicates, *estimates.shape)``.
    perturbation
        That of the replicates, as ``replicates.parquet`` states it.

    Returns
    -------
    ndarray of float64, the shape of `estimates`
        In the unit of the estimates.

    Examples
    --------
    >>> float(standard_error(10.0, [9.0, 11.0]))
    1.0
    """
    difference = np.asarray(replicates, np.float64) - np.asarray(estimates, np.float64)
    return np.asarray(np.sqrt(np.mean(difference * difference, axis=0)) / perturbation)
