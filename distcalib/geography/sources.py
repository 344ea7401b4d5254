"""The districts of the 119th Congress and their counties, from Census Bureau files.

Two tables are bundled. ``districts_119.csv`` has one row a district with its 2024 population (ACS 1-year,
table S0101). ``county_shares.csv`` has the share of each district's 2020 census population in each county.
`write_bundled` rebuilds both from the raw files; `districts` and `county_shares` read them.
"""

from __future__ import annotations

import importlib.util
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.errors import InputError
from distcalib.geography.district import CURRENT_CONGRESS
from distcalib.geography.states import STATE_CODES

N_DISTRICTS = 436

_DISTRICT_POPULATION = "calibration/raw_inputs/acs_S0101_district_2024.json"
_COUNTY_DISTRIBUTIONS = "county_cd_distributions.csv"


def districts() -> pd.DataFrame:
    """Return the districts of the 119th Congress, DC among them, sorted by GEOID.

    Returns
    -------
    pandas.DataFrame
        436 rows: cd_geoid (int64, state FIPS x 100 + district; at-large and DC end in 01), state_fips
        (int64), state (text), name (text, ``CA-06``), population (int64, residents in 2024, ACS S0101),
        ucgid (text).
    """
    table = pd.read_csv(_bundled("districts_119.csv"))
    return table.astype({"cd_geoid": np.int64, "state_fips": np.int64, "population": np.int64})


def county_shares() -> pd.DataFrame:
    """Return the share of each district's population in each of its counties.

    Returns
    -------
    pandas.DataFrame
        cd_geoid (int64), county_fips (int64, five digits without padding), share (float64; the shares of a
        district sum to 1), sorted by district and county. Connecticut has its eight old counties, which are
        the ones that policyengine-us maps.
    """
    table = pd.read_csv(_bundled("county_shares.csv"))
    return table.astype({"cd_geoid": np.int64, "county_fips": np.int64, "share": np.float64})


def county_fips_of_rules_engine() -> pd.DataFrame:
    """Read the county table of the installed policyengine-us without importing it.

    Returns
    -------
    pandas.DataFrame
        county_fips (int64), member (text: the name of the member of the rules engine's County enum), for the
        counties of the 50 states and DC.

    Raises
    ------
    InputError
        When policyengine-us is not installed.
    """
    spec = importlib.util.find_spec("policyengine_us")
    if spec is None or spec.origin is None:
        raise InputError("policyengine-us is not installed", expected="its table of counties")
    path = Path(spec.origin).parent / "data" / "county_fips_2020.csv.gz"
    table = pd.read_csv(path, usecols=["state", "county_name", "county_fips"])
    table = table[table["state"].isin(list(STATE_CODES.values()))]
    # The same spelling rule as the rules engine's: blank, hyphen and apostrophe become an underscore.
    name = table["county_name"].str.replace(r"[ '-]", "_", regex=True).str.replace(".", "", regex=False)
    return pd.DataFrame(
        {
            "county_fips": table["county_fips"].astype(np.int64),
            "member": name.str.strip().str.upper() + "_" + table["state"],
        }
    ).reset_index(drop=True)


def write_bundled(raw_folder: str | Path, out_folder: str | Path) -> None:
    """Rebuild ``districts_119.csv`` and ``county_shares.csv`` byte for byte.

    Parameters
    ----------
    raw_folder
        The folder ``policyengine_us_data/storage`` of the public wheel policyengine_us_data 1.115.4, which
        carries the Census Bureau's files.
    out_folder
        Where the two files are written.

    Raises
    ------
    InputError
        For a missing raw file, a district too many or too few, or a county unknown to the rules engine.
    """
    raw, out = Path(raw_folder), Path(out_folder)
    table = _build_districts(raw)
    shares = _build_county_shares(raw, table)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "districts_119.csv", index=False, lineterminator="\n")
    shares.to_csv(out / "county_shares.csv", index=False, lineterminator="\n", float_format="%.12f")


def _build_districts(raw: Path) -> pd.DataFrame:
    path = raw / _DISTRICT_POPULATION
    header, *rows = json.loads(_text(path))
    acs = pd.DataFrame(rows, columns=header)
    prefix = f"500{CURRENT_CONGRESS - 100}00US"
    if not acs["GEO_ID"].str.startswith(prefix).all():
        raise InputError(f"holds districts of another Congress than the {CURRENT_CONGRESS}th", place=path)
    fips = acs["GEO_ID"].str[9:11].astype(np.int64)
    acs, fips = acs[fips.isin(list(STATE_CODES))], fips[fips.isin(list(STATE_CODES))]
    geoid = fips * 100 + _number_of_district(acs["GEO_ID"].str[11:].astype(np.int64))
    state = fips.map(STATE_CODES)
    table = pd.DataFrame(
        {
            "cd_geoid": geoid,
            "state_fips": fips,
            "state": state,
            "name": state + "-" + (geoid % 100).astype(str).str.zfill(2),
            "population": acs["S0101_C01_001E"].astype(np.int64),
            "ucgid": acs["GEO_ID"],
        }
    ).sort_values("cd_geoid", ignore_index=True)
    if len(table) != N_DISTRICTS or table["cd_geoid"].duplicated().any():
        raise InputError(f"has {len(table)} districts", place=path, expected=f"{N_DISTRICTS} different ones")
    return table


def _build_county_shares(raw: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Name counties by FIPS and put back the 37 counties that the file lost.

    The file was made by matching county names, and names that were spelt differently were dropped and the
    rest of the district scaled up: 37 counties with 1.85 million residents, Prince George's, MD, among them.
    ``county_shares_added.csv`` gives their 2020 census population and the population that the file covers.
    """
    path = raw / _COUNTY_DISTRIBUTIONS
    _text(path)
    given = pd.read_csv(path)
    known = county_fips_of_rules_engine().set_index("member")["county_fips"]
    fips = given["county_name"].map(known)
    if fips.isna().any():
        raise InputError(
            "names a county that the rules engine does not map",
            place=path,
            value=given["county_name"][fips.isna()].iloc[0],
            choices=known.index,
        )
    geoid = given["cd_geoid"] // 100 * 100 + _number_of_district(given["cd_geoid"] % 100)
    shares = pd.DataFrame(
        {"cd_geoid": geoid, "county_fips": fips.astype(np.int64), "share": given["probability"]}
    )
    added = pd.read_csv(_bundled("county_shares_added.csv"))
    covered = added.groupby("cd_geoid")["covered_2020"].first()
    whole = covered + added.groupby("cd_geoid")["population_2020"].sum()
    shares["share"] *= shares["cd_geoid"].map(covered / whole).fillna(1.0)
    put_back = added[["cd_geoid", "county_fips"]].assign(
        share=added["population_2020"] / added["cd_geoid"].map(whole)
    )
    shares = pd.concat([shares, put_back]).sort_values(["cd_geoid", "county_fips"], ignore_index=True)
    if shares.duplicated(["cd_geoid", "county_fips"]).any():
        raise InputError("names a county of a district twice", place=path)
    if set(shares["cd_geoid"]) != set(table["cd_geoid"]):
        odd = sorted(set(shares["cd_geoid"]) ^ set(table["cd_geoid"]))
        raise InputError("does not cover the same districts as ACS S0101", place=path, value=odd)
    # Four units in the 16th digit of the source are noise; dividing by the sum keeps every district at 1.
    shares["share"] /= shares.groupby("cd_geoid")["share"].transform("sum")
    return shares


def _number_of_district(number: pd.Series) -> pd.Series:
    # The Census Bureau writes at-large districts 00 and the delegate's 98; here both are 01.
    return number.where(~number.isin([0, 98]), 1)


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError("no such raw file", place=path, expected="the storage folder of the public wheel")
    return path.read_text(encoding="utf-8")


def _bundled(name: str) -> Path:
    return Path(str(resources.files("distcalib.geography").joinpath("bundled", name)))
