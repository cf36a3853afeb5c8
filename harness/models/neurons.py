"""Integrate-and-fire neurons: the one place where membrane potentials live.

One recursion serves every method (v is the potential, I the input current, theta the threshold, s the spike):

    v <- leak * v + gain * I_t          charge
    s_t = [v >= alpha * theta]          fire
    v <- v - theta * s_t                soft reset, or v <- v * (1 - s_t), hard reset

    IF                       leak = 1, gain = 1
    DSR's LIF                leak = exp(-dt / tau), gain = 1 - leak
    IDE's and surrogate LIF  gain = 1; IDE writes the leak after the reset, which is the same recursion

Potentials start at 0 unless told otherwise. Reset is by theta even where a neuron fires at alpha * theta.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harness.models import surrogate
from harness.models.pieces import Kept
from harness.models.surrogate import Surrogate

Reset = Literal["soft", "hard"]
CACHED = 2**16
"""Neurons that a CPU simulates at a time, so that what they need stays in its cache from one step to the next."""


@dataclass(frozen=True)
class Dynamics:
    """What distinguishes one neuron from another, apart from its threshold."""

    leak: float = 1.0
    """Share of the potential that is left after a time step; 1 is the IF neuron."""
    gain: float = 1.0
    """What the input current is multiplied by."""
    alpha: float = 1.0
    """The neuron fires at alpha * theta."""
    reset: Reset = "soft"

    def rate_weights(self, time_steps: int) -> list[float]:
        """The weight of each step in the firing rate: leak^(T - t), normalised to sum 1. Uniform for IF."""
        powers = [self.leak ** (time_steps - 1 - t) for t in range(time_steps)]
        return [power / sum(powers) for power in powers]


def charge(v: Tensor, current: Tensor, dynamics: Dynamics) -> None:
    """Let one step's current flow into the potential, in place."""
    if dynamics.leak != 1:
        v.mul_(dynamics.leak)
    v.add_(current, alpha=dynamics.gain)


def fire(v: Tensor, spikes: Tensor, v_threshold: Tensor | float, dynamics: Dynamics) -> None:
    """Write the step's spikes (0 or 1) and reset the potential, both in place."""
    # Spikes are floats because comparisons into booleans, and arithmetic with them, are slower on every device.
    torch.ge(v, v_threshold * dynamics.alpha, out=spikes)
    if dynamics.reset == "hard":
        v.addcmul_(v, spikes, value=-1)
    elif isinstance(v_threshold, Tensor):
        v.addcmul_(spikes, v_threshold, value=-1)
    else:
        v.sub_(spikes, alpha=v_threshold)


@torch.no_grad()
def simulate(
    currents: Iterable[Tensor],
    v_threshold: Tensor | float,
    dynamics: Dynamics,
    *,
    v_start: Tensor | float | None = None,
) -> Iterator[Tensor]:
    """Yield each time step's spikes (0 or 1) of a layer, given its input currents (B, ...), step by step.

    The next step overwrites the spikes of this one.
    """
    v = spikes = torch.empty(0)
    for t, current in enumerate(currents):
        if t == 0:
            v, spikes = torch.zeros_like(current), torch.empty_like(current)
            if v_start is not None:
                v += v_start
        charge(v, current, dynamics)
        fire(v, spikes, v_threshold, dynamics)
        yield spikes


def running_rates(emitted: Iterable[Tensor], leak: float = 1.0) -> Iterator[Tensor]:
    """After each time step t, the rate so far: the mean of steps 1..t, with weights leak^(t - step) if leak < 1."""
    total, weight = None, 0.0
    for step in emitted:
        total = step.clone() if total is None else total.mul_(leak).add_(step)
        weight = leak * weight + 1
        yield total / weight


def weighted_mean(x: Float[Tensor, "T B ..."], weights: Sequence[float]) -> Float[Tensor, "B ..."]:
    """The sum over time of weights[t] * x[t]. Step by step, since a matrix product would copy x into another layout."""
    total = x[0] * weights[0]
    for step, weight in zip(x[1:], weights[1:], strict=True):
        total = total.add_(step, alpha=weight)
    return total


class SurrogateNeuron(nn.Module):
    """A layer of IF or LIF neurons that is trained by back-propagation through time with a surrogate derivative.

    Emits 0 or 1. `detach_reset` cuts the gradient through the reset, so that only leak and charge carry it in time.
    With `train_leak` the layer learns one number w (PLIF, Fang et al., ICCV 2021, arXiv:2007.05785):
    1 / tau = sigmoid(w) is its gain and 1 - 1 / tau its leak; those of `dynamics` are where they start.
    """

    def __init__(
        self, dynamics: Dynamics, *, v_threshold: float, shape: Surrogate, width: float, detach_reset: bool,
        train_leak: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dynamics, self.v_threshold, self.detach_reset = dynamics, v_threshold, detach_reset
        self.shape, self.width = shape, width
        self.w = nn.Parameter(torch.tensor(dynamics.gain).logit()) if train_leak else None
        self.kept: Kept | None = None

    def forward(self, current: Float[Tensor, "T B ..."]) -> Float[Tensor, "T B ..."]:
        current, time_steps = at_least_float32(current), len(current)
        once = current[:1] if current.stride(0) == 0 else current
        v = self.kept.value if self.kept else None
        spikes, v = _Unrolled.apply(once, v, None if self.w is None else self.w.sigmoid(), time_steps, self)
        if self.kept:
            self.kept.value = v
        return spikes


class _Unrolled(torch.autograd.Function):
    """All time steps of a layer; keeps the potentials before reset and nothing else.

    (currents (T, B, ...), or (1, B, ...) if all steps are the same; potentials before the first step or None for 0;
    1 / tau if it is trained) -> spikes and the potentials after the last step.
    """

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, v_first: Tensor | None, gain: Tensor | None, time_steps: int, neuron: SurrogateNeuron
    ) -> tuple[Tensor, Tensor]:
        u, spikes = _like(current[0], time_steps), _like(current[0], time_steps)  # T B ...
        v_last = torch.zeros_like(current[0]) if v_first is None else v_first.clone()
        for rows in blocks(v_last):
            v = v_last[rows]
            for t in range(time_steps):
                step = current[min(t, len(current) - 1), rows]
                if gain is None:
                    charge(v, step, neuron.dynamics)
                else:
                    v.lerp_(step, gain)
                u[t, rows] = v
                fire(v, spikes[t, rows], neuron.v_threshold, neuron.dynamics)
        ctx.save_for_backward(u, v_first, gain)
        ctx.neuron, ctx.static = neuron, len(current) < time_steps
        ctx.set_materialize_grads(False)
        return spikes, v_last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        u, v_first, gain = ctx.saved_tensors
        g_spikes, g_last = gradients
        neuron, dynamics = ctx.neuron, ctx.neuron.dynamics
        leaks, gains = (dynamics.leak, dynamics.gain) if gain is None else (1 - gain, gain)
        passed = _like(u[0], 1).zero_() if ctx.static else torch.empty_like(u)
        g_first = torch.zeros_like(u[0]) if g_last is None else g_last.clone()
        g_gain = None if gain is None else torch.zeros_like(gain)
        for rows in blocks(u[0]):
            g = g_first[rows]  # dL/dv after the reset of step t, then before its charge
            for t in reversed(range(len(u))):
                _through_spike(g, u[t, rows], None if g_spikes is None else g_spikes[t, rows], neuron)
                if g_gain is not None:
                    g_gain += _dot(g, u[t, rows] - _before(t, u, v_first, rows, neuron))
                if ctx.static:
                    passed[0, rows].add_(g * gains)
                else:
                    torch.mul(g, gains, out=passed[t, rows])
                g.mul_(leaks)
        if g_gain is not None:
            g_gain /= gain  # u_t - v_{t-1} = gain * (I_t - v_{t-1})
        return passed, None if v_first is None else g_first, g_gain, None, None


def _through_spike(g: Tensor, u: Tensor, g_spikes: Tensor | None, neuron: SurrogateNeuron) -> None:
    """Turn dL/dv after the reset of a step into dL/du before it, in place."""
    dynamics, theta = neuron.dynamics, neuron.v_threshold
    distance = u - dynamics.alpha * theta
    through = g_spikes
    if not neuron.detach_reset:
        reset = g * u if dynamics.reset == "hard" else g * theta
        through = -reset if g_spikes is None else g_spikes - reset
    if dynamics.reset == "hard":
        g.mul_(torch.lt(distance, 0, out=torch.empty_like(distance)))
    if through is not None:
        g.addcmul_(through, surrogate.derivative(distance, neuron.shape, neuron.width))


def _before(t: int, u: Tensor, v_first: Tensor | None, rows: slice, neuron: SurrogateNeuron) -> Tensor:
    """The potentials that step t found."""
    if t == 0:
        return torch.zeros_like(u[0, rows]) if v_first is None else v_first[rows]
    v = u[t - 1, rows].clone()
    fire(v, torch.empty_like(v), neuron.v_threshold, neuron.dynamics)
    return v


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def blocks(step: Tensor) -> list[slice]:
    """All samples of a step (B, ...); on a CPU in groups that stay in its cache from one time step to the next."""
    groups = 1 if step.device.type == "cuda" else -(-step.numel() // CACHED)
    size = max(1, -(-len(step) // groups))
    return [slice(first, first + size) for first in range(0, len(step), size)]


def _like(step: Tensor, time_steps: int) -> Tensor:
    """Memory for all time steps, each laid out as this one."""
    strides = torch.empty_like(step, device="meta").stride()
    return torch.empty_strided(
        (time_steps, *step.shape), (step.numel(), *strides), dtype=step.dtype, device=step.device
    )


def at_least_float32(current: Tensor) -> Tensor:
    """Potentials add up over time, so they are never kept in half precision."""
    return current.to(torch.promote_types(current.dtype, torch.float32))
