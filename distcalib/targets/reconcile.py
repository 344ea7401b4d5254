"""Scale district targets to the figures of their states, and carry them by state factors."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.geography.sources import districts
from distcalib.geography.states import STATE_CODES, STATE_FIPS
from distcalib.targets.uprating import factor

# What one target of a state and those of its districts have in common.
SAME = ["variable", "reform_id", "constraints", "state"]
ACA_DOMAIN = "aca_ptc"


@dataclass(frozen=True)
class Multipliers:
    """Growth of marketplace credits by state between two years.

    Attributes
    ----------
    from_period, to_period
        The years.
    table
        Indexed by state FIPS; columns are the variables that they carry: tax_unit_count by the growth of
        enrolment, aca_ptc by that times the growth of the average credit.
    place
        File, for errors.
    """

    from_period: int
    to_period: int
    table: pd.DataFrame
    place: str


def read_multipliers(path: str | Path | None, period: int) -> Multipliers:
    """Read growth of marketplace credits by state.

    Parameters
    ----------
    path
        CSV named ``..._FROM_TO.csv`` (years) with the columns state (name or code), vol_mult and val_mult.
        None: the bundled table, of the newest year not after `period`, else of its first.
    period
        Year of the run.

    Raises
    ------
    InputError
        For a missing file, year, column or state, a file that is no table, a state that is given twice, and a
        factor that is not above zero.
    """
    bundled = pd.read_csv(str(resources.files("distcalib.targets").joinpath("bundled/aca_multipliers.csv")))
    if path is None:
        years = sorted(set(bundled["to_period"]))
        to_period = max([year for year in years if year <= period], default=years[0])
        table = bundled[bundled["to_period"] == to_period]
        volume = table["enrolment_to"] / table["enrolment_from"]
        average = table["credit_to"] / table["credit_from"]
        from_period, fips, place = int(table["from_period"].iloc[0]), table["state_fips"], "bundled"
    else:
        place = str(path)
        named = re.search(r"(\d{4})_(\d{4})$", Path(path).stem)
        if named is None:
            raise InputError(
                "does not say which years it joins",
                place="targets.aca_multipliers",
                value=Path(path).name,
                expected="a name such as aca_ptc_multipliers_2022_2024.csv",
            )
        if not Path(path).is_file():
            raise InputError(
                "no such file",
                place="targets.aca_multipliers",
                value=place,
                choices=[str(p) for p in Path(path).parent.glob("*.csv")],
            )
        try:
            table = pd.read_csv(path)
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
            raise InputError(
                f"cannot be read as a table ({error})", place=place, expected="a CSV file in UTF-8"
            ) from None
        for column in ("state", "vol_mult", "val_mult"):
            if column not in table:
                raise InputError("lacks a column", place=place, value=column, choices=table.columns)
        known = {**STATE_FIPS, **dict(zip(bundled["name"], bundled["state_fips"], strict=True))}
        fips = table["state"].map(known)
        if fips.isna().any():
            raise InputError(
                "unknown state", place=place, value=table.loc[fips.isna(), "state"].iloc[0], choices=known
            )
        volume, average = (pd.to_numeric(table[c], errors="coerce") for c in ("vol_mult", "val_mult"))
        from_period, to_period = int(named[1]), int(named[2])
    out = pd.DataFrame({"tax_unit_count": volume, ACA_DOMAIN: volume * average})
    out.index = pd.Index(fips.astype(int), name="state")
    if out.index.has_duplicates:
        twice = STATE_CODES[int(out.index[out.index.duplicated()][0])]
        raise InputError("gives a state twice", place=place, value=twice, expected="one row a state")
    bad = ~(np.isfinite(out) & (out > 0)).all(axis=1)
    if bad.any():
        raise InputError(
            "has a factor that is not above zero", place=place, value=STATE_CODES[int(out.index[bad][0])]
        )
    return Multipliers(from_period, to_period, out, place)


def reconcile(
    table: pd.DataFrame,
    domains: Collection[str],
    period: int,
    *,
    uprate: bool = True,
    multipliers: str | Path | None = None,
    place: object = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Scale the districts of some domains to their states.

    A district's value is its original value x hif x state uprating factor, where hif = the state's original
    value / the sum of its districts' original values, and the factor carries the state's figure from its own
    year to `period`: by the indices, or for aca_ptc by `multipliers`. A state's target and those of its
    districts are matched by variable, constraints and reform.

    Parameters
    ----------
    table
        Usable targets with variable, reform_id, period, value, original_value, geo_level, geographic_id,
        domain_variable, constraints.
    domains
        Values of domain_variable.
    period
        Year of the run.
    uprate
        False: hif alone, and no row is left out.
    multipliers
        See `read_multipliers`; used for the domain aca_ptc.
    place
        Database, for errors.

    Returns
    -------
    DataFrame
        `table` with value of the districts changed and the columns hif, state_uprating_factor (NaN where
        nothing was reconciled) and superseded (bool: rows of another year than `period`, namely states whose
        districts now stand for them, and the domain's national rows where it has districts).
    list of str
        Warnings: districts without a state's target, states with districts missing, states of zero, and
        figures that the multipliers do not carry to `period`.

    Raises
    ------
    InputError
        For a domain that no target has, a state whose districts sum to zero or the other sign while it does
        not, two targets of
        one state that are the same, and a state that the multipliers lack.
    """
    table = table.assign(hif=np.nan, state_uprating_factor=np.nan, superseded=False)
    warnings: list[str] = []
    for domain in dict.fromkeys(domains):
        inside = table["domain_variable"] == domain
        if not inside.any():
            raise InputError(
                "no target has this domain",
                place="hierarchical_domains",
                value=domain,
                choices=table["domain_variable"].unique(),
            )
        states = _with_state(table[inside & (table["geo_level"] == "state")], 1)
        below = _with_state(table[inside & (table["geo_level"] == "district")], 100)
        if states.duplicated(SAME).any():
            row = states[states.duplicated(SAME)].iloc[0]
            raise InputError(
                "two targets of one state are the same",
                place=f"{place}: target {row['target_id']}",
                value=f"{row['variable']} of {STATE_CODES[row['state']]}",
            )
        if uprate:
            states["factor"] = _state_factors(states, domain, period, multipliers, place, warnings)
        else:
            states["factor"] = 1.0
        sums = below.groupby(SAME, as_index=False).agg(
            total=("original_value", "sum"), count=("original_value", "size")
        )
        pairs = states.merge(sums, on=SAME, how="left")
        pairs["hif"] = _hif(pairs, domain, place, warnings)
        _warn_of_gaps(pairs, below, domain, warnings)

        found = below[SAME].merge(pairs[[*SAME, "hif", "factor"]], on=SAME, how="left")
        found.index = below.index
        found = found[found["hif"].notna()]
        table.loc[found.index, "hif"] = found["hif"]
        table.loc[found.index, "state_uprating_factor"] = found["factor"]
        table.loc[found.index, "value"] = (
            table.loc[found.index, "original_value"] * found["hif"] * found["factor"]
        )
        if uprate:
            # Only districts of its own can stand for a state; those of any state stand for the nation.
            with_districts = states.index[pairs["total"].notna()]
            nation = inside & (table["geo_level"] == "national") & bool(len(below))
            above = (nation | table.index.isin(with_districts)) & (table["period"] != period)
            table.loc[above, "superseded"] = True
            _warn_of_loss(table[above], below, domain, warnings)
    return table, warnings


def _with_state(rows: pd.DataFrame, divisor: int) -> pd.DataFrame:
    return rows.assign(state=rows["geographic_id"].astype(int) // divisor)


def _state_factors(
    states: pd.DataFrame,
    domain: str,
    period: int,
    multipliers: str | Path | None,
    place: object,
    warnings: list[str],
) -> np.ndarray:
    carried = factor(states["variable"], states["period"], period, place=place)
    if domain != ACA_DOMAIN or not len(states):
        return carried
    known = read_multipliers(multipliers, period)
    lacking = sorted(set(states["state"]) - set(known.table.index))
    if lacking:
        raise InputError(
            f"lacks {len(lacking)} states that have targets",
            place=f"multipliers of {domain} ({known.place})",
            value=STATE_CODES[lacking[0]],
            expected="one row a state",
        )
    column = known.table.columns.get_indexer(states["variable"])
    apt = (column >= 0) & (states["period"] == known.from_period) & (known.to_period <= period)
    row = known.table.index.get_indexer(states["state"])
    others = states[~apt & (states["period"] != period)]
    years = f"{known.from_period} to {known.to_period}"
    if len(others):
        what = ", ".join(sorted(set(others["variable"])))
        warnings.append(
            f"{domain}: {len(others)} state targets ({what}) are carried by the general indices: "
            f"the multipliers are of {' and '.join(known.table.columns)} from {years}"
        )
    if apt.any() and known.to_period < period:
        warnings.append(f"{domain}: the multipliers carry from {years}, not to {period}")
    return np.where(apt, known.table.to_numpy()[row, column], carried)


def _hif(pairs: pd.DataFrame, domain: str, place: object, warnings: list[str]) -> pd.Series:
    """Return state / sum of districts; NaN where there are no districts, or both are zero."""
    impossible = (pairs["total"] == 0) & (pairs["original_value"] != 0)
    if impossible.any():
        row = pairs[impossible].iloc[0]
        raise InputError(
            f"the districts of {STATE_CODES[row['state']]} sum to zero and cannot be scaled to their state",
            place=f"{place}: target {row['target_id']}",
            value=row["original_value"],
            expected=f"districts of {row['variable']} above zero, or {domain} not in hierarchical_domains",
        )
    opposite = np.sign(pairs["total"]) * np.sign(pairs["original_value"]) < 0
    if opposite.any():
        row = pairs[opposite].iloc[0]
        raise InputError(
            f"the districts of {STATE_CODES[row['state']]} sum to another sign than their state and cannot "
            f"be scaled to it (domain {domain}, sum {row['total']:g})",
            place=f"{place}: target {row['target_id']}",
            value=row["original_value"],
            expected=f"districts of {row['variable']} of its sign, or {domain} not in hierarchical_domains",
        )
    zero = (pairs["original_value"] == 0) & pairs["total"].notna()
    if zero.any():
        warnings.append(f"{domain}: the target is zero in {_codes(pairs[zero])}: so are all its districts")
    total = pairs["total"].where(pairs["total"] != 0)
    return pairs["original_value"] / total


def _warn_of_gaps(pairs: pd.DataFrame, below: pd.DataFrame, domain: str, warnings: list[str]) -> None:
    held = pd.MultiIndex.from_frame(pairs[SAME])
    alone = below[~pd.MultiIndex.from_frame(below[SAME]).isin(held)]
    if len(alone):
        warnings.append(
            f"{domain}: {len(alone)} district targets have no target of their state and are not reconciled "
            f"({_codes(alone)})"
        )
    whole = pairs["state"].map(districts()["state_fips"].value_counts())
    short = pairs[pairs["count"].notna() & (pairs["count"] != whole)]
    if len(short):
        warnings.append(
            f"{domain}: {len(short)} state targets are shared out among other districts than the state has "
            f"({_codes(short)})"
        )


def _warn_of_loss(above: pd.DataFrame, below: pd.DataFrame, domain: str, warnings: list[str]) -> None:
    what = ["variable", "reform_id", "constraints"]
    carried = pd.MultiIndex.from_frame(below[what])
    lost = above[~pd.MultiIndex.from_frame(above[what]).isin(carried)]
    if len(lost):
        warnings.append(
            f"{domain}: {len(lost)} national targets of other years are left out, and no district "
            f"target stands for them ({', '.join(sorted(set(lost['variable'])))})"
        )


def _codes(rows: pd.DataFrame) -> str:
    return ", ".join(sorted({STATE_CODES.get(int(s), str(s)) for s in rows["state"]}))
