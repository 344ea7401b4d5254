"""Households, persons and units, to and from PolicyEngine HDF5."""

from distcalib.microdata.bundled_data import bundled_microdata, bundled_path
from distcalib.microdata.model import Microdata

__all__ = ["Microdata", "bundled_microdata", "bundled_path"]
