"""What the targets of a run ask of the rules engine and of the microdata."""

from __future__ import annotations

from distcalib.catalogue import COUNTS, catalogue, terms
from distcalib.microdata.model import Microdata
from distcalib.simulation.place import GEOGRAPHY
from distcalib.targets.choose import Targets
from distcalib.targets.constraints import parse_constraints


def absent_inputs(targets: Targets, source: Microdata, drawn: tuple[str, ...]) -> list[str]:
    """Return the inputs that measures need and the microdata do not hold; the placement sets some itself."""
    known = catalogue().variables
    inputs = {v for v in needed_variables(targets) if known[v].is_input}
    return sorted(inputs - set(source.variables()) - set(GEOGRAPHY) - set(drawn))


def needed_variables(targets: Targets) -> set[str]:
    """Return the variables of the rules engine that measures need."""
    rows = targets.rows.drop_duplicates(["variable", "constraints"])
    named = {c.variable for text in rows["constraints"] for c in parse_constraints(text)} | {
        term for variable in rows["variable"] for term in terms(variable)
    }
    return {v for v in named - set(COUNTS) if v in catalogue().variables}


def asked_variables(targets: Targets) -> set[str]:
    """Return the variables that the rules engine has to compute."""
    return {v for v in needed_variables(targets) if not catalogue().variables[v].is_input}


def reform_count(targets: Targets) -> int:
    """Return how many reforms the targets ask for."""
    return int(targets.rows.loc[targets.rows["reform_id"] > 0, "reform_id"].nunique())
