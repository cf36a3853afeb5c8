import math

import pytest
import torch
from torch import nn

from harness.models import norms
from harness.models.layers import BatchNorm
from harness.models.norms import TensorNorm


def currents(time_steps: int = 5):
    return 1 + 2 * torch.randn(time_steps, 4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("branches", "alpha"), [(1, 1), (2, 1 / math.sqrt(2))])
def test_tdbn_is_its_formula(branches, alpha):
    layer, x = norms.choice("tdbn", 0.4)(3, branches=branches), currents()
    layer.weight.data = torch.tensor([0.5, 1.0, 2.0])
    layer.bias.data = torch.tensor([0.1, 0.2, 0.3])
    mean = x.mean((0, 1, 3, 4), keepdim=True)
    variance = x.var((0, 1, 3, 4), correction=0, keepdim=True)
    gamma, beta = layer.weight.view(3, 1, 1), layer.bias.view(3, 1, 1)
    expected = gamma * alpha * 0.4 * (x - mean) / (variance + 1e-5).sqrt() + beta
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_tdbn_gives_currents_the_spread_of_the_threshold():
    out = norms.choice("tdbn", 0.4)(3)(currents())
    torch.testing.assert_close(out.std((0, 1, 3, 4)), torch.full((3,), 0.4), rtol=0.01, atol=0)


@pytest.mark.parametrize("static", [False, True])
def test_norm_of_each_step_is_torchs_on_one_step_after_the_other(static):
    ours, theirs = TensorNorm(3, per_step=True), nn.BatchNorm2d(3)
    x = currents()[:1].expand(5, -1, -1, -1, -1) if static else currents()
    torch.testing.assert_close(ours(x), torch.stack([theirs(step) for step in x]))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), torch.stack([theirs.eval()(step) for step in x]))


def test_norm_of_each_step_keeps_the_layout():
    rows = torch.randn(20, 3, 6, 6).to(memory_format=torch.channels_last)
    out = TensorNorm(3, per_step=True)(rows.unflatten(0, (5, 4)))
    assert out.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_merged_norm_is_that_of_other_methods():
    assert isinstance(norms.choice("merged", 1.0)(3), BatchNorm)
