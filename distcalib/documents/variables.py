"""Which variables of a simulation are computed, so that they can be computed anew."""

from __future__ import annotations

from typing import Any

from distcalib.catalogue import ENTITIES

# Ids say who is who; deleting them would leave persons without households.
_KEPT = {f"{entity}_id" for entity in ENTITIES} | {f"person_{entity}_id" for entity in ENTITIES}


def get_calculated_variables(sim: Any) -> list[str]:
    """Return the names of the variables that a simulation's tax system computes, in its order.

    After an input has changed, ``sim.delete_arrays(name)`` for each of them makes the simulation forget what
    it computed before, and what the dataset stored in a variable's place.

    Parameters
    ----------
    sim
        A ``Microsimulation`` or ``Simulation`` of policyengine-us.

    Returns
    -------
    list of str
        Variables with formulas, or that add or subtract others; never ids.
    """
    return [
        name
        for name, variable in sim.tax_benefit_system.variables.items()
        if (variable.formulas or getattr(variable, "adds", None) or getattr(variable, "subtracts", None))
        and name not in _KEPT
    ]
