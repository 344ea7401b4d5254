"""The bundled microdata: the public-use CPS of taxcalc as a PolicyEngine dataset.

``build_cps`` is the whole way: read and age the tax units (`cps_source`), make their persons (`cps_persons`),
map the columns to inputs of policyengine-us (`cps_columns`), draw households (`cps_sample`).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from distcalib.catalogue import ENTITIES
from distcalib.errors import InputError
from distcalib.microdata.cps_columns import person_columns, spm_unit_columns
from distcalib.microdata.cps_inputs import INPUTS, NOT_WRITTEN
from distcalib.microdata.cps_persons import expand
from distcalib.microdata.cps_sample import calibrate, draw, totals_frame
from distcalib.microdata.cps_source import read_units
from distcalib.microdata.model import Microdata
from distcalib.storage import write_text

BUNDLED_HOUSEHOLDS = 12_000
POPULATION_YEAR = 2024
# Lower ends of the age bands of ACS table S0101, of which the nation's persons are kept, and of the broader
# ones of which each state's are.
AGE_BANDS = np.array([0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85])
STATE_AGE_BANDS = np.array([0, 18, 35, 50, 65])
ALL_HOUSEHOLDS = 200_576
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
        One row a household drawn: household_id, FLPDYR, h_seq, state_fips, design_weight, weight, certain.
    rules
        Rule for impossible records -> records of the full file that it touched.
    """

    microdata: Microdata
    sources: pd.DataFrame
    agreement: pd.DataFrame
    households: pd.DataFrame
    rules: dict[str, int]


def population_by_state() -> pd.DataFrame:
    """Return the official population of the 51 states in 2024 (ACS table S0101), as bundled."""
    path = resources.files("distcalib.microdata").joinpath("bundled/population_by_state_2024.csv")
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file)


def build_cps(
    households: int | None = BUNDLED_HOUSEHOLDS, year: int = POPULATION_YEAR, seed: int = 0
) -> CpsBuild:
    """Build the dataset from the public-use CPS of the installed taxcalc.

    Parameters
    ----------
    households
        How many households to draw; None for all 200,576.
    year
        Year of the dollars. The weights are those of the population of 2024 whatever the year.
    seed
        Seed of the ages within bands and of the draw.

    Returns
    -------
    CpsBuild

    Raises
    ------
    InputError
        When taxcalc is missing or of another version, or `households` or `year` is out of range.
    """
    if households is not None and not FEWEST_HOUSEHOLDS <= households <= ALL_HOUSEHOLDS:
        raise InputError(
            "so many households cannot be drawn from the public-use CPS",
            place="households",
            value=households,
            expected=f"{FEWEST_HOUSEHOLDS:,} to {ALL_HOUSEHOLDS:,}",
        )
    full, rules, index = _full_file(year, seed)
    n = full.count()
    chosen, design, certain = np.arange(n), full.weights, np.ones(n, bool)
    if households is not None and households < n:
        state, money = full.column("state_fips"), _money_income(full)
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
    table = index.iloc[chosen].assign(design_weight=design, weight=microdata.weights, certain=certain)
    return CpsBuild(
        microdata=microdata,
        sources=_sources(full, microdata, rules),
        agreement=totals_frame(labels, totals, measures[:, chosen] @ microdata.weights),
        households=table.reset_index(drop=True),
        rules=rules,
    )


def write_bundled(folder: str | Path) -> CpsBuild:
    """Write ``cps_2024.h5`` and ``cps_2024_sources.csv``, as the package ships them, to a folder."""
    build = build_cps()
    write_cps(build, Path(folder) / "cps_2024.h5")
    return build


def write_cps(build: CpsBuild, output: str | Path) -> None:
    """Write a build's dataset to `output`, and its table of sources beside it as ``*_sources.csv``."""
    file = Path(output)
    file.parent.mkdir(parents=True, exist_ok=True)
    build.microdata.write(file)
    text = build.sources.to_csv(index=False, lineterminator="\n")
    write_text(file.with_name(f"{file.stem}_sources.csv"), text)


def _full_file(year: int, seed: int) -> tuple[Microdata, dict[str, int], pd.DataFrame]:
    """Return all households of the source, the records its rules touched, and the households' keys."""
    units = read_units(year)
    persons = expand(units, seed)
    people = np.bincount(persons.links["household"], minlength=len(units.households))
    state = units.households["fips"].to_numpy(np.int64)
    official = population_by_state().set_index("state_fips")["persons"]
    weight = units.households["weight"].to_numpy(np.float64)
    own = pd.Series(weight * people).groupby(state).sum()
    if set(own.index) != set(official.index):
        raise ValueError("the source's states are not the 51 of the population table")
    weight = weight * pd.Series(state).map(official / own).to_numpy()
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
    return Microdata.build(year, ids, links, columns), units.rules, index


def _by_household(data: Microdata, variable: str) -> NDArray[np.float64]:
    """Return a column summed over each household, float64, shape (n households,)."""
    home = data.household_of[data.variables()[variable]]
    sums = np.bincount(home, weights=data.column(variable).astype(np.float64), minlength=data.count())
    return np.asarray(sums, dtype=np.float64)


def _amounts(data: Microdata) -> tuple[list[str], NDArray[np.float64]]:
    """Return the mapped dollar inputs by name, and summed by household, shape (n households, k)."""
    names = [i.variable for i in INPUTS if i.unit == "USD"]
    return names, np.column_stack([_by_household(data, name) for name in names])


def _money_income(data: Microdata) -> NDArray[np.float64]:
    """Return the households' money income of all mapped kinds, dollars, shape (n households,)."""
    incomes = [_by_household(data, i.variable) for i in INPUTS if i.kind == "income"]
    return np.asarray(np.sum(incomes, axis=0), dtype=np.float64)


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
    ones = np.ones(len(home))
    width = len(STATE_AGE_BANDS)
    blocks = [
        sp.csr_matrix((np.ones(n), (place, np.arange(n))), shape=(len(codes), n)),
        sp.csr_matrix((ones, (place[home] * width + broad, home)), shape=(len(codes) * width, n)),
        sp.csr_matrix((ones, (band, home)), shape=(len(AGE_BANDS), n)),
        sp.csr_matrix(amounts.T),
    ]
    labels = [
        *(f"households, state {c:02d}" for c in codes),
        *(f"persons, state {c:02d}, from age {a}" for c in codes for a in STATE_AGE_BANDS),
        *(f"persons, from age {a}" for a in AGE_BANDS),
        *names,
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


def _sources(full: Microdata, sample: Microdata, rules: dict[str, int]) -> pd.DataFrame:
    """Return the table of sources: inputs, then columns not written, then rules with their counts."""
    rows = [
        {
            "source_column": i.source,
            "policyengine_input": i.variable,
            "entity": i.entity,
            "unit": i.unit,
            "rule": i.rule,
            "imputed": "yes" if i.imputed else "no",
            "total_full_file": _text(_total(full, i.variable), i.unit),
            f"total_{sample.count()}_households": _text(_total(sample, i.variable), i.unit),
            "official_total": "" if i.official is None else f"{i.official:.0f}",
            "official_source": i.official_source,
            "note": i.note,
        }
        for i in INPUTS
    ]
    rows += [{"source_column": c, "rule": "not written", "note": why} for c, why in NOT_WRITTEN.items()]
    rows += [
        {"source_column": "records", "rule": rule, "note": f"touches {count:,} tax units of 280,005"}
        for rule, count in rules.items()
    ]
    return pd.DataFrame(rows).fillna("")
