"""Weights that are functions of parameters."""

from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from harness.models.weights import standardised


def test_standardised_weights_are_the_formulas_and_so_are_their_gradients():
    torch.manual_seed(0)
    layer = standardised(nn.Conv2d(3, 4, 2).double())
    gain, weight = layer.parametrizations.weight[0].gain, layer.parametrizations.weight.original
    gain.data.uniform_(0.5, 2)
    for unit in range(4):
        values = weight[unit].flatten().tolist()
        mean = sum(values) / 12
        variance = sum((value - mean) ** 2 for value in values) / 11
        expected = [gain[unit].item() * (value - mean) / sqrt(variance * 12 + 1e-4) for value in values]
        assert layer.weight[unit].flatten().tolist() == pytest.approx(expected, rel=1e-12)

    def response(gain: Tensor, weight: Tensor) -> Tensor:
        swapped = {"parametrizations.weight.original": weight, "parametrizations.weight.0.gain": gain}
        return torch.func.functional_call(layer, swapped, (x,))

    x = torch.randn(1, 3, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(response, (gain, weight))


def test_a_unit_with_one_input_cannot_be_standardised():
    with pytest.raises(ValueError, match="one input"):
        standardised(nn.Linear(1, 3))
