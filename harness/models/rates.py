"""Neurons and batch norm that are trained on firing rates: the mathematics of DSR, in both ways to compute it.

Spikes follow `neurons.simulate`; a neuron emits theta (IF) or theta / dt (LIF). Its gradient is that of the clamp that
its firing rate follows, with R the mean over time, weighted by beta^(T - t) for LIF:

    IF   R(o) ~ clamp(R(I), 0, theta)             dR(o)/dR(I) = [0 <= R(I) <= theta]
    LIF  R(o) ~ clamp(R(I) / tau, 0, theta / dt)  dR(o)/dR(I) = [0 < R(I) < tau theta / dt] / tau

theta learns from the neurons that the clamp's upper edge holds. Source: Meng et al., CVPR 2022 (arXiv:2205.00459).

Given a tensor of currents (T, B, ...), a neuron keeps autograd's graph over all T steps ("unrolled", as the authors
do). Given `Streams`, it simulates without a graph and sends the gradient through the rates. Then the sum over time of
what the unrolled code sends below a batch norm collapses. With G the gradient at batch norm's output, x_w and x_u
its normalised input averaged with weights and plainly, k = mean(G x_u), sigma the deviation over T, B and pixels:

    d y_w = (gamma / sigma) (G - mean(G) - x_w k)     goes on to the layers below
    d y_u = (gamma / sigma) (G - mean(G) - x_u k)     goes into the weights of the layer
    d gamma = sum(G x_u)      d beta = sum(G)

This is exact but for one term: weights miss the covariance over time of their inputs s_t and normalised outputs,

    d W_exact = d W - (gamma / sigma) k C,   C = (mean_t(y_t s_t) - y_u r_u) / sigma,   r_u the plain mean of s_t

which costs one more product a step. It is added where that is nothing: at DSR's readout, which has K outputs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.models.neurons import Dynamics, at_least_float32, simulate, weighted_mean
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

    def __init__(self, code: RateCode, *, v_threshold: float, bound: float, train_threshold: bool) -> None:
        super().__init__()
        self.code, self.bound = code, bound
        theta = torch.tensor(v_threshold)
        if train_threshold:
            self.v_threshold = nn.Parameter(theta)
        else:
            self.register_buffer("v_threshold", theta)

    def forward(self, x: Tensor | Streams) -> Tensor | Streams:
        theta = self._bounded()
        if isinstance(x, Streams):
            return self._two_streams(x, theta)
        return _Unrolled.apply(at_least_float32(x), theta, self.code)

    def _bounded(self) -> Tensor:
        if not self.training:
            return self.v_threshold.clamp(min=self.bound)
        # As in the authors' code, training moves the parameter itself, so that it can leave the bound again.
        self.v_threshold.data.clamp_(min=self.bound)
        return self.v_threshold

    def _two_streams(self, x: Streams, theta: Tensor) -> Streams:
        fixed, with_rates = theta.detach(), torch.is_grad_enabled()
        amplitude = fixed * self.code.amplitude
        train = SpikeTrain(x.shape, x.time_steps, theta.device)
        means = _simulate(x, fixed, self.code, train, self._weightings(x.time_steps) if with_rates else [])

        def steps(channels: slice) -> Draw:
            return lambda samples, first: train.steps(samples, channels, first, amplitude)

        if not with_rates:
            return x.then(x.shape, steps, _no_rates, static=False, fresh=False)
        weighted, *plain = (mean.mul_(amplitude) for mean in means)
        mean_w, mean_u = x.rates().map(at_least_float32)
        value = _Clamp.apply(mean_w, mean_u, theta, weighted, self.code)
        rates = Rates(value, plain[0] if plain else None)
        return x.then(x.shape, steps, lambda: rates, static=False, fresh=False)

    def _weightings(self, time_steps: int) -> list[list[float]]:
        """The weights of the time steps in each kind of rate."""
        weighted = self.code.dynamics.rate_weights(time_steps)
        return [weighted, [1 / time_steps] * time_steps] if self.code.weighted else [weighted]


@torch.no_grad()
def _simulate(
    x: Streams, theta: Tensor, code: RateCode, train: SpikeTrain, weightings: list[list[float]]
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


class _Unrolled(torch.autograd.Function):
    """Currents (T, B, ...) -> emitted values, with the clamp's gradient at every step; keeps two masks (B, ...)."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, theta: Tensor, code: RateCode) -> Tensor:
        emitted = torch.empty_like(current)  # T B ...
        for t, spikes in enumerate(simulate(current, theta, code.dynamics)):
            emitted[t] = spikes
        mean_current = weighted_mean(current, code.dynamics.rate_weights(len(current)))
        ctx.save_for_backward(*code.edges(mean_current, theta))
        ctx.code = code
        return emitted.mul_(theta * code.amplitude)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        time_steps = len(gradient)
        # Time is weighted once more on the way down, whatever the weights on the way up were.
        total = time_steps * weighted_mean(gradient, ctx.code.dynamics.rate_weights(time_steps))
        current, theta = ctx.code.backward(total, *ctx.saved_tensors)
        # Written out, not expanded: the batch norm below is slow on a gradient whose layout is not its input's.
        return torch.empty_like(gradient).copy_(current / time_steps), theta, None


class NormalisedRates(torch.autograd.Function):
    """Batch norm of both averages with the spike stream's statistics; backward as the module's docstring says.

    `weight` and `covariance` (sigma C, of the weight's shape) are those of the layer below, or None to leave C out.
    """

    @staticmethod
    def forward(
        ctx: Any, weighted: Tensor, plain: Tensor | None, gamma: Tensor, beta: Tensor, mean: Tensor,
        inverse_std: Tensor, training: bool, weight: Tensor | None, covariance: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        ctx.training = training
        ctx.aligned = aligned = (1, -1) + (1,) * (weighted.dim() - 2)
        x_w, x_u = (
            None if y is None else (y - mean.view(aligned)).mul_(inverse_std.view(aligned)) for y in (weighted, plain)
        )
        ctx.save_for_backward(x_w, x_u, gamma, inverse_std, covariance)
        z_w, z_u = (
            None if x is None else torch.addcmul(beta.view(aligned), x, gamma.view(aligned)) for x in (x_w, x_u)
        )
        assert z_w is not None
        return z_w, z_u

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x_w, x_u, gamma, inverse_std, covariance = ctx.saved_tensors
        g_w, g_u = gradients if x_u is not None else (gradients[0], gradients[0])
        at_u = x_w if x_u is None else x_u
        over = [0, *range(2, at_u.dim())]
        assert g_w is not None
        assert g_u is not None
        d_beta, d_gamma = g_u.sum(over), (g_u * at_u).sum(over)
        scale, k = gamma * inverse_std, d_gamma / (at_u.numel() // at_u.shape[1])

        def below(gradient: Tensor, x: Tensor) -> Tensor:
            if ctx.training:
                gradient = (gradient - gradient.mean(over, keepdim=True)).addcmul_(x, k.view(ctx.aligned), value=-1)
            return gradient * scale.view(ctx.aligned)

        d_weight = None if covariance is None else -(scale * k * inverse_std)[:, None] * covariance
        d_plain = None if x_u is None else below(g_u, x_u)
        return below(g_w, x_w), d_plain, d_gamma, d_beta, None, None, None, d_weight, None
