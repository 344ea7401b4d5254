"""Place households: the inputs that a column of the matrix and an area file share, made in one way.

What a simulation task computes and what PolicyEngine computes from a published file are equal because both
start from the output of `place`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from distcalib.catalogue import ENTITIES
from distcalib.geography.assignment import GeographyAssignment, as_bytes, digits
from distcalib.microdata.model import Microdata
from distcalib.simulation.takeup import draw_take_up

# Variables that say where a household lives, or follow from it. A stored value would win over the new place
# (the rules engine prefers a stored county to county_fips), so all of them go before the new ones are set.
GEOGRAPHY = (
    "state_fips", "state_code", "state_code_str", "state_name", "state_group", "state_group_str", "county",
    "county_fips", "county_str", "first_county_in_state", "congressional_district_geoid", "block_geoid",
    "tract_geoid", "cbsa_code", "place_fips", "puma", "sldl", "sldu", "vtd", "zcta", "zip_code",
    "three_digit_zip_code", "in_nyc", "snap_region", "snap_region_str", "snap_utility_region",
    "snap_utility_region_str", "in_la", "in_denver", "in_wilmington", "in_yonkers", "is_rural",
    "medicaid_rating_area", "slcsp_rating_area", "slcsp_rating_area_default", "slcsp_rating_area_la_county",
    "local_sales_tax_rate", "local_sales_tax_table", "ct_tfa_region",
)  # fmt: skip

# Weights of other entities follow from the household's by formula; stored ones would be stale.
STALE_WEIGHTS = tuple(f"{entity}_weight" for entity in ENTITIES if entity != "household")


def place(
    source: Microdata,
    assignment: GeographyAssignment,
    columns: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    seed: int = 0,
    take_up: bool | pd.DataFrame = True,
) -> Microdata:
    """Return the households of some columns, where they were placed, with their own take-up flags.

    Parameters
    ----------
    source
        The donors; `assignment` is over its households.
    assignment
        Placement of every column.
    columns
        Columns to place, int64, shape (k,).
    weights
        Household weights, shape (k,); 1 when left out. They never change a household's own values.
    seed
        Seed of the take-up draws.
    take_up
        False keeps the flags that the microdata hold (or the rules engine's defaults); True draws them at the
        bundled rates, a table (`distcalib.simulation.takeup.read_rates`) at its own.

    Returns
    -------
    Microdata
        Entity ids are ``clone * n + donor row``, so a unit has the same id in every file that holds it, and
        a household's id is its column.
    """
    placed, new = _placed(source, assignment, columns, weights, seed, take_up)
    return placed.with_columns(new)


def place_once(
    source: Microdata,
    assignment: GeographyAssignment,
    columns: ArrayLike,
    *,
    seed: int = 0,
    take_up: bool | pd.DataFrame = True,
) -> tuple[Microdata, np.ndarray]:
    """Place the households of some columns, of those that are equal in every input only the first.

    Parameters
    ----------
    source, assignment, columns, seed, take_up
        As in `place`.

    Returns
    -------
    data : Microdata
        As of `place`, with weight 1; no two of its households are clones of one donor with the same place
        and the same flags.
    which : ndarray of int64, shape (k,)
        For each column the position of its household in `data`.
    """
    cols = np.asarray(columns, dtype=np.int64)
    placed, new = _placed(source, assignment, cols, None, seed, take_up)
    data = placed.with_columns(new)
    record = cols % assignment.n_records
    # Where no donor is twice in one place, as with few clones, no flag need be compared.
    where = [record, assignment.county_fips[cols], assignment.cd_geoid[cols], assignment.block_geoid[cols]]
    if not pd.DataFrame(dict(enumerate(where))).duplicated().any():
        return data, np.arange(len(cols))
    which = _alike(data, record, new)
    first = np.unique(which, return_index=True)[1]
    return data.take(first, {e: data.ids[e][data.rows_of(e, first)[0]] for e in ENTITIES}), which


def _alike(data: Microdata, record: np.ndarray, names: Iterable[str]) -> np.ndarray:
    """Number the households that differ by donor or in some columns, in the order in which they occur."""
    keys, entity_of = {"record": record}, data.variables()
    for entity in ENTITIES:
        mine = pd.DataFrame({name: data.column(name) for name in names if entity_of[name] == entity})
        if mine.empty:
            continue
        rows, owner = data.rows_of(entity, np.arange(data.count()))
        kind = mine.groupby(list(mine), sort=False).ngroup().to_numpy()[rows]
        # Clones of a donor have the same units in the same order: a key a place in that order.
        within = np.arange(len(rows)) - np.searchsorted(owner, owner)
        for position in range(int(within.max()) + 1):
            here = within == position
            keys[f"{entity} {position}"] = np.full(data.count(), -1)
            keys[f"{entity} {position}"][owner[here]] = kind[here]
    return pd.DataFrame(keys).groupby(list(keys), sort=False).ngroup().to_numpy(np.int64)


def _placed(
    source: Microdata,
    assignment: GeographyAssignment,
    columns: ArrayLike,
    weights: ArrayLike | None,
    seed: int,
    take_up: bool | pd.DataFrame,
) -> tuple[Microdata, dict[str, np.ndarray]]:
    """Return the donors of some columns, and what the place, the weight and the draws set in them."""
    cols = np.asarray(columns, dtype=np.int64)
    record, clone = cols % assignment.n_records, cols // assignment.n_records
    rows, owners, ids = {}, {}, {}
    for entity in ENTITIES:
        rows[entity], owners[entity] = source.rows_of(entity, record)
        ids[entity] = clone[owners[entity]] * source.count(entity) + rows[entity]
    # Weights of other years go too: nothing was fitted to them.
    placed = _without(source, (*GEOGRAPHY, *STALE_WEIGHTS, "household_weight")).take(record, ids)
    state = assignment.state_fips[cols]
    new: dict[str, np.ndarray] = {
        "household_weight": np.ones(len(cols)) if weights is None else np.asarray(weights, dtype=np.float64),
        "state_fips": state,
        "congressional_district_geoid": assignment.cd_geoid[cols],
    }
    county = assignment.county_fips[cols]
    if county.any():
        new["county_fips"] = digits(county, 5)
    block = assignment.block_geoid[cols]
    if block.any():
        new["block_geoid"] = digits(block, 15)
        new["tract_geoid"] = digits(block // 10**4, 11)
    # Codes that a crosswalk gave; one that nobody here has is the rules engine's default, empty.
    codes = {name: as_bytes(values) for name, values in assignment.fields(cols).items()}
    new |= {name: values for name, values in codes.items() if (values != b"").any()}
    if take_up is not False:
        new |= draw_take_up(
            source,
            rows,
            {e: clone[owners[e]] for e in ENTITIES},
            {e: state[owners[e]] for e in ENTITIES},
            seed,
            None if take_up is True else take_up,
        )
    return placed, new


def _without(data: Microdata, variables: tuple[str, ...]) -> Microdata:
    gone = set(variables)
    values = {e: {p: a for p, a in t.items() if p.split("/")[0] not in gone} for e, t in data.values.items()}
    if all(len(values[e]) == len(data.values[e]) for e in values):
        return data
    trimmed = Microdata(data.period, data.ids, data.links, values)
    # The row index depends on ids and links alone: hand it over rather than sorting again.
    for name in ("household_of", "_rows_by_household"):
        trimmed.__dict__[name] = getattr(data, name)
    return trimmed
