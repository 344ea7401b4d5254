"""What can be said of the targets before the first simulation: warnings of the plan.

A measure of inputs alone (the persons of an age) has the same cells whatever the rules say, so the donors
that carry its rows and the most that they can give are known from the microdata and the placement. What needs
the rules is said by the fit, before it begins, in ``fit/consistency.csv``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from distcalib.catalogue import COUNTS
from distcalib.fit.consistency import each_by_itself, family_gaps
from distcalib.geography.assignment import GeographyAssignment
from distcalib.matrix.measures import Rows, evaluate, scatter
from distcalib.microdata.model import Microdata
from distcalib.simulation.place import GEOGRAPHY

#: What is said of targets that have the problem.
WORDS = {
    "impossible": "have no household that could count",
    "short": "are out of reach within the bounds of the weights",
    "few donors": "are carried by fewer effective donors than fit.few_donors",
}


def known_problems(
    targets: pd.DataFrame,
    source: Microdata,
    assignment: GeographyAssignment,
    initial_weights: np.ndarray,
    limits: tuple[np.ndarray, np.ndarray],
    few: float,
    drawn: tuple[str, ...] = (),
) -> pd.DataFrame:
    """Hold the fitted targets of states and districts whose measures need inputs alone to what can meet them.

    One state is in memory at a time. National targets are left out: all donors carry them.

    Parameters
    ----------
    targets
        Rows of the matrix.
    source, assignment
        The donors, and where their clones are.
    initial_weights, limits
        Design weight of each column, and the least and largest that the fit may give it, (n_columns,) each.
    few
        Effective donors below which a target counts as weakly supported.
    drawn
        Inputs that each clone draws anew, so they are not those of the microdata.

    Returns
    -------
    DataFrame
        One row a target asked about: name, geo_level, status, target, start, donors, effective_donors, least,
        most, and ``problem`` (empty, or the first that holds of *impossible*, *short*, *few donors*).
    """
    fitted = targets[(targets["status"] == "fit") & (targets["geo_level"] != "national")]
    given = set(COUNTS) | {
        name
        for name in set(source.variables()) - set(GEOGRAPHY) - set(drawn)
        if source.column(name).dtype.kind in "biuf"
    }
    measures = Rows.of(fitted).measures
    known = [m for m in measures if m.needs <= given and not m.reform_id]
    values = evaluate(known, source, source.column) if known else np.empty((source.count(), 0), np.float32)
    at = {measure: k for k, measure in enumerate(known)}

    number = fitted["geographic_id"].astype(int)
    state_of_row = np.where(fitted["geo_level"] == "state", number, number // 100)
    ids = source.ids["household"]
    found = []
    for state in np.unique(assignment.state_fips).tolist():
        mine = fitted[state_of_row == state]
        rows = Rows.of(mine)
        which = [k for k, measure in enumerate(rows.measures) if measure in at]
        # Rows of other measures stay empty and are not asked about.
        asked = np.zeros(rows.n_rows, dtype=bool)
        asked[rows.row[np.isin(rows.key // 10_000, which)]] = True
        columns = np.flatnonzero(assignment.state_fips == state)
        record = columns % assignment.n_records
        wanted = np.array([at[rows.measures[k]] for k in which], dtype=np.intp)
        X = scatter(
            rows,
            tuple(which),
            values[record][:, wanted],
            np.arange(len(columns)),
            state,
            assignment.cd_geoid[columns],
            len(columns),
        )
        bounds = (limits[0][columns], limits[1][columns])
        table, tests = each_by_itself(
            X[asked].astype(np.float64), mine[asked], initial_weights[columns], ids[record], bounds, few
        )
        found.append(table.assign(problem=np.select(list(tests.values()), list(tests), "")))
    return pd.concat(found, ignore_index=True)


def warnings_of(problems: pd.DataFrame) -> list[str]:
    """Say how many targets have each problem, and which is the worst."""
    said = []
    for problem, words in WORDS.items():
        those = problems[problems["problem"] == problem]
        if len(those):
            worst = those.iloc[int(np.argmin(those["effective_donors"].to_numpy()))]
            said.append(
                f"{len(those)} of {len(problems)} targets that need no rules {words}, such as "
                f"{worst['name']} (effective donors {worst['effective_donors']:.1f}, target "
                f"{worst['target']:,.0f}, in reach {worst['least']:,.0f} to {worst['most']:,.0f})"
            )
    return said


def apart(rows: pd.DataFrame, geoids: np.ndarray) -> list[str]:
    """Warn of areas whose target and whose parts' targets cannot both be met."""
    gap, pull, _ = family_gaps(rows, geoids)
    wholes = np.flatnonzero(np.isfinite(pull) & (rows["geo_level"] != "district").to_numpy())
    if not wholes.size:
        return []
    worst = wholes[np.argmax(np.abs(gap[wholes]))]
    return [
        f"{wholes.size} targets of states or the nation differ from the sum of their parts by more than "
        f"their tolerance, most {rows['name'].iloc[worst]} (parts {gap[worst]:+.1%}): see fit/consistency.csv"
    ]
