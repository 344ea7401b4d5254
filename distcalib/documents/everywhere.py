"""Every household in every one of some districts: the columns of the first document and of its files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.geography.assign import check_counties, draw_counties
from distcalib.geography.assignment import GeographyAssignment
from distcalib.geography.district import District
from distcalib.geography.sources import county_fips_of_rules_engine, county_shares, districts


def read_districts(cds: Iterable[object]) -> tuple[list[str], np.ndarray]:
    """Read a list of districts in any spelling.

    Returns
    -------
    names : list of str
        As they were given.
    geoids : ndarray of int32
        Their GEOIDs, in the same order.

    Raises
    ------
    InputError
        For an unknown district, one that is named twice, and an empty list.
    """
    names = [str(cd) for cd in cds]
    known = set(districts()["cd_geoid"].tolist())
    geoids = [District.parse(name, known=known).geoid for name in names]
    if not names:
        raise InputError("names no district", place="cds_to_calibrate")
    repeated = [name for i, name in enumerate(names) if geoids[i] in geoids[:i]]
    if repeated:
        raise InputError("names a district twice", place="cds_to_calibrate", value=repeated[0])
    return names, np.array(geoids, dtype=np.int32)


def everywhere(
    household_id: np.ndarray, geoids: np.ndarray, *, county_level: bool, seed: int
) -> GeographyAssignment:
    """Place every household in every district: clone d of a household lives in district d.

    Parameters
    ----------
    household_id
        Donor ids, int64, shape (n,).
    geoids
        Districts, int32, shape (d,).
    county_level
        Draw a county for each household and district; else leave it unset.
    seed
        Seed of the counties, which are a function of (seed, donor household id, district).
    """
    cds = np.repeat(geoids.astype(np.int32), len(household_id))
    counties = np.zeros(len(cds), dtype=np.int32)
    if county_level:
        counties = draw_counties(np.tile(household_id, len(geoids)), cds, county_shares(), seed)
    placed = GeographyAssignment(
        block_geoid=np.zeros(len(cds), dtype=np.int64),
        cd_geoid=cds,
        county_fips=counties,
        state_fips=(cds // 100).astype(np.int32),
        n_records=len(household_id),
        n_clones=len(geoids),
    )
    check_counties(placed, county_fips_of_rules_engine()["county_fips"])
    return placed


def household_ids(sim: Any, period: int | None = None) -> np.ndarray:
    """Return the household ids of a user's simulation, int64, shape (n households,)."""
    given = sim.calculate("household_id", *([] if period is None else [period]))
    # Microsimulation gives a weighted series, which warns when it is unwrapped its own way.
    ids = pd.Series.to_numpy(given) if isinstance(given, pd.Series) else np.asarray(given)
    return ids.astype(np.int64)
