"""What carries an area's weights: records, donors, effective sample sizes, and weights at their bounds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

#: A weight within this share of its bound is at it.
AT_BOUND = 1e-6


def support_by_area(
    weights: ArrayLike,
    areas: dict[str, NDArray[np.int64]],
    donors: ArrayLike,
    limits: tuple[ArrayLike, ArrayLike],
) -> pd.DataFrame:
    """Describe the weights of each area, of several levels.

    Parameters
    ----------
    weights
        float64 (n_columns,), >= 0.
    areas
        Level -> code of each column's area, int64 (n_columns,).
    donors
        Donor of each column, (n_columns,).
    limits
        Least and largest weight of each column, (n_columns,) each.

    Returns
    -------
    DataFrame
        One row a level and area with columns: geo_level, area, columns, records (of weight above 0), donors,
        weight (their sum), effective_sample_size (Kish, by column), effective_share (of the records),
        effective_sample_size_by_donor (a donor's columns are one household), design_effect (records over
        effective sample size), at_lower and at_upper (shares of the records at their bounds: a weight that is
        exhausted can do no more), largest_donor_share (of the area's weight).
    """
    w = np.asarray(weights, dtype=np.float64)
    low, high = (np.broadcast_to(np.asarray(limit, dtype=np.float64), w.shape) for limit in limits)
    kept = w > 0
    frame = pd.DataFrame(
        {
            "weight": w,
            "squares": w * w,
            "records": kept,
            "at_lower": kept & (low > 0) & (w <= low * (1 + AT_BOUND)),
            "at_upper": kept & (w >= high * (1 - AT_BOUND)),
            "donor": np.asarray(donors),
        }
    )
    return pd.concat(
        [_of_level(frame.assign(area=codes), level) for level, codes in areas.items()], ignore_index=True
    )


def _of_level(frame: pd.DataFrame, level: str) -> pd.DataFrame:
    sums = frame.groupby("area", sort=True)[["weight", "squares", "records", "at_lower", "at_upper"]].sum()
    of_donor = frame[frame["records"]].groupby(["area", "donor"], sort=True)["weight"].sum()
    by_area = of_donor.groupby(level="area")
    donor_squares = (of_donor * of_donor).groupby(level="area").sum()
    records = sums["records"].astype(np.int64)
    some = records.where(records > 0)
    effective = sums["weight"] ** 2 / sums["squares"]
    return pd.DataFrame(
        {
            "geo_level": level,
            "area": sums.index.to_numpy(),
            "columns": frame.groupby("area", sort=True).size().to_numpy(),
            "records": records.to_numpy(),
            "donors": by_area.size().reindex(sums.index, fill_value=0).to_numpy(),
            "weight": sums["weight"].to_numpy(),
            "effective_sample_size": effective.to_numpy(),
            "effective_share": (effective / some).to_numpy(),
            "effective_sample_size_by_donor": (sums["weight"] ** 2 / donor_squares).to_numpy(),
            "design_effect": (some / effective).to_numpy(),
            "at_lower": (sums["at_lower"] / some).to_numpy(dtype=np.float64),
            "at_upper": (sums["at_upper"] / some).to_numpy(dtype=np.float64),
            "largest_donor_share": (by_area.max() / sums["weight"]).to_numpy(dtype=np.float64),
        }
    )
