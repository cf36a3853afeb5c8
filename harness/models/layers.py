"""The layers that every architecture is made of, so that one architecture serves every method.

They take tensors of shape (T, B, C, ...); `Streams` where a method trains on firing rates (`streams.py`); or `Traced`
spikes of one step where it learns while the simulation runs (`traced.py`). Where all time steps are the same (a still
image), a tensor has stride 0 over T, and a layer runs once instead of T times. Parameters have torch's names, shapes
and initial values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models import synced
from harness.models.linear_maps import Convolution, Matrix
from harness.models.pieces import Kept
from harness.models.rate_norm import Covariance, Normalisation
from harness.models.streams import Streams
from harness.models.traced import Traced

Activity = TypeVar("Activity", Tensor, Streams, Traced)


class Norm(Protocol):
    """Makes the normalisation of a layer's currents."""

    def __call__(self, channels: int, *, branches: int = 1) -> nn.Module:
        """`branches`: how many paths are summed right behind it, which threshold-dependent norms take into account."""


class Linear(nn.Linear):
    """Fully connected: (T, B, N) -> (T, B, M)."""

    def forward(self, x: Tensor | Streams | Traced) -> Any:
        if isinstance(x, Tensor):
            return each_step(super().forward, x)
        return x.affine(Matrix(), self.weight, self.bias)


class Conv2d(nn.Conv2d):
    """Convolution, not grouped: (T, B, C, H, W) -> (T, B, D, H', W')."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *,
        stride: int = 1, padding: int = 0, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        # Channels last is twice as fast on CPUs and on GPUs with half precision; activations follow the weight.
        self.weight.data = self.weight.data.to(memory_format=torch.channels_last)
        self._map = Convolution(stride, padding)

    def forward(self, x: Tensor | Streams | Traced) -> Any:
        if isinstance(x, Tensor):
            return each_step(lambda rows: self._map(rows, self.weight, self.bias), x)
        return x.affine(self._map, self.weight, self.bias)


class Flatten(nn.Module):
    """(T, B, ...) -> (T, B, N)."""

    def forward(self, x: Activity) -> Activity:
        return each_step(lambda rows: rows.flatten(1), x) if isinstance(x, Tensor) else x.flatten()


class Scale(nn.Module):
    """Multiplies by a constant: (T, B, ...) -> (T, B, ...)."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Activity) -> Activity:
        return each_step(self._scale, x) if isinstance(x, Tensor) else x.map(self._scale)

    def _scale(self, rows: Tensor) -> Tensor:
        return rows * self.factor


class Dropout(nn.Module):
    """Dropout with one mask for all time steps of a sample, as IDE-FSNN does; so both streams share it."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.kept: Kept | None = None

    def forward(self, x: Activity) -> Activity:
        if not self.training or self.p == 0:
            return x
        if not isinstance(x, Tensor):
            return x.scale(self._same(x.shape, x.device))
        mask = self._same(x.shape[1:], x.device).to(x.dtype)
        return (x[0] * mask).expand_as(x) if x.stride(0) == 0 else x * mask

    def _same(self, shape: torch.Size, device: torch.device) -> Tensor:
        """The mask of the pieces of time before, if there are any."""
        if self.kept is None:
            return self.mask(shape, device)
        if self.kept.value is None:
            self.kept.value = self.mask(shape, device)
        return self.kept.value

    def mask(self, shape: torch.Size, device: torch.device) -> Tensor:
        """0 with probability p, else 1 / (1 - p)."""
        return torch.empty(shape, device=device).bernoulli_(1 - self.p).div_(1 - self.p)


class BatchNorm(nn.Module):
    """Batch norm whose statistics run over time, batch and pixels; running statistics move once a batch.

    `covariance` is for `Streams`: whether weights below get all of the unrolled network's gradient (`rate_norm.py`).
    While it is `synced`, statistics in training run over all workers' samples too (`synced.py`).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1, covariance: Covariance = "left out"
    ) -> None:
        super().__init__()
        self.eps, self.momentum, self.covariance = eps, momentum, covariance
        self.synced = False
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor | Streams) -> Any:
        return Normalisation(self, x).streams() if isinstance(x, Streams) else each_step(self._rows, x)

    def _rows(self, rows: Tensor) -> Tensor:
        if self.synced and self.training:
            return synced.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias, momentum=self.momentum, eps=self.eps
            )
        return F.batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias,
            training=self.training, momentum=self.momentum, eps=self.eps,
        )  # fmt: skip


def batch_norm(channels: int, *, branches: int = 1) -> BatchNorm:
    """Batch norm wherever it stands: the norm of a method that asks for none of its own."""
    return BatchNorm(channels)


@dataclass(frozen=True)
class Parts:
    """What a method puts at the open places of an architecture, one module for each place."""

    neuron: Callable[[], nn.Module]
    norm: Norm = batch_norm


def each_step(op: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply an operation on rows to x of shape (T, B, ...); once only where all time steps are the same."""
    if x.stride(0) == 0:
        once = op(x[0])
        return once.expand(len(x), *once.shape)
    return op(x.flatten(0, 1)).unflatten(0, x.shape[:2])
