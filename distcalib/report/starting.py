"""Starting totals: what the microdata give for national quantities before any calibration."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from distcalib.matrix.calibration import CalibrationMatrix
from distcalib.targets.sources import bundled_targets


def starting_totals(run: str | Path) -> pd.DataFrame:
    """Return X.w0 of the national rows of a run, with w0 the design weights of its columns.

    Parameters
    ----------
    run
        Folder of a run of the whole nation with the bundled targets; its matrix must be assembled.

    Returns
    -------
    DataFrame
        variable, constraints, geo_level, starting (in the unit of the variable), concept, measured_with: the
        form of the packaged ``starting_totals.csv``, which decides between the statuses fit and check.
    """
    matrix = CalibrationMatrix.load(run)
    table = matrix.targets
    keep = ((table["geo_level"] == "national") & (table["reform_id"] == 0)).to_numpy()
    out = table.loc[keep, ["variable", "constraints", "geo_level"]].copy()
    out["starting"] = matrix.estimate(matrix.columns["initial_weight"].to_numpy())[keep].round()
    bundled = bundled_targets()
    concepts = (
        bundled[(bundled["geo_level"] == "national") & (bundled["status"] != "excluded")]
        .drop_duplicates(["variable", "constraints"])
        .set_index(["variable", "constraints"])["concept"]
    )
    out = out.join(concepts, on=["variable", "constraints"])
    out["measured_with"] = "bundled microdata, take-up drawn"
    return out.reset_index(drop=True)
