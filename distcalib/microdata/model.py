"""`Microdata`: households of a survey with their persons and units, as PolicyEngine stores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distcalib.catalogue import ENTITIES, GROUP_ENTITIES, catalogue
from distcalib.digest import digest_arrays
from distcalib.errors import InputError
from distcalib.random import uniform

Array = NDArray[Any]

# Which columns say who is who rather than what somebody has; they are kept as ids and links, not as values.
ID_COLUMNS = {f"{entity}_id" for entity in ENTITIES} | {f"person_{entity}_id" for entity in GROUP_ENTITIES}


def normalise(values: ArrayLike) -> Array:
    """Return an array as the rules engine holds it: float32, int32, bool, or fixed-width bytes.

    Integers that do not fit int32 stay int64. Text (str or objects) becomes UTF-8 bytes.
    """
    array = np.asarray(values)
    kind = array.dtype.kind
    if kind == "f":
        return np.ascontiguousarray(array, dtype=np.float32)
    if kind in "iu":
        fits = array.size == 0 or (array.min() >= -(2**31) and array.max() < 2**31)
        return np.ascontiguousarray(array, dtype=np.int32 if fits else np.int64)
    if kind in "UOT":
        text = np.array([v if isinstance(v, bytes) else str(v).encode() for v in array.tolist()], dtype="S")
        # An all-empty column would be of width 0, which HDF5 cannot store.
        return text if text.dtype.itemsize else text.astype("S1")
    if kind in "bS":
        return np.ascontiguousarray(array)
    raise TypeError(f"no PolicyEngine form for dtype {array.dtype}")


@dataclass(frozen=True)
class Microdata:
    """Entity tables and the links between them, for one period.

    Attributes
    ----------
    period
        Calendar year that the money amounts and weights are for.
    ids
        Entity -> int64 ids, shape (n of the entity,), unique.
    links
        Group entity -> int64 positions (not ids), shape (n persons,): the unit of each person.
    values
        Entity -> ``"variable/period"`` -> array of shape (n of the entity,); the key is the path in the
        HDF5 file, so columns of other periods are carried along.
    """

    period: int
    ids: Mapping[str, Array]
    links: Mapping[str, Array]
    values: Mapping[str, Mapping[str, Array]]

    @classmethod
    def build(
        cls,
        period: int,
        ids: Mapping[str, ArrayLike],
        links: Mapping[str, ArrayLike],
        columns: Mapping[str, Mapping[str, ArrayLike]],
    ) -> Microdata:
        """Make microdata from arrays of one period.

        Parameters
        ----------
        period
            Calendar year of every column.
        ids, links
            As in the attributes.
        columns
            Entity -> variable -> array, shape (n of the entity,).
        """
        return cls(
            period=period,
            ids={e: np.asarray(ids[e], dtype=np.int64) for e in ENTITIES},
            links={e: np.asarray(links[e], dtype=np.int64) for e in GROUP_ENTITIES},
            values={
                e: {f"{name}/{period}": normalise(v) for name, v in sorted(columns.get(e, {}).items())}
                for e in ENTITIES
            },
        )

    @classmethod
    def read(cls, path: str | Path, period: int | None = None) -> Microdata:
        """Read a PolicyEngine HDF5 file and check that it is sound.

        Parameters
        ----------
        path
            HDF5 file with ``{variable}/{period}`` datasets, or with one dataset ``{variable}`` each, which
            are then of `period`.
        period
            Year to take as the microdata's own; None: the latest year of ``household_weight``.

        Raises
        ------
        InputError
            When the file is missing, truncated, not HDF5 or a pandas HDFStore, when ids or links are missing,
            repeated or dangling, and when a column has the wrong length, NaN, or (weights) negative values.
        """
        from distcalib.microdata.hdf5 import read_hdf5

        return read_hdf5(path, period)

    def write(self, path: str | Path) -> None:
        """Write a PolicyEngine HDF5 file to `path`, complete or not at all; equal data give equal bytes."""
        from distcalib.microdata.hdf5 import write_hdf5

        write_hdf5(self, path)

    def count(self, entity: str = "household") -> int:
        """Return the number of units of an entity."""
        return len(self.ids[entity])

    def variables(self) -> dict[str, str]:
        """Return variable -> entity for everything held in this period."""
        suffix = f"/{self.period}"
        return {
            path.removesuffix(suffix): entity
            for entity, table in self.values.items()
            for path in table
            if path.endswith(suffix)
        }

    def column(self, variable: str) -> Array:
        """Return a column of the microdata's own period, shape (n of its entity,), in the variable's unit.

        Raises
        ------
        InputError
            When there is no such column; names the nearest.
        """
        path = f"{variable}/{self.period}"
        for table in self.values.values():
            if path in table:
                return table[path]
        raise InputError(
            "the microdata have no such column", value=variable, choices=self.variables(), place="microdata"
        )

    @property
    def weights(self) -> NDArray[np.float64]:
        """Design weights of the households, float64, shape (n households,)."""
        return self.column("household_weight").astype(np.float64)

    @cached_property
    def household_of(self) -> dict[str, Array]:
        """Entity -> position of each unit's household, int64, shape (n of the entity,)."""
        of_person = self.links["household"]
        out = {"person": of_person, "household": np.arange(self.count(), dtype=np.int64)}
        for entity in GROUP_ENTITIES[:-1]:
            homes = np.full(self.count(entity), -1, dtype=np.int64)
            homes[self.links[entity]] = of_person
            out[entity] = homes
        return out

    @cached_property
    def _rows_by_household(self) -> dict[str, tuple[Array, Array]]:
        out = {}
        for entity, homes in self.household_of.items():
            order = np.argsort(homes, kind="stable")
            starts = np.searchsorted(homes[order], np.arange(self.count() + 1))
            out[entity] = (order, starts)
        return out

    def rows_of(self, entity: str, households: ArrayLike) -> tuple[Array, Array]:
        """Return the rows of an entity that make up a list of households.

        Parameters
        ----------
        entity
            One of `ENTITIES`.
        households
            Positions of households, shape (k,); a household may occur more than once.

        Returns
        -------
        rows : ndarray of int64
            Rows of the entity's table, grouped in the order of `households`.
        owner : ndarray of int64
            For each row the index into `households` that it belongs to.
        """
        wanted = np.asarray(households, dtype=np.int64)
        order, starts = self._rows_by_household[entity]
        counts = starts[wanted + 1] - starts[wanted]
        owner = np.repeat(np.arange(len(wanted)), counts)
        first = np.cumsum(counts) - counts
        within = np.arange(counts.sum()) - first[owner]
        return order[starts[wanted][owner] + within], owner

    def take(self, households: ArrayLike, ids: Mapping[str, ArrayLike] | None = None) -> Microdata:
        """Return the microdata of a list of households, with repeats, in the order given.

        Parameters
        ----------
        households
            Positions, shape (k,).
        ids
            Entity -> new ids in the order of `rows_of`; without it ids are 0, 1, 2 ...
        """
        rows = {entity: self.rows_of(entity, households)[0] for entity in ENTITIES}
        owners = {entity: self.rows_of(entity, households)[1] for entity in ENTITIES}
        person_owner = owners["person"]
        links: dict[str, Array] = {"household": person_owner}
        for entity in GROUP_ENTITIES[:-1]:
            # A unit is found by (its new household, its old row): that pair is unique also when a household
            # was taken twice.
            width = self.count(entity)
            key = owners[entity] * width + rows[entity]
            order = np.argsort(key, kind="stable")
            wanted = person_owner * width + self.links[entity][rows["person"]]
            links[entity] = order[np.searchsorted(key[order], wanted)]
        new_ids = ids or {entity: np.arange(len(r)) for entity, r in rows.items()}
        return Microdata(
            period=self.period,
            ids={e: np.asarray(new_ids[e], dtype=np.int64) for e in ENTITIES},
            links=links,
            values={e: {p: a[rows[e]] for p, a in self.values[e].items()} for e in ENTITIES},
        )

    def sample(self, number: int, seed: int) -> Microdata:
        """Return so many of the households, with their own ids and weights of the same sum; see Notes.

        Parameters
        ----------
        number
            Households to draw, at most as many as there are.
        seed
            Of the draw.

        Notes
        -----
        Without replacement, each with the same chance, by a number that depends on seed and household id
        alone; so a larger sample holds the smaller one.
        """
        order = np.argsort(uniform(seed, "sample of households", self.ids["household"]), kind="stable")
        chosen = np.sort(order[:number])
        drawn = self.take(chosen, {e: self.ids[e][self.rows_of(e, chosen)[0]] for e in ENTITIES})
        mass = float(np.sum(drawn.weights))
        if mass <= 0:
            raise InputError(
                "no household that was drawn has a weight", place="households", value=number, expected="more"
            )
        scale = float(np.sum(self.weights)) / mass
        return drawn.with_columns({"household_weight": drawn.weights * scale})

    def with_columns(self, columns: Mapping[str, ArrayLike]) -> Microdata:
        """Return a copy with columns of its period set; their entities come from the catalogue.

        Raises
        ------
        InputError
            For a variable that policyengine-us does not have.
        ValueError
            When an array has not one value a unit.
        """
        values = {e: dict(t) for e, t in self.values.items()}
        for name, column in columns.items():
            entity = catalogue().get(name).entity
            array = normalise(column)
            if array.shape != (self.count(entity),):
                raise ValueError(
                    f"{name}: shape {array.shape}, expected ({self.count(entity)},) for {entity}"
                )
            values[entity][f"{name}/{self.period}"] = array
        return replace(self, values=values)

    def digest(self) -> str:
        """Return the content digest: ids, links and every column, whatever file they came from."""
        arrays: dict[str, Array] = {f"{e}_id": self.ids[e] for e in ENTITIES}
        arrays |= {f"person_{e}": self.links[e] for e in GROUP_ENTITIES}
        for table in self.values.values():
            arrays |= table
        arrays["period"] = np.array(self.period)
        return digest_arrays(arrays)
