"""The documents' matrix builders: targets of a database x placed households, simulated state by state."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from distcalib.documents.everywhere import everywhere, household_ids, read_districts
from distcalib.documents.pieces import Piece, fill
from distcalib.errors import InputError
from distcalib.geography.assign import check_counties
from distcalib.geography.assignment import GeographyAssignment
from distcalib.geography.sources import county_fips_of_rules_engine
from distcalib.matrix.blocks import assemble, write_block
from distcalib.matrix.calibration import CalibrationMatrix, Origin
from distcalib.matrix.measures import Rows
from distcalib.microdata.model import Microdata
from distcalib.simulation.takeup import rates, rates_digest
from distcalib.targets.choose import select_targets

# Households that are simulated at once: about 2 GB and 10 s for a handful of programmes.
_AT_ONCE = 12_000

# The columns of the first document's table of targets, in its order.
_FIRST_COLUMNS = [
    "target_id", "stratum_id", "variable", "value", "period", "stratum_group_id", "geographic_id",
]  # fmt: skip


class _Builder:
    """What the two builders share."""

    def __init__(
        self,
        db_uri: str | Path,
        time_period: int,
        dataset_path: str | Path,
        rerandomize_takeup: bool = False,
        county_level: bool = True,
        client: Any = None,
        seed: int = 0,
    ) -> None:
        self.db_uri, self.time_period = db_uri, int(time_period)
        self.dataset_path = Path(dataset_path)
        self.rerandomize_takeup, self.county_level = rerandomize_takeup, county_level
        self.seed, self.client = seed, client
        #: `CalibrationMatrix` of the last `build_matrix`: the same X with its columns and `why`.
        self.matrix: CalibrationMatrix | None = None

    def _read(self, sim: Any) -> tuple[Microdata, Origin]:
        source = Microdata.read(self.dataset_path, self.time_period)
        _same_households(sim, source, self.dataset_path)
        path = str(self.dataset_path.resolve())
        digest = source.digest()
        drawn = rates_digest(rates()) if self.rerandomize_takeup else ""
        origin = Origin(
            path, digest, self.time_period, self.seed, self.rerandomize_takeup, rates_digest=drawn
        )
        return source, origin

    def _targets(self, target_filter: Mapping[str, Collection[Any]] | None, **how: Any) -> pd.DataFrame:
        return select_targets(self.db_uri, self.time_period, target_filter=target_filter, **how)

    def _build(
        self,
        targets: pd.DataFrame,
        source: Microdata,
        assignment: GeographyAssignment,
        pieces: Iterable[Piece],
        origin: Origin,
    ) -> sparse.csr_matrix:
        # Blocks wait on disk, so that memory holds the matrix once and one block.
        with tempfile.TemporaryDirectory(prefix="distcalib-") as folder:
            paths = []
            for number, block in enumerate(self._blocks(pieces)):
                paths.append(f"{folder}/{number}")
                write_block(paths[-1], block)
            X = assemble(paths)
        columns = assignment.frame(source.ids["household"])
        self.matrix = CalibrationMatrix(X, targets, columns, origin)
        # The caller's own: what is written into it does not reach the matrix that explains itself.
        return self.matrix.to_scipy().copy()

    def _blocks(self, pieces: Iterable[Piece]) -> Iterator[sparse.csr_array]:
        if self.client is None:
            yield from map(fill, pieces)
            return
        # One by one, for Dask warns of the size of what is sent together.
        futures = [self.client.submit(fill, piece, pure=False) for piece in pieces]
        try:
            for future in futures:
                yield future.result()
                future.release()
        finally:
            self.client.cancel([future for future in futures if not future.done()])


class UnifiedMatrixBuilder(_Builder):
    """Build the matrix of targets x placed clones.

    Parameters
    ----------
    db_uri
        SQLite file, SQLAlchemy URL or ``bundled``: the target database.
    time_period
        Year of the dataset and of the targets.
    dataset_path
        PolicyEngine HDF5 file of the donors.
    rerandomize_takeup
        Draw the take-up flags of every clone, as runs do; else those stored in the dataset hold.
    county_level
        Simulate every clone in the county and block of the geography; else leave both unset.
    seed
        Seed of the take-up draws.
    client
        A Dask client whose workers can read `dataset_path`; None simulates in this process.
    """

    def build_matrix(
        self,
        geography: GeographyAssignment,
        sim: Any,
        target_filter: Mapping[str, Collection[Any]] | None = None,
        hierarchical_domains: Collection[str] | None = None,
    ) -> tuple[pd.DataFrame, sparse.csr_matrix, list[str]]:
        """Choose the targets, simulate every column where it was placed, and assemble the matrix.

        Parameters
        ----------
        geography
            Placement of the columns, over the households of the dataset in their order.
        sim
            The user's simulation of the dataset: its households must be the dataset's.
        target_filter
            Any of domain_variables, variables, stratum_group_ids, target_ids, geo_levels, each a list; a
            target must fit all that are given.
        hierarchical_domains
            Domains whose district targets are scaled to their state's.

        Returns
        -------
        targets_df : DataFrame
            One row a target; see `distcalib.targets.choose.select_targets`.
        X_sparse : csr_matrix of float32, shape (n targets, n columns)
            ``column = clone * n_records + record``.
        target_names : list of str
            ``cd_3402/household_count/[snap>0]``.
        """
        source, origin = self._read(sim)
        if geography.n_records != source.count():
            raise InputError(
                "the geography is not of this dataset",
                place=self.dataset_path,
                value=f"{geography.n_records} records",
                expected=f"{source.count()}, one a household",
            )
        if not self.county_level:
            none = {name: np.zeros_like(getattr(geography, name)) for name in ("county_fips", "block_geoid")}
            geography = replace(geography, **none, derived=None)
        elif (geography.county_fips // 1000 != geography.state_fips).any():
            at = int(np.flatnonzero(geography.county_fips // 1000 != geography.state_fips)[0])
            raise InputError(
                f"a county that is unset or of another state than {geography.state_fips[at]}",
                place=f"geography: column {at}",
                value=f"{geography.county_fips[at]:05d}",
                expected="a county of the column's state, or county_level=False",
            )
        check_counties(geography, county_fips_of_rules_engine()["county_fips"])
        targets = self._targets(target_filter, hierarchical_domains=hierarchical_domains)
        rows = Rows.of(targets)
        pieces = (
            Piece.of(origin, rows, geography, columns[at : at + _AT_ONCE])
            for state in np.unique(geography.state_fips)
            for columns in [np.flatnonzero(geography.state_fips == state)]
            for at in range(0, len(columns), _AT_ONCE)
        )
        X = self._build(targets, source, geography, pieces, origin)
        return targets, X, targets["name"].tolist()


class SparseMatrixBuilder(_Builder):
    """Build the matrix of targets x (every household in every district).

    Parameters
    ----------
    db_uri, time_period
        See `UnifiedMatrixBuilder`.
    cds_to_calibrate
        Districts in any spelling; their order is that of the column blocks.
    dataset_path, rerandomize_takeup, client
        See `UnifiedMatrixBuilder`.
    county_level
        Simulate every household in a county of each district, drawn by `seed` (take several times as long);
        False leaves the county unset, and one simulation a state does.
    seed
        Seed of counties and of take-up draws; give the same to `create_sparse_cd_stacked_dataset`.
    uprate
        Carry targets of other years to `time_period`; by default their values stay as the database has them,
        of the year in the column period.
    """

    def __init__(
        self,
        db_uri: str | Path,
        time_period: int,
        cds_to_calibrate: Iterable[object],
        dataset_path: str | Path,
        *,
        uprate: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(db_uri, time_period, dataset_path, **settings)
        self.cds_to_calibrate, self._geoids = read_districts(cds_to_calibrate)
        self.uprate = uprate

    def build_matrix(
        self, sim: Any, target_filter: Mapping[str, Collection[Any]] | None = None
    ) -> tuple[pd.DataFrame, sparse.csr_matrix, dict[str, np.ndarray]]:
        """Choose the targets, simulate every household in every district, and assemble the matrix.

        Parameters
        ----------
        sim
            The user's simulation of the dataset: its households must be the dataset's.
        target_filter
            As in `UnifiedMatrixBuilder.build_matrix`, but a target must fit any one of those given.

        Returns
        -------
        targets_df : DataFrame
            target_id, stratum_id, variable, value, period, stratum_group_id, geographic_id; one row a target,
            nation, states, districts. Also reform_id where there are reforms, and domain_variable where a
            stratum has no group.
        X_sparse : csr_matrix of float32, shape (n targets, n districts * n households)
            ``column = district index * n_households + household index``.
        household_id_mapping : dict
            District, as given -> household ids of its columns, int64, shape (n households,).
        """
        source, origin = self._read(sim)
        ids = source.ids["household"]
        assignment = everywhere(ids, self._geoids, county_level=self.county_level, seed=self.seed)
        targets = self._targets(target_filter, any_of=True, uprate=self.uprate)
        pieces = self._pieces(origin, Rows.of(targets), assignment)
        X = self._build(targets, source, assignment, pieces, origin)
        # What the groups of targets need beyond the document's columns, where they need it.
        more = ["reform_id"] if (targets["reform_id"] > 0).any() else []
        more += ["domain_variable"] if targets["stratum_group_id"].isna().any() else []
        return targets[[*_FIRST_COLUMNS, *more]], X, {cd: ids.copy() for cd in self.cds_to_calibrate}

    def _pieces(self, origin: Origin, rows: Rows, assignment: GeographyAssignment) -> Iterator[Piece]:
        n = assignment.n_records
        states = self._geoids // 100
        alike = not (self.county_level or self.rerandomize_takeup)
        for state in np.unique(states):
            first = np.flatnonzero(states == state) * n
            # Where nothing differs between a state's districts, one simulation fills them all.
            for start, shifts in [(first[0], first - first[0])] if alike else [(f, [0]) for f in first]:
                for at in range(0, n, _AT_ONCE):
                    columns = start + np.arange(at, min(at + _AT_ONCE, n))
                    yield Piece.of(origin, rows, assignment, columns, shifts)


def _same_households(sim: Any, source: Microdata, path: Path) -> None:
    """Raise `InputError` unless a simulation has exactly the households of the dataset, in their order."""
    ids = household_ids(sim, source.period)
    if not np.array_equal(ids, source.ids["household"]):
        raise InputError(
            "the simulation is not of this dataset: its households are others",
            place=path,
            value=f"{len(ids)} households",
            expected=f"the {source.count()} of the dataset, as in Microsimulation(dataset={str(path)!r})",
        )
