"""Networks with one hidden spiking layer that feeds back to itself, as trained by implicit differentiation.

    input -> F_x: linear or 5x5/2 convolution -> batch norm -> dropout -> current of the hidden layer
    hidden spikes -> F_fb: linear or 5x5 convolution, no bias, spectral norm at most 1 -> dropout -> its current
    hidden rates -> linear readout

The names are the paper's: '400 (F400)' is fully connected, '64C5s (F64C5)' convolutional with stride 2. The neurons are
the method's. Source: Xiao et al., NeurIPS 2021 (arXiv:2109.14247). Departure: the power iteration behind the spectral
norm moves in training only, so that evaluation can be repeated.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from harness.contract import Task
from harness.models.layers import BatchNorm, Conv2d, Linear
from harness.models.neurons import at_least_float32, weighted_mean

FEEDBACK = True


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(400, ge=1)
    """Hidden neurons, or channels where kernel_size is given."""
    kernel_size: int | None = Field(None, ge=1)
    """Of both convolutions; None for fully connected."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of each current that is dropped, the same entries at all time steps."""


NETWORKS = {"400 (F400)": Config(), "64C5s (F64C5)": Config(width=64, kernel_size=5)}
SMALL = {"width": 12}


def build(config: Config, task: Task) -> "FeedbackNet":
    """The network, without neurons."""
    return FeedbackNet(config, task)


@dataclass(frozen=True)
class Currents:
    """What flows into the hidden layer during one batch; the dropout masks and the feedback weight are fixed in it."""

    mean: Tensor
    """F_x of the input's mean over time, (B, ...), with its gradient."""
    steps: Callable[[], Iterator[Tensor]]
    """F_x of each time step, without gradient, normalised with the statistics of `mean`."""
    feedback: Callable[[Tensor], Tensor]
    """F_fb: the hidden layer's activity (B, ...) -> its current (B, ...)."""


class FeedbackNet(nn.Module):
    """The parts of the network; a method puts neurons between `currents` and `score`."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        channels, height, width = task.shape
        self.dropout, self.kernel_size = config.dropout, config.kernel_size
        self.inject: Conv2d | Linear
        if config.kernel_size is not None:
            padding = config.kernel_size // 2
            self.inject = Conv2d(channels, config.width, config.kernel_size, stride=2, padding=padding)
            weight = torch.empty(config.width, config.width, config.kernel_size, config.kernel_size)
            self.hidden = torch.Size((config.width, (height + 1) // 2, (width + 1) // 2))
        else:
            self.inject = Linear(channels * height * width, config.width)
            weight = torch.empty(config.width, config.width)
            self.hidden = torch.Size((config.width,))
        self.norm = BatchNorm(config.width)
        self.feedback = RestrictedWeight(_unit_rows(weight))
        self.readout = Linear(self.hidden.numel(), task.classes)
        _unit_rows(self.inject.weight.data)
        nn.init.zeros_(self.inject.bias)  # type: ignore[arg-type]

    def currents(self, x: Float[Tensor, "T B C H W"], weights: Sequence[float]) -> Currents:
        """The currents of one batch; `weights` of the time steps make the mean over time."""
        static = x.stride(0) == 0
        before_norm = at_least_float32(self._inject(x[0] if static else weighted_mean(x, weights)))
        mask, feedback_mask = self.mask(x.shape[1]), self.mask(x.shape[1])
        mean = _masked(self.norm(before_norm[None])[0], mask)
        weight = self.feedback()

        @torch.no_grad()
        def steps() -> Iterator[Tensor]:
            for frame in x:
                yield mean if static else _masked(self._normalise_like(before_norm, self._inject(frame)), mask)

        return Currents(mean, steps, lambda activity: _masked(self._feed_back(activity, weight), feedback_mask))

    def mask(self, batch_size: int) -> Tensor | None:
        """A new dropout mask for a current of the hidden layer, or None in evaluation."""
        if not self.training or self.dropout == 0:
            return None
        keep = 1 - self.dropout
        return self.readout.weight.new_empty(batch_size, *self.hidden).bernoulli_(keep).div_(keep)

    def score(self, rates: Float[Tensor, "B ..."]) -> Float[Tensor, "B K"]:
        """The readout."""
        return self.readout(rates.flatten(1)[None])[0]

    def _inject(self, frame: Tensor) -> Tensor:
        rows = frame.flatten(1) if self.kernel_size is None else frame
        return self.inject(rows[None])[0]

    def _feed_back(self, activity: Tensor, weight: Tensor) -> Tensor:
        if self.kernel_size is None:
            return F.linear(activity, weight)
        return F.conv2d(activity, weight, padding=self.kernel_size // 2)

    def _normalise_like(self, reference: Tensor, current: Tensor) -> Tensor:
        """Batch norm with the statistics that it took from `reference`, or in evaluation the running ones."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        if self.norm.training:
            variance, mean = torch.var_mean(reference, [0, *range(2, reference.dim())], correction=0)
        return F.batch_norm(current, mean, variance, self.norm.weight, self.norm.bias, eps=self.norm.eps)


class RestrictedWeight(nn.Module):
    """clamp(g, -1, 1) * W / sigma(W), with sigma the largest singular value of W as a matrix (dim 0, rest).

    g starts at sigma(W). One power iteration a call in training, none in evaluation.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        matrix = weight.flatten(1)
        self.register_buffer("left", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("right", F.normalize(torch.randn(matrix.shape[1]), dim=0))
        for _ in range(10):
            self._iterate()
        self.gain = nn.Parameter((self.left @ matrix @ self.right).detach())

    def forward(self) -> Tensor:
        if self.training:
            self._iterate()
        # Copies, since the next call overwrites the vectors before this one's gradient may have been taken.
        sigma = self.left.clone() @ self.weight.flatten(1) @ self.right.clone()
        return self.gain.clamp(-1, 1) * self.weight / sigma

    @torch.no_grad()
    def _iterate(self) -> None:
        matrix = self.weight.flatten(1)
        self.right.copy_(F.normalize(self.left @ matrix, dim=0))
        self.left.copy_(F.normalize(matrix @ self.right, dim=0))


@torch.no_grad()
def _unit_rows(weight: Tensor) -> Tensor:
    """Draw from U(-1, 1) in place, then give each output unit's weights length 1."""
    rows = weight.uniform_(-1, 1).flatten(1)
    return weight.div_(rows.norm(dim=1).view(-1, *[1] * (weight.dim() - 1)))


def _masked(current: Tensor, mask: Tensor | None) -> Tensor:
    return current if mask is None else current * mask
