"""Run folders, and stores of each kind."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from made_run import make_run
from odd_stores import s3_at

from distcalib.storage.objects import MemoryStore, S3Store
from distcalib.storage.stores import LocalStore, Store, open_store


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "one")


@pytest.fixture
def other_run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "two", seed=2)


@pytest.fixture(scope="session")
def s3(s3_environment: None) -> S3Store:
    """One client for all tests; each asks for a prefix of its own."""
    store = open_store("s3://calibrated/first")
    assert isinstance(store, S3Store)
    store.fs.mkdir("calibrated")
    return store


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "public")
    if request.param == "memory":
        return MemoryStore(f"public/{uuid.uuid4().hex}")
    return s3_at(request.getfixturevalue("s3"), f"calibrated/{uuid.uuid4().hex}")


@pytest.fixture
def s3_store(s3: S3Store) -> S3Store:
    return s3_at(s3, f"calibrated/{uuid.uuid4().hex}")
