"""Calibrated microdata for every US congressional district.

Public names are loaded when they are first used, so that importing the package stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Not those of documents: rooms below it import this module for its version.
    from distcalib.config import ClusterConfig, RunConfig
    from distcalib.fit import FitResult, HardConcrete, fit_weights
    from distcalib.geography import STATE_CODES, District, GeographyAssignment
    from distcalib.geography.assign import assign_random_geography
    from distcalib.matrix.calibration import CalibrationMatrix
    from distcalib.microdata import Microdata
    from distcalib.runs import Plan, Run
    from distcalib.simulation.swapped import under_states
    from distcalib.targets.groups import create_target_groups, drop_target_groups, get_geo_level

__version__ = "0.1.0"

_PUBLIC = {
    "Calibration": "distcalib.documents",
    "CalibrationMatrix": "distcalib.matrix.calibration",
    "ClusterConfig": "distcalib.config",
    "District": "distcalib.geography",
    "FitResult": "distcalib.fit",
    "GeographyAssignment": "distcalib.geography",
    "HardConcrete": "distcalib.fit",
    "MatrixTracer": "distcalib.documents",
    "Microdata": "distcalib.microdata",
    "Plan": "distcalib.runs",
    "Run": "distcalib.runs",
    "RunConfig": "distcalib.config",
    "STATE_CODES": "distcalib.geography",
    "SparseMatrixBuilder": "distcalib.documents",
    "UnifiedMatrixBuilder": "distcalib.documents",
    "assign_random_geography": "distcalib.geography.assign",
    "create_sparse_cd_stacked_dataset": "distcalib.documents",
    "create_target_groups": "distcalib.targets.groups",
    "drop_target_groups": "distcalib.targets.groups",
    "evaluate_robustness": "distcalib.documents",
    "fit_weights": "distcalib.fit",
    "get_calculated_variables": "distcalib.documents",
    "get_geo_level": "distcalib.targets.groups",
    "tune_hyperparameters": "distcalib.documents",
    "under_states": "distcalib.simulation.swapped",
}

__all__ = [
    "STATE_CODES",
    "Calibration",
    "CalibrationMatrix",
    "ClusterConfig",
    "District",
    "FitResult",
    "GeographyAssignment",
    "HardConcrete",
    "MatrixTracer",
    "Microdata",
    "Plan",
    "Run",
    "RunConfig",
    "SparseMatrixBuilder",
    "UnifiedMatrixBuilder",
    "__version__",
    "assign_random_geography",
    "create_sparse_cd_stacked_dataset",
    "create_target_groups",
    "drop_target_groups",
    "evaluate_robustness",
    "fit_weights",
    "get_calculated_variables",
    "get_geo_level",
    "tune_hyperparameters",
    "under_states",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'distcalib' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
