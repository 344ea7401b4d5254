"""distcalib's `UnifiedMatrixBuilder` against policyengine_us_data's own: equal, or different on purpose."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcalib.errors import DistcalibError, InputError, RunError
from distcalib.microdata import Microdata

pytestmark = pytest.mark.timeout(3600)


# Some states of the reconciled case lack a row or districts, which the warning names.
@pytest.mark.filterwarnings("ignore::distcalib.targets.choose.TargetsWarning")
@pytest.mark.parametrize("name", ["four-domains", "reconciled", "unreconciled", "dollars-counts-sums"])
def test_names_rows_order_values_and_cells_are_equal(
    sides: dict[str, Any], peer_file: Path, name: str
) -> None:
    from cases import TABLE
    from sides import build_ours, matrix_differences, read_peer, target_differences

    theirs = read_peer(name, sides["folders"][name])
    start = time.process_time()
    targets, matrix = build_ours(peer_file, sides["cases"][name])
    cpu = time.process_time() - start
    found = target_differences(targets, theirs.targets)
    assert not found, "\n".join(found)
    words, largest = matrix_differences(matrix, theirs.matrix, targets["name"])
    TABLE.append(
        f"{name:20} {matrix.shape[0]:6,} rows {matrix.nnz:8,} cells, {len(words)} rows differ, relative"
        f" difference at most {largest:.0e}, CPU {cpu:.0f} s against {theirs.report['cpu']:.0f} s"
    )
    assert not words, f"{len(words)} rows:\n" + "\n".join(words)
    assert theirs.matrix.nnz > 100


def test_reforms_are_equal_to_the_rounding_of_the_income_tax(sides: dict[str, Any], peer_file: Path) -> None:
    """A cell is a difference of two income taxes, which the peer rounds to float32 first."""
    from cases import TABLE, target_ids
    from sides import build_ours, read_peer, target_differences

    theirs, case = read_peer("reforms", sides["folders"]["reforms"]), sides["cases"]["reforms"]
    start = time.process_time()
    targets, matrix = build_ours(peer_file, case)
    cpu = time.process_time() - start
    assert not (found := target_differences(targets, theirs.targets)), "\n".join(found)
    ours, there = matrix.toarray().astype(float), theirs.matrix.toarray().astype(float)
    tax_id = target_ids(case["database"], "variable = 'income_tax_positive' AND geo_level = 'national'")
    _, tax = build_ours(peer_file, case | {"target_filter": {"target_ids": tax_id}})
    rounding = np.spacing((np.abs(tax.toarray()) + np.abs(there)).astype(np.float32))
    difference = np.abs(ours - there)
    TABLE.append(
        f"{'reforms':20} {matrix.shape[0]:6,} rows {matrix.nnz:8,} cells, difference at most "
        f"{difference.max():.2g} dollars, CPU {cpu:.0f} s against {theirs.report['cpu']:.0f} s"
    )
    assert (difference <= 1e-5 * np.abs(there) + 2 * rounding).all(), difference.max(axis=1)
    assert ((ours != 0).sum(axis=1) > 10).all()


def alone(sides: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the case of one difference on purpose."""
    return sides["cases"]["different"] | {"target_filter": {"target_ids": sides["different"][name]}}


def their_rows(sides: dict[str, Any], name: str) -> np.ndarray:
    """Return what the peer's matrix holds for the targets of a difference, shape (targets, columns)."""
    from sides import read_peer

    theirs = read_peer("different", sides["folders"]["different"])
    at = [theirs.targets["target_id"].tolist().index(i) for i in sides["different"][name]]
    return theirs.matrix[at].toarray()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("unknown operator", InputError, "operator"),
        ("unknown variable", InputError, "snapp"),
        ("unknown constraint variable", InputError, "agee"),
        ("failing variable", RunError, "in_poverty"),
        ("no index for the year", InputError, "1900"),
    ],
)
def test_what_the_peer_answers_in_silence_is_an_error(
    sides: dict[str, Any], peer_file: Path, name: str, error: type[DistcalibError], words: str
) -> None:
    from sides import build_ours, read_peer

    with pytest.raises(error, match=words):
        build_ours(peer_file, alone(sides, name))
    (row,) = their_rows(sides, name)
    persons = Microdata.read(peer_file)
    if name == "unknown operator":  # holds for everybody
        assert np.array_equal(row, np.bincount(persons.household_of["person"]))
    elif name == "no index for the year":  # carried by a factor of 1
        theirs = read_peer("different", sides["folders"]["different"]).targets.set_index("target_id")
        assert theirs.loc[sides["different"][name], "uprating_factor"].tolist() == [1.0]
    else:  # a row of zeros
        assert not row.any()


def test_numbers_in_a_list_families_and_counts_by_name_differ_as_documented(
    sides: dict[str, Any], peer_file: Path
) -> None:
    from sides import build_ours

    data = Microdata.read(peer_file)
    listed = np.isin(data.column("age"), [3, 4, 5, 60])
    _, matrix = build_ours(peer_file, alone(sides, "list of numbers"))
    assert np.array_equal(matrix.toarray()[0], np.bincount(data.household_of["person"], listed))
    assert not their_rows(sides, "list of numbers").any()

    _, matrix = build_ours(peer_file, alone(sides, "families and couples"))
    for ours, entity in zip(matrix.toarray(), ("family", "marital_unit"), strict=True):
        assert np.array_equal(ours, np.bincount(data.household_of[entity]))
    assert (their_rows(sides, "families and couples") == 1).all()

    _, matrix = build_ours(peer_file, alone(sides, "variable named like a count"))
    theirs = their_rows(sides, "variable named like a count")
    assert np.array_equal(theirs[0], np.bincount(data.household_of["tax_unit"]))
    assert 0 < matrix.sum() != theirs.sum()


def test_a_flag_of_another_year_is_carried_by_population(sides: dict[str, Any], peer_file: Path) -> None:
    from sides import build_ours, read_peer

    targets, matrix = build_ours(peer_file, alone(sides, "flag of another year"))
    theirs = read_peer("different", sides["folders"]["different"]).targets.set_index("target_id")
    factor = theirs.loc[sides["different"]["flag of another year"], "uprating_factor"].iloc[0]
    assert 1.0 < targets["uprating_factor"].iloc[0] < factor
    assert np.array_equal(matrix.toarray(), their_rows(sides, "flag of another year"))


def test_a_share_of_a_fixed_total_is_no_cell(sides: dict[str, Any], peer_file: Path) -> None:
    """Medicaid dollars are a state's spending over the weights of the file: no column of X has a value."""
    import policyengine_us  # noqa: F401  (its first import changes the filters of warnings)
    from sides import build_ours

    with pytest.warns(UserWarning, match="depend on everybody in a file"):
        _, matrix = build_ours(peer_file, alone(sides, "share of the file"))
    ours, theirs = matrix.toarray()[0], their_rows(sides, "share of the file")[0]
    some = theirs > 0
    assert np.array_equal(some, ours > 0)
    ratio = ours[some] / theirs[some]
    assert ratio.std() < 1e-5 * ratio.mean()
    # The peer's file is the nation, ours the columns of the state with weights of 1.
    assert ratio.mean() > 1000
