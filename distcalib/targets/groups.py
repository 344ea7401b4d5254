"""Groups of targets: rows of one domain, variable and reform at one level, which share a part of the loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.targets.database import STRATUM_GROUPS

LEVEL_NAMES = ("National", "State", "District")

_DOMAIN_OF_STRATUM_GROUP = {number: domain for domain, number in STRATUM_GROUPS.items()}
_GEOGRAPHIC_GROUP = 1

Rows = TypeVar("Rows")


def get_geo_level(geographic_id: object) -> int:
    """Return 0 for the nation, 1 for a state and 2 for a district.

    Parameters
    ----------
    geographic_id
        ``US``, a state FIPS code (1-99) or a district GEOID (101-9999), as text or number.

    Raises
    ------
    InputError
        For anything else.

    Examples
    --------
    >>> [get_geo_level(area) for area in ("US", "37", 201)]
    [0, 1, 2]
    """
    words = str(geographic_id).strip()
    if words == "US":
        return 0
    words = words.removesuffix(".0")  # a number that a table turned into a float
    if words.isdecimal() and 0 < int(words) < 10_000:
        return 1 if int(words) < 100 else 2
    raise InputError(
        "is no area", place="geographic_id", value=geographic_id, expected="US, a state FIPS or a GEOID"
    )


def create_target_groups(
    targets_df: pd.DataFrame, verbose: bool = True
) -> tuple[NDArray[np.int32], list[str]]:
    """Divide targets into groups by level, domain, variable and reform.

    Parameters
    ----------
    targets_df
        Columns variable, geographic_id and value; domain_variable, or without it stratum_group_id, says the
        domain; reform_id where there is one. One row a row of the matrix.
    verbose
        Print the groups.

    Returns
    -------
    ids : ndarray of int32, shape (n targets,)
        Group of each row: nation, states, districts, and in each by domain (none first), variable, reform.
    labels : list of str
        ``Group 3: State SNAP Household Count (51 targets)``, one a group.
    """
    table = pd.DataFrame(
        {
            "level": targets_df["geographic_id"].map(get_geo_level).to_numpy(np.int64),
            "domain": _domains(targets_df),
            "variable": targets_df["variable"].astype(str).to_numpy(),
            "reform": targets_df["reform_id"].fillna(0).astype(np.int64).to_numpy()
            if "reform_id" in targets_df
            else 0,
            "value": targets_df["value"].to_numpy(np.float64),
        }
    )
    grouped = table.groupby(["level", "domain", "variable", "reform"], sort=True)
    ids = grouped.ngroup().to_numpy(np.int32)
    found = grouped["value"].agg(["size", "first"]).reset_index()
    labels, lines = [], ["", "=== Creating Target Groups ==="]
    for number, group in enumerate(found.itertuples(index=False)):
        level = LEVEL_NAMES[group.level]
        if number == 0 or group.level != found["level"][number - 1]:
            lines += ["", f"{level} targets:"]
        name = _name(group.domain, group.variable, group.reform)
        one = group.size == 1
        lines.append(
            f"  Group {number}: {name}" + (f" = {group.first:,.0f}" if one else f" ({group.size} targets)")
        )
        size = f"1 target, value={group.first:,.0f}" if one else f"{group.size} targets"
        labels.append(f"Group {number}: {level} {name} ({size})")
    if verbose:
        print("\n".join([*lines, "", f"Total groups created: {len(labels)}", "=" * 40]))
    return ids, labels


def drop_target_groups(
    targets_df: pd.DataFrame,
    X_sparse: Rows,
    target_groups: NDArray[Any],
    group_info: Sequence[str],
    groups_to_drop: Iterable[tuple[str, str]],
) -> tuple[pd.DataFrame, Rows]:
    """Leave out the rows of some groups.

    Parameters
    ----------
    targets_df, X_sparse
        Rows of the matrix and the matrix itself (any scipy CSR), in one order.
    target_groups, group_info
        From `create_target_groups`.
    groups_to_drop
        Pairs (label, level): ``("SNAP Household Count", "State")``. The label of a group, exactly as printed,
        names that group; any other text names every group of the level that contains it, whatever the case.

    Returns
    -------
    targets_df, X_sparse
        What is left; row i of one is row i of the other.

    Raises
    ------
    InputError
        For an unknown level, and when a pair names no group.
    """
    if not X_sparse.shape[0] == len(targets_df) == len(target_groups):  # type: ignore[attr-defined]
        raise ValueError("targets_df, X_sparse and target_groups have not equally many rows")
    named = pd.DataFrame([_parts(label) for label in group_info], columns=["level", "name"])
    dropped = np.zeros(len(named), dtype=bool)
    for words, level in groups_to_drop:
        if str(level).title() not in LEVEL_NAMES:
            raise InputError("unknown level", place="groups_to_drop", value=level, choices=LEVEL_NAMES)
        there = named["level"] == str(level).title()
        match = there & (named["name"] == words)
        if not match.any() and str(words).strip():
            match = there & named["name"].str.contains(str(words), case=False, regex=False)
        if not match.any():
            raise InputError(
                f"no {str(level).title()} group has this label",
                place="groups_to_drop",
                value=words,
                expected="one of " + ", ".join(map(repr, named.loc[there, "name"])) if there.any() else None,
                choices=named.loc[there, "name"],
            )
        dropped |= match.to_numpy()
    if dropped.all():
        raise InputError(
            "leaves no target", place="groups_to_drop", value=len(named), expected="fewer than all groups"
        )
    sizes = np.bincount(target_groups, minlength=len(named))
    print(f"Matrix before: {len(targets_df)} rows")
    for word, chosen in (("DROPPING", dropped), ("KEEPING ", ~dropped)):
        for number in np.flatnonzero(chosen).tolist():
            print(f"  {word} {group_info[number]} ({sizes[number]} rows)")
        print()
    kept = ~dropped[target_groups]
    print(f"Matrix after: {int(kept.sum())} rows")
    return targets_df[kept].reset_index(drop=True), X_sparse[kept]  # type: ignore[index]


def _domains(targets: pd.DataFrame) -> list[str]:
    """Domain of each row; where only the number of its stratum group is known, what that stands for."""
    if "domain_variable" in targets:
        return targets["domain_variable"].fillna("").astype(str).tolist()
    if "stratum_group_id" not in targets:
        return [""] * len(targets)
    numbers = targets["stratum_group_id"].fillna(_GEOGRAPHIC_GROUP).astype(int)
    known = {n: _DOMAIN_OF_STRATUM_GROUP.get(n, f"stratum_group_{n}") for n in numbers.unique()}
    return numbers.map({**known, _GEOGRAPHIC_GROUP: ""}).tolist()


def _name(domain: str, variable: str, reform: int) -> str:
    """Name of a group: the domain in capitals, unless the variable says it, and the variable."""
    name = variable.replace("_", " ").title()
    if domain not in ("", variable):
        name = f"{domain.replace('_', ' ').upper()} {name}"
    return f"{name}, Reform {reform}" if reform else name


def _parts(label: str) -> tuple[str, str]:
    """Split ``Group 3: State Snap (51 targets)`` into level and name."""
    level, _, rest = label.partition(": ")[2].partition(" ")
    return level, rest.rpartition(" (")[0]
