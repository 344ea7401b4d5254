"""What cannot be met, known before any fit: donors, attainable values, parts and wholes, an area at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from distcalib.fit.feasible import LARGEST, NO_EXCESS, attainable, least_excess, rows_in_pieces
from distcalib.targets.families import WHOLE, in_wholes, placed, sums_of_parts

Float = NDArray[np.float64]

#: Fewer effective donors than this carry a row: one of them is on average over a tenth of it, twice the usual
#: tolerance. State rows of the demonstration below it miss two to three times as often as those above.
FEW_DONORS = 10
#: What is said of targets of which `area_excess` says nothing.
NOT_JUDGED = "not judged"


def support(X: sp.csr_array, weights: ArrayLike, donors: ArrayLike) -> tuple[NDArray[np.intp], Float]:
    r"""Count the donors that carry each row.

    Parameters
    ----------
    X, weights, donors
        (n_targets, n_columns), (n_columns,) and the donor of each column, (n_columns,).

    Returns
    -------
    tuple of arrays, shape (n_targets,)
        Donors with weight and a cell in the row, and Kish's effective number of them by \|x\| w.
    """
    code, ids = pd.factorize(np.asarray(donors))
    n = len(code)
    by_donor = sp.csr_array((np.ones(n), (np.arange(n), code)), shape=(n, len(ids)))
    weighted = sp.diags_array(np.asarray(weights, dtype=np.float64)) @ by_donor
    counts, effective = [], []
    for rows in rows_in_pieces(X):
        part = sp.csr_array(abs(rows) @ weighted)
        part.eliminate_zeros()
        total, squares = part.sum(axis=1), part.power(2).sum(axis=1)
        counts.append(np.diff(part.indptr))
        effective.append(np.divide(total**2, squares, out=np.zeros(len(total)), where=squares > 0))
    return np.concatenate(counts), np.concatenate(effective)


def area_excess(
    X: sp.csr_array,
    targets: pd.DataFrame,
    limits: tuple[Float, Float],
    areas: ArrayLike,
    only: ArrayLike | None = None,
) -> Float:
    """Say by how much the fitted targets of each area cannot be met at once.

    Of a district: `least_excess` of its own targets. Of a state: that of its targets and its districts'
    together, less what its districts lack each by itself, so what is left is the state's. Of the nation: that
    of the national targets.

    Parameters
    ----------
    X
        (n_targets, n_columns).
    targets
        variable, reform_id, constraints, geo_level, geographic_id, value, tolerance, status.
    limits
        Least and largest weight of each column, (n_columns,) each.
    areas
        District GEOID of each column, (n_columns,).
    only
        Where True a target is asked about; areas without any are left out. Default: all.

    Returns
    -------
    ndarray of float64, shape (n_targets,)
        Sum of relative misses beyond tolerance that no weights avoid; NaN for a target that is not asked
        about or not fitted, and where the system has more than `LARGEST` cells or its solver fails: such
        targets are not judged.
    """
    matrix = sp.csr_array(X)
    geoid = np.asarray(areas, dtype=np.int64)
    level = targets["geo_level"].to_numpy()
    number = pd.to_numeric(targets["geographic_id"], errors="coerce").fillna(0).to_numpy(np.int64)
    state = np.where(level == "district", number // 100, number)
    value, tolerance = (targets[c].to_numpy(np.float64) for c in ("value", "tolerance"))
    fitted = (targets["status"] == "fit").to_numpy()
    asked = fitted if only is None else fitted & np.asarray(only, dtype=bool)

    # In the order of their districts, the columns of a district or state are a range.
    order = np.argsort(geoid, kind="stable")
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    district_of, low, high = geoid[order], limits[0][order], limits[1][order]

    def solve(rows: NDArray[np.bool_], first: int, last: int) -> float:
        start, stop = np.searchsorted(district_of, (first, last + 1)).tolist()
        at = np.flatnonzero(rows & fitted)
        part = matrix[at]
        place = position[part.indices] - start
        inside = (place >= 0) & (place < stop - start)
        if np.count_nonzero(inside) > LARGEST:
            return np.nan
        row = np.repeat(np.arange(len(at)), np.diff(part.indptr))
        cells = part.data[inside].astype(np.float64), (row[inside], place[inside])
        system = sp.csr_array(cells, shape=(len(at), stop - start))
        return least_excess(system, value[at], tolerance[at], (low[start:stop], high[start:stop]))

    out = np.full(len(targets), np.nan)
    of_state: dict[int, float] = {}
    wanted = np.unique(state[asked & (level == "state")])
    for district in np.unique(geoid):
        rows = (level == "district") & (number == district)
        if (asked & rows).any() or district // 100 in wanted:
            lack = solve(rows, district, district)
            out[asked & rows] = lack
            of_state[int(district) // 100] = of_state.get(int(district) // 100, 0.0) + lack
    for fips in wanted:
        rows = (level != "national") & (state == fips)
        lack = solve(rows, 100 * fips, 100 * fips + 99) - of_state.get(int(fips), 0.0)
        out[asked & rows & (level == "state")] = lack
    national = level == "national"
    if (asked & national).any():
        out[asked & national] = solve(national, 0, int(district_of[-1]))
    return out


def consistency(
    X: sp.csr_array,
    targets: pd.DataFrame,
    *,
    initial_weights: Float,
    donors: ArrayLike,
    areas: ArrayLike,
    limits: tuple[Float, Float],
    few: float = FEW_DONORS,
) -> pd.DataFrame:
    """Say of each target, before any fit, what stands against it.

    Parameters
    ----------
    X, targets, areas
        As `area_excess` takes them; targets also with name and moe.
    initial_weights, donors
        Design weight and donor of each column, (n_columns,).
    limits
        Least and largest weight that the fit may give each column, (n_columns,) each; see `limits_before`.
    few
        Effective donors below which a row counts as weakly supported.

    Returns
    -------
    DataFrame
        One row a target: name, geo_level, status, target, start (X.w of the design weights), donors,
        effective_donors, least and most (attainable within the bounds), parts_gap, area_excess, and
        ``problem``: empty, or the first that holds of *impossible* (no cell is nonzero), *short* (outside
        least and most by more than the tolerance), *contradiction* (parts and whole disagree by more than
        the tolerance), *few donors*, *together* (the targets of its area cannot be met at once), *not judged*
        (area_excess cannot be said).
    """
    matrix = sp.csr_array(X)
    start = np.asarray(initial_weights, dtype=np.float64)
    table, tests = each_by_itself(matrix, targets, start, donors, limits, few)
    gap, pull, _ = family_gaps(targets, areas)
    excess = area_excess(matrix, targets, limits, areas)
    tests = {
        "impossible": tests["impossible"],
        "short": tests["short"],
        "contradiction": np.isfinite(pull),
        "few donors": tests["few donors"],
        "together": excess > NO_EXCESS,
        NOT_JUDGED: np.isnan(excess),
    }
    problem = np.select(list(tests.values()), list(tests), "")
    return table.assign(
        parts_gap=gap, area_excess=excess, problem=np.where(targets["status"] == "fit", problem, "")
    )


def each_by_itself(
    X: sp.csr_array,
    targets: pd.DataFrame,
    initial_weights: Float,
    donors: ArrayLike,
    limits: tuple[Float, Float],
    few: float = FEW_DONORS,
) -> tuple[pd.DataFrame, dict[str, NDArray[np.bool_]]]:
    """Hold each target against its own row alone; see `consistency`.

    Returns
    -------
    table : DataFrame
        name, geo_level, status, target, start, donors, effective_donors, least, most.
    tests : dict
        *impossible*, *short* and *few donors*: where each holds, (n_targets,).
    """
    value = targets["value"].to_numpy(np.float64)
    give = targets["tolerance"].to_numpy(np.float64) * np.abs(value)
    counted, effective = support(X, initial_weights, donors)
    least, most = attainable(X, limits)
    table = pd.DataFrame(
        {
            "name": targets["name"].to_numpy(),
            "geo_level": targets["geo_level"].to_numpy(),
            "status": targets["status"].to_numpy(),
            "target": value,
            "start": np.concatenate([rows @ initial_weights for rows in rows_in_pieces(X)]),
            "donors": counted,
            "effective_donors": effective,
            "least": least,
            "most": most,
        }
    )
    return table, {
        "impossible": (counted == 0) & (value != 0),
        "short": (value - give > most) | (value + give < least),
        "few donors": effective < few,
    }


def family_gaps(targets: pd.DataFrame, areas: ArrayLike) -> tuple[Float, Float, NDArray[np.bool_]]:
    """Compare the fitted targets of one quantity: of one area, and of an area and the sum over its parts.

    Parameters
    ----------
    targets
        As `area_excess` takes them, and moe.
    areas
        District GEOIDs of the run: parts are compared with their area only where all of them have a target.

    Returns
    -------
    tuple of arrays, shape (n_targets,)
        The relative gap (other figure - target) / |target|, for a part that of its whole's family, where
        it is widest (NaN without another figure); the sign of error to which a gap above the tolerance
        pulls (else NaN); and whether margins of error explain the gap.
    """
    key = targets["variable"] + "|" + targets["reform_id"].astype(str) + "|" + targets["constraints"]
    frame = placed(targets)[["level", "area", "value", "tolerance"]].assign(
        row=np.arange(len(targets)), key=key, square=targets["moe"] ** 2
    )[targets["status"] == "fit"]
    place = ["key", "level", "area"]
    # Figures of one quantity and area, where there are several: the one furthest off is the other.
    same = frame.groupby(place)["value"]
    low, high = same.transform("min"), same.transform("max")
    other = high.where(high - frame["value"] >= frame["value"] - low, low)
    widest = frame["square"].groupby([frame[c] for c in place]).transform("max")
    several = same.transform("size") > 1
    once = frame.groupby(place, as_index=False).agg(value=("value", "mean"), square=("square", "mean"))
    sums = sums_of_parts(once, ["key"], areas).query("complete")
    # A margin of the sum needs that of every part.
    sums["square"] = sums["square"].where(sums["known"] == sums["number"])
    of = ["key", *WHOLE]
    family = frame.merge(sums, left_on=place, right_on=of[:-1], suffixes=("", "_parts"))
    mine = _apart(family, family["total"], family["square_parts"])
    # The parts pull the whole's estimate toward their sum; the whole pulls each part the other way.
    worst = family[of].assign(**mine.drop(columns="row"))
    worst = worst.iloc[(-worst["gap"].abs()).argsort(kind="stable")].drop_duplicates(of)
    theirs = in_wholes(frame)[["row", *of]].merge(worst, on=of)
    theirs = theirs.assign(pull=-theirs["pull"])[mine.columns]
    found = [_apart(frame[several], other[several], widest[several]), mine, theirs]
    best = pd.concat(found, ignore_index=True)
    best = best.iloc[(-best["gap"].abs()).argsort(kind="stable")].drop_duplicates("row").set_index("row")
    best = best.reindex(np.arange(len(targets)))
    return best["gap"].to_numpy(float), best["pull"].to_numpy(float), best["explained"].eq(True).to_numpy()


def _apart(rows: pd.DataFrame, other: pd.Series, square: pd.Series) -> pd.DataFrame:
    """Hold targets against another figure: relative gap, the side it pulls to, whether margins explain it."""
    difference = other - rows["value"]
    gap = difference / rows["value"].abs()
    pull = np.where(gap.abs() > rows["tolerance"], np.sign(gap), np.nan)
    explained = difference.abs() <= np.sqrt(rows["square"] + square)
    return pd.DataFrame({"row": rows["row"], "gap": gap, "pull": pull, "explained": explained})
