"""Write the bundled catalogue of the rules engine (read by `distcalib.catalogue`)."""

from __future__ import annotations

import gzip
import json
from importlib import metadata
from pathlib import Path


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
        {"policyengine_us": metadata.version("policyengine-us"), "variables": rows}, separators=(",", ":")
    )
    Path(path).write_bytes(gzip.compress(text.encode(), mtime=0))
    return len(rows)
