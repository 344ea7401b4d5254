"""Four columns in three blocks, and a crosswalk of these."""

from __future__ import annotations

import numpy as np

from distcalib.geography import GeographyAssignment

BLOCKS = np.array([10010201001000, 60371234001005, 360610001001000, 60371234001005])


def placed(blocks=BLOCKS, county=None) -> GeographyAssignment:
    blocks = np.asarray(blocks)
    state = blocks // 10**13
    return GeographyAssignment(
        block_geoid=blocks,
        cd_geoid=(state * 100 + 1).astype(np.int32),
        county_fips=(blocks // 10**10 if county is None else np.asarray(county)).astype(np.int32),
        state_fips=state.astype(np.int32),
        n_records=2,
        n_clones=2,
    )


CROSSWALK = """block_geoid,sldu,sldl,place_fips,vtd,puma,zcta
360610001001000,026,065,51000,,04103,10004
010010201001000,030,088,,00A-1,02100,36067
990010201001000,1,1,1,1,1,1
060371234001005,020,046,44000,VTD,03701,90001
"""
