"""Surrogate derivatives: what stands in for the derivative of the step function of a spike.

A neuron fires when its potential u reaches the threshold: s = H(u - theta), H(0) = 1. Backward, dH/du is replaced by
h(u - theta). Every h integrates to 1. Shapes and their sources:

    rectangle   h(x) = [|x| < a/2] / a                  STBP (Wu et al., 2018), a = 1
    triangle    h(x) = max(0, gamma - |x|) / gamma^2    TET (Deng et al., 2022), gamma = 1
    sigmoid     h(x) = k sig(kx) (1 - sig(kx))          OTTT (Xiao et al., 2022), k = 4
    arctan      h(x) = (a/2) / (1 + (pi a x / 2)^2)     PLIF, SEW-ResNet (Fang et al., 2021), a = 2
    gaussian    h(x) = exp(-x^2 / 2 a^2) / (sqrt(2 pi) a)   STBP's fourth; a = 1 / sqrt(2 pi), so h(0) = 1 as above
"""

import math
from typing import Any, Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

Surrogate = Literal["rectangle", "triangle", "sigmoid", "arctan", "gaussian"]

WIDTHS: dict[Surrogate, float] = {
    "rectangle": 1.0, "triangle": 1.0, "sigmoid": 4.0, "arctan": 2.0, "gaussian": 1 / math.sqrt(2 * math.pi),
}  # fmt: skip
"""Usual parameter of each shape: a, gamma, k, a, a. For sigmoid and arctan a larger one is narrower."""


def with_width(settings: dict[str, Any], default: Surrogate) -> dict[str, Any]:
    """A method's settings with `surrogate_width` filled in, where it is not given, by the shape's usual one."""
    if settings.get("surrogate_width") is not None:
        return settings
    return settings | {"surrogate_width": WIDTHS.get(settings.get("surrogate", default))}


def derivative(x: Float[Tensor, "..."], shape: Surrogate, width: float) -> Float[Tensor, "..."]:
    """h(x) of a shape, where x is the potential's distance from the threshold."""
    match shape:
        case "rectangle":
            return x.abs().lt_(width / 2).div_(width)
        case "triangle":
            return x.abs().neg_().add_(width).clamp_(min=0).div_(width**2)
        case "sigmoid":
            firing = (x * width).sigmoid_()
            return torch.addcmul(firing, firing, firing, value=-1).mul_(width)
        case "arctan":
            return (x * (math.pi / 2 * width)).square_().add_(1).reciprocal_().mul_(width / 2)
        case "gaussian":
            return x.square().mul_(-0.5 / width**2).exp_().mul_(1 / (math.sqrt(2 * math.pi) * width))
        case _:
            assert_never(shape)


class _Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Surrogate, width: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.shape, ctx.width = shape, width
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * derivative(x, ctx.shape, ctx.width), None, None


def heaviside(x: Float[Tensor, "..."], shape: Surrogate, width: float) -> Float[Tensor, "..."]:
    """1 where x >= 0, else 0; its gradient is that of the surrogate."""
    return _Heaviside.apply(x, shape, width)
