"""Area files: the columns of a district, a state or the nation that have weight, as PolicyEngine datasets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.errors import RunError
from distcalib.geography.assign import GeographyAssignment
from distcalib.microdata.model import Microdata
from distcalib.simulation.place import place
from distcalib.storage import publish


@dataclass(frozen=True)
class Area:
    """What one file covers.

    Attributes
    ----------
    kind
        ``districts``, ``states`` or ``national``: the folder of the file.
    name
        ``CA-06``, ``CA`` or ``US``: the name of the file.
    code
        District GEOID, state FIPS, or 0 for the nation.
    """

    kind: str
    name: str
    code: int

    @property
    def file(self) -> str:
        """Path of the dataset below the run folder."""
        return f"areas/{self.kind}/{self.name}.h5"

    @property
    def mapping(self) -> str:
        """Path of the table that names the donor of each household."""
        return f"areas/mappings/{self.name}.csv"


def select(area: Area, assignment: GeographyAssignment, weights: np.ndarray) -> np.ndarray:
    """Return the columns of an area that have weight, int64, ascending.

    Raises
    ------
    RunError
        When there are none: an area without households is never written as an empty file.
    """
    inside = weights > 0
    if area.kind == "districts":
        inside = inside & (assignment.cd_geoid == area.code)
    elif area.kind == "states":
        inside = inside & (assignment.state_fips == area.code)
    columns = np.flatnonzero(inside)
    if not columns.size:
        raise RunError(f"{area.name}: no household has weight there; keep more records or add clones")
    return columns


def write_area(
    folder: str | Path,
    area: Area,
    source: Microdata,
    assignment: GeographyAssignment,
    weights: np.ndarray,
    *,
    seed: int,
    take_up: bool | pd.DataFrame,
) -> dict[str, float]:
    """Write the dataset of an area and its mapping table.

    Parameters
    ----------
    folder
        The run folder.
    area
        What to write.
    source, assignment, weights
        Donors, placement, and fitted weights (float64 that float32 holds exactly, shape (n_columns,)).
    seed, take_up
        As the simulation tasks used them.

    Returns
    -------
    dict
        households, persons, and the sum of household weights.
    """
    columns = select(area, assignment, weights)
    data = place(source, assignment, columns, weights=weights[columns], seed=seed, take_up=take_up)
    root = Path(folder)
    data.write(root / area.file)
    mapping = pd.DataFrame(
        {
            "new_household_id": data.ids["household"],
            "original_household_id": source.ids["household"][columns % assignment.n_records],
            "clone": columns // assignment.n_records,
            "congressional_district": assignment.cd_geoid[columns],
            "state_fips": assignment.state_fips[columns],
            "county_fips": assignment.county_fips[columns],
        }
    )
    publish(root / area.mapping, lambda path: mapping.to_csv(path, index=False))
    return {
        "households": float(len(columns)),
        "persons": float(data.count("person")),
        "weight": float(weights[columns].sum()),
    }
