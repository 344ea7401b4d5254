"""Persons of the public-use CPS: who lives in a tax unit, how old, and in which units together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.microdata.cps_source import Units
from distcalib.random import uniform

Array = NDArray[np.int64]

# Age bands of dependants: count in `Units.table`, youngest and oldest single year of age. The file says only
# '65 or more' of elderly dependants; 85 is its own top code.
BANDS = (
    ("dep_0_5", 0, 5),
    ("dep_6_12", 6, 12),
    ("dep_13_16", 13, 16),
    ("dep_17", 17, 17),
    ("dep_18_20", 18, 20),
    ("dep_21_64", 21, 64),
    ("dep_65", 65, 85),
)
# A qualifying child for the EITC of 19 or more is a student of at most 23 (26 USC 32(c)(3)).
OLDEST_EITC_STUDENT = 23
# Where a band allows it, a dependant is younger than the elder of head and spouse by at least this.
GENERATION = 14

HEAD, SPOUSE, DEPENDENT = 0, 1, 2
ROLES = np.array([b"HEAD", b"SPOUSE", b"DEPENDENT"])


@dataclass(frozen=True)
class Persons:
    """Everybody in the file, ordered by household, tax unit, role and age band.

    Attributes
    ----------
    age, role, unit
        Arrays of shape (n persons,): years; HEAD, SPOUSE or DEPENDENT; row of the tax unit.
    student
        Bool, shape (n persons,): a dependant of 19 to 23 who counts for the EITC.
    child_record
        Bool, shape (n persons,): headed a unit of its own under 15 in the source.
    blind
        Bool, shape (n persons,).
    links
        Group entity -> position of each person's unit, int64, shape (n persons,).
    head, spouse
        Row of each tax unit's head and of its spouse (-1 for none), shape (n units,).
    """

    age: Array
    role: Array
    unit: Array
    student: NDArray[np.bool_]
    child_record: NDArray[np.bool_]
    blind: NDArray[np.bool_]
    links: dict[str, Array]
    head: Array
    spouse: Array


def expand(units: Units, seed: int) -> Persons:
    """Make one person for each head, spouse and dependant.

    Parameters
    ----------
    units
        Tax units with counts of dependants by age band.
    seed
        Seed of the single years of age within a band; a draw depends on RECID and the dependant's number.

    Returns
    -------
    Persons
    """
    table = units.table
    n = len(table)
    dependants = _dependants(table, seed)
    people = pd.concat(
        [
            pd.DataFrame(
                {
                    "unit": np.arange(n),
                    "role": HEAD,
                    "age": table["age_head"].to_numpy(),
                    "blind": table["blind_head"].to_numpy() == 1,
                }
            ),
            pd.DataFrame(
                {
                    "unit": np.flatnonzero(table["has_spouse"]),
                    "role": SPOUSE,
                    "age": table.loc[table["has_spouse"], "age_spouse"].to_numpy(),
                    "blind": table.loc[table["has_spouse"], "blind_spouse"].to_numpy() == 1,
                }
            ),
            dependants,
            pd.DataFrame(
                {
                    "unit": units.children["host"],
                    "role": DEPENDENT,
                    "age": units.children["age"],
                    "blind": units.children["blind"] == 1,
                    "child_record": True,
                }
            ),
        ],
        ignore_index=True,
    )
    for flag in ("student", "child_record"):
        people[flag] = people[flag].eq(True)
    # Stable, so that dependants of a unit stay in the order of their bands.
    home = table["household"].to_numpy()[people["unit"]]
    order = np.lexsort((people["role"], people["unit"], home))
    people = people.iloc[order].reset_index(drop=True)
    unit = people["unit"].to_numpy(np.int64)
    role = people["role"].to_numpy(np.int64)
    head = np.full(n, -1, np.int64)
    spouse = np.full(n, -1, np.int64)
    head[unit[role == HEAD]] = np.flatnonzero(role == HEAD)
    spouse[unit[role == SPOUSE]] = np.flatnonzero(role == SPOUSE)
    return Persons(
        age=people["age"].to_numpy(np.int64),
        role=role,
        unit=unit,
        student=people["student"].to_numpy(bool),
        child_record=people["child_record"].to_numpy(bool),
        blind=people["blind"].to_numpy(bool),
        links=_links(table, unit, role, head, people["age"].to_numpy(np.int64)),
        head=head,
        spouse=spouse,
    )


def _dependants(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the dependants of all units with single years of age."""
    counts = table[[name for name, _, _ in BANDS]].to_numpy(np.int64)
    each = np.repeat(np.tile(np.arange(len(BANDS)), len(table)), counts.ravel())
    unit = np.repeat(np.arange(len(table)), counts.sum(axis=1))
    start = np.cumsum(counts.sum(axis=1)) - counts.sum(axis=1)
    number = np.arange(len(unit)) - start[unit]
    low = np.array([band[1] for band in BANDS])[each]
    high = np.array([band[2] for band in BANDS])[each]
    # EIC counts qualifying children; those beyond the minors are the youngest of the adult dependants.
    minors = counts[:, :4].sum(axis=1)
    qualifies = (number >= minors[unit]) & (number < table["EIC"].to_numpy()[unit]) & (low >= 18) & (low < 65)
    high = np.where(qualifies, np.minimum(high, OLDEST_EITC_STUDENT), high)
    elder = table[["age_head", "age_spouse"]].max(axis=1).to_numpy()[unit]
    oldest = np.where((low < 65) & (elder - GENERATION >= low), np.minimum(high, elder - GENERATION), high)
    draw = uniform(seed, "cps/age", table["RECID"].to_numpy()[unit], number)
    age = low + np.floor(draw * (oldest - low + 1)).astype(np.int64)
    return pd.DataFrame(
        {
            "unit": unit,
            "role": DEPENDENT,
            "age": age,
            "blind": False,
            "student": qualifies & (age >= 19),
        }
    )


def _links(table: pd.DataFrame, unit: Array, role: Array, head: Array, age: Array) -> dict[str, Array]:
    """Return the units of every kind that each person belongs to.

    Family: ffpos, the CPS's family within the household. SPM unit: the household where it holds one family or
    two (the second is most often an unmarried partner, alone or with children, whom the Census Bureau's SPM
    unit takes in); in a household of three families or more each family is its own, but one without anybody
    of 18 belongs to the first that has an adult (or to the first). Marital unit: head and spouse together,
    others alone.
    """
    household = table["household"].to_numpy(np.int64)
    ffpos = table["ffpos"].to_numpy(np.int64)
    family_key = household * 100 + ffpos
    families, family = np.unique(family_key, return_inverse=True)
    families_at_home = np.bincount(families // 100, minlength=household.max() + 1)
    together = families_at_home[household] <= 2
    oldest = pd.Series(age).groupby(family[unit]).max().to_numpy()
    # The first family with an adult, or the first of all in a household of minors, where its head answers.
    order = np.lexsort((families, oldest < 18, families // 100))
    first = pd.Series(families[order]).groupby(families[order] // 100).first()
    joined = first[families // 100].to_numpy(np.int64)
    own_family = np.where(oldest >= 18, families, joined)[family]
    spm = np.unique(np.where(together, household * 100, own_family), return_inverse=True)[1]
    own = np.where(role == SPOUSE, head[unit], np.arange(len(unit)))
    return {
        "tax_unit": unit,
        "spm_unit": spm[unit].astype(np.int64),
        "family": family[unit].astype(np.int64),
        "marital_unit": np.unique(own, return_inverse=True)[1].astype(np.int64),
        "household": household[unit],
    }
