"""Surrogate derivatives: what stands in for the derivative of the step function of a spike.

A neuron fires when its potential u reaches the threshold: s = H(u - theta), H(0) = 1. Backward, dH/du is replaced by
h(u - theta). Every h integrates to 1. Shapes and their sources:

    rectangle   h(x) = [|x| < a/2] / a                  STBP (Wu et al., 2018), a = 1
    triangle    h(x) = max(0, gamma - |x|) / gamma^2    TET (Deng et al., 2022), gamma = 1
    sigmoid     h(x) = k sig(kx) (1 - sig(kx))          OTTT (Xiao et al., 2022), k = 4
    arctan      h(x) = (a/2) / (1 + (pi a x / 2)^2)     PLIF, SEW-ResNet (Fang et al., 2021), a = 2
"""

import math
from typing import Any, Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

Surrogate = Literal["rectangle", "triangle", "sigmoid", "arctan"]

WIDTHS: dict[Surrogate, float] = {"rectangle": 1.0, "triangle": 1.0, "sigmoid": 4.0, "arctan": 2.0}
"""Published parameter of each shape: a, gamma, k, a. For sigmoid and arctan a larger one is narrower."""


def derivative(x: Float[Tensor, "..."], shape: Surrogate, width: float) -> Float[Tensor, "..."]:
    """h(x) of a shape, where x is the potential's distance from the threshold."""
    match shape:
        case "rectangle":
            return (x.abs() < width / 2).to(x.dtype) / width
        case "triangle":
            return (width - x.abs()).clamp_(min=0) / width**2
        case "sigmoid":
            firing = torch.sigmoid(width * x)
            return width * firing * (1 - firing)
        case "arctan":
            return (width / 2) / (1 + (math.pi / 2 * width * x) ** 2)
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
