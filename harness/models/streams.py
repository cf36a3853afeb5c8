"""Two streams through one network: spikes without gradient, firing rates with it.

`Streams` is what a layer receives in place of a tensor when a network is trained on firing rates:

- **spikes**: the true simulation, T time steps. Made on demand, a time step, some channels and some samples at a time,
  so that no layer's (T, B, C, H, W) activations stand in memory; what neurons emit is kept as bits (`spike_train.py`);
- **rates**: ordinary autograd tensors of shape (B, C, H, W), which cost what an ordinary network costs.

Linear maps send the rate of their input to the rate of their output, so both streams go through the same layers. What
happens at neurons and batch norms is in `rates.py` and `layers.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import repeat
from typing import NamedTuple, Self

import torch
from torch import Tensor

from harness.models.neurons import weighted_mean

Op = Callable[[Tensor], Tensor]
Affine = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(rows, weight, bias) -> rows, linear in the rows, output channels along dim 0 of weight and bias."""
Draw = Callable[[slice, int], Iterator[Tensor]]
"""(samples, first) -> the values of those samples, (b, c, ...), from time step `first` on; once if static."""

ALL = slice(None)
CURRENT_BYTES = 64 * 2**20
"""Memory for the currents of one layer; what does not fit is taken some channels at a time, and then made twice."""
CURRENT_STEPS = 5
"""The same in time steps of the layer; the larger of the two holds. Both are independent of T."""
LANES = 32
"""Channels are taken in multiples of this: narrower convolutions waste the vector units."""
CACHED = 2**19
"""Values that a CPU works on at a time, so that they stay in its cache from one operation to the next."""


class Rates(NamedTuple):
    """The firing rates of a layer, averaged over time in the two ways that gradients need."""

    weighted: Tensor
    """Mean over time with the neuron's weights; its gradient goes on to the layers below."""
    plain: Tensor | None
    """Uniform mean over time; its gradient goes into the weights. None where it is the same (IF neurons)."""

    def map(self, op: Op) -> "Rates":
        """The same linear map without parameters on both."""
        return Rates(op(self.weighted), None if self.plain is None else op(self.plain))


@dataclass(frozen=True)
class Streams:
    """What one layer hands to the next."""

    shape: torch.Size
    """Shape of one time step: (B, C, ...)."""
    time_steps: int
    device: torch.device
    static: bool
    """All time steps are the same."""
    steps: Callable[[slice], Draw]
    """Channels -> a function that draws their values, some samples at a time. Who draws a step may overwrite it."""
    rates: Callable[[], Rates]
    """The rates; made once."""
    fresh: bool = True
    """Who draws a step may also keep it; otherwise the next step overwrites it."""
    below: "tuple[Streams, Tensor] | None" = None
    """Input and weight of the affine layer that these come from, if they come straight from one."""

    def every_step(self, channels: slice) -> Draw:
        """`steps`, where a static stream repeats the same tensor; not to be overwritten."""
        draw = self.steps(channels)
        if not self.static:
            return draw
        return lambda samples, first: repeat(next(draw(samples, 0)), self.time_steps - first)

    def chunks(self) -> list[slice]:
        """All channels, in groups whose currents over all time steps fit into memory, if LANES allow it."""
        channels = self.shape[1]
        share = 1.0 if self.static else self._fitting_steps() / self.time_steps
        width = max(1, int(channels * share / LANES)) * LANES
        return [slice(start, min(start + width, channels)) for start in range(0, channels, width)]

    def fitting_steps(self, channels: slice) -> int:
        """How many time steps of these channels fit into memory."""
        start, stop, _ = channels.indices(self.shape[1])
        return int(self._fitting_steps() * self.shape[1] / (stop - start))

    def _fitting_steps(self) -> float:
        return max(CURRENT_BYTES / (4 * self.shape.numel()), CURRENT_STEPS)

    def samples(self, channels: slice) -> list[slice]:
        """All samples; on a CPU in groups of which these channels fit into the cache."""
        start, stop, _ = channels.indices(self.shape[1])
        values = self.shape.numel() * (stop - start) // self.shape[1]
        groups = 1 if self.device.type == "cuda" else -(-values // CACHED)
        size = max(1, -(-self.shape[0] // groups))
        return [slice(first, first + size) for first in range(0, self.shape[0], size)]

    def map(self, op: Op) -> Self:
        """Apply a linear map without parameters that leaves channels alone, such as pooling."""

        def steps(channels: slice) -> Draw:
            draw = self.steps(channels)
            return lambda samples, first: map(op, draw(samples, first))

        return self.then(op(torch.empty(self.shape, device="meta")).shape, steps, lambda: self.rates().map(op))

    def flatten(self) -> Self:
        """All dimensions but the batch's as one, whose entries are the channels from here on."""
        flat = self.map(lambda rows: rows.flatten(1))

        def steps(channels: slice) -> Draw:
            draw = flat.steps(ALL)
            return lambda samples, first: (step[:, channels] for step in draw(samples, first))

        return self.then(flat.shape, steps, flat.rates, fresh=self.fresh)

    def scale(self, factors: Tensor) -> Self:
        """Multiply by factors of shape (B, C, ...), the same at all time steps."""

        def steps(channels: slice) -> Draw:
            draw, some = self.steps(channels), factors[:, channels]
            return lambda samples, first: (step * some[samples].to(step.dtype) for step in draw(samples, first))

        return self.then(self.shape, steps, lambda: self.rates().map(lambda rate: rate * factors.to(rate.dtype)))

    def affine(self, op: Affine, weight: Tensor, bias: Tensor | None, shape: torch.Size) -> Self:
        """Apply a linear map with weights, an output channel for each row of `weight`; `shape` is the output's."""
        fixed_weight, fixed_bias = weight.detach(), None if bias is None else bias.detach()

        def steps(channels: slice) -> Draw:
            draw, some = self.steps(ALL), (fixed_weight[channels], None if fixed_bias is None else fixed_bias[channels])
            return lambda samples, first: (op(step, *some) for step in draw(samples, first))

        def rates() -> Rates:
            below = self.rates()
            if below.plain is None:
                return Rates(op(below.weighted, weight, bias), None)
            return Rates(op(below.weighted, fixed_weight, fixed_bias), op(below.plain, weight, bias))

        return replace(self.then(shape, steps, rates), below=(self, weight))

    def __add__(self, other: Self) -> Self:
        static = self.static and other.static

        def steps(channels: slice) -> Draw:
            both = (self.steps, other.steps) if static else (self.every_step, other.every_step)
            draw, draw_other = (draws(channels) for draws in both)
            return lambda samples, first: map(torch.add, draw(samples, first), draw_other(samples, first))

        def rates() -> Rates:
            (weighted, plain), (more, more_plain) = self.rates(), other.rates()
            return Rates(weighted + more, None if plain is None or more_plain is None else plain + more_plain)

        return self.then(self.shape, steps, rates, static=static)

    def then(
        self,
        shape: torch.Size,
        steps: Callable[[slice], Draw],
        rates: Callable[[], Rates],
        *,
        static: bool | None = None,
        fresh: bool = True,
    ) -> Self:
        """The streams after a layer; static if these are, unless said otherwise."""
        still = self.static if static is None else static
        return type(self)(shape, self.time_steps, self.device, still, steps, cache(rates), fresh)


def of_input(x: Tensor, weights: Sequence[float] | None) -> Streams:
    """The streams of a network's input of shape (T, B, ...); `weights` of the time steps, None for a plain mean."""
    static = x.stride(0) == 0

    def steps(channels: slice) -> Draw:
        return lambda samples, first: (step[samples, channels].clone() for step in (x[:1] if static else x[first:]))

    def rates() -> Rates:
        plain = x[0] if static else x.mean(0)
        weighted = plain if static or weights is None else weighted_mean(x, weights)
        return Rates(weighted, None if weights is None else plain)

    return Streams(x.shape[1:], len(x), x.device, static, steps, cache(rates))
