"""Districts, and the placement of clones in them."""

from distcalib.geography.assign import assign_geography, assign_random_geography, initial_weights
from distcalib.geography.assignment import GeographyAssignment
from distcalib.geography.chances import Chances
from distcalib.geography.district import District
from distcalib.geography.states import STATE_CODES, STATE_FIPS

__all__ = [
    "STATE_CODES",
    "STATE_FIPS",
    "Chances",
    "District",
    "GeographyAssignment",
    "assign_geography",
    "assign_random_geography",
    "initial_weights",
]
