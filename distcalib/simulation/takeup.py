"""Take-up of programs: who of the eligible claims, as inputs that are drawn once and never move.

A flag is a pure function of (seed, variable, donor entity id, clone, the rate that applies), so splitting or
reordering the households of a call never changes one. The rates are the bundled table ``take_up.csv``
(variable, by, key, rate, reported, of, source). Every take-up input of the rules engine has a row; a new one
without is an error.

Inputs ``by`` rules are left to the rules: nothing is drawn or written, so every unit has the rules' default,
which is what the row's rate says (1 or 0), or what the microdata themselves store.

Where the microdata report receipt (column ``reported``), those who report it take up, and the others at the
rate ``of`` others. Where the table has none, the rate of all becomes clip((rate - r) / (1 - r), 0, 1) for
them, r the design-weighted share of reporters among all entities of that type: the same number in
every call. In microdata that lack the column the rate of all holds for everybody.

Rates ``by`` income are of tax units: a key is the least income of its band (`unit_income`, dollars of the
year of the microdata), and the lowest band takes in all below it too.
"""

from __future__ import annotations

import re
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

# What a tax return adds up, as microdata store it: an amount, or the inputs that make it up. Social Security
# is left out: it is untaxed at the incomes of those who need not file.
_INCOME: dict[str, tuple[str, ...]] = {
    "employment_income": ("employment_income_before_lsr",),
    "self_employment_income": ("self_employment_income_before_lsr",),
    "sstb_self_employment_income": ("sstb_self_employment_income_before_lsr",),
    "partnership_s_corp_income": ("partnership_income", "s_corp_income"),
    "farm_operations_income": (),
    "farm_rent_income": (),
    "rental_income": (),
    "estate_income": (),
    "taxable_interest_income": (),
    "qualified_dividend_income": (),
    "non_qualified_dividend_income": (),
    "short_term_capital_gains": (),
    "long_term_capital_gains": ("long_term_capital_gains_before_response",),
    "taxable_pension_income": (
        "taxable_private_pension_income",
        "taxable_public_pension_income",
        "taxable_federal_pension_income",
    ),
    "taxable_retirement_distributions": (
        "taxable_ira_distributions",
        "taxable_401k_distributions",
        "taxable_403b_distributions",
        "taxable_sep_distributions",
    ),
    "unemployment_compensation": (),
    "alimony_income": (),
    "miscellaneous_income": (),
}

# The rules' default of every other take-up input is that all take up; a test asks the rules engine.
_DEFAULT_IS_FALSE = ("would_file_taxes_voluntarily",)

# How the rules engine names its take-up inputs: takes_up_eitc, would_file_taxes_voluntarily ...
_NAMED = re.compile(r"(takes?_up|takeup|would_(file|claim|apply|enroll))_|.*_takes?_?up(_|$)")


def take_up_inputs() -> tuple[str, ...]:
    """Return every take-up input of the rules engine, in name order.

    They are the catalogue's inputs that are bool and named as one (``takes_up_``, ``would_file_``,
    ``would_claim_`` ...) or labelled as one ("... takes up ...").
    """
    return tuple(
        sorted(
            v.name
            for v in catalogue().variables.values()
            if v.is_input
            and v.value_type == "bool"
            and (_NAMED.match(v.name) or "takes up" in v.label.lower())
        )
    )


@cache
def rates() -> pd.DataFrame:
    """Return the bundled table of rates, in the form of `read_rates`."""
    with resources.as_file(resources.files("distcalib.simulation") / "bundled/take_up.csv") as path:
        return _read(path)


def read_rates(path: str | Path) -> pd.DataFrame:
    """Read a table of take-up rates, such as ``distcalib data take-up`` writes.

    Returns
    -------
    DataFrame
        variable, by (state, income, rules or empty), key, reported, of, source as text (empty where nothing
        is said), rate as float64.

    Raises
    ------
    InputError
        Names file, row and value: no such file or column, a variable that is no flag of the rules engine, a
        rate outside 0 to 1, an unknown key, a state that is missing or twice, several keys for one flag, a
        take-up input without a rate, one left to the rules at a rate that is not their default.
    """
    table = _read(path)
    left = table.index[table["by"] == "rules"]
    same = {name: float(name not in _DEFAULT_IS_FALSE) for name in take_up_inputs()}
    for row in left[table.loc[left, "rate"] != table.loc[left, "variable"].map(same)]:
        raise InputError(
            "is left to the rules, but at a rate that is not known to be their default",
            place=f"{path}: line {row + 2}: {table['variable'][row]}",
            value=float(table["rate"][row]),
            expected="no word in the column by, so that the flag is drawn",
        )
    return table


def _read(path: str | Path) -> pd.DataFrame:
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
        "by": (
            table["by"].isin(["", "state", "income", "rules"]),
            "state, income, rules, or nothing",
            ("state", "income", "rules"),
        ),
        "of": (
            table["of"].isin(["", "all", "others"]) & ((table["of"] == "") | (table["by"] != "rules")),
            "all, others, or nothing (as where the rules decide)",
            ("all", "others"),
        ),
        "reported": (
            (table["reported"] == "") | (table["by"] != "rules"),
            "nothing where the rules decide",
            (),
        ),
        "key": (
            (table["by"] == "income") | ((table["key"] == "") == (table["by"] != "state")),
            "a state's code where the rates are by state",
            STATE_CODES.values(),
        ),
        "key of income": (
            (table["by"] != "income") | np.isfinite(pd.to_numeric(table["key"], errors="coerce")),
            "the least income of the band in dollars",
            (),
        ),
    }
    for name, (holds, expected, choices) in allowed.items():
        if not holds.all():
            at = int(np.flatnonzero(~holds)[0])
            raise InputError(
                f"is not a valid {name}",
                place=line[at],
                value=str(table[name.split()[0]][at]),
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
        by = mine["by"].iloc[0]
        if {"", "all"} <= set(mine["of"]):
            raise InputError(
                "has rates of all twice, with the word and without",
                place=line[mine.index[0]],
                value=str(variable),
                expected="all, or nothing, in the column of",
            )
        if by == "income" and known[str(variable)].entity != "tax_unit":
            raise InputError(
                "has rates by income, but is no flag of tax units",
                place=line[mine.index[0]],
                value=str(variable),
                choices=[n for n in flags if known[n].entity == "tax_unit"],
            )
        for _, part in mine.groupby("of"):
            keys, one = {
                "state": (list(STATE_CODES.values()), "one rate a state"),
                "income": (part["key"].tolist(), "one rate a band"),
            }.get(by, ([""], "one rate"))
            same = pd.to_numeric(part["key"]) if by == "income" else part["key"]
            wrong = part.loc[same.duplicated() | ~part["key"].isin(keys), "key"].tolist()
            lost = sorted(set(keys) - set(part["key"]))
            if wrong or lost:
                raise InputError(
                    "has a key twice, or one that is unknown" if wrong else "has no rate for a key",
                    place=f"{path}: {variable}",
                    value=(wrong or lost)[0],
                    expected=one,
                )
    missing = sorted(set(take_up_inputs()) - set(table["variable"]))
    if missing:
        raise InputError(
            f"{len(missing)} take-up inputs of policyengine-us {catalogue().version} have no rate",
            place=path,
            value=missing[0],
            expected=f"rows for {', '.join(missing)}",
        )
    return table


def rates_digest(table: pd.DataFrame) -> str:
    """Digest of what the draws depend on: the table without its sources."""
    return digest_of(table.drop(columns="source").values.tolist())


def drawn_variables(table: pd.DataFrame | None = None) -> tuple[str, ...]:
    """Return the take-up inputs that a table (the bundled one) does not leave to the rules, in name order."""
    table = rates() if table is None else table
    return tuple(sorted(table.loc[table["by"] != "rules", "variable"].unique()))


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
        mine, anchored = _applicable(source, table, variable)
        reported = mine["reported"].iloc[0]
        by = mine["by"].iloc[0]
        values = mine["rate"].to_numpy(float)
        if by == "":
            rate = np.full(len(rows[entity]), values[0])
        elif by == "income":
            least = mine["key"].to_numpy(float)
            order = np.argsort(least)
            band = np.searchsorted(least[order][1:], unit_income(source), side="right")
            rate = values[order][band][rows[entity]]
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


def require_known(source: Microdata, table: pd.DataFrame) -> None:
    """Refuse rates that microdata cannot be drawn at, before anything is simulated.

    Raises
    ------
    InputError
        For a flag that has only the rate of others where the microdata hold no report of receipt, and for
        rates by income where they hold none.
    """
    for variable in drawn_variables(table):
        mine, _ = _applicable(source, table, variable)
        if (mine["by"] == "income").any():
            unit_income(source)


def _applicable(source: Microdata, table: pd.DataFrame, variable: str) -> tuple[pd.DataFrame, bool]:
    """Return the rates of a flag that hold for these microdata, and whether receipt is reported there."""
    mine = table[table["variable"] == variable]
    reported = mine["reported"].iloc[0]
    anchored = reported in source.variables()
    if anchored and (mine["of"] == "others").any():
        return mine[mine["of"] == "others"], anchored
    mine = mine[mine["of"] != "others"]
    if mine.empty:
        raise InputError(
            "has only the rate of others, who report no receipt, but the microdata hold no such report",
            place="take-up rates",
            value=variable,
            expected=f"the column {reported} in the microdata, or a rate of all",
        )
    return mine, anchored


def unit_income(source: Microdata) -> np.ndarray:
    """Return what the persons of each tax unit earn, and get of capital and pensions.

    Returns
    -------
    ndarray
        float64, shape (n tax units,), dollars a year: near to adjusted gross income, of what the microdata
        hold, so that it needs no rules. Dependents' own is in it, and losses as they are.

    Raises
    ------
    InputError
        When the microdata hold none of these incomes.
    """
    held = source.variables()
    income, found = np.zeros(source.count("person")), False
    for whole, parts in _INCOME.items():
        for name in (whole,) if whole in held else parts:
            if name in held:
                income += source.column(name)
                found = True
    if not found:
        raise InputError(
            "the microdata hold no income, by which take-up rates go",
            place="microdata",
            expected="employment_income or another income, or rates without the word income in the column by",
        )
    return np.bincount(source.links["tax_unit"], weights=income, minlength=source.count("tax_unit"))


def reporters(source: Microdata, reported: str) -> tuple[np.ndarray, float]:
    """Return who reports receipt (bool, shape (n of the entity,)) and their design-weighted share."""
    receives = source.column(reported) > 0
    weights = source.weights[source.household_of[source.variables()[reported]]]
    # Sums and no matrix product: the last digits of the latter depend on the number of threads.
    return receives, float(weights[receives].sum() / weights.sum())
