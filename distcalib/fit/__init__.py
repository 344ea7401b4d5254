"""Sparse weights that reproduce targets: hard-concrete gates select records, a bounded refit weights them.

The room's way: `problem` validates and scales over the compact matrix of `columns`, `engines` select records
with L0 gates (compiled in `kernel`, checked by `gates` in PyTorch, kept by `checkpoint`), `refit` solves for
the weights of the selected records, `diagnostics` judges them, `calibrate` joins them.
"""

from __future__ import annotations

from typing import Any

from distcalib.fit.calibrate import FitResult, fit_weights, fit_with_spec
from distcalib.fit.diagnostics import effective_sample_size, summarise
from distcalib.fit.engines import ENGINES, resolve_engine
from distcalib.fit.spec import FitSpec

__all__ = [
    "ENGINES",
    "FitResult",
    "FitSpec",
    "HardConcrete",
    "effective_sample_size",
    "fit_weights",
    "fit_with_spec",
    "resolve_engine",
    "summarise",
]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; a plan that only needs FitSpec should not pay for it.
    if name == "HardConcrete":
        from distcalib.fit.gates import HardConcrete

        return HardConcrete
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
