"""Calibrated microdata for every US congressional district."""

__version__ = "0.1.0"
