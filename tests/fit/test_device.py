"""The engine of CUDA devices: its code on the CPU, its kernels in Triton's interpreter, and CUDA itself."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from synthetic import Problem, nested_problem

from distcalib.errors import InputError, RunError
from distcalib.fit import FitSpec, device, fit_weights
from distcalib.fit.checkpoint import Checkpoint
from distcalib.fit.device_torch import noise
from distcalib.fit.engines import CpuGates, cpu_engine, starting_state
from distcalib.fit.problem import FitProblem, build_problem
from distcalib.random import stream_key, uniform

LOSSES = [("squared", 0.0), ("squared", 0.02), ("huber", 0.01), ("capped_mape", 0.0)]
cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.fixture(scope="module")
def small() -> Problem:
    return nested_problem(n_donors=400, n_clones=2, n_districts=8, n_states=2)


@pytest.fixture
def on_cpu(monkeypatch) -> None:
    """Let engine 'cuda' run on the CPU."""
    monkeypatch.setattr(device, "cuda_device", lambda: "cpu")


def problem_of(p: Problem, spec: FitSpec, tolerance: float = 0.0) -> FitProblem:
    """A problem in which a seventh of the columns is not usable, so that columns keep their own numbers."""
    initial = np.where(np.arange(len(p.initial)) % 7, p.initial, 0.0)
    return build_problem(p.X, p.targets, spec, groups=p.groups, initial_weights=initial, tolerance=tolerance)


def fit(p: Problem, **settings):
    defaults = {"groups": p.groups, "initial_weights": p.initial, "engine": "cuda", "records": 300}
    return fit_weights(p.X, p.targets, **{**defaults, "epochs": 50, "log_every": 10, **settings})


def losses_on(name: str, problem: FitProblem, spec: FitSpec, penalty: float, fused: bool | None = None):
    gates = device.DeviceGates(problem, spec, starting_state(problem, spec), name, fused)
    gates.begin(0, penalty, None, None)
    losses = []
    for _ in range(spec.epochs):
        gates.advance(1)
        losses.append(gates.read()[device.LOSS])
    gates.fetch()
    return losses, gates


def unlike_timing(result) -> dict[str, object]:
    return {k: v for k, v in result.summary.items() if k != "timing"}


@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=cuda)])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_noise_has_the_bits_of_the_cpus_noise(name: str, seed: int) -> None:
    columns = np.r_[np.arange(5000), 2**31 - 2, 5_160_000 * np.arange(1, 400)]
    stream = torch.from_numpy(np.array([stream_key(seed, "gate")]).view(np.int64)).to(name)
    for epoch in (1, 2, 499, 10**6):
        got = noise(stream, torch.tensor(epoch, device=name), torch.from_numpy(columns).to(name))
        np.testing.assert_array_equal(got.cpu().numpy(), uniform(seed, "gate", epoch, columns))


@pytest.mark.parametrize(("loss", "tolerance"), LOSSES)
@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=cuda)])
def test_it_goes_the_way_of_the_fused_kernel(small, name: str, loss: str, tolerance: float) -> None:
    spec = FitSpec(lambda_l0=1e-3, lambda_l2=1e-4, loss=loss, epochs=200)
    problem = problem_of(small, spec, tolerance)
    steps = CpuGates(problem, spec, starting_state(problem, spec))
    steps.begin(0)
    expected = [steps.step(epoch, 1e-3) for epoch in range(1, 201)]
    got, gates = losses_on(name, problem, spec, 1e-3)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(gates.state["log_alpha"], steps.state["log_alpha"], atol=1e-3)
    now = gates.read()
    assert now[device.OPEN] == steps.open < len(problem.columns)
    assert now[device.EXPECTED] == pytest.approx(steps.expected_open, rel=1e-6)
    assert now[device.STOP] == device.ENDED


@pytest.mark.parametrize("settings", [{}, {"budget_penalty": 20.0}, {"budget_penalty": 0.01}])
def test_a_budget_is_reached_at_the_epoch_and_penalty_of_the_cpu_engine(small, settings) -> None:
    spec = FitSpec(records=300, epochs=300, **settings)
    problem = problem_of(small, spec)
    rows: list[tuple[int, int, float, int | None]] = []
    observe = lambda s: rows.append((s.attempt, s.epoch, s.lambda_l0, s.closed_since))  # noqa: E731
    ours = device.train_on("cpu", problem, spec, observe, 10)
    here, rows[:] = [*rows], []
    theirs = cpu_engine(problem, spec, observe, 10)
    assert here == rows
    assert (ours.epoch, ours.attempt, ours.lambda_l0) == (theirs.epoch, theirs.attempt, theirs.lambda_l0)
    assert ours.expected_open == pytest.approx(theirs.expected_open, rel=1e-5)
    assert (ours.epoch < 300) == (ours.expected_open <= 300) == (settings.get("budget_penalty") != 0.01)
    assert (ours.attempt > 1) == (settings.get("budget_penalty") == 20.0)


@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=cuda)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_fit_keeps_the_columns_of_the_cpu_engine_and_has_its_loss(small, monkeypatch, name, seed) -> None:
    if name == "cpu":
        monkeypatch.setattr(device, "cuda_device", lambda: "cpu")
    ours, theirs = (fit(small, engine=e, selector="gates", seed=seed) for e in ("cuda", "cpu"))
    assert ours.summary["records_kept"] == theirs.summary["records_kept"] == 300
    assert ours.summary["engine"] == "cuda"
    np.testing.assert_array_equal(ours.weights > 0, theirs.weights > 0)
    assert ours.summary["loss_after"] == pytest.approx(theirs.summary["loss_after"], rel=1e-6)


def test_logging_and_threads_change_nothing(small, on_cpu) -> None:
    rare, often = fit(small, log_every=1000), fit(small, log_every=1)
    np.testing.assert_array_equal(rare.weights, often.weights)
    assert unlike_timing(rare) == unlike_timing(often)
    assert len(often.log) > len(rare.log)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        np.testing.assert_array_equal(fit(small, threads=2).weights, rare.weights)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_steps_after_the_end_change_nothing(small) -> None:
    spec = FitSpec(records=300, epochs=100)
    problem = problem_of(small, spec)  # the penalty is high: the budget is reached long before the last epoch
    gates = device.DeviceGates(problem, spec, starting_state(problem, spec))
    gates.begin(0, 1.0, None, None)
    while gates.read()[device.STOP] == device.RUNNING:
        gates.advance(1)
    before = {k: v.clone() for k, v in vars(gates).items() if isinstance(v, torch.Tensor)}
    before |= {k: v.clone() for k, v in gates.tensors.items()}
    assert gates.read()[device.EPOCH] < 90
    gates.advance(5)
    for name, values in before.items():
        assert torch.equal(
            values, getattr(gates, name, None) if hasattr(gates, name) else gates.tensors[name]
        )


SCRIPT = """
import os, signal, sys; sys.path.insert(0, sys.argv[1])
from synthetic import nested_problem
from distcalib.fit import device, fit_weights
from distcalib.fit.checkpoint import Checkpoint
if sys.argv[4] == "cpu":
    device.cuda_device = lambda: "cpu"
offer = Checkpoint.offer
def offer_and_die(self, at, state):
    offer(self, at, state)
    if at["epoch"] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoint.offer = offer_and_die
p = nested_problem(n_donors=400, n_clones=2, n_districts=8, n_states=2)
fit_weights(p.X, p.targets, groups=p.groups, initial_weights=p.initial, records=300, epochs=50, log_every=10,
            engine="cuda", checkpoints=sys.argv[2], checkpoint_seconds=0)
"""


def killed_and_resumed(p: Problem, folder: Path, name: str) -> None:
    arguments = [str(Path(__file__).parent), str(folder), "33", name]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=False, env=os.environ)
    assert done.returncode == -9
    whole, resumed = fit(p), fit(p, checkpoints=folder)
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    assert resumed.log.equals(whole.log)
    assert unlike_timing(resumed) == unlike_timing(whole)
    assert list(folder.iterdir()) == []


def test_a_fit_that_was_killed_goes_on_to_the_same_bits(small, tmp_path: Path, on_cpu) -> None:
    killed_and_resumed(small, tmp_path, "cpu")


def test_every_epoch_is_a_place_to_go_on_from(small, tmp_path: Path, on_cpu, monkeypatch) -> None:
    whole, offer, epochs = fit(small, epochs=24), Checkpoint.offer, 0

    class Stop(Exception):
        pass

    def stop_at_once(self, at, state) -> None:
        offer(self, at, state)
        raise Stop

    monkeypatch.setattr(Checkpoint, "offer", stop_at_once)
    while True:
        try:
            resumed = fit(small, epochs=24, checkpoints=tmp_path, checkpoint_seconds=0)
            break
        except Stop:
            epochs += 1
    assert epochs >= 24
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    assert resumed.log.equals(whole.log)


def test_an_overflow_is_an_error_that_names_epoch_row_and_group(on_cpu) -> None:
    X = sp.csr_array(np.array([[1.0, 1.0], [1e200, 0.0]]))
    with pytest.raises(RunError, match=r"diverged at epoch 1: .*row 1, group 'money'"):
        fit_weights(X, [2.0, 1.0], groups=["people", "money"], initial_weights=[1.0, 1.0], engine="cuda",
                    scale_floor=1e-300)  # fmt: skip


def test_closing_every_gate_and_hard_targets_end_as_on_the_cpu(small, on_cpu) -> None:
    with pytest.raises(InputError, match=r"lambda_l0.*closed all 800 gates.*got 1000") as ours:
        fit(small, records=None, lambda_l0=1000.0, epochs=90)
    with pytest.raises(InputError) as theirs:
        fit(small, records=None, lambda_l0=1000.0, epochs=90, engine="cpu")
    assert str(ours.value) == str(theirs.value)
    rng = np.random.default_rng(5)
    X = sp.vstack([sp.csr_array(rng.normal(0, 1, (5, 40))), sp.csr_array((1, 40))], format="csr")
    result = fit_weights(X, [0.0, -1.0, -500.0, 3e9, 1e-3, 4.0], initial_weights=np.full(40, 10.0),
                         engine="cuda", epochs=60)  # fmt: skip
    assert np.isfinite(result.weights).all()
    assert [row["row"] for row in result.summary["targets_excluded"]] == [5]


def test_a_long_row_is_added_up_in_pieces() -> None:
    rng = np.random.default_rng(1)
    cells = rng.uniform(0, 1, (2, 3 * device.PIECE + 5))
    cells[1, np.arange(cells.shape[1]) != 7] = 0.0
    X = sp.csr_array(cells)
    spec = FitSpec(lambda_l0=1e-6, epochs=3)
    problem = build_problem(X, [2000.0, 3.0], spec)
    steps = CpuGates(problem, spec, starting_state(problem, spec))
    steps.begin(0)
    expected = [steps.step(epoch, 1e-6) for epoch in (1, 2, 3)]
    got, gates = losses_on("cpu", problem, spec, 1e-6)
    assert gates.row_pieces.tolist() == [0, 4, 5]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_without_a_cuda_device_the_engine_says_what_was_found(small, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"fit\.engine.*no CUDA device") as error:
        fit(small)
    assert torch.__version__ in str(error.value)


def test_memory_is_foreseen_and_refused_before_it_is_taken(small, monkeypatch) -> None:
    spec = FitSpec(lambda_l0=1e-3)
    problem = problem_of(small, spec)
    gates = device.DeviceGates(problem, spec, starting_state(problem, spec))
    taken = [v for v in vars(gates).values() if isinstance(v, torch.Tensor)] + list(gates.tensors.values())
    cells = len(gates.rows)
    foreseen = device.device_bytes(*problem.usable.shape, cells)
    assert sum(t.nbytes for t in taken) <= foreseen < 1.1 * sum(t.nbytes for t in taken)
    # The nation: 124 million cells take 2.4 GB of an H100's 80.
    assert 2.2e9 < device.device_bytes(11_255, 5_160_000, 124_000_000) < 2.6e9
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (foreseen - 1, 80 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a small device")
    with pytest.raises(RunError, match=r"a small device has 0\.0 GiB free"):
        device.DeviceGates(problem, spec, starting_state(problem, spec), "cuda")


# The kernels themselves, without a GPU: Triton's interpreter takes a second an epoch even for little.
INTERPRETED = """
import sys; sys.path.insert(0, sys.argv[1])
import numpy as np
from synthetic import nested_problem
from test_device import LOSSES, losses_on, problem_of
from distcalib.fit import FitSpec
p = nested_problem(n_donors=100, n_clones=2, n_districts=2, n_states=1)
for loss, tolerance in LOSSES:
    spec = FitSpec(records=60, lambda_l2=1e-4, loss=loss, epochs=4, initial_keep=0.4)
    problem = problem_of(p, spec, tolerance)
    (ours, one), (theirs, other) = (losses_on("cpu", problem, spec, 1e-2, fused) for fused in (True, False))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(one.read(), other.read(), rtol=1e-6)
    for name in one.state:
        np.testing.assert_allclose(one.state[name], other.state[name], rtol=1e-4, atol=1e-6)
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_do_what_torch_does() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED, str(Path(__file__).parent)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_gives_the_same_bits_twice_and_after_a_kill(small, tmp_path: Path) -> None:
    first, second = fit(small), fit(small, log_every=1)
    np.testing.assert_array_equal(first.weights, second.weights)
    assert first.summary["records_kept"] == 300
    killed_and_resumed(small, tmp_path, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_takes_the_memory_that_was_foreseen(small) -> None:
    spec = FitSpec(lambda_l0=1e-3)
    problem = problem_of(small, spec)
    before = torch.cuda.memory_allocated()
    gates = device.DeviceGates(problem, spec, starting_state(problem, spec), "cuda")
    foreseen = device.device_bytes(*problem.usable.shape, len(gates.rows))
    # Torch rounds each of some thirty arrays up to 512 bytes.
    assert torch.cuda.memory_allocated() - before < foreseen + 40 * 512
