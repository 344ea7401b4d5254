"""What the first document says of its matrix, on a database and a survey with its rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from plain_survey import Households, fake_values, singles
from scipy import sparse
from sqlalchemy import create_engine, text

from distcalib import (
    MatrixTracer,
    Microdata,
    SparseMatrixBuilder,
    create_sparse_cd_stacked_dataset,
    create_target_groups,
)
from distcalib.errors import InputError
from distcalib.targets.choose import TargetsWarning, select_targets
from distcalib.targets.database import write_database_file

CDS = ["1501", "1502", "201", "3001", "3002", *(str(cd) for cd in range(3701, 3715))]
FILTER = {"stratum_group_ids": [4], "variables": ["snap"]}
N = 13_507


@pytest.fixture(scope="module")
def built(documents_database, survey):
    """Targets, matrix, mapping and tracer of the first document, with amounts that need no rules engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distcalib.documents.pieces.household_values", fake_values)
        sim = Households(survey)
        builder = SparseMatrixBuilder(f"sqlite:///{documents_database}", 2024, CDS, survey)
        targets, X, mapping = builder.build_matrix(sim, target_filter=FILTER)
        yield targets, X, mapping, MatrixTracer(targets, X, mapping, CDS, sim)


def test_the_documents_own_query_finds_its_districts(documents_database):
    query = """SELECT DISTINCT sc.value AS cd_geoid FROM strata s
        JOIN stratum_constraints sc ON s.stratum_id = sc.stratum_id
        WHERE s.stratum_group_id = 1 AND sc.constraint_variable = 'congressional_district_geoid'
          AND (sc.value LIKE '37__' OR sc.value LIKE '150_' OR sc.value LIKE '300_'
               OR sc.value = '200' OR sc.value = '201') ORDER BY sc.value"""
    with create_engine(f"sqlite:///{documents_database}").connect() as connection:
        assert [row[0] for row in connection.execute(text(query))] == CDS


def test_a_national_row_joins_538_of_the_stratum_group(built):
    targets, X, _, _ = built
    assert X.shape == (539, 256_633)
    assert isinstance(X, sparse.csr_matrix)
    assert X.dtype == np.float32
    assert (targets["stratum_group_id"] == 4).sum() == 538
    assert targets.iloc[0][["variable", "geographic_id", "stratum_group_id"]].tolist() == ["snap", "US", 1]


def test_targets_have_the_columns_that_the_document_prints(built):
    row = built[0].iloc[80]
    assert row.index.tolist() == [
        "target_id", "stratum_id", "variable", "value", "period", "stratum_group_id", "geographic_id",
    ]  # fmt: skip
    assert (row["variable"], row["value"], row["period"], row["geographic_id"]) == (
        "snap",
        4041086120.0,
        2024,
        "37",
    )


def test_group_28_of_snap_by_state_is_north_carolina_in_row_80(built):
    tracer = built[3]
    row = tracer.get_group_rows(2).iloc[28]["row_index"]
    info = tracer.get_row_info(row)
    assert row == 80
    assert list(info) == [
        "row_index", "variable", "variable_desc", "geographic_id", "target_value", "stratum_id",
        "stratum_group_id",
    ]  # fmt: skip
    assert info | {"stratum_id": 0} == {
        "row_index": 80,
        "variable": "snap",
        "variable_desc": "SNAP allotment",
        "geographic_id": "37",
        "target_value": 4041086120.0,
        "stratum_id": 0,
        "stratum_group_id": 4,
    }
    assert tracer.get_row_info(tracer.get_group_rows(2).iloc[10]["row_index"])["geographic_id"] != "37"


def test_a_household_has_a_column_in_every_district(built):
    _, _, mapping, tracer = built
    positions = tracer.get_household_column_positions(25)
    assert positions == {cd: i * N for i, cd in enumerate(CDS)}
    assert positions["3702"] == 81_042
    assert tracer.get_household_column_positions(28)["201"] == 27_015
    assert list(mapping) == CDS
    assert tracer.get_column_info(27_015) == {
        "column_index": 27_015,
        "cd_geoid": "201",
        "household_id": 28,
        "household_index": 1,
    }


def test_a_states_row_is_zero_outside_the_state(built):
    targets, X, _, tracer = built
    row = X[80, :]
    inside = np.array([CDS[c // N] for c in row.nonzero()[1]])
    assert set(inside) == {cd for cd in CDS if cd.startswith("37")}
    positions = tracer.get_household_column_positions(25)
    assert X[80, positions["3702"]] == 137
    assert X[80, positions["201"]] == 0
    alaska = targets.index[(targets["geographic_id"] == "2") & (targets["variable"] == "snap")][0]
    assert X[alaska, positions["201"]] == 102
    # Nothing is known of the other 47 states here.
    assert X[1:52].sum(axis=1).nonzero()[0].size == 4


def test_a_cell_and_a_household_are_traced(built):
    tracer = built[3]
    cell = tracer.lookup_matrix_cell(80, 81_042)
    assert cell["value"] == 137
    assert cell["row"]["geographic_id"] == "37"
    assert cell["column"]["cd_geoid"] == "3702"
    trace = tracer.trace_household_targets(25)
    # In each district: the nation, its state's count and dollars, and its own count.
    assert len(trace) == 19 * 4
    there = trace[trace["cd_geoid"] == "201"]
    assert there["geographic_id"].tolist() == ["US", "2", "2", "201"]
    assert there["value"].tolist() == [102, 1, 102, 1]
    assert trace["column_index"].is_monotonic_increasing
    assert tracer.trace_household_targets(28).empty


STRUCTURE = """
================================================================================
MATRIX STRUCTURE BREAKDOWN
================================================================================

Matrix dimensions: 539 rows x 256633 columns
  Rows = 539 targets
  Columns = 13507 households x 19 CDs
           = 13,507 x 19 = 256,633

--------------------------------------------------------------------------------
COLUMN STRUCTURE (Households stacked by CD)
--------------------------------------------------------------------------------

Showing first and last 5 CDs of 19 total:

First 5 CDs:
cd_geoid  start_col  end_col  n_households
    1501          0    13506         13507
    1502      13507    27013         13507
     201      27014    40520         13507
    3001      40521    54027         13507
    3002      54028    67534         13507

Last 5 CDs:
cd_geoid  start_col  end_col  n_households
    3710     189098   202604         13507
    3711     202605   216111         13507
    3712     216112   229618         13507
    3713     229619   243125         13507
    3714     243126   256632         13507

--------------------------------------------------------------------------------
ROW STRUCTURE (Targets)
--------------------------------------------------------------------------------

Total targets: 539

Targets by stratum group:
                  n_targets  n_unique_vars
stratum_group_id                          
1                         1              1
4                       538              2

--------------------------------------------------------------------------------
TARGET GROUPS (for loss calculation)
--------------------------------------------------------------------------------

=== Creating Target Groups ===

National targets:
  Group 0: Snap = 107,062,860,000

State targets:
  Group 1: SNAP Household Count (51 targets)
  Group 2: Snap (51 targets)

District targets:
  Group 3: SNAP Household Count (436 targets)

Total groups created: 4
========================================
  Group 0: National Snap (1 target, value=107,062,860,000) - rows [0]
  Group 1: State SNAP Household Count (51 targets) - rows [1, 2, 3, ..., 50, 51]
  Group 2: State Snap (51 targets) - rows [52, 53, 54, ..., 101, 102]
  Group 3: District SNAP Household Count (436 targets) - rows [103, 104, 105, ..., 537, 538]

================================================================================
"""  # noqa: W291


def test_the_structure_is_printed_as_in_the_document(built, capsys):
    built[3].print_matrix_structure()
    assert capsys.readouterr().out == STRUCTURE


def test_catalogues_name_rows_and_columns(built, capsys):
    tracer = built[3]
    tracer.print_row_catalog(3)
    tracer.print_column_catalog(2)
    words = capsys.readouterr().out
    assert "SNAP allotment" in words
    assert "and 536 more of 539" in words
    assert "and 256,631 more of 256,633" in words


def test_one_simulation_a_state_fills_its_districts_when_nothing_below_differs(
    documents_database, survey, built, monkeypatch
):
    calls = []

    def counted(source, assignment, columns, rows, **how):
        calls.append(int(assignment.state_fips[columns][0]))
        assert not assignment.county_fips.any()
        return fake_values(source, assignment, columns, rows, **how)

    monkeypatch.setattr("distcalib.documents.pieces.household_values", counted)
    builder = SparseMatrixBuilder(documents_database, 2024, CDS, survey, county_level=False)
    _, X, _ = builder.build_matrix(Households(survey), target_filter=FILTER)
    assert sorted(set(calls)) == [2, 15, 30, 37]
    assert len(calls) == 8  # two pieces of at most 12,000 households each
    assert (built[1] != X).nnz == 0


def test_groups_of_the_first_document_do_not_need_a_domain(built):
    ids, labels = create_target_groups(built[0], verbose=False)
    assert ids.dtype == np.int32
    assert np.bincount(ids).tolist() == [1, 51, 51, 436]
    assert labels[0] == "Group 0: National Snap (1 target, value=107,062,860,000)"


def test_another_simulation_is_refused(documents_database, survey):
    sim = Households(survey)
    sim.ids = sim.ids[:-1]
    builder = SparseMatrixBuilder(documents_database, 2024, CDS, survey)
    with pytest.raises(InputError, match="households are others"):
        builder.build_matrix(sim, target_filter=FILTER)


@pytest.mark.parametrize(
    ("cds", "words"), [([], "no district"), (["201", "AK-00"], "twice"), (["9999"], "9999")]
)
def test_districts_that_cannot_be_used_are_named(documents_database, survey, cds, words):
    with pytest.raises(InputError, match=words):
        SparseMatrixBuilder(documents_database, 2024, cds, survey)


def test_a_tracer_refuses_what_does_not_belong_together(built, survey):
    targets, X, mapping, _ = built
    with pytest.raises(InputError, match="not the districts"):
        MatrixTracer(targets, X, mapping, CDS[::-1], Households(survey))
    with pytest.raises(InputError, match="another shape"):
        MatrixTracer(targets.iloc[1:], X, mapping, CDS, Households(survey))
    other = Households(survey)
    other.ids = other.ids + 1
    with pytest.raises(InputError, match="not the households of the simulation"):
        MatrixTracer(targets, X, mapping, CDS, other)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"targets_df": [1]}, ["targets_df", "[1]", "a DataFrame"]),
        (
            {"targets_df": pd.DataFrame({"variables": ["snap"]})},
            ["targets_df: lacks", "did you mean 'variables'"],
        ),
        ({"X_sparse": np.zeros((2, 2))}, ["X_sparse", "a sparse matrix"]),
        ({"household_id_mapping": CDS}, ["household_id_mapping", "a dict"]),
        ({"cds_to_calibrate": "201"}, ["cds_to_calibrate", "'201'", "a list"]),
        ({"sim": None}, ["sim: ", "a simulation"]),
    ],
)
def test_a_tracer_of_other_things_is_refused_by_argument(built, survey, wrong, words):
    targets, X, mapping, _ = built
    given = {
        "targets_df": targets, "X_sparse": X, "household_id_mapping": mapping, "cds_to_calibrate": CDS,
        "sim": Households(survey),
    } | wrong  # fmt: skip
    with pytest.raises(InputError) as error:
        MatrixTracer(**given)
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: t.get_row_info("x"), "row_idx: is not a whole number; got 'x'; expected 0 to 538"),
        (lambda t: t.get_row_info(539), "row_idx: is out of range; got 539; expected 0 to 538"),
        (lambda t: t.get_row_info(-1), "row_idx: is out of range; got -1"),
        (lambda t: t.get_row_info(80.5), "row_idx: is not a whole number; got 80.5"),
        (lambda t: t.get_row_info(None), "row_idx: is not a whole number"),
        (lambda t: t.get_row_info([1, 2]), r"row_idx: is not a whole number; got \[1, 2\]"),
        (
            lambda t: t.get_column_info(np.nan),
            "col_idx: is not a whole number; got nan; expected 0 to 256632",
        ),
        (lambda t: t.get_column_info(256_633), "col_idx: is out of range; got 256633"),
        (lambda t: t.lookup_matrix_cell("row", 0), "row_idx: is not a whole number; got 'row'"),
        (lambda t: t.lookup_matrix_cell(0, np.inf), "col_idx: is not a whole number; got inf"),
        (
            lambda t: t.get_household_column_positions("25x"),
            r"household_id: is not a whole number; got '25x'; expected an id such as 25, 28, 31; did.*'25'",
        ),
        (lambda t: t.get_household_column_positions(26), "household_id: no household has this id; got 26.*'"),
        (lambda t: t.trace_household_targets(pd.NA), "household_id: is not a whole number; got <NA>"),
        (lambda t: t.trace_household_targets(40_543.5), "household_id: is not a whole number"),
        (lambda t: t.get_group_rows(4), "group_id: is out of range; got 4; expected 0 to 3"),
        (
            lambda t: t.get_group_rows("State Snap (51 targets)"),
            r"group_id: is not a whole number.*did you mean 'Group 2: State Snap \(51 targets\)'",
        ),
        (lambda t: t.print_row_catalog(-1), "max_rows: is out of range; got -1; expected 0 or more"),
        (lambda t: t.print_column_catalog("many"), "max_rows: is not a whole number; got 'many'"),
    ],
)
def test_what_no_row_column_group_or_household_has_is_named(built, call, words):
    with pytest.raises(InputError, match=words):
        call(built[3])


def test_numbers_may_be_of_any_type(built):
    tracer = built[3]
    assert tracer.get_row_info(80.0) == tracer.get_row_info(np.int32(80)) == tracer.get_row_info("80")
    assert tracer.lookup_matrix_cell(80.0, np.float64(81_042))["value"] == 137
    assert tracer.get_household_column_positions("25") == tracer.get_household_column_positions(25.0)


SECTION_7 = """Processing subset of 2 CDs: 3701, 201...
Output path: {path}

Original dataset has 13,507 households
Extracted weights for 2 CDs from full weight matrix
Total active household-CD pairs: 284
Total weight in W matrix: 288

Reindexing all entity IDs using 25k ranges per CD...
  Created 284 unique households across 2 CDs
  Final persons: 284
  Final households: 284
  Final tax units: 284
  Final SPM units: 284
  Final families: 284
  Final marital units: 284

Weights AFTER reindexing:
  HH weight sum: 0.00M
  Person weight sum: 0.00M

Overflow check:
  Max person ID after reindexing: 5,125,129
  Max person ID × 100: 512,512,900
  int32 max: 2,147,483,647
  ✓ No overflow risk!

Saving to {path}...
Variables saved: 5
Sparse CD-stacked dataset saved successfully!
Household mapping saved to {mapping}

Verifying saved file...
  Final households: 284
  Final persons: 284
  Total population (from household weights): 288
"""


def test_section_7_writes_two_districts_and_says_so(survey, tmp_path, capsys):
    """Its call, its summary, and its last steps: one household, found again in both by the mapping."""
    ids = Microdata.read(survey).ids["household"]
    w = np.zeros(len(CDS) * N)
    for cd, pairs, weight in (("3701", 130, 2.5), ("201", 154, 3.5)):
        w[CDS.index(cd) * N + np.arange(pairs) * 50] = 1
        w[CDS.index(cd) * N + 100] = weight
    w[CDS.index("3702") * N :][:N] = 9  # not in the file
    path = tmp_path / "calibration_output" / "results.h5"
    mapping = path.parent / "mappings" / "results_household_mapping.csv"
    asked = {"cd_subset": ["3701", "201"], "dataset_path": survey, "output_path": str(path)}
    assert create_sparse_cd_stacked_dataset(w, CDS, **asked) == str(path)
    assert capsys.readouterr().out == SECTION_7.format(path=path, mapping=mapping)
    assert sorted(p.name for p in path.parent.rglob("*")) == ["mappings", "results.h5", mapping.name]
    table, data = pd.read_csv(mapping), Microdata.read(path)
    assert table.columns.tolist() == [
        "new_household_id", "original_household_id", "clone", "column", "congressional_district",
        "state_fips", "county_fips",
    ]  # fmt: skip
    np.testing.assert_array_equal(table["new_household_id"], data.ids["household"])
    np.testing.assert_array_equal(data.weights, w[table["column"]])
    np.testing.assert_array_equal(ids[table["column"] % N], table["original_household_id"])
    assert [CDS[clone] for clone in table["clone"]] == table["congressional_district"].astype(str).tolist()
    again = table[table["original_household_id"] == ids[100]]
    assert again["new_household_id"].tolist() == [50_002, 125_002]
    assert again["state_fips"].tolist() == [2, 37]
    assert data.weights[np.isin(data.ids["household"], again["new_household_id"])].tolist() == [3.5, 2.5]


def test_a_district_holds_25_000_households_and_no_more(tmp_path):
    """Ids of a district lie in a range of 25,000: one more would be an id of the next district."""
    n = 25_001
    singles(n).write(tmp_path / "large.h5")
    w = np.ones(2 * n)
    asked = {"dataset_path": tmp_path / "large.h5", "output_path": tmp_path / "out.h5", "county_level": False}
    w[0] = 0
    with pytest.raises(
        InputError, match=r"district 3701: more households .* got 25001; expected at most 25,000"
    ):
        create_sparse_cd_stacked_dataset(w, ["201", "3701"], **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["large.h5"]
    w[n] = 0
    create_sparse_cd_stacked_dataset(w, ["201", "3701"], **asked)
    ids = Microdata.read(tmp_path / "out.h5").ids
    assert len(np.unique(ids["household"])) == 50_000
    assert ids["household"].max() == 49_999
    assert ids["person"].max() == 5_049_999


def test_reforms_and_strata_without_a_group_keep_what_tells_their_groups_apart(survey, tmp_path, monkeypatch):
    monkeypatch.setattr("distcalib.documents.pieces.household_values", fake_values)
    table = pd.DataFrame(
        {
            "variable": ["salt_deduction", "salt_deduction", "person_count"],
            "reform_id": [0, 1, 0],
            "period": 2024,
            "value": [1e9, 2e9, 5e6],
            "geo_level": "national",
            "geographic_id": "US",
            "constraints": ["", "", "wic>0"],
            "tolerance": 0.05,
            "status": "fit",
        }
    )
    write_database_file(table, tmp_path / "own.db")
    builder = SparseMatrixBuilder(tmp_path / "own.db", 2024, ["1501"], survey)
    targets, *_ = builder.build_matrix(Households(survey))
    assert targets.columns[-2:].tolist() == ["reform_id", "domain_variable"]
    assert create_target_groups(targets, verbose=False)[1] == [
        "Group 0: National Salt Deduction (1 target, value=1,000,000,000)",
        "Group 1: National Salt Deduction, Reform 1 (1 target, value=2,000,000,000)",
        "Group 2: National WIC Person Count (1 target, value=5,000,000)",
    ]


def test_targets_that_depend_on_everybody_in_a_file_are_warned_of(survey, tmp_path, monkeypatch):
    monkeypatch.setattr("distcalib.documents.pieces.household_values", fake_values)
    table = pd.DataFrame(
        {
            "variable": ["medicaid"], "reform_id": 0, "period": 2024, "value": 9e11, "geo_level": "national",
            "geographic_id": "US", "constraints": "", "tolerance": 0.05, "status": "fit",
        }
    )  # fmt: skip
    write_database_file(table, tmp_path / "own.db")
    with pytest.warns(TargetsWarning, match="1 targets depend on everybody in a file.*medicaid"):
        select_targets(tmp_path / "own.db", 2024)
