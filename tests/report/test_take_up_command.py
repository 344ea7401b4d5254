"""``distcalib data take-up`` under the real rules: the shipped table again, and another dataset's."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
from click.testing import CliRunner

from distcalib.cli import main
from distcalib.errors import InputError
from distcalib.geography import STATE_CODES
from distcalib.report.rates import SOLVED, solvable
from distcalib.simulation.takeup import read_rates


def take_up(*arguments: str):
    return CliRunner().invoke(main, ["data", "take-up", *arguments])


@pytest.fixture(scope="module")
def everywhere(bundled):
    """Eight households of every state, and no report of receipt of SNAP."""
    fips = bundled.column("state_fips")
    chosen = np.concatenate([np.flatnonzero(fips == s)[:8] for s in STATE_CODES])
    data = bundled.take(chosen, {e: bundled.ids[e][bundled.rows_of(e, chosen)[0]] for e in bundled.ids})
    values = {e: {p: a for p, a in t.items() if "spm_unit_snap" not in p} for e, t in data.values.items()}
    return type(data)(data.period, data.ids, data.links, values)


def test_microdata_without_reports_have_a_rate_of_all(everywhere, bundled):
    assert [p.reported for p in solvable(everywhere)] == [""] * len(SOLVED)
    assert solvable(bundled) == SOLVED


def test_microdata_without_a_state_cannot_be_solved(bundled):
    chosen = np.flatnonzero(bundled.column("state_fips") != 56)
    data = bundled.take(chosen, {e: bundled.ids[e][bundled.rows_of(e, chosen)[0]] for e in bundled.ids})
    with pytest.raises(InputError, match=r"have no households.*got 'WY'"):
        solvable(data)


@pytest.mark.slow
def test_another_datasets_rates_are_a_table_that_a_run_takes(everywhere, tmp_path):
    file, out = tmp_path / "own.h5", tmp_path / "rates.csv"
    everywhere.write(file)
    done = take_up("--dataset", str(file), "--output", str(out))
    assert done.exit_code == 0, done.output
    table = read_rates(out)
    snap = table[table["variable"] == "takes_up_snap_if_eligible"]
    assert snap[["reported", "of"]].values.tolist() == [["", ""]]
    assert len(table[table["variable"] == "takes_up_medicaid_if_eligible"]) == 51
    filing = table[table["variable"] == "would_file_taxes_voluntarily"]
    assert filing["key"].tolist() == ["0", "1", "10000", "25000"]
    assert set(filing["by"]) == {"income"}


@pytest.mark.slow
def test_the_shipped_table_comes_out_again_byte_for_byte(tmp_path):
    pytest.importorskip("taxcalc")
    out = tmp_path / "rates.csv"
    done = take_up("--output", str(out))
    assert done.exit_code == 0, done.output
    shipped = resources.files("distcalib.simulation") / "bundled/take_up.csv"
    assert out.read_bytes() == shipped.read_bytes()
