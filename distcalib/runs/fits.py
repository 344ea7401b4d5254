"""The fits of a run, and what can be said against their settings before anything is simulated."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from distcalib.config import FitConfig, RunConfig
from distcalib.errors import InputError
from distcalib.runs.fitting import fit_arguments
from distcalib.targets.choose import Targets

Float = NDArray[np.float64]


def fits_of(config: RunConfig) -> dict[str, FitConfig]:
    """Return the settings of every fit by name: of ``fit`` by the name '', and of the further ones."""
    return {"": config.fit, **config.fits}


def counted(fit: FitConfig, columns: int, place: str) -> FitConfig:
    """Return settings whose records are a number where they are a share of the columns with a weight.

    Raises
    ------
    InputError
        For a share of less than one column; `place` says where it stands.
    """
    if not isinstance(fit.records, float):
        return fit
    records = round(fit.records * columns)
    if records < 1:
        raise InputError(
            f"is less than one of {columns:,} columns",
            place=place,
            value=fit.records,
            expected=f"a share of at least {1 / columns:.2g}, or a whole number",
        )
    return replace(fit, records=records)


def with_numbers(config: RunConfig, initial_weights: Float) -> RunConfig:
    """Return settings that say the number of records of each fit, for columns with these design weights."""
    columns = int(np.count_nonzero(initial_weights))
    further = {k: counted(v, columns, f"{config.file}: fits.{k}.records") for k, v in config.fits.items()}
    return config.changed(fit=counted(config.fit, columns, f"{config.file}: fit.records"), fits=further)


#: A limit of weights below this many times the average weight of the records leaves a fit little to choose.
ROOM = 1.5


def little_room(config: RunConfig, initial_weights: Float) -> list[str]:
    """Return a warning for each fit whose records can hardly stand for all within its `weight_ratio`."""
    columns, out = int(np.count_nonzero(initial_weights)), []
    for name, fit in fits_of(config).items():
        if fit.records is None or fit.weight_ratio is None or fit.records >= columns:
            continue
        average = columns / fit.records
        if fit.weight_ratio < ROOM * average:
            section = f"fits.{name}" if name else "fit"
            out.append(
                f"{section}.weight_ratio: {fit.records:,} of {columns:,} columns weigh {average:.3g} times "
                f"as much as at first where they stand for all, and {fit.weight_ratio:g} times is the most: "
                "the fit has little to choose from, or fails; it has room with a larger limit, or with more "
                f"{section}.records (0.5: half of the columns)"
            )
    return out


def check_fits(config: RunConfig, targets: Targets, initial_weights: Float) -> None:
    """Refuse now what a fit would refuse after all simulation; `config` is what `with_numbers` gave."""
    from distcalib.fit.spec import FitSpec, refuse_unused

    columns, mass = np.count_nonzero(initial_weights), np.cumsum(np.sort(initial_weights)[::-1])
    fitted = targets.rows[targets.rows["status"] == "fit"]
    for name, fit in fits_of(config).items():
        section = f"fits.{name}" if name else "fit"
        records = None if fit.records is None else int(fit.records)
        try:
            told = fit_arguments(fitted, asdict(fit), config.seed)
            own = {k: v for k, v in told.items() if k not in ("target_weights", "tolerance", "holdout")}
            spec = FitSpec.of(engine=fit.engine, **own)
            refuse_unused(spec)
        except InputError as error:
            where = str(error.place).removeprefix("fit.")
            raise error.at(f"{config.file}: {section}.{where}") from None
        if records is not None and records > columns:
            raise InputError(
                "is more than the columns of the run",
                place=f"{config.file}: {section}.records",
                value=records,
                expected=f"at most {columns}",
            )
        if records is not None and records < columns and fit.epochs == 0:
            raise InputError(
                "needs epochs to choose the records",
                place=f"{config.file}: {section}.epochs",
                value=0,
                expected="more than 0",
            )
        if fit.weight_ratio is not None and fit.weight_ratio < 1:
            raise InputError(
                "lets no weights stand for all households",
                place=f"{config.file}: {section}.weight_ratio",
                value=fit.weight_ratio,
                expected="1 or more",
            )
        if records is not None and fit.weight_ratio is not None:
            most, total = fit.weight_ratio * mass[records - 1], mass[-1]
            if most < total:
                enough = int(np.searchsorted(fit.weight_ratio * mass, total)) + 1
                raise InputError(
                    f"lets {records:,} records stand for {int(100 * most / total)}% of households at most",
                    place=f"{config.file}: {section}.weight_ratio",
                    value=fit.weight_ratio,
                    expected=f"more than {fit.weight_ratio * total / most:.6g}, or null; "
                    f"or {section}.records of more than {enough:,}, or a share of the columns: 0.5",
                )
        plain = spec.loss == "squared" and "tolerance" not in told
        gates = spec.resolved(plain).selector == "gates"
        if not gates and records is None:
            raise InputError(
                "the reweighted selector goes down to a number of records, and none is given",
                place=f"{config.file}: {section}.records",
                expected="a number, or selector gates",
            )
        if not gates and not plain:
            raise InputError(
                "the reweighted selector knows the squared loss without tolerance bands alone",
                place=f"{config.file}: {section}.selector",
                value=fit.selector,
                expected="selector gates, or loss squared and tolerance_bands false",
            )
        if gates and fit.engine == "l0" and (not plain or (records is not None and fit.lambda_l0 is None)):
            raise InputError(
                "engine l0 knows the squared loss and a penalty alone",
                place=f"{config.file}: {section}.engine",
                value=fit.engine,
                expected="engine auto, or loss squared and lambda_l0",
            )
        if not np.any(told["target_weights"]):
            raise InputError(
                "leave no target a share of the loss",
                place=f"{config.file}: {section}.multipliers",
                expected="one above 0",
            )
