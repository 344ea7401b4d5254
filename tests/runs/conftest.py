"""One small real run, on two worker processes, shared by the tests that look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcalib import ClusterConfig, Run, RunConfig


@pytest.fixture(scope="session")
def small_settings(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "run.yaml"
    path.write_text(
        f"""
name: small
microdata: {small_file}
n_clones: 1
seed: 3
geography: {{districts: [WY-01, NH-01, 3302]}}
simulation: {{slice_households: 120}}
fit: {{epochs: 20, refit_epochs: 200}}
"""
    )
    return path


@pytest.fixture(scope="session")
def small_run(small_settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "two-workers"
    Run(RunConfig.load(small_settings), folder, ClusterConfig(workers=2)).execute()
    return folder
