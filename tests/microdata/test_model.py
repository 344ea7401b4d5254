"""`Microdata`: files, selection, digests."""

from __future__ import annotations

import numpy as np
import pytest

from distcalib.catalogue import ENTITIES, GROUP_ENTITIES, catalogue
from distcalib.errors import InputError
from distcalib.microdata import Microdata


def test_a_file_gives_back_what_was_written(small, tmp_path):
    small.write(tmp_path / "a.h5")
    again = Microdata.read(tmp_path / "a.h5")
    assert again.digest() == small.digest()
    assert again.period == 2024
    again.write(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_taking_households_keeps_their_members_together(small):
    wanted = np.array([5, 2, 5, 99])
    taken = small.take(wanted)
    assert taken.count() == 4
    for entity in GROUP_ENTITIES:
        homes = taken.household_of[entity]
        np.testing.assert_array_equal(homes[taken.links[entity]], taken.links["household"])
    persons = np.bincount(small.links["household"], minlength=small.count())
    np.testing.assert_array_equal(np.bincount(taken.links["household"]), persons[wanted])
    ages = small.column("age")
    for new, old in enumerate(wanted):
        np.testing.assert_array_equal(
            taken.column("age")[taken.links["household"] == new], ages[small.links["household"] == old]
        )
    # The two copies of household 5 are apart: no unit is shared.
    for entity in GROUP_ENTITIES:
        first = set(taken.links[entity][taken.links["household"] == 0])
        assert not first & set(taken.links[entity][taken.links["household"] == 2])


def test_taking_works_when_no_entity_is_in_household_order(small):
    rng = np.random.default_rng(0)
    order = {e: rng.permutation(small.count(e)) for e in ENTITIES}
    place = {e: np.argsort(order[e]) for e in ENTITIES}
    mixed = Microdata(
        period=small.period,
        ids={e: small.ids[e][order[e]] for e in ENTITIES},
        links={e: place[e][small.links[e][order["person"]]] for e in GROUP_ENTITIES},
        values={e: {p: a[order[e]] for p, a in small.values[e].items()} for e in ENTITIES},
    )
    household = 17
    taken = mixed.take(np.array([place["household"][household]]))
    members = small.links["household"] == household
    assert sorted(taken.column("age")) == sorted(small.column("age")[members])
    assert taken.count("tax_unit") == len(np.unique(small.links["tax_unit"][members]))
    sums = np.bincount(taken.links["tax_unit"], taken.column("age"))
    expected = np.bincount(small.links["tax_unit"][members], small.column("age")[members])
    assert sorted(sums) == sorted(expected[expected > 0])


def test_the_digest_sees_every_value_and_link(small):
    heavier = small.with_columns({"household_weight": small.column("household_weight") * 2})
    assert heavier.digest() != small.digest()
    links = {e: a.copy() for e, a in small.links.items()}
    links["family"][0] = links["family"][-1]
    assert Microdata(small.period, small.ids, links, small.values).digest() != small.digest()


def test_columns_of_other_periods_travel_along(small, tmp_path):
    extra = {e: dict(t) for e, t in small.values.items()}
    extra["person"]["age/2023"] = small.column("age") - 1
    data = Microdata(small.period, small.ids, small.links, extra)
    data.write(tmp_path / "a.h5")
    again = Microdata.read(tmp_path / "a.h5", 2024)
    np.testing.assert_array_equal(
        again.take([3]).values["person"]["age/2023"] + 1, again.take([3]).column("age")
    )


def test_an_unknown_column_names_the_nearest(small):
    with pytest.raises(InputError, match="did you mean 'state_fips'"):
        small.column("state_fip")
    with pytest.raises(InputError, match="'household_weight'"):
        small.with_columns({"household_weigth": np.ones(small.count())})
    with pytest.raises(ValueError, match=r"expected \(300,\) for household"):
        small.with_columns({"household_weight": np.ones(3)})


def test_the_catalogue_knows_inputs_from_rules():
    known = catalogue()
    assert len(known.variables) > 6000
    assert known.variables["state_fips"].is_input
    assert not known.variables["snap"].is_input
    assert known.variables["age"].entity == "person"
    with pytest.raises(InputError, match="did you mean 'snap'"):
        known.get("snp")
