"""Batch norms that a method may ask for in place of the one over merged time (`layers.BatchNorm`); of tensors only."""

import math
from typing import Literal, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models import synced
from harness.models.layers import Norm, batch_norm, each_step

Kind = Literal["merged", "tdbn", "per_step"]


def choice(kind: Kind, v_threshold: float) -> Norm:
    """The norm of a kind; tdBN's factor is the threshold, less where several branches are summed behind it."""

    def norm(channels: int, *, branches: int = 1) -> nn.Module:
        match kind:
            case "merged":
                return batch_norm(channels)
            case "tdbn":
                return TensorNorm(channels, factor=v_threshold / math.sqrt(branches))
            case "per_step":
                return TensorNorm(channels, per_step=True)
            case _:
                assert_never(kind)

    return norm


class TensorNorm(nn.Module):
    """y = factor * gamma * x_hat + beta, with x_hat normalised over time, batch and pixels, or over each step alone.

    With a factor it is tdBN (Zheng et al., AAAI 2021, arXiv:2011.05280). `per_step` moves the running statistics once a
    time step, as a network does that is run step by step. While it is `synced`, statistics in training run over all
    workers' samples too (`synced.py`).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, channels: int, *, factor: float = 1.0, per_step: bool = False, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.factor, self.per_step, self.eps, self.momentum = factor, per_step, eps, momentum
        self.synced = False
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not (self.per_step and self.training):
            return each_step(lambda rows: self._rows(rows, self.momentum), x)
        if x.stride(0) == 0:  # T equal moves are one larger move
            return each_step(lambda rows: self._rows(rows, 1 - (1 - self.momentum) ** len(x)), x)
        # Put together along the batch, since stacking would lose the channels-last layout.
        return torch.cat([self._rows(step, self.momentum) for step in x]).unflatten(0, x.shape[:2])

    def _rows(self, rows: Tensor, momentum: float) -> Tensor:
        weight = self.weight * self.factor
        if self.synced and self.training:
            return synced.batch_norm(
                rows, self.running_mean, self.running_var, weight, self.bias, momentum=momentum, eps=self.eps
            )
        return F.batch_norm(
            rows, self.running_mean, self.running_var, weight, self.bias,
            training=self.training, momentum=momentum, eps=self.eps,
        )  # fmt: skip
