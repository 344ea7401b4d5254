"""Clone households and place each clone in a congressional district, a county and, where known, a block."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from distcalib.errors import InputError, warn
from distcalib.geography.assignment import GeographyAssignment
from distcalib.geography.chances import Chances
from distcalib.geography.draw import Parts, draw_blocks, draw_counties, draw_districts
from distcalib.geography.states import STATE_CODES


def assign_geography(
    household_id: ArrayLike,
    n_clones: int,
    districts: pd.DataFrame | Chances,
    county_shares: pd.DataFrame,
    seed: int,
    *,
    blocks: Parts | None = None,
) -> GeographyAssignment:
    """Place `n_clones` clones of every household, no district twice while there are enough.

    Parameters
    ----------
    household_id
        Donor household ids, shape (n,).
    n_clones
        Clones of each household.
    districts
        Columns cd_geoid and population, to draw by population; or `Chances`, conditioned on more.
    county_shares
        See `draw_counties`; passed over when there are blocks.
    seed
        Seed of the run.
    blocks
        Census blocks to draw from; the county is then the block's. Without them no block is known.

    Raises
    ------
    InputError
        For `Chances` of another number of households.
    """
    ids = np.asarray(household_id, dtype=np.int64)
    chances = Chances.of(len(ids), districts) if isinstance(districts, pd.DataFrame) else districts
    _check_laws(chances, len(ids))
    drawn = np.empty((n_clones, len(ids)), dtype=np.int64)
    again = np.empty((n_clones, len(ids)), dtype=np.int64)
    for law in range(len(chances.mass)):
        members = np.flatnonzero(chances.law == law)
        there, share = chances.shares(law)
        drawn[:, members] = there[draw_districts(ids[members], n_clones, share, seed)]
        again[:, members] = (np.arange(n_clones) // len(there))[:, None]
    cds = chances.cd_geoid[drawn].reshape(-1)
    everybody = np.tile(ids, n_clones)
    if blocks is None:
        block = np.zeros(len(cds), dtype=np.int64)
        county = draw_counties(everybody, cds, county_shares, seed)
    else:
        block = draw_blocks(everybody, cds, blocks, seed, again.reshape(-1))
        county = (block // 10**10).astype(np.int32)
    return GeographyAssignment(
        block_geoid=block,
        cd_geoid=cds,
        county_fips=county,
        state_fips=(cds // 100).astype(np.int32),
        n_records=len(ids),
        n_clones=n_clones,
    )


def assign_random_geography(
    n_records: int,
    n_clones: int = 10,
    seed: int = 42,
    *,
    household_id: ArrayLike | None = None,
    block_path: str | Path | None = None,
    population_path: str | Path | None = None,
    crosswalk_path: str | Path | None = None,
    cbsa_path: str | Path | None = None,
    agi: ArrayLike | None = None,
    area_agi: Mapping[int, float] | None = None,
    household_weight: ArrayLike | None = None,
    pinned_state: ArrayLike | None = None,
) -> GeographyAssignment:
    """Place clones over all 436 districts by the bundled populations and counties.

    Parameters
    ----------
    n_records, n_clones
        Households, and clones of each.
    seed
        Seed of the draws.
    household_id
        Ids that key the draws, shape (n_records,), all different; 0, 1, 2 ... when left out.
    block_path, population_path
        See `distcalib.geography.blocks.read_blocks`; without them blocks stay unknown (0).
    crosswalk_path, cbsa_path
        See `distcalib.geography.crosswalk.derive`.
    agi, area_agi, household_weight, pinned_state
        See `Chances.of`.

    Returns
    -------
    GeographyAssignment
        n_records x n_clones columns; clones of a household are in different districts while these last.

    Warns
    -----
    UserWarning
        What the files leave unsaid: no population, blocks that the crosswalk lacks.
    """
    from distcalib.geography.blocks import read_blocks
    from distcalib.geography.crosswalk import derive
    from distcalib.geography.sources import county_fips_of_rules_engine, county_shares, districts

    for name, value in (("n_records", n_records), ("n_clones", n_clones)):
        if value < 1:
            raise InputError("is too small", place=name, value=value, expected="at least 1")
    ids = np.arange(n_records) if household_id is None else np.asarray(household_id, dtype=np.int64)
    if ids.shape != (n_records,) or len(np.unique(ids)) != n_records:
        raise InputError(f"are not {n_records} different ids", place="household_id", value=ids.shape)
    table, blocks = districts(), None
    notes: list[str] = []
    if block_path is not None:
        blocks, notes = read_blocks(block_path, population_path)
    chances = Chances.of(
        n_records,
        table,
        agi=agi,
        area_agi=area_agi,
        household_weight=household_weight,
        pinned_state=pinned_state,
    )
    placed = assign_geography(ids, n_clones, chances, county_shares(), seed, blocks=blocks)
    check_counties(placed, county_fips_of_rules_engine()["county_fips"], block_path or "county table")
    placed, more = derive(placed, crosswalk_path, cbsa_path)
    for note in [*notes, *more]:
        warn(note)
    return placed


def own_state_geography(
    household_id: ArrayLike,
    state_fips: ArrayLike,
    districts: pd.DataFrame,
    county_shares: pd.DataFrame,
    seed: int,
) -> GeographyAssignment:
    """Leave every household in its state, in one district of it and a county there, drawn by population.

    Parameters
    ----------
    household_id, state_fips
        int arrays of equal shape (n,).
    districts, county_shares, seed
        As in `assign_geography`.

    Raises
    ------
    InputError
        For a state that has no district in the table.
    """
    chances = Chances.of(len(np.asarray(household_id)), districts, pinned_state=state_fips)
    return assign_geography(household_id, 1, chances, county_shares, seed)


def check_counties(
    assignment: GeographyAssignment, known: ArrayLike, place: str | Path = "county table"
) -> None:
    """Raise `InputError` for a county that the rules engine does not map.

    It would silently take the first county of the state.

    Parameters
    ----------
    assignment
        The placement; county 0 means unset.
    known
        5-digit FIPS codes that the rules engine maps.
    place
        What the counties were read from.
    """
    used = np.unique(assignment.county_fips)
    strange = np.setdiff1d(used[used != 0], np.asarray(known))
    if strange.size:
        state = STATE_CODES.get(int(strange[0]) // 1000, "a state")
        raise InputError(
            f"{len(strange)} unknown county FIPS codes",
            place=place,
            value=f"{strange[0]:05d}",
            expected=f"a county of {state} that policyengine-us maps",
            choices=[f"{c:05d}" for c in np.asarray(known).tolist()],
        )


def initial_weights(
    assignment: GeographyAssignment, household_weight: NDArray[Any], districts: pd.DataFrame | Chances
) -> NDArray[np.float64]:
    """Design weight of every column: household weight x p(district) / expected inclusion.

    p and the inclusion are those of the household's own draw. Summed over the clones of a household this is,
    in expectation, its weight; summed over a district it is, for households placed by population, the
    district's share of the population, however many clones there are.

    Parameters
    ----------
    assignment
        Placement of the columns.
    household_weight
        Design weights of the households, shape (n_records,), of the nation.
    districts
        What was drawn from, as given to `assign_geography`. Where it is only a part of the nation, give
        `Chances` that know the nation; else the part takes the whole weight.

    Returns
    -------
    ndarray of float64, shape (n_columns,)

    Raises
    ------
    InputError
        For `Chances` of another number of households, or a column in a district that its household cannot
        draw.
    """
    chances = districts
    if isinstance(chances, pd.DataFrame):
        chances = Chances.of(assignment.n_records, chances)
    _check_laws(chances, assignment.n_records)
    ratio = chances.weight_ratios(assignment.n_clones)
    at = np.searchsorted(chances.cd_geoid, assignment.cd_geoid).clip(max=len(chances.cd_geoid) - 1)
    of_column = ratio[np.tile(chances.law, assignment.n_clones), at]
    strange = (chances.cd_geoid[at] != assignment.cd_geoid) | (of_column <= 0)
    if strange.any():
        raise InputError(
            f"has {int(strange.sum())} columns in districts that their households cannot draw",
            place="assignment",
            value=int(assignment.cd_geoid[strange][0]),
            choices=map(str, chances.cd_geoid.tolist()),
        )
    weight = np.tile(np.asarray(household_weight, dtype=np.float64), assignment.n_clones)
    return weight * of_column


def _check_laws(chances: Chances, n_records: int) -> None:
    if chances.law.shape != (n_records,):
        raise InputError(
            "are of another number of households",
            place="chances",
            value=chances.law.shape,
            expected=f"({n_records},)",
        )
    if not np.isin(chances.law, np.arange(len(chances.mass))).all():
        raise InputError("have a household of a law that they lack", place="chances")
