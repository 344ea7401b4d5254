"""The bundled microdata: the public-use CPS of taxcalc as a PolicyEngine dataset.

``build_cps`` is the whole way: read and age the tax units (`cps_source`), make their persons (`cps_persons`),
map the columns to inputs of policyengine-us (`cps_columns`), draw households (`cps_sample`).
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from distcalib.catalogue import ENTITIES
from distcalib.errors import InputError
from distcalib.microdata.cps_columns import person_columns, spm_unit_columns
from distcalib.microdata.cps_imputed import (
    CHANGED,
    IMPUTATIONS,
    IMPUTED_INPUTS,
    impute,
    money_income,
    sum_by_household,
)
from distcalib.microdata.cps_inputs import INPUTS, NOT_WRITTEN
from distcalib.microdata.cps_persons import expand
from distcalib.microdata.cps_rake import AGE_BANDS, adjustment, rake, starting_weights
from distcalib.microdata.cps_sample import calibrate, draw, totals_frame
from distcalib.microdata.cps_source import read_units
from distcalib.microdata.model import Microdata
from distcalib.storage import publish

BUNDLED_HOUSEHOLDS = 12_000
POPULATION_YEAR = 2024
# Lower ends of the broader age bands of which each state's persons are kept.
STATE_AGE_BANDS = np.array([0, 18, 35, 50, 65])
ALL_HOUSEHOLDS = 200_576
# MARS of the source in the words of policyengine-us.
FILING_STATUS = {1: "SINGLE", 2: "JOINT", 3: "SEPARATE", 4: "HEAD_OF_HOUSEHOLD"}
# With fewer, the totals of 51 states and all age bands can often not be met.
FEWEST_HOUSEHOLDS = 4_000


@dataclass(frozen=True)
class CpsBuild:
    """The dataset and what it was made of.

    Attributes
    ----------
    microdata
        The households drawn, with every entity.
    sources
        The table of sources: one row an input, then one a column that is not written.
    agreement
        Totals of the full file under the same rules and of the households drawn: ``total``, ``full``,
        ``sample``, ``difference`` (relative).
    households
        One row a household drawn: household_id, FLPDYR, h_seq, state_fips, starting_weight, design_weight,
        weight, certain.
    units
        One row a tax unit of theirs: tax_unit_id, filing_status_source (MARS in policyengine-us's words).
    raking
        Margins of the full file before and after raking, and quantiles of the adjustment, see `rake`; then
        those of the sample's own (weight / design weight). Without raking both are the starting weights.
    rules
        Rule for impossible records -> records of the full file that it touched.
    """

    microdata: Microdata
    sources: pd.DataFrame
    agreement: pd.DataFrame
    households: pd.DataFrame
    units: pd.DataFrame
    raking: pd.DataFrame
    rules: dict[str, int]


def build_cps(
    households: int | None = BUNDLED_HOUSEHOLDS,
    year: int = POPULATION_YEAR,
    seed: int = 0,
    imputations: tuple[str, ...] = tuple(IMPUTATIONS),
    raked: bool = True,
) -> CpsBuild:
    """Build the dataset from the public-use CPS of the installed taxcalc.

    Parameters
    ----------
    households
        How many households to draw; None for all 200,576.
    year
        Year of the dollars. The weights are those of the population of 2024 whatever the year.
    seed
        Seed of the ages within bands, of the imputations and of the draw.
    imputations
        Which of `cps_imputed.IMPUTATIONS` to make.
    raked
        Whether weights are raked to official ages, population and households; else the starting ones.

    Returns
    -------
    CpsBuild

    Raises
    ------
    InputError
        When taxcalc is missing or of another version, `households` or `year` is out of range, or an
        imputation is unknown.
    """
    if households is not None and not FEWEST_HOUSEHOLDS <= households <= ALL_HOUSEHOLDS:
        raise InputError(
            "so many households cannot be drawn from the public-use CPS",
            place="households",
            value=households,
            expected=f"{FEWEST_HOUSEHOLDS:,} to {ALL_HOUSEHOLDS:,}",
        )
    full, units, rules, index = _full_file(year, seed)
    starting = full.weights
    raked_weights, raking = rake(full)
    if raked:
        full = full.with_columns({"household_weight": raked_weights})
    else:
        raking = raking[raking["margin"] != "adjustment"].assign(after=raking["before"])
    full = impute(full, imputations, seed)
    n = full.count()
    chosen, design, certain = np.arange(n), full.weights, np.ones(n, bool)
    if households is not None and households < n:
        state = full.column("state_fips")
        money = sum_by_household(full, money_income(full))
        chosen, design, certain = draw(households, full.weights, state, money, _amounts(full)[1], seed)
    labels, measures = _measures(full)
    totals = measures @ full.weights
    weights = full.weights[chosen]
    microdata = full
    if len(chosen) < n:
        loose = ~certain
        sampled = measures[:, chosen]
        remaining = totals - sampled[:, certain] @ weights[certain]
        # Rounded, so that the last bits of a linear algebra library never reach the file.
        weights[loose] = np.round(calibrate(design[loose], sampled[:, loose], remaining), 1)
        rows = {e: full.rows_of(e, chosen)[0] for e in ENTITIES}
        microdata = full.take(chosen, ids={e: full.ids[e][rows[e]] for e in ENTITIES}).with_columns(
            {"household_weight": weights}
        )
        spread = adjustment("sample adjustment", microdata.weights / design)
        raking = pd.concat([raking, spread], ignore_index=True)
    table = index.iloc[chosen].assign(
        starting_weight=starting[chosen], design_weight=design, weight=microdata.weights, certain=certain
    )
    kept = np.isin(units["tax_unit_id"], microdata.ids["tax_unit"])
    return CpsBuild(
        microdata=microdata,
        sources=_sources(full, microdata, rules, imputations, raked),
        agreement=totals_frame(labels, totals, measures[:, chosen] @ microdata.weights),
        households=table.reset_index(drop=True),
        units=units[kept].reset_index(drop=True),
        raking=raking,
        rules=rules,
    )


def imputations_without(names: Sequence[str]) -> tuple[str, ...]:
    """Return the imputations but those named; none for ``all``.

    Raises
    ------
    InputError
        For an unknown name.
    """
    for name in names:
        if name != "all" and name not in IMPUTATIONS:
            choices = [*IMPUTATIONS, "all"]
            raise InputError("no such imputation", place="without", value=name, choices=choices)
    return () if "all" in names else tuple(i for i in IMPUTATIONS if i not in names)


def write_bundled(folder: str | Path) -> CpsBuild:
    """Write ``cps_2024.h5`` and its side tables, as the package ships them, to a folder."""
    build = build_cps()
    write_cps(build, Path(folder) / "cps_2024.h5")
    return build


def write_cps(build: CpsBuild, output: str | Path) -> None:
    """Write a build's dataset to `output`, and its tables beside it.

    ``*_sources.csv`` (inputs), ``*_raking.csv`` (margins), ``*_households.csv.gz`` (weights by household) and
    ``*_units.csv.gz`` (the source's filing status); see `CpsBuild`. Equal builds give equal bytes.
    """
    file = Path(output)
    file.parent.mkdir(parents=True, exist_ok=True)
    build.microdata.write(file)
    for name, table in (
        ("sources.csv", build.sources),
        ("raking.csv", build.raking.round(4)),
        ("households.csv.gz", build.households.drop(columns=["FLPDYR", "h_seq"]).round(1)),
        ("units.csv.gz", build.units),
    ):
        data = table.to_csv(index=False, lineterminator="\n").encode("utf-8")
        packed = gzip.compress(data, 9, mtime=0) if name.endswith(".gz") else data
        publish(file.with_name(f"{file.stem}_{name}"), partial(_write_bytes, packed))


def _write_bytes(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _full_file(year: int, seed: int) -> tuple[Microdata, pd.DataFrame, dict[str, int], pd.DataFrame]:
    """Return all households, their tax units, the records that rules touched, and the households' keys."""
    units = read_units(year)
    persons = expand(units, seed)
    state = units.households["fips"].to_numpy(np.int64)
    people = np.bincount(persons.links["household"], minlength=len(state)).astype(np.float64)
    weight = starting_weights(units.households["weight"].to_numpy(np.float64), state, people)
    # The year and h_seq make an id that names the household in the source and is exact as float32.
    key = (units.households["FLPDYR"] - 2000) * 100_000 + units.households["h_seq"]
    links = persons.links
    ids = {
        "person": np.arange(1, len(persons.age) + 1),
        "tax_unit": units.table["RECID"].to_numpy(np.int64),
        "household": key.to_numpy(np.int64),
    } | {e: np.arange(1, int(links[e].max()) + 2) for e in ("spm_unit", "family", "marital_unit")}
    columns = {
        "person": person_columns(units, persons),
        "spm_unit": spm_unit_columns(units, persons),
        "household": {"state_fips": state, "household_weight": weight},
    }
    index = units.households[["FLPDYR", "h_seq"]].assign(household_id=key, state_fips=state)
    status = pd.DataFrame(
        {"tax_unit_id": units.table["RECID"], "filing_status_source": units.table["MARS"].map(FILING_STATUS)}
    )
    return Microdata.build(year, ids, links, columns), status, units.rules, index


def _by_household(data: Microdata, variable: str) -> NDArray[np.float64]:
    """Return a column summed over each household, float64, shape (n households,)."""
    home = data.household_of[data.variables()[variable]]
    sums = np.bincount(home, weights=data.column(variable).astype(np.float64), minlength=data.count())
    return np.asarray(sums, dtype=np.float64)


def _amounts(data: Microdata) -> tuple[list[str], NDArray[np.float64]]:
    """Return the mapped dollar inputs by name, and summed by household, shape (n households, k)."""
    names = [i.variable for i in INPUTS if i.unit == "USD"]
    return names, np.column_stack([_by_household(data, name) for name in names])


def _measures(data: Microdata) -> tuple[list[str], sp.csr_matrix]:
    """Return the totals that the sample has to keep: labels, and a matrix (n totals, n households)."""
    n = data.count()
    state = data.column("state_fips").astype(np.int64)
    codes, place = np.unique(state, return_inverse=True)
    home = data.links["household"]
    age = data.column("age")
    band = np.searchsorted(AGE_BANDS, age, side="right") - 1
    broad = np.searchsorted(STATE_AGE_BANDS, age, side="right") - 1
    names, amounts = _amounts(data)
    flags = [i.variable for i in (*INPUTS, *IMPUTED_INPUTS) if i.unit == "bool"]
    flags = [name for name in flags if name in data.variables()]
    rents = _by_household(data, "pre_subsidy_rent") if "pre_subsidy_rent" in data.variables() else np.zeros(n)
    ones = np.ones(len(home))
    width = len(STATE_AGE_BANDS)
    blocks = [
        sp.csr_matrix((np.ones(n), (place, np.arange(n))), shape=(len(codes), n)),
        sp.csr_matrix((ones, (place[home] * width + broad, home)), shape=(len(codes) * width, n)),
        sp.csr_matrix((ones, (band, home)), shape=(len(AGE_BANDS), n)),
        sp.csr_matrix(amounts.T),
        sp.csr_matrix(np.stack([_by_household(data, name) for name in flags])),
        sp.csr_matrix((rents, (place, np.arange(n))), shape=(len(codes), n)),
    ]
    labels = [
        *(f"households, state {c:02d}" for c in codes),
        *(f"persons, state {c:02d}, from age {a}" for c in codes for a in STATE_AGE_BANDS),
        *(f"persons, from age {a}" for a in AGE_BANDS),
        *names,
        *flags,
        *(f"rent, state {c:02d}" for c in codes),
    ]
    return labels, sp.csr_matrix(sp.vstack(blocks))


def _total(data: Microdata, variable: str) -> float:
    """Return the weighted total of an input; of a flag or a role, the number of persons that it holds for."""
    values = data.column(variable)
    if variable == "household_weight":
        return float(data.weights.sum())
    weights = data.weights[data.household_of[data.variables()[variable]]]
    # Of ages, codes and roles the total is the number of units that have one.
    number = variable not in ("age", "state_fips") and values.dtype.kind in "fib"
    return float(weights @ values.astype(np.float64)) if number else float(weights.sum())


def _text(total: float, unit: str) -> str:
    """Write a total in whole units; dollars in whole millions of them."""
    return f"{round(total, -6 if unit == 'USD' else 0):.0f}"


def _sources(
    full: Microdata, sample: Microdata, rules: dict[str, int], imputations: tuple[str, ...], raked: bool
) -> pd.DataFrame:
    """Return the table of sources: inputs, then columns not written, then rules with their counts."""
    changed = {CHANGED[name][0]: CHANGED[name][1] for name in imputations if name in CHANGED}
    if raked:
        changed["household_weight"] = "; raked to ages, population and households of 2024"
    rows = [
        {
            "source_column": i.source,
            "policyengine_input": i.variable,
            "entity": i.entity,
            "unit": i.unit,
            "rule": i.rule + changed.get(i.variable, ""),
            "imputed": "yes" if i.imputed else "no",
            "total_full_file": _text(_total(full, i.variable), i.unit),
            f"total_{sample.count()}_households": _text(_total(sample, i.variable), i.unit),
            "official_total": "" if i.official is None else f"{i.official:.0f}",
            "official_source": i.official_source,
            "note": i.note,
        }
        for i in (*INPUTS, *IMPUTED_INPUTS)
        if i.variable in full.variables()
    ]
    rows += [{"source_column": c, "rule": "not written", "note": why} for c, why in NOT_WRITTEN.items()]
    rows += [
        {"source_column": "records", "rule": rule, "note": f"touches {count:,} tax units of 280,005"}
        for rule, count in rules.items()
    ]
    return pd.DataFrame(rows).fillna("")
