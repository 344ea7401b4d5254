"""Measures and their scatter, against a plain loop over targets, households and persons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from distcalib.catalogue import COUNTS, catalogue, terms
from distcalib.matrix.measures import Measure, Rows, evaluate, scatter
from distcalib.targets.constraints import parse_constraints

MEASURES = [
    ("person_count", ""),
    ("person_count", "age<18"),
    ("household_count", "age>=65"),
    ("household_count", ""),
    ("tax_unit_count", "employment_income_before_lsr>0"),
    ("spm_unit_count", "age<5"),
    ("family_count", "age>=65"),
    ("marital_unit_count", "age<30"),
    ("employment_income_before_lsr", "age<30&age>=20"),
    ("spm_unit_snap", "age<18"),
    ("spm_unit_snap", "spm_unit_snap>0&age>=60"),
    ("household_weight", "age<1"),
    ("employment_income_before_lsr+age", "age<30"),
    ("spm_unit_snap+spm_unit_snap", "age>=60"),
]


def by_loop(variable: str, constraints: str, data) -> np.ndarray:
    """The definition, household by household: any member passes, each unit once, each person for himself."""
    n = data.count("person")
    passes = np.ones(n, bool)
    for c in parse_constraints(constraints):
        entity = catalogue().variables[c.variable].entity
        values = data.column(c.variable)
        own = values if entity == "person" else values[data.links[entity]]
        passes &= c.holds(own)
    out = np.zeros(data.count())
    entity = COUNTS.get(variable) or catalogue().variables[terms(variable)[0]].entity
    for unit in range(data.count(entity)):
        members = [unit] if entity == "person" else np.flatnonzero(data.links[entity] == unit)
        if passes[members].any():
            home = data.links["household"][members[0]]
            amount = sum(float(data.column(v)[unit]) for v in terms(variable) if variable not in COUNTS)
            out[home] += 1 if variable in COUNTS else amount
    return out


def test_every_measure_is_what_its_definition_says(small):
    measures = [Measure(v, parse_constraints(c)) for v, c in MEASURES]
    table = evaluate(measures, small, small.column)
    assert table.dtype == np.float32
    for i, (variable, constraints) in enumerate(MEASURES):
        expected = by_loop(variable, constraints, small)
        assert expected.any(), (variable, constraints)
        np.testing.assert_allclose(table[:, i], expected, rtol=1e-6, err_msg=f"{variable} {constraints}")


def test_each_variable_is_asked_for_once(small):
    asked = []

    def calculate(variable):
        asked.append(variable)
        return small.column(variable)

    evaluate([Measure(v, parse_constraints(c)) for v, c in MEASURES], small, calculate)
    assert len(asked) == len(set(asked))


@pytest.fixture
def rows() -> tuple[pd.DataFrame, Rows]:
    targets = pd.DataFrame(
        [
            (v, c, g)
            for v, c in [("person_count", ""), ("person_count", "age<18"), ("spm_unit_snap", "")]
            for g in ["US", "37", "2", "3701", "3702", "201"]
        ]
        # The same quantity twice: two targets of two sources.
        + [("person_count", "", "37")],
        columns=["variable", "constraints", "geographic_id"],
    )
    return targets, Rows.of(targets)


def test_scatter_puts_every_value_in_its_rows(small, rows):
    targets, index = rows
    k, n_columns = small.count(), 1000
    rng = np.random.default_rng(0)
    columns = np.sort(rng.choice(n_columns, k, replace=False))
    cd = rng.choice([3701, 3702, 3703], k)
    which = index.within(37)
    table = evaluate([index.measures[m] for m in which], small, small.column)
    block = scatter(index, which, table, columns, 37, cd, n_columns)
    assert isinstance(block, sparse.csr_array)
    assert block.has_sorted_indices
    assert block.nnz == np.count_nonzero(block.data)
    for row, (variable, constraints, area) in enumerate(targets.itertuples(index=False)):
        expected = np.zeros(n_columns)
        values = by_loop(variable, constraints, small)
        inside = {"US": np.ones(k, bool), "37": np.ones(k, bool)}.get(
            area, cd == int(area if area != "US" else 0)
        )
        expected[columns[inside]] = values[inside]
        np.testing.assert_allclose(
            block[[row]].toarray()[0], expected, rtol=1e-6, err_msg=f"{variable} {area}"
        )


def test_only_what_a_state_needs_is_asked():
    targets = pd.DataFrame(
        {"variable": ["snap", "ssi", "eitc"], "constraints": "", "geographic_id": ["37", "2", "3702"]}
    )
    only = Rows.of(targets)
    assert [only.measures[m].variable for m in only.within(37)] == ["snap", "eitc"]
    assert [only.measures[m].variable for m in only.within(2)] == ["ssi"]
