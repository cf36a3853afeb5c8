"""Linear maps that are differentiated by hand, against autograd and against torch's convolution."""

import pytest
import torch
from torch import Tensor

from harness.models import winograd
from harness.models.linear_maps import Convolution, Matrix

MAPS = {
    "matrix": (Matrix(), (5, 7), (3, 7)),
    "3x3": (Convolution(1, 1), (4, 5, 6, 7), (3, 5, 3, 3)),
    "strided 3x3": (Convolution(2, 1), (4, 5, 7, 8), (3, 5, 3, 3)),
    "5x5": (Convolution(1, 2), (4, 5, 6, 7), (3, 5, 5, 5)),
    "1x1": (Convolution(1, 0), (4, 20, 6, 7), (3, 20, 1, 1)),
    "strided 1x1 of few channels": (Convolution(2, 0), (4, 5, 7, 8), (3, 5, 1, 1)),
    "strided 1x1": (Convolution(2, 0), (4, 20, 7, 8), (3, 20, 1, 1)),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


@pytest.mark.parametrize("name", MAPS)
def test_gradients_are_autograds(name):
    op, shape, weight_shape = MAPS[name]
    rows, weight = drawn(*shape).requires_grad_(), drawn(*weight_shape, seed=1).requires_grad_()
    out = op(rows, weight, None)
    assert op.shape_after(rows.shape, weight) == out.shape
    gradient = drawn(*out.shape, seed=2)
    expected_rows, expected_weight = torch.autograd.grad(out, (rows, weight), gradient)
    torch.testing.assert_close(op.rows_gradient(rows.shape, weight.detach(), gradient), expected_rows)
    torch.testing.assert_close(op.weight_gradient(rows.detach(), weight.detach(), gradient), expected_weight)


@pytest.mark.parametrize("biased", [True, False])
def test_winograds_convolution_is_the_convolution(biased):
    rows, weight = drawn(3, 5, 6, 8), drawn(7, 5, 3, 3, seed=1)
    bias = drawn(7, seed=2) if biased else None
    expected = torch.nn.functional.conv2d(rows, weight, bias, padding=1)
    torch.testing.assert_close(winograd.convolution(weight, bias)(rows), expected, rtol=1e-12, atol=1e-12)


def test_winograds_convolution_is_as_exact_as_a_direct_one():
    spikes = (torch.rand(4, 256, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    weight = torch.randn(256, 256, 3, 3, generator=torch.Generator().manual_seed(1))
    exact = torch.nn.functional.conv2d(spikes.double(), weight.double(), padding=1)
    direct = (torch.nn.functional.conv2d(spikes, weight, padding=1) - exact).abs().max()
    assert (winograd.convolution(weight, None)(spikes) - exact).abs().max() < 10 * direct


def test_many_rows_of_many_channels_are_convolved_winograds_way_and_others_are_not():
    wide, narrow = torch.ones(256, 256, 3, 3), torch.ones(256, 64, 3, 3)
    even, odd = torch.Size((8, 256, 8, 8)), torch.Size((8, 256, 7, 8))
    assert winograd.pays(wide, even, 80)
    for weight, shape, num_rows in ((narrow, even, 80), (wide, odd, 80), (wide, even, 8)):
        assert not winograd.pays(weight, shape, num_rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not winograd.pays(wide, even, 80)
