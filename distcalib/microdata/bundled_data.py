"""The microdata that come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from distcalib.errors import InputError
from distcalib.microdata.model import Microdata

BUNDLED_PERIOD = 2024
#: Endings of the tables that `distcalib data cps` writes beside a dataset: ``<dataset stem>_<ending>``.
SIDE_TABLES = ("sources.csv", "raking.csv", "households.csv.gz", "units.csv.gz")


def bundled_path() -> Path:
    """Return the path of the bundled PolicyEngine dataset (12,000 households of the public-use CPS)."""
    return Path(str(resources.files("distcalib.microdata").joinpath("bundled/cps_2024.h5")))


def bundled_microdata(period: int = BUNDLED_PERIOD) -> Microdata:
    """Read the bundled microdata.

    Raises
    ------
    InputError
        For another year than the bundled one.
    """
    if period != BUNDLED_PERIOD:
        raise InputError(
            "the bundled microdata are of one year",
            place="period",
            value=period,
            expected=str(BUNDLED_PERIOD),
        )
    return Microdata.read(bundled_path(), period)
