"""What flows between the layers of a feedback network: affine map -> batch norm -> dropout mask, one batch at a time.

The same connection is needed in two ways, as the two halves of implicit differentiation want it: with autograd and the
statistics of the batch, once; and without a gradient and with given statistics, T times. The second has batch norm
folded into its weights.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models import synced
from harness.models.layers import BatchNorm, Conv2d, Linear
from harness.models.neurons import at_least_float32


class Statistics(NamedTuple):
    """What batch norm subtracts and divides by."""

    mean: Tensor
    variance: Tensor


class Stage(nn.Module):
    """An affine map and its batch norm; its weights start with unit_rows, its bias at zero."""

    def __init__(self, affine: Conv2d | Linear, hidden: torch.Size) -> None:
        super().__init__()
        self.affine, self.hidden = affine, hidden
        self.norm = BatchNorm(len(affine.weight))
        unit_rows(affine.weight.data)
        assert affine.bias is not None
        nn.init.zeros_(affine.bias)

    def before_norm(self, activity: Tensor) -> Tensor:
        rows = activity.flatten(1) if isinstance(self.affine, Linear) else activity
        return at_least_float32(self.affine(rows[None])[0])

    def statistics(self, before_norm: Tensor) -> Statistics:
        """Those of a current in training, the running ones in evaluation."""
        if not self.norm.training:
            return self.running
        if self.norm.synced:
            return Statistics(*synced.moments(before_norm)[:2])
        variance, mean = torch.var_mean(before_norm, [0, *range(2, before_norm.dim())], correction=0)
        return Statistics(mean, variance)

    @property
    def running(self) -> Statistics:
        return Statistics(self.norm.running_mean, self.norm.running_var)

    @torch.no_grad()
    def frozen(self, statistics: Statistics) -> Callable[[Tensor], Tensor]:
        """The map and its batch norm as one affine map, without gradient."""
        scale = self.norm.weight * (statistics.variance + self.norm.eps).rsqrt()
        weight = self.affine.weight * scale.view(-1, *[1] * (self.affine.weight.dim() - 1))
        assert self.affine.bias is not None
        bias = (self.affine.bias - statistics.mean) * scale + self.norm.bias

        @torch.no_grad()
        def apply(activity: Tensor) -> Tensor:
            if isinstance(self.affine, Linear):
                return at_least_float32(F.linear(activity.flatten(1), weight, bias))
            stride, padding = self.affine.stride, self.affine.padding
            return at_least_float32(F.conv2d(activity, weight, bias, stride, padding))

        return apply


@dataclass(frozen=True)
class Link:
    """A stage during one batch, with the dropout mask of its current."""

    stage: Stage
    mask: Tensor | None

    def __call__(self, activity: Tensor) -> Tensor:
        """The current, with autograd; in training normalised over the batch, which moves the running statistics."""
        return self.normalise(self.stage.before_norm(activity))

    def normalise(self, before_norm: Tensor) -> Tensor:
        return masked(self.stage.norm(before_norm[None])[0], self.mask)

    def frozen(self, statistics: Statistics) -> Callable[[Tensor], Tensor]:
        """The current, without gradient."""
        affine, mask = self.stage.frozen(statistics), self.mask
        return affine if mask is None else lambda activity: affine(activity).mul_(mask)


@dataclass(frozen=True)
class Currents:
    """What flows during one batch; dropout masks and the feedback weight are fixed in it."""

    mean: Tensor
    """F_x of the input's mean over time, (B, ...), with its gradient."""
    steps: Callable[[], Iterator[Tensor]]
    """F_x of each time step, without gradient."""
    feedback: Callable[[Tensor], Tensor]
    """F_fb: the last layer's activity (B, ...) -> its current into the first, (B, ...)."""
    links: tuple[Link, ...] = ()
    """F_1, F_2, ...: what leads from each layer to the next."""


def masked(current: Tensor, mask: Tensor | None) -> Tensor:
    return current if mask is None else current * mask


@torch.no_grad()
def unit_rows(weight: Tensor, dim: int = 0) -> Tensor:
    """Draw from U(-1, 1) in place, then give the weights of each output unit (along `dim`) length 1."""
    others = [other for other in range(weight.dim()) if other != dim]
    return weight.uniform_(-1, 1).div_(torch.linalg.vector_norm(weight, dim=others, keepdim=True))
