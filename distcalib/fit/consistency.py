"""What cannot be met, known before any fit: donors, attainable values, parts and wholes, an area at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

Float = NDArray[np.float64]

#: Fewer effective donors than this carry a row: one of them is on average over a tenth of it, twice the usual
#: tolerance. State rows of the demonstration below it miss two to three times as often as those above.
FEW_DONORS = 10
#: A sum of relative misses up to this is rounding of the solver.
NO_EXCESS = 1e-6
#: Cells of the largest system that is solved: about ten seconds. Above it nothing is said of the area.
LARGEST = 5_000_000


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
    part = sp.csr_array(abs(X) @ sp.diags_array(np.asarray(weights, dtype=np.float64)) @ by_donor)
    part.eliminate_zeros()
    total, squares = part.sum(axis=1), part.power(2).sum(axis=1)
    effective = np.divide(total**2, squares, out=np.zeros(X.shape[0]), where=squares > 0)
    return np.diff(part.indptr), effective


def attainable(X: sp.csr_array, limits: tuple[Float, Float]) -> tuple[Float, Float]:
    """Return the least and the most that each row can give, (n_targets,) each, with weights within limits."""
    low, high = limits
    positive, negative = X.maximum(0), X.minimum(0)
    return positive @ low + negative @ high, positive @ high + negative @ low


def least_excess(X: sp.csr_array, value: Float, tolerance: Float, limits: tuple[Float, Float]) -> float:
    """Return the least sum over rows of what a miss has beyond its tolerance, relative to the target.

    Zero when some weights within their limits meet all targets at once. A linear programme (HiGHS).

    Parameters
    ----------
    X, value, tolerance
        (n, k), targets (n,), and relative tolerances (n,). Targets of zero are left out.
    limits
        Least and largest weight of each column, (k,) each.
    """
    kept = np.flatnonzero(value)
    if not kept.size:
        return 0.0
    scaled = sp.diags_array(1 / np.abs(value[kept])) @ X[kept]
    n, k = scaled.shape
    slack = sp.eye_array(n)
    sign, give = np.sign(value[kept]), tolerance[kept]
    solved = linprog(
        np.r_[np.zeros(k), np.ones(n)],
        A_ub=sp.vstack([sp.hstack([scaled, -slack]), sp.hstack([-scaled, -slack])]).tocsc(),
        b_ub=np.r_[sign + give, give - sign],
        bounds=np.column_stack([np.r_[limits[0], np.zeros(n)], np.r_[limits[1], np.full(n, np.inf)]]),
        method="highs",
    )
    if solved.status != 0:
        raise RuntimeError(f"the system of an area's targets was not solved: {solved.message}")
    return float(solved.fun)


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
        about or not fitted, and where the system has more than `LARGEST` cells.
    """
    matrix = sp.csr_array(X, dtype=np.float64)
    geoid = np.asarray(areas, dtype=np.int64)
    level = targets["geo_level"].to_numpy()
    number = pd.to_numeric(targets["geographic_id"], errors="coerce").fillna(0).to_numpy(np.int64)
    state = np.where(level == "district", number // 100, number)
    value, tolerance = (targets[c].to_numpy(np.float64) for c in ("value", "tolerance"))
    fitted = (targets["status"] == "fit").to_numpy()
    asked = fitted if only is None else fitted & np.asarray(only, dtype=bool)

    def solve(rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> float:
        at, of = np.flatnonzero(rows & fitted), np.flatnonzero(columns)
        system = matrix[at][:, of]
        if system.nnz > LARGEST:
            return np.nan
        return least_excess(system, value[at], tolerance[at], (limits[0][of], limits[1][of]))

    out = np.full(len(targets), np.nan)
    of_state: dict[int, float] = {}
    wanted = np.unique(state[asked & (level == "state")])
    for district in np.unique(geoid):
        rows = (level == "district") & (number == district)
        if (asked & rows).any() or district // 100 in wanted:
            lack = solve(rows, geoid == district)
            out[asked & rows] = lack
            of_state[int(district) // 100] = of_state.get(int(district) // 100, 0.0) + lack
    for fips in wanted:
        rows = (level != "national") & (state == fips)
        lack = solve(rows, geoid // 100 == fips) - of_state.get(int(fips), 0.0)
        out[asked & rows & (level == "state")] = lack
    national = level == "national"
    if (asked & national).any():
        out[asked & national] = solve(national, np.ones(len(geoid), dtype=bool))
    return out


def consistency(
    X: sp.csr_array,
    targets: pd.DataFrame,
    *,
    initial_weights: Float,
    donors: ArrayLike,
    areas: ArrayLike,
    bounds: tuple[float, float],
    few: float = FEW_DONORS,
) -> pd.DataFrame:
    """Say of each target, before any fit, what stands against it.

    Parameters
    ----------
    X, targets, areas
        As `area_excess` takes them; targets also with name and moe.
    initial_weights, donors
        Design weight and donor of each column, (n_columns,).
    bounds
        Least and largest ratio of a weight to its design weight.
    few
        Effective donors below which a row counts as weakly supported.

    Returns
    -------
    DataFrame
        One row a target: name, geo_level, status, target, start (X.w of the design weights), donors,
        effective_donors, least and most (attainable within the bounds), parts_gap, area_excess, and
        ``problem``: empty, or the first that holds of *impossible* (no cell is nonzero), *short* (outside
        least and most by more than the tolerance), *contradiction* (parts and whole disagree by more than
        the tolerance), *few donors*, *together* (the targets of its area cannot be met at once).
    """
    matrix = sp.csr_array(X, dtype=np.float64)
    start = np.asarray(initial_weights, dtype=np.float64)
    limits = (bounds[0] * start, bounds[1] * start)
    value = targets["value"].to_numpy(np.float64)
    give = targets["tolerance"].to_numpy(np.float64) * np.abs(value)
    counted, effective = support(matrix, start, donors)
    least, most = attainable(matrix, limits)
    gap, pull, _ = family_gaps(targets, areas)
    excess = area_excess(matrix, targets, limits, areas)
    tests = {
        "impossible": (counted == 0) & (value != 0),
        "short": (value - give > most) | (value + give < least),
        "contradiction": np.isfinite(pull),
        "few donors": effective < few,
        "together": excess > NO_EXCESS,
    }
    problem = np.select(list(tests.values()), list(tests), "")
    return pd.DataFrame(
        {
            "name": targets["name"].to_numpy(),
            "geo_level": targets["geo_level"].to_numpy(),
            "status": targets["status"].to_numpy(),
            "target": value,
            "start": matrix @ start,
            "donors": counted,
            "effective_donors": effective,
            "least": least,
            "most": most,
            "parts_gap": gap,
            "area_excess": excess,
            "problem": np.where(targets["status"] == "fit", problem, ""),
        }
    )


def family_gaps(targets: pd.DataFrame, areas: ArrayLike) -> tuple[Float, Float, NDArray[np.bool_]]:
    """Compare each area's target with the sum over its parts, for fitted targets of one quantity.

    Parameters
    ----------
    targets
        As `area_excess` takes them, and moe.
    areas
        District GEOIDs of the run: parts are compared with their area only where all of them have a target.

    Returns
    -------
    tuple of arrays, shape (n_targets,)
        The relative gap (sum of parts - whole) / |whole| of the family that disagrees
        most (NaN without one); the sign of error to which a gap above the tolerance pulls (else NaN); and
        whether margins of error explain the gap.
    """
    geoids = np.unique(np.asarray(areas, dtype=np.int64))
    number = pd.to_numeric(targets["geographic_id"], errors="coerce")
    level = targets["geo_level"]
    key = targets["variable"] + "|" + targets["reform_id"].astype(str) + "|" + targets["constraints"]
    # A part names its whole: a district its state, a state the nation (0).
    whole = pd.Series(np.select([level == "district", level == "state"], [number // 100, 0.0], np.nan))
    self_id = pd.Series(np.select([level == "state", level == "national"], [number, 0.0], np.nan))
    parts_of = pd.Series(geoids // 100).value_counts()
    expected = pd.concat([parts_of, pd.Series({0: len(parts_of)})])
    frame = pd.DataFrame(
        {
            "key": key.to_numpy(),
            "value": targets["value"].to_numpy(np.float64),
            "square": targets["moe"].to_numpy(np.float64) ** 2,
            "tolerance": targets["tolerance"].to_numpy(np.float64),
            "whole": whole.to_numpy(),
            "self": self_id.to_numpy(),
        }
    )
    fitted = frame[(targets["status"] == "fit").to_numpy()]
    parts = fitted.groupby(["key", "whole"]).agg(
        parts=("value", "sum"), number=("value", "size"), square=("square", "sum"), known=("square", "count")
    )
    # A margin of the sum needs that of every part.
    parts["square"] = parts["square"].where(parts["known"] == parts["number"])
    family = fitted.dropna(subset="self").merge(
        parts.reset_index(), left_on=["key", "self"], right_on=["key", "whole"], suffixes=("", "_parts")
    )
    family = family[family["number"] == family["self"].map(expected)]
    family["gap"] = (family["parts"] - family["value"]) / family["value"].abs()
    off = family["gap"].abs() > family["tolerance"]
    # The parts pull the whole's estimate toward their sum; the whole pulls each part the other way.
    family["pull"] = np.where(off, np.sign(family["gap"]), np.nan)
    margin = np.sqrt(family["square"] + family["square_parts"])
    family["explained"] = (family["parts"] - family["value"]).abs() <= margin
    found = family.drop_duplicates(["key", "self"]).set_index(["key", "self"])[["gap", "pull", "explained"]]
    as_whole, as_part = (
        found.reindex(pd.MultiIndex.from_arrays([frame["key"], frame[side]])) for side in ("self", "whole")
    )
    use = as_part["gap"].abs().fillna(-1).to_numpy() > as_whole["gap"].abs().fillna(-1).to_numpy()
    gap = np.where(use, as_part["gap"], as_whole["gap"])
    pull = np.where(use, -as_part["pull"], as_whole["pull"])
    explained = np.where(use, as_part["explained"].eq(True), as_whole["explained"].eq(True))
    out = (targets["status"] != "fit").to_numpy()
    gap[out] = pull[out] = np.nan
    return gap, pull, explained
