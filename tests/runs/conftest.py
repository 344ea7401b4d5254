"""One small real run, on two worker processes, shared by the tests that look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcalib import ClusterConfig, Run, RunConfig


@pytest.fixture(scope="session")
def small_run(small_settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "two-workers"
    Run(RunConfig.load(small_settings), folder, ClusterConfig(workers=2)).execute()
    return folder
