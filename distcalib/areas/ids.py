"""Numbers of the units of area files: a range of ids for each district."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distcalib.catalogue import ENTITIES
from distcalib.errors import InputError
from distcalib.microdata.model import Microdata

# Ids of a district lie in a range of their own, so that files of different districts can be joined.
RANGE = 25_000
# Person ids begin here.
FIRST_PERSON = 5_000_000
# The rules engine has seeded draws with a hundred times the person id, as a 32-bit number.
LARGEST_PERSON = (2**31 - 1) // 100

Ids = NDArray[np.int64]


def units(source: Microdata) -> dict[str, Ids]:
    """Return entity -> how many units each household has, int64, (n households,)."""
    return {e: np.bincount(source.household_of[e], minlength=source.count()) for e in ENTITIES}


def range_ids(
    sizes: Mapping[str, NDArray[np.int64]],
    record: NDArray[np.int64],
    district: NDArray[np.int64],
    names: Sequence[str],
) -> dict[str, Ids]:
    """Return the first id of each household's units where every district has a range of 25,000 ids.

    Parameters
    ----------
    sizes
        Units of each donor, as `units` gives them.
    record
        Donor of each household, int64, (k,); those of a district are neighbours.
    district
        Place of each household's district in `names`, int64, (k,), ascending.
    names
        Of all districts, for errors.

    Returns
    -------
    dict
        Entity -> int64, (k,): 25,000 x the district's place + a running number; of persons 5,000,000 more.

    Raises
    ------
    InputError
        When a district has more than 25,000 units of an entity: names district, entity and number. When
        there are so many districts that 100 x a person id is no 32-bit number.
    """
    first = np.searchsorted(district, np.arange(len(names)))
    ids = {}
    for entity in ENTITIES[::-1]:
        of_household = sizes[entity][record]
        counts = np.bincount(district, of_household, minlength=len(names)).astype(np.int64)
        if counts.max(initial=0) > RANGE:
            at = int(counts.argmax())
            raise InputError(
                f"more {entity.replace('_', ' ')}s than a district can have",
                place=f"district {names[at]}",
                value=int(counts[at]),
                expected=f"at most {RANGE:,}: give fewer columns weight",
            )
        before = np.concatenate([[0], np.cumsum(of_household)])
        running = before[:-1] - before[first[district]]
        ids[entity] = district * RANGE + running + (FIRST_PERSON if entity == "person" else 0)
    if len(names) * RANGE + FIRST_PERSON > LARGEST_PERSON:
        raise InputError("are more districts than ranges of person ids", place="ids", value=len(names))
    return {entity: ids[entity] for entity in ENTITIES}


def spread(first: Mapping[str, Ids], placed: Microdata) -> dict[str, Ids]:
    """Return the ids of all units of placed households, from the first id of each household's.

    Parameters
    ----------
    first
        Entity -> int64, (n households of `placed`,).
    placed
        Its units stand in the order of their households.
    """
    out = {}
    for entity in ENTITIES:
        owner = placed.household_of[entity]
        begin = np.searchsorted(owner, np.arange(placed.count()))
        out[entity] = first[entity][owner] + np.arange(len(owner)) - begin[owner]
    return out
