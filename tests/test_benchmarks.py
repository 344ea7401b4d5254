"""The scripts of `benchmarks/` can be started: what they import of the package and of the tests is there."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_a_benchmark_can_be_started(script, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    found = runpy.run_path(str(script), run_name="looked_at")
    assert "main" in found or script.stem.startswith("test_")
