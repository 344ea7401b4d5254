"""Area files: the columns of an area that have weight, as a PolicyEngine dataset and a mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.areas.area import Area as Area
from distcalib.areas.area import in_order, kept, nobody
from distcalib.areas.ids import FIRST_PERSON, RANGE, Ids, range_ids, spread, units
from distcalib.areas.mapping import write_mapping
from distcalib.catalogue import ENTITIES
from distcalib.geography.assignment import GeographyAssignment, as_bytes
from distcalib.geography.district import District
from distcalib.microdata.hdf5 import write_parts
from distcalib.microdata.model import Microdata
from distcalib.simulation.place import place

# Households that are placed at once. Memory grows with this number and not with a file's: about 5 KB each.
PART = 20_000

# What is told of a file: households, persons, sum of weights, bytes.
Facts = dict[str, float]


@dataclass(frozen=True)
class Placing:
    """What all files of a run share: donors, placement, draws, and how units are numbered.

    Attributes
    ----------
    source, assignment
        The donors, and the placement over them.
    seed, take_up
        As the simulation tasks used them.
    ids
        ``compact``: a household's id is its column, a unit's is clone x units of the source + donor row.
        ``ranges``: see `distcalib.areas.ids.range_ids`. Either way a unit of a fit has the same id in every
        file that holds it.
    """

    source: Microdata
    assignment: GeographyAssignment
    seed: int
    take_up: bool | pd.DataFrame
    ids: str = "compact"

    @cached_property
    def sizes(self) -> dict[str, NDArray[np.int64]]:
        """Entity -> how many units each donor has."""
        return units(self.source)

    @cached_property
    def districts(self) -> NDArray[Any]:
        """GEOIDs of all districts of the run, ascending."""
        return np.unique(self.assignment.cd_geoid)

    @cached_property
    def largest(self) -> dict[str, int]:
        """Entity -> no id in any file is larger."""
        if self.ids == "ranges":
            most = len(self.districts) * RANGE
            return {e: most + (FIRST_PERSON if e == "person" else 0) for e in ENTITIES}
        return {e: self.assignment.n_clones * self.source.count(e) - 1 for e in ENTITIES}

    @cached_property
    def texts(self) -> dict[str, np.dtype[Any]]:
        """Columns of text that some household of the run has, and their width, which every file shares."""
        found: dict[str, np.dtype[Any]] = {}
        if self.assignment.county_fips.any():
            found["county_fips"] = np.dtype("S5")
        if self.assignment.block_geoid.any():
            found |= {"block_geoid": np.dtype("S15"), "tract_geoid": np.dtype("S11")}
        derived = self.assignment.derived
        codings = {} if derived is None else {name: derived[name].array for name in derived}
        for name, coded in codings.items():
            codes = as_bytes(coded)
            if (codes != b"").any():
                found[name] = codes.dtype
        return found

    def count(self, columns: NDArray[np.int64]) -> dict[str, int]:
        """Return entity -> how many units some columns have."""
        record = columns % self.assignment.n_records
        return {e: int(sizes[record].sum()) for e, sizes in self.sizes.items()}

    def first_ids(self, columns: NDArray[np.int64], weights: NDArray[np.float64]) -> dict[str, Ids]:
        """Return the first id of each column's units: entity -> int64, (k,).

        Parameters
        ----------
        columns
            Columns with weight, in the order of a file.
        weights
            Of all columns. Ranges number all columns of a district that have weight, in the file or not.
        """
        n, assignment = self.assignment.n_records, self.assignment
        if self.ids == "compact":
            return {"household": columns}
        touched = np.unique(assignment.cd_geoid[columns])
        there = np.flatnonzero((weights > 0) & np.isin(assignment.cd_geoid, touched))
        there = in_order(assignment, there)
        at = np.searchsorted(self.districts, assignment.cd_geoid[there])
        names = [District(int(geoid)).name for geoid in self.districts]
        first = range_ids(self.sizes, there % n, at, names)
        mine = np.isin(there, columns)
        return {entity: ids[mine] for entity, ids in first.items()}

    def place(
        self, columns: NDArray[np.int64], weights: NDArray[np.float64], first: dict[str, Ids]
    ) -> Microdata:
        """Return the households of some columns as every file has them.

        Parameters
        ----------
        columns, weights
            int64 and float64, (k,).
        first
            Of these columns, as `first_ids` gives it.
        """
        data = place(
            self.source, self.assignment, columns, weights=weights, seed=self.seed, take_up=self.take_up
        )
        text = {}
        for name, kind in self.texts.items():
            # What nobody of this part has is left out there, and is as wide as its longest code.
            found = data.values["household"].get(f"{name}/{data.period}")
            text[name] = np.zeros(len(columns), kind) if found is None else found.astype(kind)
        data = data.with_columns(text)
        if self.ids == "ranges":
            return Microdata(data.period, spread(first, data), data.links, data.values)
        return data


def write_together(
    folder: str | Path,
    placing: Placing,
    weights: NDArray[np.float64],
    whole: Area | None,
    districts: Sequence[Area],
    written: Callable[[Area, Facts], None],
) -> None:
    """Write an area and some of its districts, placing each household once.

    Parameters
    ----------
    folder
        The run folder.
    placing
        Donors, placement, draws.
    weights
        Fitted weights, float64 that float32 holds exactly, (n_columns,).
    whole
        The area; None writes the districts alone.
    districts
        Areas of the kind ``districts``, all of `whole`.
    written
        Called with each area when its dataset and its mappings are there, and with its households, persons,
        sum of weights and bytes.

    Raises
    ------
    RunError
        When an area has no household with weight.
    """
    root, assignment = Path(folder), placing.assignment
    ordered = sorted(districts, key=lambda area: area.code)
    if whole is None:
        columns = np.concatenate([kept(area, assignment, weights) for area in ordered])
    else:
        columns = kept(whole, assignment, weights)
    geoid = assignment.cd_geoid[columns]
    first = placing.first_ids(columns, weights)
    codes = np.array([area.code for area in ordered], dtype=np.int64)
    start, stop = (np.searchsorted(geoid, codes, side=side) for side in ("left", "right"))
    spans = list(zip(ordered, start.tolist(), stop.tolist(), strict=True))
    if empty := [area.name for area, low, high in spans if low == high]:
        raise nobody(*empty)
    edges = parts(np.flatnonzero(np.diff(geoid, prepend=-1)), len(columns))

    def some(a: int, b: int) -> Microdata:
        mine = {e: ids[a:b] for e, ids in first.items()}
        return placing.place(columns[a:b], weights[columns[a:b]], mine)

    def finish(area: Area, a: int, b: int) -> None:
        write_mapping(root, area, placing.source, assignment, columns[a:b], first["household"][a:b])
        written(
            area,
            {
                "households": b - a,
                "persons": placing.count(columns[a:b])["person"],
                "weight": float(weights[columns[a:b]].sum()),
                "bytes": (root / area.file).stat().st_size,
            },
        )

    def pieces() -> Iterator[Microdata]:
        for a, b in pairwise(edges):
            held = [(area, low, high) for area, low, high in spans if a <= low and high <= b]
            if whole is None and not held:
                continue
            data = some(a, b)
            for area, low, high in held:
                part = part_of(data, low - a, high - a)
                write_parts(root / area.file, placing.count(columns[low:high]), [part], placing.largest)
                finish(area, low, high)
            yield data

    if whole is None:
        for _ in pieces():
            pass
    else:
        write_parts(root / whole.file, placing.count(columns), pieces(), placing.largest)
        finish(whole, 0, len(columns))
    for area, low, high in spans:
        if high - low > PART:  # no part above held it whole
            write_together(root, placing, weights, area, (), written)


def parts(begins: NDArray[np.int64], n: int) -> list[int]:
    """Return the edges of parts of at most `PART` households, which cut no district that fits in one.

    Parameters
    ----------
    begins
        Where each district begins, ascending; the first at 0.
    n
        Households of all.
    """
    edges = [0]
    bounds = [*begins.tolist(), n]
    for low, high in pairwise(bounds):
        if high - edges[-1] > PART and low > edges[-1]:
            edges.append(low)
        while high - edges[-1] > PART:
            edges.append(edges[-1] + PART)
        if high - low > PART:
            edges.append(high)
    if edges[-1] < n:
        edges.append(n)
    return edges


def part_of(data: Microdata, low: int, high: int) -> Microdata:
    """Return the households from `low` to `high` of placed ones, whose units stand in the order of theirs."""
    if (low, high) == (0, data.count()):
        return data
    cut = {e: np.searchsorted(data.household_of[e], (low, high)).tolist() for e in ENTITIES}
    a, b = cut["person"]
    return Microdata(
        period=data.period,
        ids={e: data.ids[e][slice(*cut[e])] for e in ENTITIES},
        links={e: links[a:b] - cut[e][0] for e, links in data.links.items()},
        values={e: {p: v[slice(*cut[e])] for p, v in data.values[e].items()} for e in ENTITIES},
    )
