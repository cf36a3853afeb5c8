"""Convolutions and matrix products with their gradients, one call each, for layers that are differentiated by hand."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.models import winograd

Op = Callable[[Tensor], Tensor]

FEW_CHANNELS = 16
"""Of fewer input channels than this, strided 1x1 convolutions take every other pixel before the product: where there
are less than 8, oneDNN's backward pass writes outside its memory (torch 2.13, AVX2)."""


class LinearMap(Protocol):
    """rows (B, C, ...) -> (B, D, ...), linear in the rows; output channels along dim 0 of weight and bias."""

    def __call__(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map."""

    def prepared(self, weight: Tensor, bias: Tensor | None, shape: torch.Size, num_rows: int) -> Op:
        """The same for `num_rows` rows, in batches of `shape`, without gradient and as fast as it goes."""

    def shape_after(self, shape: torch.Size, weight: Tensor) -> torch.Size:
        """The shape of what rows of `shape` become."""

    def rows_gradient(self, shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of rows of `shape`, given that of the output."""

    def weight_gradient(self, rows: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the weight, of which only the shape is looked at, given that of the output."""


class Matrix:
    """rows @ weight.T + bias."""

    def __call__(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(rows, weight, bias)

    def prepared(self, weight: Tensor, bias: Tensor | None, shape: torch.Size, num_rows: int) -> Op:
        return lambda rows: self(rows, weight, bias)

    def shape_after(self, shape: torch.Size, weight: Tensor) -> torch.Size:
        return torch.Size((*shape[:-1], len(weight)))

    def rows_gradient(self, shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
        return gradient @ weight

    def weight_gradient(self, rows: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        return gradient.T @ rows


@dataclass(frozen=True)
class Convolution:
    """A convolution of images, not grouped."""

    stride: int
    padding: int

    def __call__(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self._thins(weight):
            return F.conv2d(rows[..., :: self.stride, :: self.stride], weight, bias)
        return F.conv2d(rows, weight, bias, self.stride, self.padding)

    def prepared(self, weight: Tensor, bias: Tensor | None, shape: torch.Size, num_rows: int) -> Op:
        if (self.stride, self.padding) == (1, 1) and winograd.pays(weight, shape, num_rows):
            return winograd.convolution(weight, bias)
        return lambda rows: self(rows, weight, bias)

    def shape_after(self, shape: torch.Size, weight: Tensor) -> torch.Size:
        pixels = (
            (size + 2 * self.padding - kernel) // self.stride + 1
            for size, kernel in zip(shape[2:], weight.shape[2:], strict=True)
        )
        return torch.Size((shape[0], len(weight), *pixels))

    def rows_gradient(self, shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
        last = gradient.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        rows = torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=layout)
        if self._thins(weight):
            some = rows.zero_()[..., :: self.stride, :: self.stride]
            some.copy_(replace(self, stride=1).rows_gradient(some.shape, weight, gradient))
            return rows
        # Of `rows`, only shape and layout are looked at.
        return self._backward(gradient, rows, weight, (True, False))[0]

    def weight_gradient(self, rows: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        if self._thins(weight):
            return replace(self, stride=1).weight_gradient(rows[..., :: self.stride, :: self.stride], weight, gradient)
        if rows.device.type == "cpu" and (weight.shape[2:], self.stride, self.padding) == ((3, 3), 1, 1):
            return _weight_gradient_3x3(rows, gradient)
        return self._backward(gradient, rows, weight, (False, True))[1]

    def _thins(self, weight: Tensor) -> bool:
        few = weight.shape[1] < FEW_CHANNELS
        return self.stride > 1 and self.padding == 0 and weight.shape[2:] == (1, 1) and few

    def _backward(self, gradient: Tensor, rows: Tensor, weight: Tensor, wanted: tuple[bool, bool]) -> Any:
        stride, padding = (self.stride,) * 2, (self.padding,) * 2
        return torch.ops.aten.convolution_backward(
            gradient, rows, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (*wanted, False)
        )


def _weight_gradient_3x3(rows: Tensor, gradient: Tensor) -> Tensor:
    """As three matrix products, on CPUs up to twice as fast as oneDNN's kernel.

    Height is the outermost dimension here, so that the rows below or above are a slice without a copy.
    """
    size, channels, height, width = rows.shape
    outputs = gradient.shape[1]
    wide = rows.new_zeros(height + 2, size, width, 3, channels)  # each pixel with its left and right neighbours
    pixels = rows.permute(2, 0, 3, 1)
    wide[1:-1, :, 1:, 0] = pixels[:, :, :-1]
    wide[1:-1, :, :, 1] = pixels
    wide[1:-1, :, :-1, 2] = pixels[:, :, 1:]
    flat = gradient.permute(2, 0, 3, 1).reshape(-1, outputs)
    products = rows.new_empty(3, outputs, 3 * channels)
    for i in range(3):
        torch.mm(flat.T, wide[i : i + height].view(-1, 3 * channels), out=products[i])
    return products.view(3, outputs, 3, channels).permute(1, 3, 0, 2)
