"""Networks with one hidden spiking layer that feeds back to itself, as trained by implicit differentiation.

    input -> F_x: linear or 5x5/2 convolution -> batch norm -> dropout -> current of the hidden layer
    hidden spikes -> F_fb: linear or 5x5 convolution, no bias, spectral norm at most 1 -> dropout -> its current
    hidden rates -> linear readout

The names are the paper's: '400 (F400)' is fully connected, '64C5s (F64C5)' convolutional with stride 2. The neurons are
the method's. Source: Xiao et al., NeurIPS 2021 (arXiv:2109.14247). Departure: the power iteration behind the spectral
norm moves in training only, so that evaluation can be repeated.
"""

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from harness.contract import Task
from harness.models.layers import BatchNorm, Conv2d, Linear

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


def build(config: Config, task: Task) -> "FeedbackNet":
    """The network, without neurons."""
    return FeedbackNet(config, task)


class FeedbackNet(nn.Module):
    """The parts of the network; a method calls them in its own order."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        channels, height, width = task.shape
        self.dropout, self.convolutional = config.dropout, config.kernel_size is not None
        if config.kernel_size is not None:
            padding = config.kernel_size // 2
            self.inject: nn.Module = Conv2d(channels, config.width, config.kernel_size, stride=2, padding=padding)
            weight = torch.empty(config.width, config.width, config.kernel_size, config.kernel_size)
            hidden = torch.Size((config.width, (height + 1) // 2, (width + 1) // 2))
        else:
            self.inject = Linear(channels * height * width, config.width)
            weight = torch.empty(config.width, config.width)
            hidden = torch.Size((config.width,))
        self.norm = BatchNorm(config.width)
        self.feedback = RestrictedWeight(_unit_rows(weight))
        self.readout = Linear(hidden.numel(), task.classes)
        self.hidden = hidden
        with torch.no_grad():
            _unit_rows(self.inject.weight)
            nn.init.zeros_(self.inject.get_parameter("bias"))

    def current(self, frame: Tensor) -> Tensor:
        """F_x before batch norm: (B, C, H, W) -> (B, ...)."""
        return self.inject((frame if self.convolutional else frame.flatten(1))[None])[0]

    def normalise(self, current: Tensor) -> Tensor:
        """Batch norm of F_x for the mean over time of an input."""
        return self.norm(current[None])[0]

    def normalise_step(self, current: Tensor, mean_current: Tensor) -> Tensor:
        """Batch norm of F_x for a single time step, with the statistics that `normalise(mean_current)` had."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        if self.training:
            variance, mean = torch.var_mean(mean_current, [0, *range(2, current.dim())], correction=0)
        return F.batch_norm(current, mean, variance, self.norm.weight, self.norm.bias, eps=self.norm.eps)

    def feed_back(self, activity: Tensor, weight: Tensor) -> Tensor:
        """F_fb before dropout, with a weight that `self.feedback()` returned."""
        if self.convolutional:
            return F.conv2d(activity, weight, padding=weight.shape[-1] // 2)
        return F.linear(activity, weight)

    def score(self, rates: Tensor) -> Tensor:
        """The readout: (B, ...) -> (B, K)."""
        return F.linear(rates.flatten(1), self.readout.weight, self.readout.bias)

    def mask(self, batch_size: int) -> Tensor | None:
        """A new dropout mask for one of the currents, fixed over time; None in evaluation."""
        if not self.training or self.dropout == 0:
            return None
        keep = 1 - self.dropout
        return self.readout.weight.new_empty(batch_size, *self.hidden).bernoulli_(keep).div_(keep)


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
