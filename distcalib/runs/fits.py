"""The fits of a run, and what can be said against their settings before anything is simulated."""

from __future__ import annotations

from dataclasses import asdict

from distcalib.config import FitConfig, RunConfig
from distcalib.errors import InputError
from distcalib.runs.fitting import fit_arguments
from distcalib.targets.choose import Targets


def fits_of(config: RunConfig) -> dict[str, FitConfig]:
    """Return the settings of every fit by name: of ``fit`` by the name '', and of the further ones."""
    return {"": config.fit, **config.fits}


def check_fits(config: RunConfig, targets: Targets, columns: int) -> None:
    """Refuse now what a fit would refuse after all simulation."""
    from distcalib.fit import FitSpec

    fitted = targets.rows[targets.rows["status"] == "fit"]
    for name, fit in fits_of(config).items():
        section = f"fits.{name}" if name else "fit"
        records = fit.records
        try:
            told = fit_arguments(fitted, asdict(fit), config.seed)
            FitSpec.of(
                **{k: v for k, v in told.items() if k not in ("target_weights", "tolerance", "holdout")}
            )
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
        if fit.selector == "reweighted" and records is None:
            raise InputError(
                "the reweighted selector goes down to a number of records, and none is given",
                place=f"{config.file}: {section}.records",
                expected="a number, or selector gates",
            )
