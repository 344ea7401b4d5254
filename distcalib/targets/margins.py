"""The official margins that the bundled microdata are raked to, and the rents that they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.storage import write_text
from distcalib.targets.sources import sources
from distcalib.targets.sources_census import households, housing
from distcalib.targets.sources_rows import ACS_FILE, read_acs

_BANDS = 18
# Cells of ACS table S0101 by state.
_PERSONS = {"persons": "001", "persons under 18": "022", "persons of 65 and over": "030"}


def official_margins(raw_folder: str | Path) -> pd.DataFrame:
    """Return persons, households and contract rent by state, and the nation's persons by age band.

    Parameters
    ----------
    raw_folder
        As for `distcalib.targets.sources.build_targets`.

    Returns
    -------
    DataFrame
        quantity, area (state FIPS or ``US``), age_from (lower end of a band of five years, or empty), value,
        unit, source, table, vintage.
    """
    raw = Path(raw_folder)
    states = read_acs(raw / ACS_FILE.format(table="S0101", level="state"))
    nation = read_acs(raw / ACS_FILE.format(table="S0101", level="national"))
    parts = [
        pd.DataFrame(
            {"quantity": name, "area": states["geographic_id"], "value": states[f"S0101_C01_{cell}E"]}
        )
        for name, cell in _PERSONS.items()
    ]
    cells = [f"S0101_C01_{i:03d}E" for i in range(2, _BANDS + 2)]
    parts.append(
        pd.DataFrame(
            {
                "quantity": "persons by age",
                "area": "US",
                "age_from": (np.arange(_BANDS) * 5).astype(str),
                "value": nation.loc[0, cells].to_numpy(),
            }
        )
    )
    table = pd.concat(parts, ignore_index=True).assign(unit="persons", key="acs_s0101")
    homes = households(raw).query("geo_level == 'state' and constraints == ''")
    rents = housing(raw).query("geo_level == 'state' and variable == 'rent'")
    for name, rows in (("households", homes), ("contract rent", rents)):
        more = rows.rename(columns={"geographic_id": "area"})[["area", "value", "unit", "key"]]
        table = pd.concat([table, more.assign(quantity=name)], ignore_index=True)
    table["value"] = table["value"].astype(float).round().astype(np.int64)
    table["age_from"] = table["age_from"].fillna("")
    known = sources().query("key != ''").set_index("key")
    for column in ("source", "table", "vintage"):
        table[column] = table["key"].map(known[column])
    order = pd.to_numeric(table["area"].replace("US", "0"))
    kinds = list(dict.fromkeys(table["quantity"]))
    table = table.assign(_kind=table["quantity"].map(kinds.index), _area=order)
    table = table.sort_values(["_kind", "_area"], kind="stable").drop(columns=["_kind", "_area", "key"])
    return table[["quantity", "area", "age_from", "value", "unit", "source", "table", "vintage"]]


def write_bundled(raw_folder: str | Path, out_folder: str | Path) -> None:
    """Rebuild ``official_2024.csv``, which `distcalib.microdata` bundles, byte for byte."""
    text = official_margins(raw_folder).to_csv(index=False, lineterminator="\n")
    write_text(Path(out_folder) / "official_2024.csv", text)
