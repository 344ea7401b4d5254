"""The gates follow l0-python's hard concrete distribution, value for value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from l0.calibration import SparseCalibrationWeights
from l0.distributions import HardConcrete as Reference

from distcalib.errors import InputError
from distcalib.fit import HardConcrete

N = 400


def pair(temperature: float) -> tuple[HardConcrete, Reference]:
    ours = HardConcrete(N, temperature=temperature, init_mean=0.999)
    theirs = Reference(N, temperature=temperature, stretch=0.1, init_mean=0.999).double()
    spread = torch.linspace(-25, 25, N, dtype=torch.float64)
    with torch.no_grad():
        ours.log_alpha.copy_(spread)
        theirs.qz_logits.copy_(spread)
    return ours, theirs


@pytest.mark.parametrize("temperature", [0.35, 0.65])
def test_deterministic_gate_penalty_and_keep_probability_equal_the_reference(temperature: float) -> None:
    ours, theirs = pair(temperature)
    theirs.eval()
    torch.testing.assert_close(ours.deterministic(), theirs(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ours.keep_probability(), theirs.get_active_prob(), rtol=1e-13, atol=0)
    torch.testing.assert_close(ours.penalty(), theirs.get_penalty(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("temperature", [0.35, 0.65])
def test_the_same_noise_gives_the_reference_gates_and_gradients(temperature: float, monkeypatch) -> None:
    ours, theirs = pair(temperature)
    noise = ours.noise(7)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(noise))
    expected, got = theirs(), ours.sample(noise)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)
    assert bool((got == 0).any())
    assert bool((got == 1).any())
    direction = torch.linspace(-1, 1, N, dtype=torch.float64)
    (expected @ direction + 0.1 * theirs.get_penalty()).backward()
    (got @ direction + 0.1 * ours.penalty()).backward()
    torch.testing.assert_close(ours.log_alpha.grad, theirs.qz_logits.grad, rtol=1e-10, atol=1e-14)


def test_gates_start_at_the_keep_probability_as_in_the_reference_calibration() -> None:
    reference = SparseCalibrationWeights(N, init_keep_prob=0.999, log_alpha_jitter_sd=0.0)
    expected = reference.log_alpha.detach().double()
    torch.testing.assert_close(HardConcrete(N).log_alpha.detach(), expected, rtol=1e-5, atol=0)
    jittered = HardConcrete(20_000, jitter=0.01).log_alpha.detach().numpy() - np.log(0.999 / 0.001)
    assert jittered.std() == pytest.approx(0.01, rel=0.05)


def test_noise_is_a_function_of_seed_draw_and_item() -> None:
    whole = HardConcrete(N, seed=3)
    part = HardConcrete(10, seed=3, items=np.arange(100, 110))
    torch.testing.assert_close(part.noise(5), whole.noise(5)[100:110], rtol=0, atol=0)
    assert not torch.equal(whole.noise(5), whole.noise(6))
    assert not torch.equal(whole.noise(5), HardConcrete(N, seed=4).noise(5))


def test_calling_the_module_samples_in_training_and_is_deterministic_in_evaluation() -> None:
    gates = HardConcrete(N, init_mean=0.5)
    first, second = gates(), gates()
    assert not torch.equal(first, second)
    gates.eval()
    assert torch.equal(gates(), gates())


def test_a_keep_probability_of_one_is_an_error() -> None:
    with pytest.raises(InputError, match="init_mean"):
        HardConcrete(3, init_mean=1.0)
