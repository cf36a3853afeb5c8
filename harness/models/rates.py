"""Neurons and batch norm that are trained on firing rates: the mathematics of DSR, in both ways to compute it.

Spikes follow `neurons.simulate`; a neuron emits theta (IF) or theta / dt (LIF). Its gradient is that of the clamp that
its firing rate follows, with R the mean over time, weighted by beta^(T - t) for LIF:

    IF   R(o) ~ clamp(R(I), 0, theta)             dR(o)/dR(I) = [0 <= R(I) <= theta]
    LIF  R(o) ~ clamp(R(I) / tau, 0, theta / dt)  dR(o)/dR(I) = [0 < R(I) < tau theta / dt] / tau

theta learns from the neurons that the clamp's upper edge holds. Source: Meng et al., CVPR 2022 (arXiv:2205.00459).

A neuron takes `Streams`: it simulates the spikes without a graph and sends the gradient through the rates. Nothing is
lost by that. With g_t the gradient of what is emitted at step t, the authors' code sends (slope / T) G down each of the
T steps, G = T sum_t w_t g_t; so hidden layers receive the same g_t = g / T at every step, for which G = g.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.models.neurons import Dynamics, at_least_float32, simulate
from harness.models.spike_train import SpikeTrain
from harness.models.streams import Draw, Rates, Streams


@dataclass(frozen=True)
class RateCode:
    """How a neuron's rate relates to its spikes and to its input."""

    dynamics: Dynamics
    amplitude: float = 1.0
    """What a spike emits, in thresholds: 1 / dt for LIF."""
    slope: float = 1.0
    """Of the clamp: 1 / tau for LIF."""
    threshold_gain: float = 1.0
    """Derivative by theta of the rate that the clamp's upper edge holds."""

    @property
    def weighted(self) -> bool:
        return self.dynamics.leak != 1

    def edges(self, mean_current: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (0 or 1): where the clamp lets the gradient pass to the current, and where theta holds the rate."""
        top = theta * (self.amplitude / self.slope)
        above = mean_current > top
        if self.weighted:
            passing = (mean_current > 0).logical_and_(mean_current < top)
        else:
            passing = (mean_current >= 0).logical_and_(~above)
        # Bytes, since a product with booleans takes twice as long.
        return passing.view(torch.uint8), above.view(torch.uint8)

    def backward(self, gradient: Tensor, passing: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of the mean current and of theta, given that of the rate."""
        return (gradient * passing).mul_(self.slope), (gradient * above).sum() * self.threshold_gain


class RateNeuron(nn.Module):
    """A layer of spiking neurons with one threshold, trained or not, that is never below `bound`."""

    emits_spikes = True

    def __init__(self, code: RateCode, *, v_threshold: float, bound: float, train_threshold: bool) -> None:
        super().__init__()
        self.code, self.bound = code, bound
        theta = torch.tensor(v_threshold)
        if train_threshold:
            self.v_threshold = nn.Parameter(theta)
        else:
            self.register_buffer("v_threshold", theta)

    def forward(self, x: Streams) -> Streams:
        theta = self._bounded()
        fixed, with_rates = theta.detach(), torch.is_grad_enabled()
        amplitude = fixed * self.code.amplitude
        train = SpikeTrain(x.shape, x.time_steps, theta.device)
        means = _simulate(x, fixed, self.code, train, x.weightings if with_rates else ())

        def steps(channels: slice) -> Draw:
            return lambda samples, first: train.steps(samples, channels, first, amplitude)

        if not with_rates:
            return x.then(x.shape, steps, _no_rates, static=False, fresh=False)
        weighted, *plain = (mean.mul_(amplitude) for mean in means)
        mean_w, mean_u = x.rates().map(at_least_float32)
        value = _Clamp.apply(mean_w, mean_u, theta, weighted, self.code)
        rates = Rates(value, plain[0] if plain else None)
        return x.then(x.shape, steps, lambda: rates, static=False, fresh=False)

    def _bounded(self) -> Tensor:
        if not self.training:
            return self.v_threshold.clamp(min=self.bound)
        # As in the authors' code, training moves the parameter itself, so that it can leave the bound again.
        self.v_threshold.data.clamp_(min=self.bound)
        return self.v_threshold


@torch.no_grad()
def _simulate(
    x: Streams, theta: Tensor, code: RateCode, train: SpikeTrain, weightings: Sequence[Sequence[float]]
) -> list[Tensor]:
    """Run a layer of neurons on its currents; the means of its spikes over time by each weighting."""
    means = [torch.empty_like(train.words[0], dtype=theta.dtype) for _ in weightings]
    for channels in x.chunks():
        draw = x.every_step(channels)
        for samples in x.samples(channels):
            currents = (at_least_float32(step) for step in draw(samples, 0))
            sums = [torch.zeros(()) for _ in weightings]
            for t, spikes in enumerate(train.record(samples, channels, simulate(currents, theta, code.dynamics))):
                for index, weights in enumerate(weightings):
                    sums[index] = spikes * weights[0] if t == 0 else sums[index].add_(spikes, alpha=weights[t])
            for mean, total in zip(means, sums, strict=True):
                mean[samples, channels] = total
    return means


def _no_rates() -> Rates:
    raise AssertionError("rates are made in training only")


class _Clamp(torch.autograd.Function):
    """Mean currents -> the rate that was measured, with the gradient of the clamp, the same for both averages."""

    @staticmethod
    def forward(
        ctx: Any, weighted: Tensor, plain: Tensor | None, theta: Tensor, rate: Tensor, code: RateCode
    ) -> Tensor:
        ctx.save_for_backward(*code.edges(weighted, theta))
        ctx.code, ctx.two = code, plain is not None
        return rate

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        current, theta = ctx.code.backward(gradients[0], *ctx.saved_tensors)
        return current, current if ctx.two else None, theta, None, None
