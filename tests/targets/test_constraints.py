"""Constraints: text, order and meaning."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcalib.errors import InputError
from distcalib.targets.constraints import Constraint, constraint_text, parse_constraints

MEANING = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["age", "snap", "aca_ptc"]), st.sampled_from([*MEANING]), st.integers(-5, 90)
        ),
        max_size=4,
    )
)
def test_text_and_constraints_are_one(terms):
    constraints = tuple(sorted({Constraint(v, o, str(x)) for v, o, x in terms}))
    assert parse_constraints(constraint_text(constraints)) == constraints


@settings(deadline=None)
@given(st.sampled_from([*MEANING]), st.integers(-3, 3), st.lists(st.floats(-4, 4), min_size=1))
def test_numbers_compare_as_numbers(operation, value, numbers):
    array = np.array(numbers)
    expected = [MEANING[operation](x, value) for x in numbers]
    assert Constraint("x", operation, str(value)).holds(array).tolist() == expected
    assert Constraint("x", operation, f"{value}.0").holds(array).tolist() == expected


def test_truth_is_one_and_text_is_text():
    flags = np.array([True, False])
    assert Constraint("f", "==", "True").holds(flags).tolist() == [True, False]
    assert Constraint("f", "==", "0").holds(flags).tolist() == [False, True]
    words = np.array([b"CA", b"NC"])
    assert Constraint("s", "!=", "CA").holds(words).tolist() == [False, True]
    assert Constraint("s", "in", "CA|TX").holds(words.astype(str)).tolist() == [True, False]
    assert Constraint("n", "in", "1|3").holds(np.array([1, 2, 3])).tolist() == [True, False, True]


@pytest.mark.parametrize("text", ["age", "age=>5", "age >", "5<age", "age>5&&age<9"])
def test_what_is_no_constraint_is_refused(text):
    with pytest.raises(InputError, match="is not a constraint"):
        parse_constraints(text)


def test_an_unknown_operator_never_passes_everyone():
    with pytest.raises(InputError, match="unknown operator"):
        Constraint("age", "~", "5").holds(np.array([1.0]))


VALUES = st.sampled_from([*range(-4, 9), 0.5, 2.25, True, False])
TERMS = st.builds(
    Constraint, st.sampled_from(["age", "snap"]), st.sampled_from([*MEANING]), VALUES.map(str)
) | st.builds(
    lambda words: Constraint("age", "in", "|".join(map(str, words))),
    st.lists(st.integers(-4, 9), min_size=1, max_size=4),
)
NUMBERS = st.lists(st.integers(-5, 10) | st.floats(-5, 10), min_size=1, max_size=30).map(np.array)


def every(constraints, numbers):
    return np.logical_and.reduce([c.holds(numbers) for c in constraints])


@settings(deadline=None)
@given(st.lists(TERMS, min_size=1, max_size=5, unique=True), st.randoms())
def test_order_and_spelling_change_nothing(terms, random):
    text = constraint_text(tuple(terms))
    shuffled = list(terms)
    random.shuffle(shuffled)
    assert constraint_text(tuple(shuffled)) == text
    spaced = " & ".join(f"{c.variable} {c.operation} {c.value}" for c in shuffled)
    assert parse_constraints(spaced) == parse_constraints(text) == tuple(sorted(terms))
    # One sign of equality is two.
    assert parse_constraints(text.replace("==", "=")) == tuple(sorted(terms))


@settings(deadline=None)
@given(VALUES, NUMBERS)
def test_complements_share_everyone_out(value, numbers):
    for one, other in (("==", "!="), ("<", ">="), (">", "<=")):
        holds = [Constraint("x", op, str(value)).holds(numbers) for op in (one, other)]
        np.testing.assert_array_equal(holds[0], ~holds[1])


@settings(deadline=None)
@given(st.lists(TERMS, min_size=1, max_size=4), NUMBERS)
def test_conjunctions_equal_their_parts(terms, numbers):
    expected = np.ones(len(numbers), dtype=bool)
    for term in terms:
        words = [float({"True": 1, "False": 0}.get(w, w)) for w in term.value.split("|")]
        expected &= np.array(
            [n in words if term.operation == "in" else MEANING[term.operation](n, words[0]) for n in numbers]
        )
    np.testing.assert_array_equal(every(terms, numbers), expected)


@settings(deadline=None)
@given(st.integers(-4, 9), st.integers(-4, 9), NUMBERS)
def test_a_range_is_its_bounds(low, high, numbers):
    inside = every(parse_constraints(f"x>={low}&x<{high}"), numbers)
    np.testing.assert_array_equal(inside, (numbers >= low) & (numbers < high))
    outside = Constraint("x", "<", str(low)).holds(numbers) | Constraint("x", ">=", str(high)).holds(numbers)
    np.testing.assert_array_equal(inside, ~outside)


@settings(deadline=None)
@given(st.lists(st.integers(-4, 9), min_size=1, max_size=4), NUMBERS)
def test_a_list_is_any_of_its_values(values, numbers):
    listed = Constraint("x", "in", "|".join(map(str, values))).holds(numbers)
    one_by_one = np.logical_or.reduce([Constraint("x", "=", str(v)).holds(numbers) for v in values])
    np.testing.assert_array_equal(listed, one_by_one)
    np.testing.assert_array_equal(listed, np.isin(numbers, values))


@pytest.mark.parametrize("operation", ["~", "=>", "<>", "not in", "IN", ""])
def test_unknown_operators_are_refused_when_they_are_read(operation):
    with pytest.raises(InputError, match="unknown operator"):
        Constraint("age", operation, "5")


@pytest.mark.parametrize(
    "text", ["age<nan", "age!=NaN", "age in 1|nan", "age==inf", "age!=-inf", "age in 1|inf"]
)
def test_what_no_number_compares_with_is_refused(text):
    (constraint,) = parse_constraints(text)
    with pytest.raises(InputError, match="compares with no number"):
        constraint.holds(np.array([1.0, 2.0]))


def test_an_infinite_bound_bounds_nothing():
    numbers = np.array([1.0, 2.0])
    assert every(parse_constraints("x>=-inf&x<inf"), numbers).all()
    assert not Constraint("x", ">", "Infinity").holds(numbers).any()
    # A text may well read so.
    assert Constraint("s", "==", "nan").holds(np.array(["nan", "x"])).tolist() == [True, False]
