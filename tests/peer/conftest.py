"""The peer's side of every case, built once in its own environment; skipped where there is none."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcalib.geography import GeographyAssignment, assign_geography
from distcalib.geography.sources import county_shares, districts
from distcalib.microdata import Microdata

sys.path[:0] = [str(Path(__file__).parents[2] / "peer"), str(Path(__file__).parent)]

from cases import STATES, TABLE, different_case, equal_cases  # noqa: E402

HOUSEHOLDS = 700


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is here unless ``make peer`` names the peer's interpreter and database."""
    if not (os.environ.get("DISTCALIB_PEER") and os.environ.get("DISTCALIB_PEER_DATABASE")):
        here = Path(__file__).parent
        for item in items:
            if here in Path(item.path).parents:
                item.add_marker(pytest.mark.skip(reason="needs the peer's environment: make peer"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the comparison as a table."""
    if TABLE:
        terminalreporter.section("against policyengine_us_data")
        for line in TABLE:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the inputs and of what the peer built; DISTCALIB_PEER_WORK keeps it for the next time."""
    kept = os.environ.get("DISTCALIB_PEER_WORK")
    folder = Path(kept).resolve() if kept else tmp_path_factory.mktemp("peer")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def peer_file(bundled: Microdata, work: Path) -> Path:
    """Households from all over the bundled file, with their own ids, as a file that both sides read."""
    chosen = np.linspace(0, bundled.count() - 1, HOUSEHOLDS).astype(int)
    ids = {e: bundled.ids[e][bundled.rows_of(e, chosen)[0]] for e in bundled.ids}
    path = work / "households.h5"
    bundled.take(chosen, ids).write(path)
    return path


def placed(file: Path, states: tuple[int, ...], n_clones: int) -> GeographyAssignment:
    """Place the households in some states, counties unset."""
    table = districts()
    inside = table[(table["cd_geoid"] // 100).isin(states)]
    household_id = Microdata.read(file).ids["household"]
    found = assign_geography(household_id, n_clones, inside, county_shares(), seed=5)
    return replace(found, county_fips=np.zeros_like(found.county_fips))


@pytest.fixture(scope="session")
def sides(peer_file: Path, work: Path) -> dict[str, Any]:
    """Every case, and the folder of what the peer built of it."""
    from sides import run_peer

    source = Path(os.environ["DISTCALIB_PEER_DATABASE"]).resolve()
    six, one = placed(peer_file, STATES, 2), placed(peer_file, (30,), 1)
    cases = equal_cases(source, work, six, one)
    different, ids = different_case(source, work, one)
    folders = run_peer(os.environ["DISTCALIB_PEER"], peer_file, [*cases, different], work)
    return {"cases": {c["name"]: c for c in [*cases, different]}, "folders": folders, "different": ids}
