"""Carry a statistic from its own year to another by the rules engine's indices."""

from __future__ import annotations

import numpy as np
import pandas as pd

from distcalib.catalogue import COUNTS, catalogue, terms
from distcalib.errors import InputError


def index_of(variable: str) -> str:
    """Return the index that carries a variable: ``population`` for heads and units, else ``cpi_u``.

    Counts are named ``*_count``; a flag of the rules engine (``medicaid_enrolled``) adds up to a count too.
    """
    if variable in COUNTS or variable.endswith("_count"):
        return "population"
    known = catalogue().variables.get(terms(variable)[0])
    return "population" if known is not None and known.value_type == "bool" else "cpi_u"


def factor(
    variable: str | pd.Series | np.ndarray,
    from_period: int | pd.Series | np.ndarray,
    to_period: int,
    *,
    place: object = None,
) -> np.ndarray:
    """Return what statistics of `from_period` are multiplied with to stand for `to_period`.

    Parameters
    ----------
    variable
        Names, a text or an array of shape (n,).
    from_period
        Years of the statistics, of the same shape.
    to_period
        Year that is wanted.
    place
        Database, for errors.

    Returns
    -------
    ndarray of float64, shape (n,) or ()
        1 where the years are equal; else the ratio of the index of `index_of`.

    Raises
    ------
    InputError
        When the index lacks one of the years; nothing is ever carried by a factor of 1 for want of an index.
    """
    names, years = np.broadcast_arrays(
        np.asarray(variable, dtype=object), np.asarray(from_period, dtype=np.int64)
    )
    codes, distinct = pd.factorize(names.ravel())
    which = np.array([index_of(str(name)) for name in distinct], dtype=object)[codes]
    out = np.ones(names.size)
    years = years.ravel()
    for name, index in catalogue().indices.items():
        carried = (which == name) & (years != to_period)
        if not carried.any():
            continue
        missing = sorted({*years[carried].tolist(), int(to_period)} - set(index))
        if missing:
            raise InputError(
                f"the index {name} of policyengine-us {catalogue().version} has no year {missing[0]}",
                place=place,
                value=missing[0],
                expected=f"a year from {min(index)} to {max(index)}",
            )
        base = pd.Series(index)
        out[carried] = base[int(to_period)] / base.loc[years[carried]].to_numpy()
    return out.reshape(names.shape)
