"""Area files anywhere: of a run's weights, or of weights that were fitted elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distcalib.areas.area import Area, nobody, together
from distcalib.areas.filters import inside
from distcalib.areas.stack import Facts, Placing, write_together
from distcalib.config import RunConfig
from distcalib.config.schema import read_settings
from distcalib.config.settings import AreasConfig
from distcalib.errors import InputError
from distcalib.geography.assignment import GeographyAssignment
from distcalib.microdata.model import Microdata
from distcalib.microdata.remote import local_file
from distcalib.runs.area_stage import files_of
from distcalib.runs.folder import stored_plan
from distcalib.runs.plan import read_source
from distcalib.runs.reading import read_weights
from distcalib.runs.stored import stored_config
from distcalib.runs.tasks import read_assignment
from distcalib.simulation.takeup import rates_digest, read_rates
from distcalib.storage import writable

Written = Callable[[Area, Facts], None]


def stack_run(
    run: str | Path,
    output: str | Path,
    *,
    only: tuple[str, ...] | None = None,
    others: Mapping[str, str | None] | None = None,
    fit: str = "",
    written: Written = lambda area, facts: None,
) -> int:
    """Write area files from the weights of a run into another folder, which gets ``areas/`` as runs have it.

    Parameters
    ----------
    run, output
        A run folder that has been fitted, and where to write. Files that are there are refused.
    only
        Names of areas; None: those of the run's settings and `others`.
    others
        More areas by name, each with its filter; see ``areas.others``.
    fit
        Name of one of the run's further fits; empty: the first.
    written
        Called with each area that is written.

    Returns
    -------
    int
        How many datasets were written.

    Raises
    ------
    InputError
        For a folder without weights, microdata or take-up rates that are not the run's, an unknown area or
        fit, and files that are there.
    RunError
        When an area has no household with weight.
    """
    folder = Path(run)
    config, stored = stored_config(folder), stored_plan(folder) or {}
    path = folder / (f"fits/{fit}" if fit else "fit") / "weights.npy"
    # A folder may hold the files of a fit that its settings no longer have.
    if not path.is_file() or (fit and fit not in config.fits):
        raise InputError("has no such weights", place=folder, value=fit or "fit", choices=config.fits,
                         expected="a run that has been fitted, and the name of one of its fits")  # fmt: skip
    source = read_source(config)
    if source.digest() != stored["inputs"]["microdata"]:
        raise InputError(
            "are not the microdata of the run", place=config.microdata, expected="those, unchanged"
        )
    take_up: bool | pd.DataFrame = config.simulation.take_up
    if take_up:
        take_up = read_rates(folder / "take_up.csv")
        if rates_digest(take_up) != stored["inputs"].get("take_up"):
            raise InputError(
                "are not the take-up rates of the run", place=folder / "take_up.csv",
                expected="those that its matrix was simulated with, unchanged",
            )  # fmt: skip
    placing = Placing(
        source,
        read_assignment(folder),
        config.seed,
        take_up,
        config.areas.ids,
    )
    more = {**config.areas.others, **_named(others)}
    config = config.changed(areas=replace(config.areas, only=only, others=more))
    return _write(Path(output), placing, read_weights(path, placing.assignment.n_columns), config, written)


def stack_weights(
    weights: NDArray[np.float64],
    dataset: str | Path,
    geography: str | Path,
    output: str | Path,
    *,
    only: tuple[str, ...] | None = None,
    others: Mapping[str, str | None] | None = None,
    period: int | None = None,
    take_up: bool = False,
    seed: int = 0,
    written: Written = lambda area, facts: None,
) -> int:
    """Write area files of weights that were fitted elsewhere; see `stack_run`.

    Parameters
    ----------
    weights
        One a column, finite, not negative; rounded to float32, which is what files hold.
    dataset
        PolicyEngine HDF5 file that the columns are clones of.
    geography
        ``geography_assignment.npz``: the place of each column.
    period
        Year of the dataset; None: the latest it has weights of.
    take_up, seed
        Draw take-up with this seed; by default flags are as stored.
    """
    source = Microdata.read(local_file(str(dataset)), period)
    assignment = GeographyAssignment.load(geography)
    if assignment.n_records != source.count():
        raise InputError(
            "is of another number of households", place=geography, value=assignment.n_records,
            expected=f"{source.count()}, as {dataset} has",
        )  # fmt: skip
    values = np.asarray(weights)
    if values.shape != (assignment.n_columns,) or values.dtype.kind not in "fiu":
        raise InputError(
            "are not one number a column", place="weights", value=f"{values.dtype} {values.shape}",
            expected=f"({assignment.n_columns},), as {geography} has columns",
        )  # fmt: skip
    wrong = ~np.isfinite(values) | (values < 0)
    if wrong.any():
        raise InputError(
            f"{int(wrong.sum())} are negative or not finite", place="weights", value=float(values[wrong][0])
        )
    config = RunConfig(areas=AreasConfig(only=only, others=_named(others)))
    placing = Placing(source, assignment, seed, take_up)
    return _write(Path(output), placing, values.astype(np.float32).astype(np.float64), config, written)


def _named(others: Mapping[str, str | None] | None) -> dict[str, str | None]:
    """Return areas whose names can be names of files."""
    return read_settings(AreasConfig, {"others": dict(others or {})}, "areas").others


def _write(
    output: Path, placing: Placing, weights: NDArray[np.float64], config: RunConfig, written: Written
) -> int:
    areas = files_of(config, placing.assignment).written
    for area in areas:
        for path in area.outputs:
            writable(output / path)
            if (output / path).exists():
                raise InputError("exists", place=output / path, expected="another --output")
    # Before the first file is written.
    there = placing.assignment, np.flatnonzero(weights > 0)
    if empty := [area.name for area in areas if not inside(area.conditions, *there).any()]:
        raise nobody(*empty)
    for whole, districts in together(areas):
        write_together(output, placing, weights, whole, districts, written)
    return len(areas)
