"""One dataset of several districts: the households that have weight in each, where the matrix placed them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from distcalib.areas.ids import RANGE, range_ids, spread, units
from distcalib.areas.mapping import mapping_of
from distcalib.documents.everywhere import everywhere, read_districts
from distcalib.errors import InputError
from distcalib.microdata.model import Microdata
from distcalib.simulation.place import place
from distcalib.storage import publish, writable

_UNITS = {
    "person": "persons", "household": "households", "tax_unit": "tax units", "spm_unit": "SPM units",
    "family": "families", "marital_unit": "marital units",
}  # fmt: skip


def create_sparse_cd_stacked_dataset(
    w: ArrayLike,
    cds_to_calibrate: Iterable[object],
    cd_subset: Iterable[object] | None = None,
    output_path: str | Path | None = None,
    dataset_path: str | Path | None = None,
    *,
    period: int | None = None,
    rerandomize_takeup: bool = False,
    county_level: bool = True,
    seed: int = 0,
) -> str:
    """Write the households of some districts that have weight, as one PolicyEngine dataset.

    With the settings of the `SparseMatrixBuilder` that made the matrix, what policyengine-us computes from
    the file, weighted, is the matrix times the weights of these districts.

    Parameters
    ----------
    w
        Weights of all columns, shape (n districts * n households,), not negative.
    cds_to_calibrate
        All districts of the matrix, in the order of its column blocks.
    cd_subset
        Those to write; None writes all.
    output_path
        The file; ``mappings/<stem>_household_mapping.csv`` beside it names the donor and the column of `w` of
        each household (the columns of `distcalib.areas.mapping.mapping_of`; the clone is the place of the
        district in `cds_to_calibrate`). The file appears last and complete, or not at all.
    dataset_path
        The dataset that the matrix was made from.
    period
        Its year; by default the latest it has weights of.
    rerandomize_takeup, county_level, seed
        As the builder had them.

    Returns
    -------
    str
        `output_path`.

    Raises
    ------
    InputError
        Without a path, for weights of another shape or a negative one, for a district that the matrix does
        not have, when no household has weight, and when one district has more than 25,000 households or
        persons.

    Notes
    -----
    Household ids are 25,000 x (the district's place among all districts sorted as text) + a running number,
    person ids 5,000,000 more; units have numbers in the same ranges.
    """
    if output_path is None or dataset_path is None:
        missing = "output_path" if output_path is None else "dataset_path"
        raise InputError("is needed", place=missing, expected="the path of an .h5 file")
    output = Path(output_path)
    mapping_path = output.parent / "mappings" / f"{output.stem}_household_mapping.csv"
    names, geoids = read_districts(cds_to_calibrate)
    chosen = names if cd_subset is None else _subset(cd_subset, geoids, names)
    writable(output)
    writable(mapping_path)
    if cd_subset is not None:
        print(f"Processing subset of {len(chosen)} CDs: {', '.join(chosen[:5])}...")
    print(f"Output path: {output_path}")
    source = Microdata.read(dataset_path, period)
    n = source.count()
    print(f"\nOriginal dataset has {n:,} households")
    weights = _weights(w, len(names), n)
    ids = source.ids["household"]
    assignment = everywhere(ids, geoids, county_level=county_level, seed=seed)

    # Districts in the order of their ids, households in the order of the dataset.
    text_order = [names[i] for i in sorted(range(len(names)), key=lambda i: str(geoids[i]))]
    blocks = [names.index(cd) for cd in text_order if cd in set(chosen)]
    columns = np.concatenate([b * n + np.flatnonzero(weights[b]) for b in blocks])
    if not columns.size:
        raise InputError("no household has weight in these districts", place="w", value=chosen)
    active = weights.reshape(-1)[columns]
    print(f"Extracted weights for {len(blocks)} CDs from full weight matrix")
    print(f"Total active household-CD pairs: {len(columns):,}")
    print(f"Total weight in W matrix: {active.sum():,.0f}")

    place_of_id = np.array([text_order.index(name) for name in names])
    first = range_ids(units(source), columns % n, place_of_id[columns // n], text_order)
    placed = place(source, assignment, columns, weights=active, seed=seed, take_up=rerandomize_takeup)
    data = replace(placed, ids=spread(first, placed))
    _say_units(data, len(blocks))

    mapping = mapping_of(source, assignment, columns, data.ids["household"]).to_pandas()
    print(f"\nSaving to {output_path}...")
    publish(mapping_path, lambda path: mapping.to_csv(path, index=False))
    data.write(output)
    print(f"Variables saved: {len(data.variables())}")
    print("Sparse CD-stacked dataset saved successfully!")
    print(f"Household mapping saved to {mapping_path}")
    written = Microdata.read(output, data.period)
    print(f"\nVerifying saved file...\n  Final households: {written.count():,}")
    print(f"  Final persons: {written.count('person'):,}")
    print(f"  Total population (from household weights): {written.weights.sum():,.0f}")
    return str(output_path)


def _say_units(data: Microdata, districts: int) -> None:
    """Print what was numbered, and that no id is too large: `range_ids` refuses what would be."""
    print(f"\nReindexing all entity IDs using {RANGE // 1000}k ranges per CD...")
    print(f"  Created {data.count():,} unique households across {districts} CDs")
    for entity, words in _UNITS.items():
        print(f"  Final {words}: {data.count(entity):,}")
    persons = data.weights[data.household_of["person"]].sum()
    print("\nWeights AFTER reindexing:")
    print(f"  HH weight sum: {data.weights.sum() / 1e6:.2f}M")
    print(f"  Person weight sum: {persons / 1e6:.2f}M")
    largest = int(data.ids["person"].max())
    print(f"\nOverflow check:\n  Max person ID after reindexing: {largest:,}")
    print(f"  Max person ID × 100: {largest * 100:,}\n  int32 max: {2**31 - 1:,}")
    print("  ✓ No overflow risk!")


def _subset(cds: Iterable[object], geoids: np.ndarray, names: list[str]) -> list[str]:
    """Return the wanted districts under their names in the matrix."""
    wanted, wanted_geoids = read_districts(cds)
    at = {int(geoid): name for geoid, name in zip(geoids, names, strict=True)}
    for name, geoid in zip(wanted, wanted_geoids.tolist(), strict=True):
        if geoid not in at:
            raise InputError("is not among the districts of w", place="cd_subset", value=name, choices=names)
    return [at[geoid] for geoid in wanted_geoids.tolist()]


def _weights(w: ArrayLike, n_districts: int, n_households: int) -> np.ndarray:
    """Return the weights by district and household, float64, or raise `InputError`."""
    weights = np.asarray(w, dtype=np.float64)
    if weights.shape != (n_districts * n_households,):
        raise InputError(
            "has another shape",
            place="w",
            value=weights.shape,
            expected=f"({n_districts * n_households},): {n_districts} districts x {n_households} households",
        )
    wrong = ~np.isfinite(weights) | (weights < 0)
    if wrong.any():
        raise InputError(
            f"{int(wrong.sum())} weights are negative or not finite", place="w", value=weights[wrong][0]
        )
    return weights.reshape(n_districts, n_households)
