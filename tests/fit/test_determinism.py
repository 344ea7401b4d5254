"""The same inputs give the same bits, whatever the threads, the logging or the state of the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import nested_problem

from distcalib.fit import fit_weights

# Over 10,000 columns: below that BLAS and torch use one thread anyway and the test would prove nothing.
SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
from synthetic import nested_problem
from distcalib.fit import fit_weights
p = nested_problem(n_donors=20_000, n_clones=2, n_districts=40, n_states=8)
cases = (("cpu", {"records": 9000}), ("torch", {"records": 9000}), ("l0", {"lambda_l0": 1e-5}))
for engine, settings in cases:
    common = {"groups": p.groups, "initial_weights": p.initial, "epochs": 70}
    r = fit_weights(p.X, p.targets, engine=engine, threads=int(sys.argv[2]), **common, **settings)
    print(engine, r.summary["records_kept"], r.summary["loss_after"].hex(), r.summary["weights_sha256"])
"""


def digests(threads: int) -> str:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(threads)],
        env={**os.environ, **dict.fromkeys(names, str(threads))},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_one_and_two_threads_give_the_same_bits() -> None:
    one = digests(1)
    assert len(one.splitlines()) == 3
    assert digests(2) == one


@pytest.fixture(scope="module")
def small():
    return nested_problem(n_donors=800, n_clones=2, n_districts=12, n_states=3)


def fit(p, **settings):
    return fit_weights(
        p.X, p.targets, groups=p.groups, initial_weights=p.initial, records=500, epochs=120, **settings
    )


def test_logging_reads_and_never_touches(small) -> None:
    rare, often = fit(small, log_every=1000), fit(small, log_every=1, progress=lambda row: None)
    np.testing.assert_array_equal(rare.weights, often.weights)
    assert len(often.log) > len(rare.log)
    first, second = rare.summary, often.summary
    assert {k: v for k, v in first.items() if k != "timing"} == {
        k: v for k, v in second.items() if k != "timing"
    }


def test_neither_global_random_state_nor_thread_count_matters_or_is_changed(small) -> None:
    expected = fit(small).weights
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(99)
        np.random.default_rng(99)
        np.testing.assert_array_equal(fit(small).weights, expected)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_another_seed_draws_other_noise(small) -> None:
    assert not np.array_equal(fit(small, seed=1).weights, fit(small, seed=0).weights)
