"""Run folders, stores of each kind, and the S3 server."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
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
def s3_server() -> Iterator[str]:
    pytest.importorskip("s3fs")
    script = Path(__file__).with_name("s3_server.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.terminate()


@pytest.fixture(scope="session")
def s3_environment(s3_server: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", s3_server)
        patched.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        patched.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMIEXAMPLEKEY")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patched.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


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
