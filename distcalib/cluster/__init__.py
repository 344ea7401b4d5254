"""One small file for each kind of cluster, and what is common to them: settings, certificates, waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distcalib.config import ClusterConfig


def load_cluster(path: str | Path | None = None) -> ClusterConfig:
    """Read a cluster file, with what dask's configuration says of ``distcalib`` in place of what it says.

    From least to most: defaults, the file, ``distcalib:`` in dask's own configuration files, environment
    variables ``DASK_DISTCALIB__SIM__WORKERS=4``. Dask reads these when it is first imported.

    Raises
    ------
    InputError
        Names the file or the variable, the value and the nearest valid choice.
    """
    import dask.config

    return ClusterConfig.load(path, _underscored(dask.config.get("distcalib", None)))


@contextmanager
def open_client(config: ClusterConfig) -> Iterator[Any]:
    """Start or join a cluster of any kind but ``serial``; give a `distributed.Client`, and end it afterwards.

    At least one worker is there. Where an address can be reached from elsewhere, everything is mutual TLS.

    Raises
    ------
    InputError
        For settings that cannot be used; nothing was started.
    RunError
        When no scheduler or no worker answers within ``scheduler.wait`` seconds: says what, and the mend.
    """
    config.check()
    if config.kind == "local":
        from distcalib.cluster import local

        opened = local.local_client(config)
    elif config.kind == "address":
        from distcalib.cluster import address

        opened = address.address_client(config)
    elif config.kind == "slurm":
        from distcalib.cluster import slurm

        opened = slurm.slurm_client(config)
    elif config.kind == "kubernetes":
        from distcalib.cluster import kubernetes

        opened = kubernetes.kubernetes_client(config)
    else:
        raise ValueError(f"kind: {config.kind} has no workers")
    with opened as client:
        yield client


def _underscored(said: Any) -> Any:
    """Return settings with the keys of `ClusterConfig`: dask takes ``memory-limit`` for the same."""
    if not isinstance(said, dict):
        return said
    return {
        str(key).replace("-", "_"): value if key == "environment" else _underscored(value)
        for key, value in said.items()
    }
