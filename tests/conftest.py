"""Real parts for the tests: small microdata cut from the bundled file, a settings file, an S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from s3_server import s3_at, s3_variables

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.microdata import Microdata, bundled_microdata

SMALL = 300


@pytest.fixture(scope="session")
def bundled() -> Microdata:
    return bundled_microdata()


@pytest.fixture(scope="session")
def small(bundled: Microdata) -> Microdata:
    """Three hundred households from all over the bundled file, with their own ids."""
    chosen = np.linspace(0, bundled.count() - 1, SMALL).astype(int)
    ids = {e: bundled.ids[e][bundled.rows_of(e, chosen)[0]] for e in bundled.ids}
    return bundled.take(chosen, ids)


@pytest.fixture(scope="session")
def small_file(small: Microdata, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("microdata") / "small.h5"
    small.write(path)
    return path


def write_settings(path: Path, microdata: Path) -> Path:
    """Write a run of Wyoming (one district) and New Hampshire (two), a hundred or so columns a slice."""
    path.write_text(
        f"""
name: small
microdata: {microdata}
n_clones: 1
seed: 3
geography: {{districts: [WY-01, NH-01, 3302]}}
simulation: {{slice_households: 120}}
fit: {{epochs: 20, refit_epochs: 200}}
fits: {{few: {{records: 60}}}}
"""
    )
    return path


@pytest.fixture
def settings(tmp_path: Path, small_file: Path) -> Path:
    return write_settings(tmp_path / "run.yaml", small_file)


@pytest.fixture(scope="session")
def small_settings(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_settings(tmp_path_factory.mktemp("settings") / "run.yaml", small_file)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """URL of an S3 server in a process of its own."""
    with s3_at("127.0.0.1") as url:
        yield url


@pytest.fixture(scope="session")
def s3_environment(s3_server: str) -> Iterator[None]:
    """Environment variables that clients of the server need, also those of worker processes."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in s3_variables(s3_server).items():
            patched.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def small_run(small_settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small real run, on two worker processes, shared by the tests that look at it."""
    folder = tmp_path_factory.mktemp("runs") / "two-workers"
    Run(RunConfig.load(small_settings), folder, ClusterConfig(workers=2)).execute()
    return folder
