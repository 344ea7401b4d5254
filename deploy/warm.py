"""Loaded by `dask worker --preload-nanny`: the rules engine is read once a host, not once a worker."""

from __future__ import annotations

from typing import Any


def dask_setup(nanny: Any) -> None:
    """Have the fork server that workers come from read the rules engine before it forks the first."""
    from distributed.utils import get_mp_context

    from distcalib.cluster.local import PRELOAD

    del nanny
    # Dask sets a preload list of its own when the context is first made; ours replaces it.
    get_mp_context().set_forkserver_preload(PRELOAD)
