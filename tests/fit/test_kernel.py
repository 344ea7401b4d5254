"""The fused kernel takes l0-python's and PyTorch's steps, with the same bits on any number of threads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from synthetic import Problem, nested_problem

from distcalib.errors import InputError, RunError
from distcalib.fit import FitSpec, fit_weights
from distcalib.fit import columns as columns_module
from distcalib.fit.engines import CpuGates, starting_state
from distcalib.fit.problem import FitProblem, build_problem
from distcalib.random import uniform


@pytest.fixture(scope="module")
def nested() -> Problem:
    return nested_problem(n_donors=500, n_clones=2, n_districts=10, n_states=3)


def losses(engine, problem: FitProblem, spec: FitSpec, epochs: int, penalty: float) -> list[float]:
    steps = engine(problem, spec, starting_state(problem, spec))
    steps.begin(0)
    return [steps.step(epoch, penalty) for epoch in range(1, epochs + 1)]


def test_compiled_constants_are_those_of_the_settings() -> None:
    from distcalib.fit import kernel, spec

    for name in ("ADAM_MOMENTS", "ADAM_EPS", "LOG_ALPHA_BOUND", "UNIFORM_EPS"):
        assert getattr(kernel, name) == getattr(spec, name)


def test_the_kernel_names_the_digest_of_what_is_compiled_into_it() -> None:
    # So the compiled code that is kept on disk is never older than either file.
    from distcalib.fit import kernel, vectors

    assert hashlib.sha256(Path(vectors.__file__).read_bytes()).hexdigest().startswith(kernel.VECTORS)
    assert len(kernel.VECTORS) == 16


def test_exp_and_log_are_those_of_the_library() -> None:
    from distcalib.fit import kernel

    x = np.linspace(-87, 87, 2001, dtype=np.float32)
    np.testing.assert_allclose([kernel._exp(v) for v in x], np.exp(x.astype(np.float64)), rtol=2e-7)
    y = np.logspace(-7, 7, 2001, dtype=np.float32)
    np.testing.assert_allclose([kernel._log(v) for v in y], np.log(y.astype(np.float64)), rtol=2e-7)


def test_the_noise_is_that_of_counter_based_draws() -> None:
    from distcalib.fit import kernel

    ids = np.array([0, 1, 99, 2**40])
    key = kernel.noise_key(5, 17)
    draws = [(float(kernel._keyed(key, np.uint64(c)) >> np.uint64(11)) + 0.5) * 2.0**-53 for c in ids]
    np.testing.assert_array_equal(draws, uniform(5, "gate", 17, ids))


@pytest.mark.parametrize("settings", [{}, {"lambda_l2": 1e-3, "beta": 0.65, "initial_keep": 0.7}])
def test_losses_follow_l0_python_with_the_same_noise(nested, settings: dict, monkeypatch) -> None:
    import torch
    from l0.calibration import SparseCalibrationWeights

    spec = FitSpec(learning_rate=0.05, lower_bound=0.0, upper_bound=1e300, **settings)
    problem = build_problem(
        nested.X, nested.targets, spec, groups=nested.groups, initial_weights=nested.initial
    )
    ours = losses(CpuGates, problem, spec, 200, 2e-3)

    # In float64, from our start and with our noise: draw t of the reference is epoch t here.
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch, "FloatTensor", torch.DoubleTensor)
    epoch, theirs = iter(range(1, 201)), []
    noise = lambda like: torch.from_numpy(uniform(spec.seed, "gate", next(epoch), problem.columns))  # noqa: E731
    monkeypatch.setattr(torch, "rand_like", noise)
    backward = torch.Tensor.backward
    monkeypatch.setattr(
        torch.Tensor, "backward", lambda loss: (theirs.append(loss.item()), backward(loss))[1]
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.sparse.check_sparse_tensor_invariants.enable()  # undecided, it warns
    try:
        start = starting_state(problem, spec)
        model = SparseCalibrationWeights(len(problem.columns), beta=spec.beta)
        model.log_alpha = torch.nn.Parameter(torch.from_numpy(start["log_alpha"]))
        model.log_weight = torch.nn.Parameter(torch.from_numpy(start["log_weight"]))
        model.fit(
            problem.usable.scaled_csr(problem.factor, problem.initial),
            problem.goal,
            lambda_l0=2e-3,
            lambda_l2=spec.lambda_l2,
            lr=spec.learning_rate,
            epochs=200,
        )
    finally:
        torch.set_default_dtype(before)
        torch.sparse.check_sparse_tensor_invariants.disable()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert ours[-1] < 0.7 * ours[0]


def test_the_torch_engine_takes_the_same_steps(nested) -> None:
    from distcalib.fit.gates import TorchGates

    spec = FitSpec(lambda_l2=1e-4)
    initial = np.where(np.arange(len(nested.initial)) % 7, nested.initial, 0.0)
    problem = build_problem(nested.X, nested.targets, spec, groups=nested.groups, initial_weights=initial)
    fits = []
    for engine in (CpuGates, TorchGates):
        steps = engine(problem, spec, starting_state(problem, spec))
        steps.begin(0)
        fits.append(([steps.step(e, 1e-3) for e in range(1, 61)], steps))
    (ours, fused), (theirs, torch_) = fits
    # The kernel computes gates in float32, and PyTorch in float64.
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(fused.state["log_alpha"], torch_.state["log_alpha"], rtol=1e-4, atol=1e-4)
    assert fused.open == torch_.open < len(problem.columns)
    assert fused.expected_open == pytest.approx(torch_.expected_open, rel=1e-6)


#: Cells of columns: none, more and less than fill vectors, than are read together, and many more.
SIZES = (0, 3, 8, 9, 31, 32, 33, 40, 0, 0, 1023, 1024, 1025, 2600, 1, 1, 1, 5)


def uneven(dtype: type) -> sp.csr_array:
    """Return 3,000 x 1,080: columns of SIZES, sixty times, the cells at random rows."""
    rng = np.random.default_rng(3)
    rows = [np.sort(rng.choice(3000, n, replace=False)) for n in SIZES * 60]
    ptr = np.r_[0, np.cumsum([len(r) for r in rows])]
    values = rng.lognormal(0, 1, ptr[-1]).astype(np.float32).astype(dtype)
    if dtype is np.float64:
        values *= 1.1
    return sp.csr_array(sp.csc_array((values, np.concatenate(rows), ptr), shape=(3000, len(rows))))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("left_out", [0, 7, 2])
def test_columns_of_any_length_pass_as_in_torch(dtype: type, left_out: int) -> None:
    from distcalib.fit.gates import TorchGates

    X = uneven(dtype)
    initial = np.linspace(0.5, 2.0, X.shape[1])
    if left_out:
        initial[::left_out] = 0.0
    targets = X @ initial * np.random.default_rng(5).lognormal(0, 0.3, X.shape[0])
    spec = FitSpec(lambda_l2=1e-4)
    problem = build_problem(X, targets, spec, initial_weights=initial)
    assert problem.usable.arrays[2].dtype == dtype
    ours, theirs = (losses(engine, problem, spec, 40, 2e-4) for engine in (CpuGates, TorchGates))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert ours[-1] < 0.8 * ours[0]


def test_a_column_s_sum_has_the_same_bits_beside_any_others() -> None:
    # Which columns stand beside it depends on the gates that are open and on the borders of chunks.
    import numba

    from distcalib.fit import kernel
    from distcalib.fit.columns import Columns

    ptr, rows, values, _ = Columns.of(uneven(np.float32), threads=1).arrays
    n = kernel.BLOCK
    begin, size = ptr[:n].astype(np.uint64), np.diff(ptr)[:n].astype(np.uint32)
    r = np.random.default_rng(1).normal(size=3000)
    inlined = kernel._dots

    @numba.njit
    def dots(rows, values, r, listed, count, together, t, g):
        inlined(rows, values, r, listed, np.uint64(count), np.uint64(together), t, g, (r,), np.uint64(0))

    every = np.flatnonzero(size).astype(np.uint32)
    found = []
    for together, picked in [(1, every), (3, every), (64, every), (5, every[::2])]:
        g = np.full(n, np.nan)
        dots(rows, values, r, (begin, size, picked), len(picked), together, np.full(2000, np.nan), g)
        found.append(g[every[::2]])
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    expected = (uneven(np.float32).astype(np.float64).T @ r)[every[::2]]
    np.testing.assert_allclose(found[0], expected, rtol=1e-10)


# Beyond 1e18 the kernel cuts gradients, so that their squares fit float32: Adam goes down all the same.
@pytest.mark.parametrize(("factor", "rtol"), [(1.0, 1e-6), (1e-6, 1e-6), (1e-12, 0.05)])
def test_columns_without_cells_and_steep_gradients_pass_as_in_torch(nested, factor, rtol) -> None:
    from distcalib.fit.gates import TorchGates

    X = nested.X.tocsc()
    X.data[np.repeat(np.arange(X.shape[1]) % 3 == 0, np.diff(X.indptr))] = 0.0
    X.eliminate_zeros()
    assert (np.diff(X.indptr) == 0).any()
    spec, targets = FitSpec(scale_floor=1e-20), nested.targets * factor
    problem = build_problem(sp.csr_array(X), targets, spec, initial_weights=nested.initial)
    ours, theirs = (losses(engine, problem, spec, 5, 1e-3) for engine in (CpuGates, TorchGates))
    np.testing.assert_allclose(ours, theirs, rtol=rtol)
    assert ours[-1] < ours[0]


@pytest.mark.parametrize("settings", [{"records": 300}, {"lambda_l0": 1e-3}])
def test_one_two_and_three_threads_give_the_same_bits(nested, settings: dict, monkeypatch) -> None:
    monkeypatch.setattr(columns_module, "_LEAST", 4000)  # ten chunks
    fits = [
        fit_weights(
            nested.X,
            nested.targets,
            groups=nested.groups,
            initial_weights=nested.initial,
            epochs=60,
            threads=threads,
            **settings,
        )
        for threads in (1, 2, 3)
    ]
    for other in fits[1:]:
        np.testing.assert_array_equal(other.weights, fits[0].weights)
        assert other.log.equals(fits[0].log)


def test_an_overflow_is_an_error_that_names_epoch_row_and_group() -> None:
    X = sp.csr_array(np.array([[1.0, 1.0], [1e200, 0.0]]))
    with pytest.raises(RunError, match=r"diverged at epoch 1: .*row 1, group 'money'"):
        fit_weights(
            X, [1.0, 1e-200], groups=["people", "money"], initial_weights=[1.0, 1.0], scale_floor=1e-300
        )


def test_the_epoch_at_which_the_last_gate_closed_is_named(nested) -> None:
    with pytest.raises(InputError, match=r"closed all 1,000 gates at epoch \d\d\D"):
        fit_weights(nested.X, nested.targets, initial_weights=nested.initial, lambda_l0=1000.0, epochs=150)


def test_duplicate_columns_share_and_more_targets_than_sixteen_bits_count_are_met() -> None:
    n = 66_000
    X = sp.csr_array(sp.hstack([sp.eye_array(n, format="csr"), sp.eye_array(n, format="csr")]))
    targets = np.linspace(1.0, 3.0, n)
    result = fit_weights(X, targets, initial_weights=np.ones(2 * n), epochs=3, ridge=1e-6)
    np.testing.assert_allclose(X @ result.weights, targets, rtol=0.01)
    np.testing.assert_allclose(result.weights[:n], result.weights[n:], rtol=1e-3)


def test_one_target_of_zero_one_negative_and_one_record() -> None:
    zero = fit_weights(sp.csr_array(np.array([[1.0, -1.0]])), [0.0], initial_weights=[3.0, 1.0], epochs=5)
    assert zero.weights[0] == pytest.approx(zero.weights[1], rel=0.2)
    below = fit_weights(sp.csr_array(np.array([[-2.0]])), [-10.0], initial_weights=[4.0], epochs=5, ridge=0.0)
    assert below.weights == pytest.approx([5.0], rel=1e-5)
