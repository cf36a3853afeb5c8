"""Parts of an ordinary network that prepares for spikes: an activation, a readout, what it sees of moving input."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harness.models.layers import BatchNorm

LEAST_THRESHOLD = 1e-3
"""Training must not carry a threshold to 0 or below, where the quantisation is no longer defined."""


class ClipFloorShift(nn.Module):
    """The rate of an IF neuron over L steps as an activation, with one trained threshold theta (QCFS).

    h(x) = theta clip(floor(x L / theta + 1/2) / L, 0, 1): what a neuron that starts at theta / 2 emits on average over
    L steps of constant input x. The floor passes gradients as if it were not there. Source: Bu et al., ICLR 2022,
    "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks".
    """

    def __init__(self, levels: int, v_threshold: float) -> None:
        super().__init__()
        self.levels = levels
        self.v_threshold = nn.Parameter(torch.tensor(v_threshold))

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.training:
            self.v_threshold.data.clamp_(min=LEAST_THRESHOLD)
        steps: Tensor = _Floor.apply(x * (self.levels / self.v_threshold) + 0.5)
        return steps.clamp(0, self.levels) * (self.v_threshold / self.levels)


class _Floor(torch.autograd.Function):
    """Rounding down, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.floor()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def rectified(classes: int) -> nn.Sequential:
    """Batch norm and ReLU on the scores (T, B, K): the readout that a network has before it gets DSR's spiking one."""
    return nn.Sequential(BatchNorm(classes), nn.ReLU())


def averaged(x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "1 B C H W"]:
    """The input's mean over time: all that a network without time sees of it."""
    return x[:1] if x.stride(0) == 0 else x.mean(0, keepdim=True)
