"""Sparse weights that reproduce targets: hard-concrete gates select records, a bounded refit weights them.

The room's way: `problem` validates and scales over the compact matrix of `columns`, with the objective of
`loss`. `selection` chooses the records, by `engines` of L0 gates (compiled in `kernel`, on a GPU in `device`,
checked by `gates` in PyTorch) or by `reweighted`; `weighing` gives them their weights within bounds, by
`refit`. `checkpoint` keeps the state of either, `log` its way; `diagnostics` judges the weights, `calibrate`
joins it all. Before a fit `consistency` says what no weights can meet; after it `folds`, `frontier`, `tune`
and `replicates` fit again.
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
