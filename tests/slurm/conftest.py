"""One SLURM for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_slurm import Slurm, real_slurm


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    with real_slurm() as running:
        yield running
