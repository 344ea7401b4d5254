"""Write the bundled catalogue of the rules engine (read by `distcalib.catalogue`)."""

from __future__ import annotations

import gzip
import json
from importlib import metadata
from pathlib import Path

# The parameters behind the uprating indices, and the years that are bundled. Their sources stand in the
# package: CPI-U is BLS CUSR0000SA0 with CBO's projection, the population CBO's Demographic Outlook.
INDICES = {"cpi_u": "gov.bls.cpi.cpi_u", "population": "calibration.gov.census.populations.total"}
INDEX_YEARS = range(2000, 2056)


def engine_indices() -> dict[str, dict[str, float]]:
    """Return the yearly uprating indices of the installed policyengine-us: name -> year -> value.

    The value of a year is the one in force on 1 January, which is what a call with a year gives. A year for
    which the rules engine has none is left out.
    """
    from policyengine_us.system import system

    found = {}
    for name, path in INDICES.items():
        parameter = system.parameters.get_child(path)
        values = {str(year): parameter(f"{year}-01-01") for year in INDEX_YEARS}
        found[name] = {year: float(value) for year, value in values.items() if value is not None}
    return found


def write_catalogue(path: str | Path) -> int:
    """Write the catalogue of the installed policyengine-us to `path` (gzipped JSON, byte-reproducible).

    Returns
    -------
    int
        Number of variables.
    """
    from policyengine_us.system import system

    rows = []
    for name in sorted(system.variables):
        v = system.variables[name]
        kind = v.value_type.__name__
        values = (
            sorted(v.possible_values.__members__) if kind == "Enum" and len(v.possible_values) <= 60 else []
        )
        is_input = not (v.formulas or getattr(v, "adds", None) or getattr(v, "subtracts", None))
        rows.append(
            [
                name,
                v.entity.key,
                kind,
                is_input,
                v.definition_period,
                v.label or "",
                str(v.unit or ""),
                values,
            ]
        )
    text = json.dumps(
        {
            "policyengine_us": metadata.version("policyengine-us"),
            "variables": rows,
            "indices": engine_indices(),
        },
        separators=(",", ":"),
    )
    Path(path).write_bytes(gzip.compress(text.encode(), mtime=0))
    return len(rows)
