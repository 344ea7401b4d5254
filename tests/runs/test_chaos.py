"""Two runs in chaos: what is lost at random, and killed, changes nothing of what is computed."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import chaos, cluster, undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Every stage is real and short: `python tests/runs/chaos.py` does the same with presets, and more seeds.
SETTINGS = """
name: chaos
households: 200
seed: 3
n_clones: 1
targets: {variables: [person_count, household_count]}
geography: {districts: [WY-01, NH-01, 3302]}
simulation: {slice_households: 40}
fit: {epochs: 20, refit_epochs: 100}
fits: {few: {records: 60}}
verify: {plain: 0}
"""
SEEDS = (0, 1)


def test_runs_in_chaos_end_where_an_undisturbed_one_does(tmp_path: Path) -> None:
    settings = tmp_path / "chaos.yaml"
    settings.write_text(SETTINGS)
    (tmp_path / "cluster").mkdir()
    with cluster(tmp_path / "cluster") as mine:
        reference = undisturbed(mine, str(settings), tmp_path / "undisturbed")
        tasks = len(mine.home.said("begun"))
        for seed in SEEDS:
            story = chaos(mine, str(settings), tmp_path / f"seed-{seed}", reference, seed)
            assert story.wrong == [], story
            # Both were killed, and workers were lost: more was handed out than there are tasks.
            assert story.starts >= 2, story
            assert story.lost > 0, story
            assert story.begun > tasks, story
