"""Step and sign are binary, and train through k / (1 + (pi k x)^2)."""

import math

import torch

from cmru_hw.nn.surrogate import sign, step


def test_values_are_binary_and_zero_counts_as_above():
    x = torch.tensor([-1.0, -1e-30, 0.0, 1e-30, 1.0])
    assert step(x).tolist() == [0, 0, 1, 1, 1]
    assert sign(x).tolist() == [-1, -1, 1, 1, 1]


def test_derivatives():
    x = torch.linspace(-3, 3, 31, dtype=torch.float64, requires_grad=True)
    want = torch.tensor([1 / (1 + (math.pi * value) ** 2) for value in x.tolist()], dtype=torch.float64)
    (of_step,) = torch.autograd.grad(step(x).sum(), x)
    (of_sign,) = torch.autograd.grad(sign(x).sum(), x)
    torch.testing.assert_close(of_step, want)
    torch.testing.assert_close(of_sign, 2 * want)
