"""The compact matrix gives scipy's products, from any sparse format, with the same bits on any threads."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp

from distcalib.errors import InputError
from distcalib.fit import columns as module
from distcalib.fit import fit_weights
from distcalib.fit.columns import Columns, Scaled

RNG = np.random.default_rng(3)


def sparse(m: int = 70, n: int = 900, density: float = 0.06) -> sp.csr_array:
    X = sp.random_array((m, n), density=density, rng=RNG, format="csr", dtype=np.float32)
    X.data -= np.float32(0.3)
    return X


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_products_are_scipys_whatever_the_format(form: str, dtype: type, monkeypatch) -> None:
    monkeypatch.setattr(module, "_PIECE", 100)  # several pieces
    X = sparse()
    X.data *= 10
    X = X.astype(dtype)
    if dtype is np.float64:
        X.data += 1e-12  # no float32 holds it
    w, r = RNG.normal(0, 1, X.shape[1]), RNG.normal(0, 1, X.shape[0])
    made = Columns.of(X.asformat(form))
    assert made.arrays[2].dtype == (np.float64 if dtype is np.float64 else np.float32)
    assert made.arrays[1].dtype == np.uint16
    exact = X.astype(np.float64)
    np.testing.assert_allclose(made.estimate(w), exact @ w, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(made.estimate(w, absolute=True), abs(exact) @ w, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(made.gradient(r), exact.T @ r, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(made.signs(), [(exact > 0).sum(axis=1) > 0, (exact < 0).sum(axis=1) > 0])
    some = np.flatnonzero(RNG.random(X.shape[1]) < 0.4)
    part = made.take(some).take(np.arange(0, len(some), 2))
    np.testing.assert_allclose(part.gradient(r), (exact.T @ r)[some[::2]], rtol=1e-12, atol=1e-12)
    rows = np.arange(0, X.shape[0], 3)
    operator = Scaled(part, rows, r, w[some[::2]])
    dense = r[:, None] * exact.toarray()[:, some[::2]] * w[some[::2]]
    assert operator.shape == operator.T.shape[::-1] == dense[rows].shape
    np.testing.assert_allclose(operator @ np.ones(part.shape[1]), dense[rows].sum(axis=1), atol=1e-10)
    np.testing.assert_allclose(operator.T @ r[rows], dense[rows].T @ r[rows], atol=1e-10)
    np.testing.assert_allclose(part.scaled_csr(r, w[some[::2]]).toarray(), dense, atol=1e-12)


def test_threads_do_not_change_a_bit_and_chunks_have_shares_of_the_work(monkeypatch) -> None:
    monkeypatch.setattr(module, "_LEAST", 40_000)
    X = sparse(n=20_000)
    w, r = RNG.normal(0, 1, X.shape[1]), RNG.normal(0, 1, X.shape[0])
    made = [Columns.of(X, threads) for threads in (1, 2, 3)]
    assert len(made[0].borders) > 10
    for other in made[1:]:
        assert other.borders == made[0].borders
        np.testing.assert_array_equal(other.estimate(w), made[0].estimate(w))
        np.testing.assert_array_equal(other.gradient(r), made[0].gradient(r))
    cells = np.diff(made[0].arrays[0][made[0].borders]) + 32 * np.diff(made[0].borders)
    assert cells.max() < 1.5 * cells.mean()


def test_more_rows_than_sixteen_bits_count() -> None:
    X = sp.csr_array((np.ones(3, np.float32), ([0, 65_535, 70_000], [0, 1, 1])), shape=(70_001, 2))
    made = Columns.of(X)
    assert made.arrays[1].dtype == np.uint32
    np.testing.assert_array_equal(made.estimate(np.array([2.0, 3.0])).nonzero()[0], [0, 65_535, 70_000])


def test_cells_given_in_parts_are_summed() -> None:
    X = sp.csr_array(([0.1, 0.2, 5.0, -5.0], [1, 1, 0, 0], [0, 2, 4]), shape=(2, 2))
    assert Columns.of(X).estimate(np.ones(2)).tolist() == [0.1 + 0.2, 0.0]
    small = sp.coo_array((np.array([100, 100], dtype=np.int8), ([0, 0], [1, 1])), shape=(1, 2))
    assert Columns.of(small).estimate(np.ones(2)).tolist() == [200.0]


def large() -> sp.csr_array:
    rows, n, per = 500, 50_000, 20
    step = rows // per
    index = (RNG.integers(0, step, (n, per)) + step * np.arange(per)).ravel().astype(np.int32)
    values = RNG.random(n * per, dtype=np.float32) + np.float32(0.1)
    return sp.csr_array(sp.csc_array((values, index, np.arange(n + 1) * per), shape=(rows, n)))


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_no_copy_of_the_cells_is_made_in_another_precision() -> None:
    X = large()
    Columns.of(X[:, :9])  # compiled
    # 6 bytes a cell, a pointer a column, and two pieces of 2^16 cells at 16 bytes.
    assert peak_bytes(lambda: Columns.of(X)) < 6 * X.nnz + 17 * X.shape[1] + (3 << 20)


def test_a_whole_fit_takes_at_most_ten_bytes_a_cell_and_sixty_a_column() -> None:
    X = large()
    n = X.shape[1]
    initial = RNG.uniform(50, 150, n)
    targets = (X @ initial) * RNG.uniform(0.9, 1.1, X.shape[0])
    fit_weights(X[:, :300], targets, initial_weights=initial[:300], epochs=1)  # compiled
    settings = {"epochs": 3, "refit_epochs": 25, "log_every": 1, "donors": np.arange(n) // 3}
    peak = peak_bytes(lambda: fit_weights(X, targets, initial_weights=initial, **settings))
    assert peak < 10 * X.nnz + 60 * n


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((2, 2)), "not a scipy sparse matrix"),
        (sp.csr_array((0, 3)), "wrong shape"),
        (sp.csr_array(np.array([[1j]])), "real numbers"),
        (sp.csr_array(np.array([[0.0, 1.0], [0.0, np.inf]])), r"X\[1, 1\]: 1 cells are NaN or infinite"),
    ],
)
def test_what_is_no_finite_sparse_matrix_is_an_error(X: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Columns.of(X)
