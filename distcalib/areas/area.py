"""`Area`: what one file covers, and which columns of a run it holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcalib.areas.filters import Condition, inside
from distcalib.errors import RunError
from distcalib.geography.assignment import GeographyAssignment

# Filters that have a name of their own.
PRESETS = {"NYC": "county_fips in 36005 36047 36061 36081 36085"}


@dataclass(frozen=True)
class Area:
    """What one file covers.

    Attributes
    ----------
    kind
        ``districts``, ``states``, ``national`` or ``others``: the folder of the file.
    name
        ``CA-06``, ``CA``, ``US``, ``NYC``: the name of the file; of a further fit's, the name of the fit.
    code
        District GEOID, state FIPS, or 0.
    where
        Conditions of an area of the kind ``others``; all must hold.
    fit
        Name of the further fit whose weights it has; empty: of the first.
    """

    kind: str
    name: str
    code: int = 0
    where: tuple[Condition, ...] = ()
    fit: str = ""

    @property
    def file(self) -> str:
        """Path of the dataset below the run folder."""
        return f"areas/{self.kind}/{self.name}.h5"

    @property
    def mapping(self) -> str:
        """Path of the table that names the donor of each household, as CSV."""
        return f"areas/mappings/{self.name}.csv"

    @property
    def mapping_parquet(self) -> str:
        """Path of the same table as Parquet."""
        return f"areas/mappings/{self.name}.parquet"

    @property
    def outputs(self) -> tuple[str, str, str]:
        """Paths of everything that is written for the area."""
        return self.file, self.mapping, self.mapping_parquet

    @property
    def weights(self) -> str:
        """Path of its weights below the run folder."""
        return f"fits/{self.fit}/weights.npy" if self.fit else "fit/weights.npy"

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What a column must meet to be in the area."""
        field = {"districts": "cd_geoid", "states": "state_fips"}.get(self.kind)
        return self.where if field is None else (Condition(field, "==", (self.code,)),)


def in_order(assignment: GeographyAssignment, columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ascending columns in the order of every file: by district, whose GEOID begins with the state."""
    return columns[np.argsort(assignment.cd_geoid[columns], kind="stable")]


def nobody(*names: str) -> RunError:
    """Return the error of areas where no column has weight."""
    some = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return RunError(f"{some}: no household has weight there; keep more records or add clones")


def kept(area: Area, assignment: GeographyAssignment, weights: NDArray[Any]) -> NDArray[np.int64]:
    """Return the columns of an area that have weight, int64, in the order of its file.

    Parameters
    ----------
    area, assignment
        The area and the placement.
    weights
        Of all columns, float64, (n_columns,).

    Raises
    ------
    RunError
        When there are none: an area without households is never written as an empty file.
    """
    columns = np.flatnonzero(weights > 0)
    columns = columns[inside(area.conditions, assignment, columns)]
    if not columns.size:
        raise nobody(area.name)
    return in_order(assignment, columns)


def together(areas: Iterable[Area]) -> list[tuple[Area | None, list[Area]]]:
    """Return each area with those of the districts that lie in it; districts of a state without it apart."""
    areas = list(areas)
    states = {area.code: area for area in areas if area.kind == "states"}
    out: dict[object, tuple[Area | None, list[Area]]] = {}
    for area in areas:
        if area.kind == "districts":
            state = area.code // 100
            out.setdefault(state, (states.get(state), []))[1].append(area)
        else:
            out.setdefault(area.code if area.kind == "states" else area, (area, []))
    return list(out.values())
