"""Districts, and the placement of clones in them."""

from distcalib.geography.assign import GeographyAssignment, assign_geography, initial_weights
from distcalib.geography.district import District
from distcalib.geography.states import STATE_CODES, STATE_FIPS

__all__ = [
    "STATE_CODES",
    "STATE_FIPS",
    "District",
    "GeographyAssignment",
    "assign_geography",
    "initial_weights",
]
