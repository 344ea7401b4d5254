"""The interface of the notebooks that users have, a thin layer above the rooms."""

from distcalib.documents.builders import SparseMatrixBuilder, UnifiedMatrixBuilder
from distcalib.documents.microcalibrate import Calibration, evaluate_robustness, tune_hyperparameters
from distcalib.documents.stacked import create_sparse_cd_stacked_dataset
from distcalib.documents.tracer import MatrixTracer
from distcalib.documents.variables import get_calculated_variables

__all__ = [
    "Calibration",
    "MatrixTracer",
    "SparseMatrixBuilder",
    "UnifiedMatrixBuilder",
    "create_sparse_cd_stacked_dataset",
    "evaluate_robustness",
    "get_calculated_variables",
    "tune_hyperparameters",
]
