"""What a target counts, in words."""

from __future__ import annotations

import pandas as pd

from distcalib.catalogue import catalogue
from distcalib.errors import InputError
from distcalib.targets.constraints import parse_constraints

# A constraint: its variable, and the rest.
_VALUES = r"([A-Za-z_]\w*)\s*(?:==|!=|>=|<=|>|<|=| in )[^&]*"


def quantity(table: pd.DataFrame) -> pd.Series:
    """Return what each target counts, in words: variable, and the constraints on whom.

    Parameters
    ----------
    table
        variable, constraints and reform_id of targets.
    """
    pairs = table[["variable", "constraints"]].fillna("").drop_duplicates()
    known = {pair: _words(*pair) for pair in pairs.itertuples(index=False, name=None)}
    words = pd.Series(
        [known[p] for p in zip(table["variable"], table["constraints"].fillna(""), strict=True)],
        index=table.index, dtype=str,
    )  # fmt: skip
    return words.where(~(table["reform_id"] > 0), words + " (tax expenditure)")


def measures(table: pd.DataFrame, area: str) -> pd.Series:
    """Return what each target counts, one text for those that are the same but for the area.

    A count below a threshold that every area has of its own, such as its median income, is one measure.

    Parameters
    ----------
    table
        As `quantity`, with geo_level.
    area
        The column that names the area.
    """
    words = quantity(table)
    bare = table["constraints"].fillna("").str.replace(_VALUES, r"\1", regex=True)
    alike = [table["geo_level"], table["variable"], table["reform_id"], bare]
    once = ~table.groupby([*alike, area])["variable"].transform("size").gt(1).groupby(alike).transform("any")
    several = words.groupby(alike).transform("nunique") > 1
    own = table["variable"].map(short) + " by " + bare.map(short) + ", each area its own"
    return words.where(~(once & several), own)


def _words(variable: str, constraints: str) -> str:
    """Return ``person count, age 45 to <50`` for person_count and ``age<50&age>=45``."""
    try:
        parsed = parse_constraints(constraints)
    except InputError:
        return f"{variable}, {constraints}"  # another version's words, as they are
    known = catalogue().variables
    ranges: dict[str, dict[str, str]] = {}
    for one in parsed:
        value = f"{int(one.value):,}" if one.value.isdigit() else one.value
        ranges.setdefault(one.variable, {})[one.operation] = value
    said = [short(variable)]
    for name in sorted(ranges, key=lambda name: name != variable):
        bounds, is_flag = ranges[name], name in known and known[name].value_type == "bool"
        if set(bounds) == {">=", "<"}:
            words = f"{bounds['>=']} to <{bounds['<']}"
        elif is_flag and list(bounds.items()) in ([("==", "1")], [("==", "True")]):
            words = ""
        else:
            words = " and ".join(f"{operation} {value}" for operation, value in bounds.items())
        if name == variable:
            said[0] += f" {words}"
        else:
            said.append(f"{short(name)} {words}".strip())
    return ", ".join(said)


def short(variable: str) -> str:
    """Return a variable's name as words."""
    return variable.replace("adjusted_gross_income", "AGI").replace("_", " ")
