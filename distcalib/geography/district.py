"""`District`: one congressional district, whatever way it was spelled."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from distcalib.errors import InputError
from distcalib.geography.states import STATE_CODES, STATE_FIPS
from distcalib.notebook import facts_html

CURRENT_CONGRESS = 119

# States with one district, and DC (119th Congress; unchanged since the 118th).
ONE_DISTRICT = {2, 10, 11, 38, 46, 50, 56}

_EXPECTED = "a district such as 606, '0606', 'CA-06', '5001900US0606' or 'AK-00'"


@dataclass(frozen=True, order=True)
class District:
    """A congressional district of one Congress.

    Attributes
    ----------
    geoid
        State FIPS x 100 + district number; at-large districts and DC have number 1 (Alaska 201, DC 1101).
    congress
        Number of the Congress whose lines are meant.
    """

    geoid: int
    congress: int = CURRENT_CONGRESS

    @property
    def state_fips(self) -> int:
        """FIPS code of the state."""
        return self.geoid // 100

    @property
    def state(self) -> str:
        """Postal code of the state."""
        return STATE_CODES[self.state_fips]

    @property
    def number(self) -> int:
        """Number of the district; 1 where there is only one."""
        return self.geoid % 100

    @property
    def name(self) -> str:
        """Name as in file names: ``CA-06``."""
        return f"{self.state}-{self.number:02d}"

    def __str__(self) -> str:
        return self.name

    def _repr_html_(self) -> str:
        facts = {"state": f"{self.state} ({self.state_fips:02d})", "GEOID": self.geoid}
        return facts_html(f"District {self.name}", {**facts, "Congress": self.congress})

    @classmethod
    def parse(cls, text: object, congress: int = CURRENT_CONGRESS, known: Iterable[int] = ()) -> District:
        """Read any spelling in use.

        Parameters
        ----------
        text
            ``606``, ``"0606"``, ``"CA-06"``, ``"CA06"``, ``"5001900US0606"`` (the Census GEO_ID, whose
            digits 4-5 carry the Congress), at-large as 00, 01, 98 or ``AL``.
        congress
            Congress of spellings that carry none.
        known
            If given, GEOIDs that exist; anything else is an error that names the nearest.

        Raises
        ------
        InputError
            For a spelling, state or number that does not exist.

        Examples
        --------
        >>> District.parse("5001900US0200").name, District.parse(1198).geoid
        ('AK-01', 1101)
        """
        words = str(text).strip().upper()
        ucgid = re.fullmatch(r"500(\d)(\d\d)US(\d{2})(\d{2})", words) or re.fullmatch(
            r"500()(\d\d)00US(\d{2})(\d{2})", words
        )
        named = re.fullmatch(r"([A-Z]{2})-?(\d{1,2}|AL)", words)
        digits = re.fullmatch(r"(\d{1,2})(\d{2})", words)
        if ucgid:
            code = int(ucgid[2])
            congress = 100 + code if code < 50 else code
            fips, number = int(ucgid[3]), int(ucgid[4])
        elif named:
            if named[1] not in STATE_FIPS:
                raise InputError("unknown state", value=text, expected=_EXPECTED, choices=STATE_FIPS)
            fips, number = STATE_FIPS[named[1]], 0 if named[2] == "AL" else int(named[2])
        elif digits:
            fips, number = int(digits[1]), int(digits[2])
        else:
            raise InputError("not a congressional district", value=text, expected=_EXPECTED)
        if fips not in STATE_CODES:
            raise InputError("unknown state FIPS code", value=text, expected=_EXPECTED, choices=STATE_CODES)
        if number in {0, 98} and fips not in ONE_DISTRICT:
            raise InputError(f"{STATE_CODES[fips]} has no at-large district", value=text, expected=_EXPECTED)
        geoid = fips * 100 + (1 if number in {0, 98} else number)
        valid = set(known)
        if valid and geoid not in valid:
            same_state = sorted(cls(g).name for g in valid if g // 100 == fips)
            span = f"{len(same_state)}: {same_state[0]} to {same_state[-1]}" if same_state else ""
            raise InputError(
                f"no such district in the {congress}th Congress",
                value=text,
                expected=f"one of {STATE_CODES[fips]}'s {span}" if span else _EXPECTED,
                choices=same_state,
            )
        return cls(geoid, congress)
