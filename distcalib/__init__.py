"""Calibrated microdata for every US congressional district.

Public names are loaded when they are first used, so that importing the package stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distcalib.config import ClusterConfig, RunConfig
    from distcalib.fit import FitResult, HardConcrete, fit_weights
    from distcalib.geography import STATE_CODES, District, GeographyAssignment
    from distcalib.matrix.calibration import CalibrationMatrix
    from distcalib.microdata import Microdata
    from distcalib.runs import Plan, Run

__version__ = "0.1.0"

_PUBLIC = {
    "CalibrationMatrix": "distcalib.matrix.calibration",
    "ClusterConfig": "distcalib.config",
    "District": "distcalib.geography",
    "FitResult": "distcalib.fit",
    "GeographyAssignment": "distcalib.geography",
    "HardConcrete": "distcalib.fit",
    "Microdata": "distcalib.microdata",
    "Plan": "distcalib.runs",
    "Run": "distcalib.runs",
    "RunConfig": "distcalib.config",
    "STATE_CODES": "distcalib.geography",
    "fit_weights": "distcalib.fit",
}

__all__ = [
    "STATE_CODES",
    "CalibrationMatrix",
    "ClusterConfig",
    "District",
    "FitResult",
    "GeographyAssignment",
    "HardConcrete",
    "Microdata",
    "Plan",
    "Run",
    "RunConfig",
    "__version__",
    "fit_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'distcalib' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
