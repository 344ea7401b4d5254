"""Constraints: text, order and meaning."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given
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
