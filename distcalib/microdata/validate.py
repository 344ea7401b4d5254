"""Checks of microdata that come from outside, each with an error that names the place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distcalib.catalogue import GROUP_ENTITIES, catalogue
from distcalib.errors import InputError

if TYPE_CHECKING:
    from distcalib.microdata.model import Microdata


def positions_of(person_ids: np.ndarray, unit_ids: np.ndarray, entity: str, place: object) -> np.ndarray:
    """Return the position in `unit_ids` of each person's unit id, int64, shape (n persons,).

    Raises
    ------
    InputError
        When ids repeat or a person names a unit that does not exist.
    """
    order = np.argsort(unit_ids, kind="stable")
    sorted_ids = unit_ids[order]
    repeated = sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]]
    if repeated.size:
        raise InputError(
            f"{len(np.unique(repeated))} {entity} ids occur more than once",
            place=f"{place}: {entity}_id",
            value=int(repeated[0]),
            expected="unique ids",
        )
    found = np.searchsorted(sorted_ids, person_ids)
    clipped = np.minimum(found, max(len(sorted_ids) - 1, 0))
    missing = np.ones(len(person_ids), bool) if not len(sorted_ids) else sorted_ids[clipped] != person_ids
    if missing.any():
        raise InputError(
            f"{int(missing.sum())} persons without a {entity}: their id is not in {entity}_id",
            place=f"{place}: person_{entity}_id",
            value=int(person_ids[missing][0]),
            expected=f"an id of {entity}_id",
            choices=map(str, sorted_ids[:5000]),
        )
    return order[clipped].astype(np.int64)


def validate(data: Microdata, place: object) -> None:
    """Raise `InputError` unless `data` is sound.

    Checked: unique person ids, every unit has persons and lies in one household, column lengths, no NaN or
    infinity, weights finite, not negative and not all zero.
    """
    person_ids = data.ids["person"]
    if len(np.unique(person_ids)) != len(person_ids):
        values, counts = np.unique(person_ids, return_counts=True)
        raise InputError(
            f"{int((counts > 1).sum())} person ids occur more than once",
            place=f"{place}: person_id",
            value=int(values[counts > 1][0]),
            expected="unique ids",
        )
    for entity in GROUP_ENTITIES:
        if len(data.links[entity]) != len(person_ids):
            raise InputError(
                f"has {len(data.links[entity])} links for {len(person_ids)} persons",
                place=f"{place}: person_{entity}_id",
                expected="one link a person",
            )
        members = np.bincount(data.links[entity], minlength=data.count(entity))
        if (members == 0).any():
            raise InputError(
                f"{int((members == 0).sum())} {entity}s without a person",
                place=f"{place}: {entity}_id",
                value=int(data.ids[entity][members == 0][0]),
                expected="at least one person in each",
            )
    for entity in GROUP_ENTITIES[:-1]:
        homes = data.household_of[entity]
        astray = homes[data.links[entity]] != data.links["household"]
        if astray.any():
            raise InputError(
                f"a {entity} has members in two households",
                place=f"{place}: person_{entity}_id",
                value=int(data.ids[entity][data.links[entity][astray][0]]),
                expected=f"every {entity} inside one household",
            )
    for entity, table in data.values.items():
        for path, array in table.items():
            if array.shape != (data.count(entity),):
                raise InputError(
                    f"has {array.shape[0] if array.ndim else 0} values for {data.count(entity)} {entity}s",
                    place=f"{place}: {path}",
                    expected=f"one value a {entity}",
                )
            expected = catalogue().variables[path.split("/")[0]].value_type
            if (array.dtype.kind in "S") != (expected in ("str", "Enum")) and not (
                expected == "Enum" and array.dtype.kind in "iu"
            ):
                raise InputError(
                    "has values of another type",
                    place=f"{place}: {path}",
                    value=str(array.dtype),
                    expected=f"values of type {expected}",
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = np.flatnonzero(~np.isfinite(array))
                raise InputError(
                    f"{len(bad)} values are NaN or infinite",
                    place=f"{place}: {path}",
                    value=f"{array[bad[0]]} at {entity} id {data.ids[entity][bad[0]]}",
                    expected="finite numbers",
                )
    weights = data.column("household_weight")
    if (weights < 0).any():
        raise InputError(
            f"{int((weights < 0).sum())} negative weights",
            place=f"{place}: household_weight/{data.period}",
            value=float(weights[weights < 0][0]),
            expected="weights of 0 or more",
        )
    if not weights.any():
        raise InputError(
            "all household weights are zero",
            place=f"{place}: household_weight/{data.period}",
            expected="design weights whose sum is the population",
        )


def overridden_variables(data: Microdata) -> list[str]:
    """Return variables in the data that the rules would otherwise compute, sorted.

    PolicyEngine takes the stored value and skips the rule, so a state's rules do not reach them.
    """
    return sorted(n for n in data.variables() if not catalogue().variables[n].is_input)
