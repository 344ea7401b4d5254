"""Measures and their scatter, against a plain loop over targets, households and persons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from distcalib.catalogue import COUNTS, GROUP_ENTITIES, catalogue, terms
from distcalib.matrix.measures import Measure, Rows, evaluate, scatter
from distcalib.microdata import Microdata
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

CONDITIONS = [
    "age<18",
    "age>=65",
    "age!=30",
    "employment_income_before_lsr>0",
    "spm_unit_snap<=0",
    "tax_unit_itemizes==True",
    "household_weight>-1000",
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


def structure(seed: int, n_households: int) -> Microdata:
    """Random persons in random units within households, in no order."""
    rng = np.random.default_rng(seed)
    home = np.r_[np.arange(n_households), rng.integers(0, n_households, 2 * n_households)]
    rng.shuffle(home)
    links = {"household": home}
    for entity in GROUP_ENTITIES[:-1]:
        # Every household in up to three units of each kind, numbered at random.
        _, unit = np.unique(home * 3 + rng.integers(0, 3, len(home)), return_inverse=True)
        links[entity] = rng.permutation(unit.max() + 1)[unit]
    ids = {e: np.arange(at.max() + 1) for e, at in links.items()} | {"person": np.arange(len(home))}
    columns = {
        "person": {
            "age": rng.integers(0, 90, len(home)),
            "employment_income_before_lsr": money(rng, len(home)),
        },
        "spm_unit": {"spm_unit_snap": money(rng, len(ids["spm_unit"]))},
        "tax_unit": {"tax_unit_itemizes": rng.random(len(ids["tax_unit"])) < 0.5},
        "household": {"household_weight": money(rng, n_households)},
    }
    return Microdata.build(2024, ids, links, columns)


def money(rng: np.random.Generator, n: int) -> np.ndarray:
    return (rng.normal(0, 1e4, n) * (rng.random(n) < 0.6)).astype(np.float32)


@given(
    seed=st.integers(0, 10**6),
    n_households=st.integers(1, 12),
    chosen=st.lists(
        st.tuples(
            st.sampled_from([*COUNTS, *{v for v, _ in MEASURES if v not in COUNTS}]),
            st.lists(st.sampled_from(CONDITIONS), max_size=3, unique=True).map("&".join),
        ),
        max_size=90,
    ),
)
@settings(max_examples=40, deadline=None)
def test_measures_of_any_structure_are_what_their_definition_says(seed, n_households, chosen):
    data = structure(seed, n_households)
    table = evaluate([Measure(v, parse_constraints(c)) for v, c in chosen], data, data.column)
    assert table.shape == (n_households, len(chosen))
    for i, (variable, constraints) in enumerate(chosen):
        expected = by_loop(variable, constraints, data)
        np.testing.assert_array_equal(table[:, i], expected.astype(np.float32), err_msg=f"{chosen[i]}")


def test_more_sets_than_a_word_has_bits(small):
    """Each set of constraints keeps its own answer beyond 64 of them, whatever the order of the measures."""
    ages = np.random.default_rng(0).permutation(90)
    measures = [
        Measure(variable, parse_constraints(f"age<{age}"))
        for age in ages
        for variable in ("person_count", "household_count")
    ]
    table = evaluate(measures, small, small.column)
    below = small.column("age")[:, None] < ages
    home = small.links["household"]
    persons = np.stack([np.bincount(home, below[:, k], small.count()) for k in range(len(ages))], axis=1)
    np.testing.assert_array_equal(table[:, ::2], persons)
    np.testing.assert_array_equal(table[:, 1::2], persons > 0)


def test_a_reform_sums_what_it_adds_to_the_income_tax(small):
    """Over the tax units with a member who passes; the variable of the target is not asked for."""
    rng = np.random.default_rng(0)
    tax = {k: money(rng, small.count("tax_unit")) for k in (0, 1, 4)}
    asked = []

    def calculate(variable, reform_id=0):
        asked.append((variable, reform_id))
        return tax[reform_id] if variable == "income_tax" else small.column(variable)

    measures = [
        Measure("salt_deduction", (), 1),
        Measure("deductible_mortgage_interest", parse_constraints("age>=65"), 4),
        Measure("income_tax"),
        Measure("salt_deduction", parse_constraints("age<18"), 1),
        Measure("person_count", (), 1),  # only the name of its targets
    ]
    table = evaluate(measures, small, calculate)
    assert asked == [("income_tax", 0), ("income_tax", 1), ("age", 0), ("income_tax", 4)]
    unit, home = small.links["tax_unit"], small.household_of["tax_unit"]
    everyone = np.ones(small.count("tax_unit"), bool)
    age = small.column("age")
    old, with_child = (np.isin(np.arange(len(home)), unit[who]) for who in (age >= 65, age < 18))
    expected_of = [(1, everyone), (4, old), (None, everyone), (1, with_child), (1, everyone)]
    for i, (k, passes) in enumerate(expected_of):
        gain = tax[0].astype(float) if k is None else tax[k].astype(float) - tax[0]
        expected = np.bincount(home, gain * passes, small.count())
        np.testing.assert_array_equal(table[:, i], expected.astype(np.float32))
        assert expected.any()
    assert str(measures[3]) == "salt_deduction under reform 1[age<18]"
    assert measures[0].needs == {"income_tax"}


def test_rows_of_a_reform_are_rows_of_their_own(small):
    targets = pd.DataFrame(
        {
            "variable": "salt_deduction",
            "constraints": "",
            "geographic_id": ["US", "US", "37"],
            "reform_id": [0, 1, 1],
        }
    )
    index = Rows.of(targets)
    assert index.measures == (Measure("salt_deduction"), Measure("salt_deduction", (), 1))
    assert Rows.of(targets.drop(columns="reform_id")).measures == (Measure("salt_deduction"),)
    table = np.tile(np.array([[2, 3]], dtype=np.float32), (4, 1))
    block = scatter(index, (0, 1), table, np.arange(4), 37, np.full(4, 3701), 4)
    np.testing.assert_array_equal(block.toarray(), [[2] * 4, [3] * 4, [3] * 4])


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
