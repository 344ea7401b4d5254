"""`District`: every spelling in use, over all districts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcalib.errors import InputError
from distcalib.geography import STATE_CODES, District
from distcalib.geography.sources import districts

ALL = sorted(districts()["cd_geoid"].tolist())


def spellings(d: District) -> list[object]:
    out: list[object] = [
        d.geoid,
        str(d.geoid),
        f"{d.geoid:04d}",
        d.name,
        d.name.lower(),
        d.name.replace("-", ""),
        f"5001900US{d.geoid:04d}",
    ]
    if sum(g // 100 == d.state_fips for g in ALL) == 1:
        at_large = d.state_fips * 100
        out += [
            at_large,
            f"{at_large:04d}",
            f"{d.state}-AL",
            f"{d.state}-00",
            f"5001900US{at_large:04d}",
            at_large + 98,
        ]
    return out


@settings(deadline=None)
@given(st.sampled_from(ALL))
def test_every_spelling_means_the_same_district(geoid):
    district = District(geoid)
    for text in spellings(district):
        assert District.parse(text, known=ALL) == district
    assert district.state == STATE_CODES[geoid // 100]
    assert District.parse(str(district)) == district


def test_the_congress_of_a_census_id_is_read():
    assert District.parse("5001800US0601").congress == 118
    assert District.parse("CA-06").congress == 119


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("CA-60", ["CA-60", "52", "CA-01 to CA-52"]),
        ("XX-01", ["unknown state", "XX-01"]),
        ("7201", ["unknown state FIPS"]),
        ("California 6", ["not a congressional district", "CA-06"]),
        ("WY-02", ["no such district", "WY-01"]),
        ("CA-00", ["CA has no at-large district"]),
        ("698", ["CA has no at-large district"]),
        ("", ["not a congressional district"]),
    ],
)
def test_what_does_not_exist_is_named(text, words):
    with pytest.raises(InputError) as error:
        District.parse(text, known=ALL)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("congress", range(113, 121))
def test_all_districts_come_back_from_every_spelling_in_every_congress(congress):
    for geoid in ALL:
        district = District(geoid, congress)
        for text in spellings(district):
            census = "US" in str(text)
            words = str(text).replace("500190", f"500{congress - 100}0") if census else text
            # A Census id carries its Congress; the others have the one that is asked for.
            found = District.parse(words, 1 if census else congress, known=ALL)
            assert found == district, words
        assert (district.geoid, district.name, district.state_fips) == (
            district.state_fips * 100 + district.number,
            f"{STATE_CODES[geoid // 100]}-{geoid % 100:02d}",
            geoid // 100,
        )
