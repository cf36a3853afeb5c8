"""Layers that take the mean or the largest value of windows of an image: (T, B, C, H, W) -> (T, B, C, H', W')."""

import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.layers import Activity, each_step


class AvgPool2d(nn.Module):
    """Mean of square windows, which stand side by side unless `stride` is given; padding counts as zeros."""

    def __init__(self, size: int, *, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x: Activity) -> Activity:
        return each_step(self._pool, x) if isinstance(x, Tensor) else x.map(self._pool)

    def _pool(self, rows: Tensor) -> Tensor:
        return F.avg_pool2d(rows, self.size, self.stride, self.padding)


class AdaptiveAvgPool2d(nn.Module):
    """Mean of as many windows as make a map of `size` x `size`; 1 is the mean of the whole map.

    A map that is smaller grows: each of its pixels is copied into several.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Activity) -> Activity:
        return each_step(self._pool, x) if isinstance(x, Tensor) else x.map(self._pool)

    def _pool(self, rows: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(rows, self.size)


class MaxPool2d(nn.Module):
    """Largest value of square windows. Not linear, so architectures with it are refused by methods on firing rates."""

    def __init__(self, size: int, *, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(x, Tensor), "max pooling takes plain tensors only"
        return each_step(self._pool, x)

    def _pool(self, rows: Tensor) -> Tensor:
        return F.max_pool2d(rows, self.size, self.stride, self.padding)
