"""The GRU is torch's own."""

import pytest
import torch

from cmru_hw.nn.baselines import GRUCell


@pytest.mark.parametrize("bias", [True, False])
def test_equals_torch_s(bias):
    torch.manual_seed(0)
    cell, theirs = GRUCell(3, 4, bias), torch.nn.GRU(3, 4, bias=bias, batch_first=True)
    names = {"weight_ih_l0": cell.input.weight, "weight_hh_l0": cell.recurrent.weight}
    if bias:
        names |= {"bias_ih_l0": cell.input.bias, "bias_hh_l0": cell.recurrent.bias}
    theirs.load_state_dict(names)
    x, s0 = torch.randn(2, 7, 3), torch.randn(2, 4)
    h, last = cell(x, s0)
    torch.testing.assert_close(h, theirs(x, s0[None])[0])
    assert torch.equal(last, h[:, -1])
    h.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in cell.parameters())
