"""What the weights of convolutions and linear layers are: how they are drawn, and functions of parameters as weights.

Scaled weight standardisation (Brock et al., ICLR 2021, arXiv:2101.08692; in spiking networks Xiao et al., NeurIPS 2022,
arXiv:2210.04195) stands in for the norm of an architecture: with W one output unit's weights, of fan-in N,

    W^ = gain * (W - mean(W)) / sqrt(var(W) * N + eps)

Both functions below are torch's parametrizations: `layer.weight` is the function's value, and what is trained is
`layer.parametrizations.weight.original`.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Layer = TypeVar("Layer", bound=nn.Module)

EPS = 1e-4
RELU_GAIN = 2.74
"""What the released code multiplies spikes by so that the variance of currents stays near 1."""


class Standardised(nn.Module):
    """Scaled weight standardisation; `gain` is one trained number an output unit. The variance is the unbiased one."""

    def __init__(self, weight: Tensor, initial_gain: float) -> None:
        super().__init__()
        if weight[0].numel() < 2:
            raise ValueError("weights of a unit with one input have no variance to standardise")
        self.gain = nn.Parameter(weight.new_full((len(weight), *[1] * (weight.dim() - 1)), initial_gain))

    def forward(self, weight: Tensor) -> Tensor:
        variance, mean = torch.var_mean(weight, list(range(1, weight.dim())), keepdim=True)
        return self.gain * (weight - mean) * (variance * weight[0].numel() + EPS).rsqrt()


class SkipInit(nn.Module):
    """A layer's output times alpha and one trained number that starts at 0 (De & Smith, 2020, arXiv:2002.10444)."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, weight: Tensor) -> Tensor:
        return self.gain * self.alpha * weight


def standardised(layer: Layer, initial_gain: float = 1.0) -> Layer:
    """The same layer, its weight standardised. Raises ValueError where a unit has a single input."""
    parametrize.register_parametrization(layer, "weight", Standardised(trained(layer, "weight"), initial_gain))
    return layer


def skip_init(layer: nn.Conv2d, alpha: float) -> None:
    """Give a layer SkipInit, which as a factor of weight and bias leaves it linear."""
    skip = SkipInit(alpha)
    parametrize.register_parametrization(layer, "weight", skip)
    parametrize.register_parametrization(layer, "bias", skip)


@torch.no_grad()
def draw_kaiming(net: nn.Module, *, zero_bias: bool) -> None:
    """Draw every convolution's weight from N(0, 2 / (outputs * kernel pixels)); biases become 0 or stay torch's."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(trained(layer, "weight"), mode="fan_out", nonlinearity="relu")
            if zero_bias and layer.bias is not None:
                trained(layer, "bias").zero_()


def trained(layer: nn.Module, name: str) -> Tensor:
    """The parameter behind `layer.weight` or `layer.bias`."""
    if parametrize.is_parametrized(layer, name):
        return layer.parametrizations[name].original  # type: ignore[union-attr, index]
    return getattr(layer, name)
