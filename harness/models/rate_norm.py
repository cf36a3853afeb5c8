"""Batch norm on two streams: statistics of the spikes, gradients of the rates.

Mean and variance run over time, batch and pixels of the true currents y_t. What the unrolled network's backward sends
below, summed over time, collapses: with G the gradient at batch norm's output, x_w and x_u its normalised input
averaged over time with the neuron's weights and plainly, sigma the deviation, k = mean(G x_u),

    d y_w = (gamma / sigma) (G - mean(G) - x_w k)     goes on to the layers below
    d y_u = (gamma / sigma) (G - mean(G) - x_u k)     goes into the weights of the layer
    d gamma = sum(G x_u)      d beta = sum(G)

This is all but for one term. The variance has a part that rates do not show, the mean over batch and pixels of each
current's variance over time, and that part depends on the weights W_i of the linear layers whose sum y_t is:

    d spread / d W_i = 2 K_i,      K_i = mean over batch, pixels and time of (y_t - y_u) (x) s_i,t

with s_i,t what goes into layer i. Gathering K_i takes one more product a time step, while the currents are at hand, and
no memory but that of a weight; the norm's `covariance` says whether it is done. (Where norms stand above norms, W_i is
the weight times the gains in between.)

A norm that is `synced` takes means over all workers' samples, here those of G and of G x_u too (`synced.py`). K_i needs
no message: each worker adds its own samples' share, and what is summed over workers is the deviation's gradient.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from harness.models import synced
from harness.models.neurons import at_least_float32
from harness.models.streams import ALL, Draw, Rates, Streams, Term

Covariance = Literal["left out", "if known", "required"]
"""Of the products K_i. They are known where the linear layers are summed and normed, but not pooled or stacked."""

Ready = dict[tuple[int, int], list[Tensor]]
"""The first time steps of some samples (their slice's start and stop)."""


class Norm(Protocol):
    """What this module needs to know of a batch norm."""

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    eps: float
    momentum: float
    training: bool
    covariance: Covariance
    synced: bool


class Normalisation:
    """A batch norm on its way through one batch: what it saw of the currents, and what it makes of them."""

    def __init__(self, norm: Norm, x: Streams) -> None:
        if norm.covariance == "required" and x.terms is None:
            raise ValueError(
                "the gradient of all time steps is known only where a batch norm stands on sums of linear layers, "
                "without pooling or a second linear layer between it and the neurons below"
            )
        self.norm, self.x = norm, x
        self.mean, self.variance = norm.running_mean.clone(), norm.running_var.clone()
        """Of shape (C,). In training both are filled in when the currents are drawn, before anybody asks for rates."""
        self.gathers = norm.training and torch.is_grad_enabled()
        self.averages: list[Tensor] = []
        """Means of the currents over time, of shape (B, C, ...), for each of `x.weightings`."""
        self.terms: tuple[Term, ...] = ()
        if norm.covariance != "left out" and self.gathers and not x.static:
            self.terms = x.terms or ()
        self.products: list[Tensor] = []
        """Sum over time and samples of the currents times what went into each term, of its weight's shape."""
        self.inverse_std: Tensor | None = None
        self.count = float(x.shape.numel() // x.shape[1])
        """Rates that are normalised together, in each channel; of all workers if the norm is synced."""
        self.aligned = (-1,) + (1,) * (len(x.shape) - 2)
        if self.gathers:
            layout = torch.channels_last if len(x.shape) == 4 else torch.contiguous_format
            for _ in x.weightings:
                blank = torch.empty(x.shape, dtype=norm.weight.dtype, device=x.device, memory_format=layout)
                self.averages.append(blank)
            self.products = [torch.zeros_like(term.weight) for term in self.terms]

    def streams(self) -> Streams:
        """The streams behind the norm."""
        terms = None
        if self.x.terms is not None:
            terms = tuple(replace(term, gains=(*term.gains, self._gain)) for term in self.x.terms)
        return self.x.then(self.x.shape, self._steps, self._rates, terms=terms)

    def _steps(self, channels: slice) -> Draw:
        draw = self.x.steps(channels)
        kept = self._measure(channels, draw) if self.norm.training else {}
        scale = self.norm.weight.detach()[channels] * (self.variance[channels] + self.norm.eps).rsqrt()
        shift = (self.norm.bias.detach()[channels] - self.mean[channels] * scale).view(self.aligned)
        scale = scale.view(self.aligned)
        num_steps = 1 if self.x.static else self.x.time_steps

        def normalised(samples: slice, first: int) -> Iterator[Tensor]:
            ready = kept.pop((samples.start, samples.stop), [])[first:]
            first += len(ready)
            made_again = draw(samples, first) if first < num_steps else ()
            for current in chain(ready, made_again):
                current = at_least_float32(current)
                yield torch.addcmul(shift, current, scale, out=current)

        return normalised

    def _measure(self, channels: slice, draw: Draw) -> Ready:
        """Look at all time steps of some channels; returns the steps that fit into memory."""
        kept: Ready = {}
        moments: list[tuple[Tensor, Tensor]] = []
        counts: list[int] = []
        for samples in self.x.samples(channels):
            kept[samples.start, samples.stop] = ready = []
            inputs = [term.source.every_step(ALL)(samples, 0) for term in self.terms]
            for t, step in enumerate(draw(samples, 0)):
                current = at_least_float32(step)
                moments.append(torch.batch_norm_update_stats(current, None, None, 0.0))
                counts.append(current.numel() // current.shape[1])
                self._gather(current, t, samples, channels, [next(rows) for rows in inputs])
                if t < self.x.fitting_steps(channels):
                    ready.append(current if self.x.fresh else current.clone())
        means, variances = (torch.stack(kind) for kind in zip(*moments, strict=True))  # pieces, channels
        total, shares = sum(counts), means.new_tensor(counts)[:, None] / sum(counts)
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        if self.norm.synced:
            own, (mean, variance, total) = total, synced.pooled(mean, variance, total)
            self.count = self.x.shape.numel() // self.x.shape[1] * total / own
        self.mean[channels], self.variance[channels] = mean, variance
        self.norm.running_mean[channels].lerp_(mean, self.norm.momentum)
        self.norm.running_var[channels].lerp_(variance * (total / max(total - 1, 1)), self.norm.momentum)
        return kept

    def _gather(self, current: Tensor, t: int, samples: slice, channels: slice, inputs: list[Tensor]) -> None:
        for average, weights in zip(self.averages, self.x.weightings, strict=True):
            if t == 0:
                average[samples, channels] = current if self.x.static else current * weights[0]
            else:
                average[samples, channels].add_(current, alpha=weights[t])
        for product, term, rows in zip(self.products, self.terms, inputs, strict=True):
            product[channels] += term.op.weight_gradient(rows, term.weight.detach()[channels], current)

    def _rates(self) -> Rates:
        fixed = (self.variance + self.norm.eps).rsqrt()
        if not self.gathers:
            scale = self.norm.weight * fixed
            shift = self.norm.bias - self.mean * scale
            return self.x.rates().map(
                lambda y: at_least_float32(y) * scale.view(self.aligned) + shift.view(self.aligned)
            )
        links, (average_w, average_u) = self.x.links(), (*self.averages, None)[:2]
        z_w, z_u, self.inverse_std = NormalisedRates.apply(
            links.weighted, links.plain, self.norm.weight, self.norm.bias, self._spread(), self.mean, fixed,
            average_w, average_u, self.count, self.norm.synced,
        )  # fmt: skip
        return Rates(z_w, z_u)

    def _gain(self) -> Tensor:
        """What the norm multiplies each channel by."""
        assert self.inverse_std is not None, "rates are made from the bottom up"
        return self.norm.weight * self.inverse_std

    def _spread(self) -> Tensor | None:
        """The part of the variance that rates do not show, for autograd only: its value is not in it."""
        if not self.terms:
            return None
        spread = self.mean.new_zeros(())
        for product, term in zip(self.products, self.terms, strict=True):
            source = term.source.rates()
            rate = source.weighted if source.plain is None else source.plain
            # The part that rates do show is taken away.
            shown = term.op.weight_gradient(rate.detach(), term.weight.detach(), self.averages[-1])
            product = product.div_(self.x.time_steps).sub_(shown).div_(self.count)
            spread = spread + 2 * (term.effective_weight() * product).flatten(1).sum(1)
        return spread


class NormalisedRates(torch.autograd.Function):
    """The averages of the currents, normalised, and 1 / sigma; backward as the module's docstring says."""

    @staticmethod
    def forward(
        ctx: Any, link_w: Tensor, link_u: Tensor | None, gamma: Tensor, beta: Tensor, spread: Tensor | None,
        mean: Tensor, inverse_std: Tensor, average_w: Tensor, average_u: Tensor | None,
        count: float, is_synced: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
        ctx.aligned = aligned = (1, -1) + (1,) * (average_w.dim() - 2)
        # In place: nobody else needs the averages.
        x_w, x_u = (
            None if y is None else y.sub_(mean.view(aligned)).mul_(inverse_std.view(aligned))
            for y in (average_w, average_u)
        )
        ctx.save_for_backward(x_w, x_u, gamma, inverse_std)
        ctx.set_materialize_grads(False)
        ctx.spread, ctx.count, ctx.synced = spread is not None, count, is_synced
        z_w, z_u = (
            None if x is None else torch.addcmul(beta.view(aligned), x, gamma.view(aligned)) for x in (x_w, x_u)
        )
        assert z_w is not None
        return z_w, z_u, inverse_std.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x_w, x_u, gamma, inverse_std = ctx.saved_tensors
        g_w, g_u, g_deviation = gradients
        if x_u is None:
            x_u, g_u = x_w, g_w
        assert g_w is not None
        assert g_u is not None
        over = [0, *range(2, x_u.dim())]
        d_beta, d_gamma = g_u.sum(over), (g_u * x_u).sum(over)
        scale = gamma * inverse_std
        d_deviation = gamma * d_gamma / inverse_std
        if g_deviation is not None:
            d_deviation = d_deviation + g_deviation
        d_mean = d_beta
        if ctx.synced:
            d_mean, d_deviation = synced.summed(torch.stack([d_mean, d_deviation]))
        k = (d_deviation * inverse_std.square() / ctx.count).view(ctx.aligned)

        # Means over time are plain ones on both paths.
        mean = (d_mean / ctx.count).view(ctx.aligned)

        def below(gradient: Tensor, x: Tensor) -> Tensor:
            return (gradient - mean).mul_(scale.view(ctx.aligned)).addcmul_(x, k, value=-1)

        d_plain = None if x_u is x_w else below(g_u, x_u)
        d_spread = -0.5 * inverse_std**3 * d_deviation if ctx.spread else None
        return below(g_w, x_w), d_plain, d_gamma, d_beta, d_spread, *[None] * 6
