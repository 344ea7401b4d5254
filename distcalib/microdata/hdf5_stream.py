"""A PolicyEngine HDF5 file that is filled part by part, in memory that does not grow with the file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5p, h5s, h5t
from numpy.typing import NDArray

from distcalib.catalogue import ENTITIES, GROUP_ENTITIES
from distcalib.microdata.model import Microdata, normalise

# Values of a chunk, whatever the file: 256 KiB of float32.
CHUNK = 65_536
# Columns of so many values are stored as they are, beside their names: compressed they would cost more. The
# bytes are what HDF5 can store so.
SMALL, SMALL_BYTES = 256, 60_000


class HDF5Stream:
    """Writes the units of a file in their order, part after part.

    Every chunk of a column is compressed and written once, when it is full; at most one chunk a column waits
    in memory. Equal units in equal parts give equal bytes; the parts decide no more than where in the file a
    chunk lies, and that only where a column has several.

    Parameters
    ----------
    path
        A new file; it is whole only after `close`.
    sizes
        Entity -> units of all parts together.
    largest
        Entity -> an upper bound of its ids, which decides between int32 and int64; by default the largest of
        the first part, for a file of one part.
    """

    def __init__(
        self, path: Path, sizes: Mapping[str, int], largest: Mapping[str, int] | None = None
    ) -> None:
        self.sizes, self.largest = dict(sizes), largest
        # Whole chunks are written, so HDF5's cache of chunks would only hold memory.
        self.h5 = h5py.File(path, "w", libver="latest", rdcc_nbytes=0)
        self.columns: dict[str, _Column] = {}

    def __enter__(self) -> HDF5Stream:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self.h5.close()

    def append(self, data: Microdata) -> None:
        """Add the units of a part.

        Raises
        ------
        ValueError
            When a part has other columns than the first, or of another type.
        """
        arrays = self._arrays(data)
        if not self.columns:
            made = _Made(self.h5)
            for name, (entity, array) in sorted(arrays.items()):
                self.columns[name] = _Column(made, name, self.sizes[entity], array.dtype)
        if arrays.keys() != self.columns.keys():
            other = sorted(arrays.keys() ^ self.columns.keys())
            raise ValueError(f"parts of one file differ in their columns: {', '.join(other[:5])}")
        for name, column in self.columns.items():
            column.append(arrays[name][1])

    def _arrays(self, data: Microdata) -> dict[str, tuple[str, NDArray[Any]]]:
        largest = self.largest or {e: int(data.ids[e].max(initial=0)) for e in ENTITIES}
        arrays: dict[str, tuple[str, NDArray[Any]]] = {}
        for entity in ENTITIES:
            ids = data.ids[entity].astype(np.int32 if largest[entity] < 2**31 else np.int64)
            arrays[f"{entity}_id/{data.period}"] = entity, ids
            if entity in GROUP_ENTITIES:
                arrays[f"person_{entity}_id/{data.period}"] = "person", ids[data.links[entity]]
            for name, array in data.values[entity].items():
                arrays[name] = entity, normalise(array)
        return arrays

    def close(self) -> None:
        """Close the file.

        Raises
        ------
        ValueError
            When a column has not as many values as it should.
        """
        short = [name for name, column in self.columns.items() if column.written != column.size]
        self.h5.close()
        if short or not self.columns:
            raise ValueError(f"the file is not full: {', '.join(short[:5]) or 'no part was added'}")


class _Made:
    """What the datasets of a file share, made once with HDF5's own functions.

    h5py's convenience would be most of what a small file costs.
    """

    def __init__(self, h5: h5py.File) -> None:
        self.h5 = h5
        self._groups: dict[str, Any] = {}
        self.form = cache(lambda kind: h5t.py_create(kind, logical=True))
        self.space = cache(lambda size: h5s.create_simple((size,)))
        self.layout = cache(_layout)
        self._timeless = h5p.create(h5p.GROUP_CREATE)
        self._timeless.set_obj_track_times(False)

    def group(self, name: str) -> Any:
        # Columns come in the order of their names, so those of a group are neighbours.
        if name not in self._groups:
            self._groups = {name: h5g.create(self.h5.id, name.encode(), gcpl=self._timeless)}
        return self._groups[name]


def _layout(size: int, width: int) -> Any:
    layout = h5p.create(h5p.DATASET_CREATE)
    layout.set_obj_track_times(False)
    if size > SMALL:
        layout.set_chunk((min(size, CHUNK),))
        layout.set_shuffle()
        layout.set_deflate(1)
    elif size * width <= SMALL_BYTES:
        layout.set_layout(h5d.COMPACT)
    return layout


class _Column:
    """One dataset, and what waits for a full chunk of it."""

    def __init__(self, made: _Made, name: str, size: int, kind: np.dtype[Any]) -> None:
        group, _, leaf = name.rpartition("/")
        form, space, layout = made.form(kind), made.space(size), made.layout(size, kind.itemsize)
        self.id = h5d.create(made.group(group), leaf.encode(), form, space, layout)
        self.name, self.size, self.kind, self.written = name, size, kind, 0
        self.waiting: list[NDArray[Any]] = []

    def append(self, array: NDArray[Any]) -> None:
        if array.dtype != self.kind:
            raise ValueError(f"parts of one file differ in {self.name}: {array.dtype}, not {self.kind}")
        self.waiting.append(array)
        ready = sum(map(len, self.waiting))
        if self.written + ready < self.size:
            ready -= ready % CHUNK
        if not ready:
            return
        values = self.waiting[0] if len(self.waiting) == 1 else np.concatenate(self.waiting)
        chunk, place = h5s.ALL, h5s.ALL
        if ready < self.size:
            chunk, place = h5s.create_simple((ready,)), self.id.get_space()
            place.select_hyperslab((self.written,), (ready,))
        self.id.write(chunk, place, np.ascontiguousarray(values[:ready]))
        # A copy, or the rest would keep the whole part in memory.
        self.waiting = [values[ready:].copy()] if ready < len(values) else []
        self.written += ready


def count_columns(path: str | Path) -> int:
    """Open a file and return how many columns it has."""
    with h5py.File(path, "r") as h5:
        names: list[bytes] = []
        h5.id.links.visit(names.append)
        return sum(b"/" in name for name in names)
