"""Take-up of programs: who of the eligible claims, as inputs that are drawn once and never move.

A flag is a pure function of (seed, variable, donor entity id, clone, the rate that applies), so splitting or
reordering the households of a call never changes one. The rates are the bundled table ``take_up.csv``
(variable, by, key, rate, reported, of, source). Take-up inputs without a rate keep the rules' default, True.

Where the microdata report receipt (column ``reported``), those who report it take up, and the others at the
rate ``of`` others. Where the table has none, the rate of all becomes clip((rate - r) / (1 - r), 0, 1) for
them, r the design-weighted share of reporters among all entities of that type: the same number in
every call. In microdata that lack the column the rate of all holds for everybody.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.catalogue import catalogue
from distcalib.digest import digest_of
from distcalib.errors import InputError
from distcalib.geography.states import STATE_CODES
from distcalib.microdata.model import Microdata
from distcalib.random import uniform

COLUMNS = ("variable", "by", "key", "rate", "reported", "of", "source")


@cache
def rates() -> pd.DataFrame:
    """Return the bundled table of rates: variable, by (empty or state), key, rate, reported, of, source."""
    with resources.as_file(resources.files("distcalib.simulation") / "bundled/take_up.csv") as path:
        return read_rates(path)


def read_rates(path: str | Path) -> pd.DataFrame:
    """Read a table of take-up rates, such as ``distcalib data take-up`` writes.

    Returns
    -------
    DataFrame
        variable, by, key, reported, of, source as text (empty where nothing is said), rate as float64.

    Raises
    ------
    InputError
        Names file, row and value: no such file or column, a variable that is no flag of the rules engine, a
        rate outside 0 to 1, an unknown key, a state that is missing or twice, several keys for one flag.
    """
    try:
        table = pd.read_csv(path, dtype="str", keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read as a table of take-up rates ({error})", place=path, expected="a CSV file"
        ) from None
    for name in COLUMNS:
        if name not in table:
            raise InputError("lacks a column", place=path, value=name, choices=table.columns)
    table = table[list(COLUMNS)].assign(rate=pd.to_numeric(table["rate"], errors="coerce").astype(float))
    line = f"{path}: line " + (table.index + 2).astype(str)
    allowed = {
        "rate": (table["rate"].between(0, 1), "a share from 0 to 1", ()),
        "by": (table["by"].isin(["", "state"]), "state, or nothing", ("", "state")),
        "of": (table["of"].isin(["", "all", "others"]), "all, others, or nothing", ("all", "others")),
        "key": (
            (table["key"] == "") == (table["by"] == ""),
            "a state's code where the rates are by state",
            STATE_CODES.values(),
        ),
    }
    for name, (holds, expected, choices) in allowed.items():
        if not holds.all():
            at = int(np.flatnonzero(~holds)[0])
            raise InputError(
                f"is not a valid {name}",
                place=line[at],
                value=str(table[name][at]),
                expected=expected,
                choices=choices,
            )
    known = catalogue().variables
    flags = [n for n, v in known.items() if v.is_input and v.value_type == "bool"]
    for variable, mine in table.groupby("variable"):
        if variable not in flags:
            raise InputError(
                "is no flag of the rules engine",
                place=line[mine.index[0]],
                value=str(variable),
                choices=flags,
            )
        if len(mine[["by", "reported"]].drop_duplicates()) > 1:
            raise InputError(
                "has rates by several keys or of several reports",
                place=line[mine.index[0]],
                value=str(variable),
            )
        for _, part in mine.groupby("of"):
            keys = list(STATE_CODES.values()) if part["by"].iloc[0] else [""]
            wrong = part.loc[part["key"].duplicated() | ~part["key"].isin(keys), "key"].tolist()
            lost = sorted(set(keys) - set(part["key"]))
            if wrong or lost:
                raise InputError(
                    "has a key twice, or one that is unknown" if wrong else "has no rate for a key",
                    place=f"{path}: {variable}",
                    value=(wrong or lost)[0],
                    expected="one rate a state" if keys != [""] else "one rate",
                )
    return table


def rates_digest(table: pd.DataFrame) -> str:
    """Digest of what the draws depend on: the table without its sources."""
    return digest_of(table.drop(columns="source").values.tolist())


def drawn_variables(table: pd.DataFrame | None = None) -> tuple[str, ...]:
    """Return the take-up inputs that have a rate in a table (the bundled one), in name order."""
    return tuple(sorted((rates() if table is None else table)["variable"].unique()))


def draw_take_up(
    source: Microdata,
    rows: dict[str, np.ndarray],
    clone: dict[str, np.ndarray],
    state_fips: dict[str, np.ndarray],
    seed: int,
    table: pd.DataFrame | None = None,
) -> dict[str, np.ndarray]:
    """Draw the take-up flags of placed households.

    Parameters
    ----------
    source
        Microdata of the donors.
    rows, clone, state_fips
        Entity -> arrays of shape (k,): the donor row, the clone number and the state of each placed unit.
    seed
        Seed of the run.
    table
        Rates, as `read_rates` returns them; by default the bundled ones.

    Returns
    -------
    dict
        Variable -> bool flags, shape (k of the variable's entity,).
    """
    table = rates() if table is None else table
    flags = {}
    for variable in drawn_variables(table):
        entity = catalogue().get(variable, place="take_up.csv").entity
        mine = table[table["variable"] == variable]
        reported = mine["reported"].iloc[0]
        anchored = reported in source.variables()
        if anchored and (mine["of"] == "others").any():
            mine = mine[mine["of"] == "others"]
        else:
            mine = mine[mine["of"] != "others"]
        if mine.empty:
            raise InputError(
                "has only the rate of others, who report no receipt, but the microdata hold no such report",
                place="take-up rates",
                value=variable,
                expected=f"the column {reported} in the microdata, or a rate of all",
            )
        by = mine["by"].iloc[0]
        values = mine["rate"].to_numpy(float)
        if by == "":
            rate = np.full(len(rows[entity]), values[0])
        else:
            codes = dict(zip(mine["key"], values, strict=True))
            by_fips = np.full(100, np.nan)
            by_fips[list(STATE_CODES)] = [codes[code] for code in STATE_CODES.values()]
            rate = by_fips[state_fips[entity]]
        if anchored:
            receives, share = reporters(source, reported)
            if mine["of"].iloc[0] == "all":
                rate = np.clip((rate - share) / (1 - share), 0, 1)
            rate = np.where(receives[rows[entity]], 1.0, rate)
        flags[variable] = uniform(seed, variable, source.ids[entity][rows[entity]], clone[entity]) < rate
    return flags


def reporters(source: Microdata, reported: str) -> tuple[np.ndarray, float]:
    """Return who reports receipt (bool, shape (n of the entity,)) and their design-weighted share."""
    receives = source.column(reported) > 0
    weights = source.weights[source.household_of[source.variables()[reported]]]
    # Sums and no matrix product: the last digits of the latter depend on the number of threads.
    return receives, float(weights[receives].sum() / weights.sum())
