"""Percentiles of pre-activations against numpy's over all values."""

import numpy as np
import pytest
import torch
from torch import nn

from harness.models.calibration import percentiles


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 40), nn.ReLU())


def batches(count: int = 4) -> list[torch.Tensor]:
    return list(torch.randn(count, 3, 200, 6, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("q", [0.0, 60.0, 99.0, 99.9, 100.0])
def test_percentile_is_that_of_all_values_after_a_relu(q):
    net = two_layers()
    first, second, found = [], [], percentiles(net, [net[1], net[4]], batches(), q)
    with torch.no_grad():
        for x in batches():
            first.append(net[0](x))
            second.append(net[3](first[-1].relu()))
    for values, percentile in zip((first, second), found, strict=True):
        expected = np.percentile(torch.stack(values).relu().double().numpy(), q)
        assert percentile == pytest.approx(expected, rel=2e-3, abs=1e-9)


def test_zeros_count():
    net = nn.Sequential(nn.ReLU())
    values = torch.cat([torch.full((990,), -1.0), torch.arange(1.0, 11.0)])[None, :, None]
    assert percentiles(net, [net[0]], [values], 98.0) == [0.0]
    assert percentiles(net, [net[0]], [values], 99.5) == [pytest.approx(5.5, abs=0.51)]


def test_order_and_size_of_batches_do_not_matter():
    net, x = two_layers(), batches()
    split = [part for batch in reversed(x) for part in batch.split(70, dim=1)]
    assert percentiles(net, [net[1]], x, 99.9) == percentiles(net, [net[1]], split, 99.9)


def test_a_still_image_gives_the_percentile_of_its_copies():
    net, x = two_layers(), batches()[0][:1].expand(3, -1, -1)
    assert percentiles(net, [net[1]], [x], 90.0) == percentiles(net, [net[1]], [x.contiguous()], 90.0)


def test_network_is_left_as_it_was():
    net = two_layers().train()
    percentiles(net, [net[1]], batches(), 99.9)
    assert net.training
    assert not net[1]._forward_pre_hooks


def test_what_cannot_be_calibrated_is_an_error():
    net = two_layers()
    with pytest.raises(ValueError, match="no value arrived at neurons \\[0\\]"):
        percentiles(net, [net[1]], [], 99.9)
    with pytest.raises(ValueError, match="not finite"):
        percentiles(net, [net[1]], [torch.full((1, 2, 6), float("nan"))], 99.9)
    assert not net[1]._forward_pre_hooks
