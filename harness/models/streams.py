"""Two streams through one network: spikes without gradient, firing rates with it.

`Streams` is what a layer receives in place of a tensor when a network is trained on firing rates:

- **spikes**: the true simulation, T time steps. Made on demand, a time step, some channels and some samples at a time,
  so that no layer's (T, B, C, H, W) activations stand in memory; what neurons emit is kept as bits (`spike_train.py`);
- **rates**: ordinary autograd tensors of shape (B, C, H, W), which cost what an ordinary network costs.

Linear maps send the rate of their input to the rate of their output, so both streams go through the same layers. Where
the rates are measured on the spikes anyway, behind a batch norm, the layers below are not run on rates at all: `links`
are tensors that stand in autograd's graph where the rates would stand, but have no values. What happens at batch norms
and neurons is in `rate_norm.py` and `rates.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, repeat
from typing import NamedTuple, Self

import torch
from torch import Tensor

from harness.models.linear_maps import LinearMap, Op
from harness.models.links import Link
from harness.models.neurons import weighted_mean

Draw = Callable[[slice, int], Iterator[Tensor]]
"""(samples, first) -> the values of those samples, (b, c, ...), from time step `first` on; once if static."""

ALL = slice(None)
CURRENT_BYTES = 48 * 2**20
"""Memory for the currents of one layer; what does not fit is taken some channels at a time, and then made twice."""
CURRENT_STEPS = 5
"""The same in time steps of the layer; the larger of the two holds. Both are independent of T."""
LANES = 16
"""Channels are taken in multiples of this: narrower convolutions waste the vector units."""
TOGETHER = 2**20
"""Values that a linear map takes at a time, if need be of several time steps; more of them make it efficient."""
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

    def plus(self, other: "Rates") -> "Rates":
        """The sum of both."""
        plain = None if self.plain is None or other.plain is None else self.plain + other.plain
        return Rates(self.weighted + other.weighted, plain)


@dataclass(frozen=True)
class Term:
    """A linear layer that feeds what stands above, maybe through norms, without neurons in between."""

    source: "Streams"
    op: LinearMap
    weight: Tensor
    gains: tuple[Callable[[], Tensor], ...] = ()
    """What the norms in between multiply each channel by; known once they have measured."""

    def effective_weight(self) -> Tensor:
        """The weight with the gains multiplied in."""
        weight = self.weight
        for gain in self.gains:
            weight = weight * gain().view(-1, *[1] * (weight.dim() - 1))
        return weight


@dataclass(frozen=True)
class Streams:
    """What one layer hands to the next."""

    shape: torch.Size
    """Shape of one time step: (B, C, ...)."""
    weightings: tuple[tuple[float, ...], ...]
    """Weights of the time steps in the weighted rates and, where that is another mean, in the plain ones."""
    device: torch.device
    static: bool
    """All time steps are the same."""
    steps: Callable[[slice], Draw]
    """Channels -> a function that draws their values, some samples at a time. Who draws a step may overwrite it."""
    rates: Callable[[], Rates]
    """The rates; made once."""
    links: Callable[[], Rates]
    """The same for autograd, without values; for those who measure the values themselves."""
    terms: tuple[Term, ...] | None = ()
    """The linear layers that these are the sum of; none for spikes; None if it is more complicated than that."""
    fresh: bool = True
    """Who draws a step may also keep it; otherwise the next step overwrites it."""

    @property
    def time_steps(self) -> int:
        return len(self.weightings[0])

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

        shape = op(torch.empty(self.shape, device="meta")).shape
        rates, links = (lambda: self.rates().map(op)), (lambda: self.links().map(op))
        return self.then(shape, steps, rates, links=links, terms=self._spikes_or_unknown())

    def flatten(self) -> Self:
        """All dimensions but the batch's as one, whose entries are the channels from here on."""
        flat = self.map(lambda rows: rows.flatten(1))

        def steps(channels: slice) -> Draw:
            draw = flat.steps(ALL)
            return lambda samples, first: (step[:, channels] for step in draw(samples, first))

        return flat.then(flat.shape, steps, flat.rates, links=flat.links, terms=flat.terms, fresh=self.fresh)

    def scale(self, factors: Tensor) -> Self:
        """Multiply by factors of shape (B, C, ...), the same at all time steps."""

        def steps(channels: slice) -> Draw:
            draw, some = self.steps(channels), factors[:, channels]
            return lambda samples, first: (step * some[samples].to(step.dtype) for step in draw(samples, first))

        def scaled(rate: Tensor) -> Tensor:
            return rate * factors.to(rate.dtype)

        rates, links = (lambda: self.rates().map(scaled)), (lambda: self.links().map(scaled))
        return self.then(self.shape, steps, rates, links=links, terms=self._spikes_or_unknown())

    def affine(self, op: LinearMap, weight: Tensor, bias: Tensor | None) -> Self:
        """Apply a linear map with weights."""
        shape = op.shape_after(self.shape, weight)
        fixed_weight, fixed_bias = weight.detach(), None if bias is None else bias.detach()

        def steps(channels: slice) -> Draw:
            draw, some_bias = self.steps(ALL), None if fixed_bias is None else fixed_bias[channels]
            num_rows = self.shape[0] * (1 if self.static else self.time_steps)
            run = op.prepared(fixed_weight[channels], some_bias, self.shape, num_rows)
            return lambda samples, first: _together(run, draw(samples, first))

        def rates() -> Rates:
            below = self.rates()
            if below.plain is None:
                return Rates(op(below.weighted, weight, bias), None)
            return Rates(op(below.weighted, fixed_weight, fixed_bias), op(below.plain, weight, bias))

        def links() -> Rates:
            below = self.rates()
            return Rates(*Link.apply(below.weighted, below.plain, weight, bias, op, shape))

        terms = (Term(self, op, weight),) if self.terms == () else None
        return self.then(shape, steps, rates, links=links, terms=terms)

    def __add__(self, other: Self) -> Self:
        static = self.static and other.static

        def steps(channels: slice) -> Draw:
            both = (self.steps, other.steps) if static else (self.every_step, other.every_step)
            draw, draw_other = (draws(channels) for draws in both)
            return lambda samples, first: map(torch.add, draw(samples, first), draw_other(samples, first))

        terms = None if self.terms is None or other.terms is None else self.terms + other.terms
        rates, links = (lambda: self.rates().plus(other.rates())), (lambda: self.links().plus(other.links()))
        return self.then(self.shape, steps, rates, links=links, terms=terms, static=static)

    def _spikes_or_unknown(self) -> tuple[Term, ...] | None:
        return () if self.terms == () else None

    def then(
        self,
        shape: torch.Size,
        steps: Callable[[slice], Draw],
        rates: Callable[[], Rates],
        *,
        links: Callable[[], Rates] | None = None,
        terms: tuple[Term, ...] | None = (),
        static: bool | None = None,
        fresh: bool = True,
    ) -> Self:
        """The streams after a layer; static if these are, unless said otherwise; its rates are its links by default."""
        still, rates = self.static if static is None else static, cache(rates)
        linked = rates if links is None else cache(links)
        return type(self)(shape, self.weightings, self.device, still, steps, rates, linked, terms, fresh)


def of_input(x: Tensor, weights: Sequence[float]) -> Streams:
    """The streams of a network's input of shape (T, B, ...); `weights` of the time steps in the weighted rates."""
    static, plain = x.stride(0) == 0, (1 / len(x),) * len(x)
    weightings = (plain,) if tuple(weights) == plain else (tuple(weights), plain)

    def steps(channels: slice) -> Draw:
        return lambda samples, first: (step[samples, channels].clone() for step in (x[:1] if static else x[first:]))

    @cache
    def rates() -> Rates:
        weighted, *plain = (x[0] if static else weighted_mean(x, some) for some in weightings)
        return Rates(weighted, plain[0] if plain else None)

    return Streams(x.shape[1:], weightings, x.device, static, steps, rates, rates)


def _together(op: Op, steps: Iterator[Tensor]) -> Iterator[Tensor]:
    """op(step) for each of the steps, several small ones at a time."""
    for step in steps:
        count = TOGETHER // step.numel()
        if count < 2:
            yield op(step)
        else:
            some = [step.clone(), *(another.clone() for another in islice(steps, count - 1))]
            yield from op(torch.cat(some)).chunk(len(some))
