"""Convolutions and matrix products with their gradients, one call each, for layers that are differentiated by hand."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class LinearMap(Protocol):
    """rows (B, C, ...) -> (B, D, ...), linear in the rows; output channels along dim 0 of weight and bias."""

    def __call__(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map."""

    def shape_after(self, shape: torch.Size, weight: Tensor) -> torch.Size:
        """The shape of what rows of `shape` become."""

    def rows_gradient(self, shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of rows of `shape`, given that of the output."""

    def weight_gradient(self, rows: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the weight, given that of the output; `weight` may be another one of the same shape."""


class Matrix:
    """rows @ weight.T + bias."""

    def __call__(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(rows, weight, bias)

    def shape_after(self, shape: torch.Size, weight: Tensor) -> torch.Size:
        return torch.Size((*shape[:-1], len(weight)))

    def rows_gradient(self, shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
        return gradient @ weight

    def weight_gradient(self, rows: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        return gradient.T @ rows


@dataclass(frozen=True)
class Convolution:
    """A convolution of images, not grouped."""

    stride: tuple[int, int]
    padding: tuple[int, int]

    def __call__(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(rows, weight, bias, self.stride, self.padding)

    def shape_after(self, shape: torch.Size, weight: Tensor) -> torch.Size:
        kernel = weight.shape[2:]
        sizes = zip(shape[2:], kernel, self.stride, self.padding, strict=True)
        return torch.Size(
            (shape[0], len(weight), *((n + 2 * padding - k) // stride + 1 for n, k, stride, padding in sizes))
        )

    def rows_gradient(self, shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
        # Only the shape of this argument is looked at, and its layout, which the result gets.
        last = gradient.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        rows = torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=layout)
        return self._backward(gradient, rows, weight, (True, False))[0]

    def weight_gradient(self, rows: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        return self._backward(gradient, rows, weight, (False, True))[1]

    def _backward(self, gradient: Tensor, rows: Tensor, weight: Tensor, wanted: tuple[bool, bool]) -> Any:
        return torch.ops.aten.convolution_backward(
            gradient, rows, weight, None, self.stride, self.padding, (1, 1), False, (0, 0), 1, (*wanted, False)
        )
