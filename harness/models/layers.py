"""The layers that every architecture is made of, so that one architecture serves every method.

They take tensors of shape (T, B, C, ...); `Streams` where a method trains on firing rates (`streams.py`); or `Traced`
spikes of one step where it learns while the simulation runs (`traced.py`). Where all time steps are the same (a still
image), a tensor has stride 0 over T, and a layer runs once instead of T times. Parameters have torch's names, shapes
and initial values.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.neurons import at_least_float32
from harness.models.pieces import Kept
from harness.models.rates import NormalisedRates
from harness.models.streams import ALL, Draw, Rates, Streams
from harness.models.traced import Traced

Activity = TypeVar("Activity", Tensor, Streams, Traced)

FirstSteps = dict[tuple[int, int], list[Tensor]]
"""The first time steps of some samples (their slice's start and stop)."""


FEW_CHANNELS = 16
"""Of fewer input channels than this, strided 1x1 convolutions take every other pixel before the product: where there
are less than 8, oneDNN's backward pass writes outside its memory (torch 2.13, AVX2)."""


class Norm(Protocol):
    """Makes the normalisation of a layer's currents."""

    def __call__(self, channels: int, *, branches: int = 1) -> nn.Module:
        """`branches`: how many paths are summed right behind it, which threshold-dependent norms take into account."""


class Linear(nn.Linear):
    """Fully connected: (T, B, N) -> (T, B, M)."""

    def forward(self, x: Tensor | Streams | Traced) -> Any:
        if isinstance(x, Tensor):
            return each_step(super().forward, x)
        return x.affine(F.linear, self.weight, self.bias, torch.Size((x.shape[0], self.out_features)))


class Conv2d(nn.Conv2d):
    """Convolution, not grouped: (T, B, C, H, W) -> (T, B, D, H', W')."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *,
        stride: int = 1, padding: int = 0, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        # Channels last is twice as fast on CPUs and on GPUs with half precision; activations follow the weight.
        self.weight.data = self.weight.data.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor | Streams | Traced) -> Any:
        if isinstance(x, Tensor):
            return each_step(lambda rows: self._convolve(rows, self.weight, self.bias), x)
        return x.affine(self._convolve, self.weight, self.bias, self._shape_after(x.shape))

    def _convolve(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.kernel_size == (1, 1) and self.in_channels < FEW_CHANNELS and self.padding == (0, 0):
            return F.conv2d(rows[..., :: self.stride[0], :: self.stride[1]], weight, bias)
        return F.conv2d(rows, weight, bias, self.stride, self.padding)

    def _shape_after(self, shape: torch.Size) -> torch.Size:
        assert not isinstance(self.padding, str)  # it was given as a number
        (kernel, _), (stride, _), (padding, _) = self.kernel_size, self.stride, self.padding
        height, width = ((pixels + 2 * padding - kernel) // stride + 1 for pixels in shape[2:])
        return torch.Size((shape[0], self.out_channels, height, width))


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

    `exact` is for `Streams` out of a linear layer: its weights get the covariance over time too (see `rates.py`).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1, exact: bool = False) -> None:
        super().__init__()
        self.eps, self.momentum, self.exact = eps, momentum, exact
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor | Streams) -> Any:
        return self._streams(x) if isinstance(x, Streams) else each_step(self._rows, x)

    def _rows(self, rows: Tensor) -> Tensor:
        return F.batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias,
            training=self.training, momentum=self.momentum, eps=self.eps,
        )  # fmt: skip

    def _streams(self, x: Streams) -> Streams:
        # In training these are filled in while the neuron above draws the currents, before it asks for the rates.
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        aligned = (-1,) + (1,) * (len(x.shape) - 2)

        num_steps = 1 if x.static else x.time_steps

        def steps(channels: slice) -> Draw:
            draw = x.steps(channels)
            kept: FirstSteps = {}
            if self.training:
                kept, mean[channels], variance[channels] = self._measure(x, channels, draw)
            scale = self.weight.detach()[channels] * (variance[channels] + self.eps).rsqrt()
            shift = (self.bias.detach()[channels] - mean[channels] * scale).view(aligned)
            scale = scale.view(aligned)

            def normalised(samples: slice, first: int) -> Iterator[Tensor]:
                ready = kept.pop((samples.start, samples.stop), [])[first:]
                first += len(ready)
                made_again = draw(samples, first) if first < num_steps else ()
                for current in chain(ready, made_again):
                    current = at_least_float32(current)
                    yield torch.addcmul(shift, current, scale, out=current)

            return normalised

        def rates() -> Rates:
            inverse_std = (variance + self.eps).rsqrt()
            y_w, y_u = x.rates().map(at_least_float32)
            extra = self._covariance(x) if self.exact and self.training else (None, None)
            values = NormalisedRates.apply(
                y_w, y_u, self.weight, self.bias, mean, inverse_std, self.training, *extra
            )  # fmt: skip
            return Rates(*values)

        return x.then(x.shape, steps, rates)

    def _measure(self, x: Streams, channels: slice, draw: Draw) -> tuple[FirstSteps, Tensor, Tensor]:
        """Look at all time steps of some channels: the steps that fit into memory, mean and (biased) variance."""
        kept: FirstSteps = {}
        found: list[tuple[Tensor, Tensor]] = []
        counts: list[int] = []
        for samples in x.samples(channels):
            kept[samples.start, samples.stop] = ready = []
            for t, current in enumerate(draw(samples, 0)):
                statistics = torch.batch_norm_update_stats(at_least_float32(current), None, None, 0.0)
                found.append(statistics)
                counts.append(current.numel() // current.shape[1])
                if t < x.fitting_steps(channels):
                    ready.append(current if x.fresh else current.clone())
        means, variances = (torch.stack(kind) for kind in zip(*found, strict=True))  # pieces, channels
        total, shares = sum(counts), means.new_tensor(counts)[:, None] / sum(counts)
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        self.running_mean[channels].lerp_(mean, self.momentum)
        self.running_var[channels].lerp_(variance * (total / max(total - 1, 1)), self.momentum)
        return kept, mean, variance

    @torch.no_grad()
    def _covariance(self, x: Streams) -> tuple[Tensor, Tensor]:
        """The weight of the layer below, and the covariance over time of its inputs and outputs, summed over B."""
        assert x.below is not None, "exact batch norm stands right behind a linear layer"
        source, weight = x.below
        weighted, plain = source.rates()
        rate = weighted if plain is None else plain
        products = sum((step @ weight.T).T @ step for step in source.every_step(ALL)(ALL, 0))
        return weight, products / x.time_steps - (rate @ weight.T).T @ rate


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
