"""What the other rooms need to know of the rules engine without importing it.

The catalogue is a small bundled table, written by ``simulation/catalogue.py`` and stamped with the
policyengine-us version that it describes; the simulation checks the stamp at run time.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from distcalib.errors import InputError

GROUP_ENTITIES = ("tax_unit", "spm_unit", "family", "marital_unit", "household")
ENTITIES = ("person", *GROUP_ENTITIES)

# What a target may count besides variables of the rules engine, and the entity that it counts.
COUNTS = {f"{entity}_count": entity for entity in ENTITIES}


# Variables of policyengine-us 2.68.0 whose value for a household depends on everybody else in the file and on
# the weights: a state's Medicaid spending shared out over the enrolled, deciles. No matrix has cells for it.
OF_THE_WHOLE_FILE = frozenset(
    {
        "healthcare_benefit_value", "household_health_benefits", "household_income_decile",
        "household_net_income_including_health_benefits", "medicaid", "medicaid_cost",
        "medicaid_cost_if_enrolled", "medicaid_federal_cost", "medicaid_slcsp_state_average_cost_index",
        "medicaid_slcsp_state_denominator", "medicaid_state_cost", "spm_unit_income_decile",
    }
)  # fmt: skip


def terms(variable: str) -> tuple[str, ...]:
    """Return the variables that a target adds up: ``a+b`` is the sum of a and b, unit by unit."""
    return tuple(term.strip() for term in variable.split("+"))


@dataclass(frozen=True)
class Variable:
    """One variable of the rules engine.

    Attributes
    ----------
    name, entity, label
        As in policyengine-us.
    value_type
        ``float``, ``int``, ``bool``, ``str`` or ``Enum``.
    is_input
        True when it has no formula, adds or subtracts: only such variables belong in a dataset.
    definition_period
        ``year``, ``month`` or ``eternity``.
    unit
        ``currency-USD``, ``/1`` ... or an empty text.
    possible_values
        Names of the members of an Enum, else empty.
    """

    name: str
    entity: str
    value_type: str
    is_input: bool
    definition_period: str
    label: str = ""
    unit: str = ""
    possible_values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Catalogue:
    """All variables of one version of policyengine-us, and its annual uprating indices.

    Attributes
    ----------
    version
        Version of policyengine-us.
    variables
        By name.
    indices
        ``cpi_u`` and ``population`` (persons): year -> value in force on 1 January, from the parameters
        gov.bls.cpi.cpi_u (BLS, with CBO's projection) and calibration.gov.census.populations.total (CBO).
        Years for which the rules engine has no value are absent.
    """

    version: str
    variables: dict[str, Variable]
    indices: dict[str, dict[int, float]]

    def __contains__(self, name: object) -> bool:
        return name in self.variables

    def get(self, name: str, *, place: object = None) -> Variable:
        """Return a variable, or raise `InputError` that names the nearest ones."""
        found = self.variables.get(name)
        if found is None:
            raise InputError(
                f"policyengine-us {self.version} has no variable of this name",
                place=place,
                value=name,
                choices=self.variables,
            )
        return found


@cache
def catalogue() -> Catalogue:
    """Return the bundled catalogue (6,914 variables; reads in about 40 ms)."""
    packed = resources.files("distcalib.simulation").joinpath("bundled/catalogue.json.gz").read_bytes()
    raw = json.loads(gzip.decompress(packed))
    return Catalogue(
        version=raw["policyengine_us"],
        variables={
            name: Variable(name, entity, kind, is_input, period, label, unit, tuple(values))
            for name, entity, kind, is_input, period, label, unit, values in raw["variables"]
        },
        indices={
            name: {int(year): value for year, value in values.items()}
            for name, values in raw["indices"].items()
        },
    )
