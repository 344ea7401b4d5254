"""Reforms: the same households with deductions struck out, without a tax system for each reform.

A deduction struck out is a variable that is 0 whatever its formula says. In a branch of the simulation that
is an input: the branch drops what was calculated after the deduction and keeps the rest, so a reform costs a
part of a simulation. The values are those of a simulation built with the reform, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distcalib.errors import InputError
from distcalib.targets.reforms import REFORMS, Reform


def reform_of(reform_id: int) -> Reform:
    """Return a reform, or raise `InputError` that names the ones there are."""
    if reform_id not in REFORMS:
        raise InputError(
            "no such reform", place="reform_id", value=reform_id, choices=[str(k) for k in REFORMS]
        )
    return REFORMS[reform_id]


@contextmanager
def struck_out(engine: Any, reform_id: int, period: int) -> Iterator[Any]:
    """Give a branch of a simulation of policyengine-us in which the variables of a reform have their default.

    Parameters
    ----------
    engine
        A Simulation or Microsimulation; what it has calculated is reused and stays as it is.
    reform_id
        A key of `distcalib.targets.reforms.REFORMS`.
    period
        Year for which the variables are struck out.

    Raises
    ------
    InputError
        For an unknown reform.
    """
    name = f"reform_{reform_id}"
    reform = reform_of(reform_id)
    branch = engine.get_branch(name)
    try:
        for variable in reform.variables:
            # The default is what a neutralised variable gives: 0 for every deduction.
            branch.set_input(variable, period, branch.get_holder(variable).default_array())
        yield branch
    finally:
        # The engine keeps its branches; without this each reform's values would stay until the end.
        del engine.branches[name]
