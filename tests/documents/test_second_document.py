"""What the second document says of its matrix, on a database with its rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from plain_survey import Households, fake_values, singles
from scipy import sparse

from distcalib import (
    UnifiedMatrixBuilder,
    assign_random_geography,
    create_target_groups,
    drop_target_groups,
    get_geo_level,
)
from distcalib.errors import InputError

DOMAINS = ["aca_ptc", "snap"]
N, CLONES = 1_999, 3

GROUPS = """
=== Creating Target Groups ===

National targets:
  Group 0: ACA PTC Person Count = 19,743,689

State targets:
  Group 1: SNAP Household Count (51 targets)
  Group 2: Snap (51 targets)

District targets:
  Group 3: Aca Ptc (436 targets)
  Group 4: ACA PTC Tax Unit Count (436 targets)
  Group 5: SNAP Household Count (436 targets)

Total groups created: 6
========================================
"""

DROPPED = """Matrix before: 1411 rows
  DROPPING Group 1: State SNAP Household Count (51 targets) (51 rows)

  KEEPING  Group 0: National ACA PTC Person Count (1 target, value=19,743,689) (1 rows)
  KEEPING  Group 2: State Snap (51 targets) (51 rows)
  KEEPING  Group 3: District Aca Ptc (436 targets) (436 rows)
  KEEPING  Group 4: District ACA PTC Tax Unit Count (436 targets) (436 rows)
  KEEPING  Group 5: District SNAP Household Count (436 targets) (436 rows)

Matrix after: 1360 rows
"""


@pytest.fixture(scope="module")
def built(documents_database, tmp_path_factory):
    path = tmp_path_factory.mktemp("survey") / "survey.h5"
    singles(N).write(path)
    geography = assign_random_geography(N, n_clones=CLONES, seed=42)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distcalib.documents.pieces.household_values", fake_values)
        builder = UnifiedMatrixBuilder(
            db_uri=f"sqlite:///{documents_database}", time_period=2024, dataset_path=str(path)
        )
        targets, X, names = builder.build_matrix(
            geography,
            Households(path),
            target_filter={"domain_variables": DOMAINS},
            hierarchical_domains=DOMAINS,
        )
    return targets, X, names, geography


def test_the_two_domains_have_1411_rows(built):
    targets, X, names, _ = built
    assert X.shape == (1411, CLONES * N)
    assert isinstance(X, sparse.csr_matrix)
    levels = targets["geographic_id"].apply(get_geo_level)
    assert np.bincount(levels).tolist() == [1, 102, 1308]
    assert len(names) == 1411
    middle = targets.iloc[705]
    assert names[705] == f"cd_{middle['geographic_id']}/household_count/[snap>0]"
    assert (middle["variable"], middle["geo_level"], middle["uprating_factor"]) == (
        "household_count",
        "district",
        1.0,
    )


def test_districts_of_the_domain_are_scaled_to_their_state(built):
    targets = built[0]
    aca = targets[(targets["variable"] == "aca_ptc") & (targets["geo_level"] == "district")]
    assert aca["hif"].notna().all()
    assert (aca["value"] != aca["original_value"]).all()
    assert not ((targets["variable"] == "aca_ptc") & (targets["geo_level"] == "state")).any()


def test_columns_are_in_blocks_of_clones(built):
    targets, X, _, geography = built
    column = 1 * N + 40
    assert column // N == 1
    rows = X[:, column].nonzero()[0]
    state, cd = str(geography.state_fips[column]), str(geography.cd_geoid[column])
    assert set(targets["geographic_id"].iloc[rows]) == {"US", state, cd}
    assert X[:, column + 1].nnz == 0
    # Every recipient counts in the nation, twice in its state and three times in its district.
    blocks = [X[:, c * N : (c + 1) * N].nnz for c in range(CLONES)]
    assert blocks == [-(-N // 10) * 6] * CLONES


def test_a_district_row_holds_only_clones_that_live_there(built):
    targets, X, _, geography = built
    cells = X.tocoo()
    where = targets["geographic_id"].to_numpy()[cells.row]
    columns = cells.col
    for level, place in ((1, geography.state_fips), (2, geography.cd_geoid)):
        at = targets["geographic_id"].map(get_geo_level).to_numpy()[cells.row] == level
        assert at.any()
        assert (where[at] == place[columns[at]].astype(str)).all()


def test_groups_are_printed_and_labelled_as_in_the_document(built, capsys):
    ids, labels = create_target_groups(built[0])
    assert capsys.readouterr().out == GROUPS
    assert labels == [
        "Group 0: National ACA PTC Person Count (1 target, value=19,743,689)",
        "Group 1: State SNAP Household Count (51 targets)",
        "Group 2: State Snap (51 targets)",
        "Group 3: District Aca Ptc (436 targets)",
        "Group 4: District ACA PTC Tax Unit Count (436 targets)",
        "Group 5: District SNAP Household Count (436 targets)",
    ]
    # Delaware's one district is 1001 here; as text it comes before Alabama's 101.
    assert built[0][ids == 4]["geographic_id"].head(4).tolist() == ["1001", "101", "102", "103"]


def test_a_dropped_group_takes_its_rows_along(built, capsys):
    targets, X, _, _ = built
    ids, labels = create_target_groups(targets, verbose=False)
    capsys.readouterr()
    left, X_left = drop_target_groups(targets, X, ids, labels, [("SNAP Household Count", "State")])
    assert capsys.readouterr().out == DROPPED
    assert X_left.shape == (1360, CLONES * N)
    kept = np.flatnonzero(ids != 1)
    assert (X_left != X[kept]).nnz == 0
    assert left["target_id"].tolist() == targets["target_id"].iloc[kept].tolist()
    assert left.index.tolist() == list(range(1360))
    assert create_target_groups(left, verbose=False)[1][1:3] == [
        "Group 1: State Snap (51 targets)",
        "Group 2: District Aca Ptc (436 targets)",
    ]


def test_a_label_names_its_group_and_other_words_all_that_contain_them(built):
    targets, X, _, _ = built
    ids, labels = create_target_groups(targets, verbose=False)

    def left(*pair):
        return len(drop_target_groups(targets, X, ids, labels, [pair])[0])

    assert left("Snap", "State") == 1411 - 51
    assert left("snap", "State") == 1411 - 102
    assert left("count", "district") == 1411 - 872


@pytest.mark.parametrize(
    ("drop", "words"),
    [
        (("SNAP Houshold Count", "State"), "did you mean 'SNAP Household Count'"),
        (("Aca Ptc", "State"), "one of 'SNAP Household Count', 'Snap'"),
        (("Snap", "County"), "unknown level"),
    ],
)
def test_a_drop_that_matches_nothing_is_an_error(built, drop, words):
    targets, X, _, _ = built
    ids, labels = create_target_groups(targets, verbose=False)
    with pytest.raises(InputError, match=words):
        drop_target_groups(targets, X, ids, labels, [drop])


def test_reforms_and_domains_have_groups_of_their_own():
    table = pd.DataFrame(
        [
            ("income_tax", "", "US", 1e9, 0),
            ("income_tax", "", "US", 2e9, 1),
            ("income_tax", "", "US", 3e9, 2),
            ("person_count", "", "37", 4.0, 0),
            ("person_count", "age", "37", 5.0, 0),
            ("person_count", "age", "1", 6.0, 0),
            ("tax_unit_count", "adjusted_gross_income,aca_ptc", "101", 7.0, 0),
            ("aca_ptc", "aca_ptc,adjusted_gross_income", "101", 8.0, 0),
            ("snap", "snap", "101", 9.0, 0),
        ],
        columns=["variable", "domain_variable", "geographic_id", "value", "reform_id"],
        index=range(10, 19),
    )
    ids, labels = create_target_groups(table, verbose=False)
    assert ids.tolist() == [0, 1, 2, 3, 4, 4, 6, 5, 7]
    assert labels == [
        "Group 0: National Income Tax (1 target, value=1,000,000,000)",
        "Group 1: National Income Tax, Reform 1 (1 target, value=2,000,000,000)",
        "Group 2: National Income Tax, Reform 2 (1 target, value=3,000,000,000)",
        "Group 3: State Person Count (1 target, value=4)",
        "Group 4: State AGE Person Count (2 targets)",
        "Group 5: District ACA PTC,ADJUSTED GROSS INCOME Aca Ptc (1 target, value=8)",
        "Group 6: District ADJUSTED GROSS INCOME,ACA PTC Tax Unit Count (1 target, value=7)",
        "Group 7: District Snap (1 target, value=9)",
    ]


@pytest.mark.parametrize("area", ["", "0", "us", "-3", "10000", "CA", None])
def test_what_is_no_area_has_no_level(area):
    with pytest.raises(InputError, match="is no area"):
        get_geo_level(area)


def test_a_geography_of_another_survey_is_refused(built, documents_database, survey):
    geography = built[3]
    builder = UnifiedMatrixBuilder(documents_database, 2024, survey)
    with pytest.raises(InputError, match="not of this dataset"):
        builder.build_matrix(geography, Households(survey))


def test_without_counties_a_clone_has_no_place_below_the_district(
    documents_database, built, monkeypatch, tmp_path
):
    *_, geography = built
    seen = []

    def looked_at(source, assignment, columns, rows, **how):
        assert not assignment.county_fips.any()
        assert not assignment.block_geoid.any()
        seen.append(len(columns))
        return fake_values(source, assignment, columns, rows, **how)

    monkeypatch.setattr("distcalib.documents.pieces.household_values", looked_at)
    # The dataset of `built` once more.
    path = tmp_path / "survey.h5"
    singles(N).write(path)
    builder = UnifiedMatrixBuilder(documents_database, 2024, path, county_level=False)
    _, X, _ = builder.build_matrix(
        geography, Households(path), {"domain_variables": DOMAINS}, hierarchical_domains=DOMAINS
    )
    assert sum(seen) == geography.n_columns
    assert (built[1] != X).nnz == 0
    assert geography.county_fips.any()


def test_tasks_on_a_dask_client_give_the_same_matrix(documents_database, built, monkeypatch, tmp_path):
    from distributed import Client, LocalCluster

    monkeypatch.setattr("distcalib.documents.pieces.household_values", fake_values)
    path = tmp_path / "survey.h5"
    singles(N).write(path)
    targets, X, _, geography = built
    # Threads of this process, so that they see the amounts of the test; pieces travel all the same.
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp"
    )
    with cluster, Client(cluster) as client:
        builder = UnifiedMatrixBuilder(documents_database, 2024, path, client=client)
        again, X_again, _ = builder.build_matrix(
            geography, Households(path), {"domain_variables": DOMAINS}, hierarchical_domains=DOMAINS
        )
    assert again["target_id"].tolist() == targets["target_id"].tolist()
    assert (X_again != X).nnz == 0


def test_a_piece_that_fails_on_a_client_fails_the_matrix(documents_database, built, monkeypatch, tmp_path):
    from distributed import Client, LocalCluster

    def broken(*_, **__):
        raise RuntimeError("no such formula")

    monkeypatch.setattr("distcalib.documents.pieces.household_values", broken)
    path = tmp_path / "survey.h5"
    singles(N).write(path)
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp"
    )
    with cluster, Client(cluster) as client:
        builder = UnifiedMatrixBuilder(documents_database, 2024, path, client=client)
        with pytest.raises(RuntimeError, match="no such formula"):
            builder.build_matrix(built[3], Households(path), {"domain_variables": DOMAINS})


def test_numbers_of_areas_may_be_floats_of_a_table():
    assert [get_geo_level(area) for area in (37.0, 201.0, "37.0")] == [1, 2, 1]
    with pytest.raises(InputError, match="is no area"):
        get_geo_level("²")


def test_a_reform_that_is_not_said_is_none():
    table = pd.DataFrame(
        {"variable": ["snap", "snap"], "geographic_id": "US", "value": [1.0, 2.0], "reform_id": [np.nan, 0.0]}
    )
    assert create_target_groups(table, verbose=False)[1] == ["Group 0: National Snap (2 targets)"]


@pytest.mark.parametrize(
    ("drops", "words"),
    [
        ([("", "State")], "no State group has this label"),
        ([("a", "National"), ("a", "State"), ("a", "District")], "leaves no target"),
    ],
)
def test_a_drop_of_nothing_or_of_everything_is_refused(built, drops, words):
    targets, X = built[:2]
    ids, labels = create_target_groups(targets, verbose=False)
    with pytest.raises(InputError, match=words):
        drop_target_groups(targets, X, ids, labels, drops)


def test_a_county_that_is_unset_or_elsewhere_is_refused(documents_database, built, tmp_path):
    *_, geography = built
    path = tmp_path / "survey.h5"
    singles(N).write(path)
    builder = UnifiedMatrixBuilder(documents_database, 2024, path)
    for wrong in (0, 6037 if geography.state_fips[7] != 6 else 36061):
        county = geography.county_fips.copy()
        county[7] = wrong
        with pytest.raises(InputError, match=rf"column 7: a county that is unset.*{wrong:05d}.*county_level"):
            builder.build_matrix(replace(geography, county_fips=county), Households(path))


def test_what_is_written_into_x_does_not_reach_the_matrix_that_explains_itself(
    documents_database, built, monkeypatch, tmp_path
):
    *_, geography = built
    monkeypatch.setattr("distcalib.documents.pieces.household_values", fake_values)
    path = tmp_path / "survey.h5"
    singles(N).write(path)
    builder = UnifiedMatrixBuilder(documents_database, 2024, path, county_level=False)
    _, X, _ = builder.build_matrix(geography, Households(path), {"domain_variables": ["snap"]})
    X.data[:] = 99
    assert (builder.matrix.X.data != 99).all()
