"""A killed fit goes on from its checkpoint to the same bits; another fit's checkpoint is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import Problem, nested_problem

from distcalib.errors import InputError
from distcalib.fit import fit_weights
from distcalib.fit.checkpoint import Checkpoint

# A fit that kills its own process, as hard as a scheduler does, once an epoch has been written down.
SCRIPT = """
import os, signal, sys; sys.path.insert(0, sys.argv[1])
from synthetic import nested_problem
from distcalib.fit import fit_weights
from distcalib.fit.checkpoint import Checkpoint
offer = Checkpoint.offer
def offer_and_die(self, at, state):
    offer(self, at, state)
    if (at.get("attempt", 1), at.get("epoch", at.get("passes"))) == (int(sys.argv[3]), int(sys.argv[4])):
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoint.offer = offer_and_die
p = nested_problem(n_donors=400, n_clones=2, n_districts=8, n_states=2)
fit_weights(p.X, p.targets, groups=p.groups, initial_weights=p.initial, records=300, epochs=50, log_every=10,
            selector=sys.argv[5], checkpoints=sys.argv[2], checkpoint_seconds=0)
"""


@pytest.fixture(scope="module")
def small() -> Problem:
    return nested_problem(n_donors=400, n_clones=2, n_districts=8, n_states=2)


def fit(p: Problem, **settings):
    return fit_weights(
        p.X,
        p.targets,
        **{
            "groups": p.groups,
            "initial_weights": p.initial,
            "records": 300,
            "selector": "gates",
            "epochs": 50,
            "log_every": 10,
            **settings,
        },
    )


def killed(folder: Path, attempt: int, epoch: int, selector: str = "gates") -> None:
    arguments = [str(Path(__file__).parent), str(folder), str(attempt), str(epoch), selector]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=False, env=os.environ)
    assert done.returncode == -9


@pytest.mark.parametrize("epoch", [1, 33])
def test_a_fit_that_was_killed_goes_on_to_the_same_bits(small, tmp_path: Path, epoch: int) -> None:
    killed(tmp_path, 1, epoch)
    assert [p.name for p in tmp_path.iterdir()] == ["selection.npz"]
    whole, heard = fit(small), []
    resumed = fit(small, checkpoints=tmp_path, progress=heard.append)
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    assert resumed.log.equals(whole.log)
    assert len([row for row in heard if row["stage"] == "gates"]) == 5 - epoch // 10
    assert list(tmp_path.iterdir()) == []  # done: nothing to go on from


@pytest.mark.parametrize("passes", [1, 3, 4, 33])
def test_a_reweighted_selection_that_was_killed_goes_on_to_the_same_bits(
    small, tmp_path: Path, passes
) -> None:
    killed(tmp_path, 1, passes, "reweighted")
    whole, heard = fit(small, selector="reweighted"), []
    resumed = fit(small, selector="reweighted", checkpoints=tmp_path, progress=heard.append)
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    assert resumed.log.equals(whole.log)
    assert [e for e, _, _ in resumed.estimates] == [e for e, _, _ in whole.estimates]
    said = len(whole.log[whole.log["stage"] == "reweighted"])
    assert len([row for row in heard if row["stage"] == "reweighted"]) == said - passes // 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("selector", ["gates", "reweighted"])
def test_a_fit_stopped_in_its_refit_goes_on_to_say_the_same(
    small, tmp_path: Path, selector: str, monkeypatch
) -> None:
    from distcalib.fit import calibrate

    whole = fit(small, selector=selector)
    with monkeypatch.context() as patch:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(calibrate, "weigh", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(small, selector=selector, checkpoints=tmp_path)
    resumed = fit(small, selector=selector, checkpoints=tmp_path)
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    assert resumed.log.equals(whole.log)
    said = [{k: v for k, v in one.summary.items() if k != "timing"} for one in (resumed, whole)]
    assert said[0] == said[1]
    assert [e for e, _, _ in resumed.estimates] == [e for e, _, _ in whole.estimates]


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_every_epoch_is_a_place_to_go_on_from(small, tmp_path: Path, engine: str, monkeypatch) -> None:
    whole = fit(small, engine=engine, epochs=24)
    offer = Checkpoint.offer

    class Stop(Exception):
        pass

    def stop_at_once(self, at, state) -> None:
        offer(self, at, state)
        raise Stop

    monkeypatch.setattr(Checkpoint, "offer", stop_at_once)
    epochs = 0
    while True:
        try:
            resumed = fit(small, engine=engine, epochs=24, checkpoints=tmp_path, checkpoint_seconds=0)
            break
        except Stop:
            epochs += 1
    assert epochs >= 24
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    assert resumed.log.equals(whole.log)


def test_the_checkpoint_of_another_fit_is_refused(small, tmp_path: Path) -> None:
    killed(tmp_path, 1, 2)
    before = (tmp_path / "selection.npz").read_bytes()
    other = small.X.copy()
    other.data[5] *= 2
    for changes in ({"seed": 1}, {"epochs": 51}, {"engine": "torch"}, {"initial_weights": 2 * small.initial}):
        with pytest.raises(InputError, match="of another matrix, other targets or other settings"):
            fit(small, checkpoints=tmp_path, **changes)
    for X, targets in ((other, small.targets), (small.X, 1.5 * small.targets)):
        with pytest.raises(InputError, match="of another matrix"):
            fit_weights(X, targets, groups=small.groups, initial_weights=small.initial, records=300,
                        epochs=50, checkpoints=tmp_path)  # fmt: skip
    assert (tmp_path / "selection.npz").read_bytes() == before
    (tmp_path / "selection.npz").write_bytes(before[:5000])
    with pytest.raises(InputError, match="damaged checkpoint"):
        fit(small, checkpoints=tmp_path)
