"""A layer of neurons trained by a surrogate derivative of its spikes: simulated once, then run backwards in time.

The simulation keeps the potentials before reset, (T, B, ...), and nothing else. Where there is a kernel that takes a
layer through all time steps in one pass (`harness/kernels`), it is used; its spikes are those of the loop here.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harness import kernels
from harness.kernels import Kernel, Recursion
from harness.models import surrogate
from harness.models.neurons import Dynamics, at_least_float32, charge, fire
from harness.models.pieces import Kept
from harness.models.surrogate import Surrogate

CACHED = 2**18
"""Neurons that a CPU simulates at a time, so that what they need stays in its cache from one step to the next."""


class SurrogateNeuron(nn.Module):
    """A layer of IF or LIF neurons that is trained by back-propagation through time with a surrogate derivative.

    Emits 0 or 1. `detach_reset` cuts the gradient through the reset, so that only leak and charge carry it in time.
    With `train_leak` the layer learns one number w (PLIF, Fang et al., ICCV 2021, arXiv:2007.05785):
    1 / tau = sigmoid(w) is its gain and 1 - 1 / tau its leak; those of `dynamics` are where they start.
    """

    emits_spikes = True

    def __init__(
        self, dynamics: Dynamics, *, v_threshold: float, shape: Surrogate, width: float, detach_reset: bool,
        train_leak: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dynamics, self.v_threshold, self.detach_reset = dynamics, v_threshold, detach_reset
        self.shape, self.width = shape, width
        self.w = nn.Parameter(torch.tensor(dynamics.gain).logit()) if train_leak else None
        self.kept: Kept | None = None
        self.compile_loop = False
        """Let torch.compile fuse the loop over time on a CPU; set by the training loop if the recipe asks for it."""

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
        ctx.kernel = kernels.kernel(current, compile=neuron.compile_loop) if gain is None else None
        v = torch.zeros_like(current[0]) if v_first is None else v_first.clone()
        if ctx.kernel:
            u, spikes, v = _fused_forward(ctx.kernel, current, v, time_steps, neuron)
        else:
            u, spikes = _loop_forward(current, v, gain, time_steps, neuron)
        ctx.save_for_backward(u, v_first, gain)
        ctx.neuron, ctx.static = neuron, len(current) < time_steps
        ctx.set_materialize_grads(False)
        return spikes, v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        u, v_first, gain = ctx.saved_tensors
        g_spikes, g_last = gradients
        g_gain = None if gain is None else torch.zeros_like(gain)
        g_first = torch.zeros_like(u[0]) if g_last is None else g_last.clone()
        if ctx.kernel:
            passed, g_first = _fused_backward(ctx.kernel, g_spikes, u, g_first, ctx.neuron, summed=ctx.static)
        else:
            passed = _loop_backward(g_spikes, u, g_first, v_first, gain, g_gain, ctx.neuron, summed=ctx.static)
        if g_gain is not None:
            g_gain /= gain  # u_t - v_{t-1} = gain * (I_t - v_{t-1})
        return passed, None if v_first is None else g_first, g_gain, None, None


def _loop_forward(
    current: Tensor, v_last: Tensor, gain: Tensor | None, time_steps: int, neuron: SurrogateNeuron
) -> tuple[Tensor, Tensor]:
    """Potentials before reset and spikes (T, B, ...), step by step; moves the potentials `v_last` in place."""
    u, spikes = _like(current[0], time_steps), _like(current[0], time_steps)  # T B ...
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
    return u, spikes


def _loop_backward(
    g_spikes: Tensor | None, u: Tensor, g_first: Tensor, v_first: Tensor | None, gain: Tensor | None,
    g_gain: Tensor | None, neuron: SurrogateNeuron, *, summed: bool,
) -> Tensor:  # fmt: skip
    """dL/dI (T, B, ...), or its sum (1, B, ...); takes dL/dv `g_first` from the last step to the first in place."""
    dynamics = neuron.dynamics
    leaks, gains = (dynamics.leak, dynamics.gain) if gain is None else (1 - gain, gain)
    passed = _like(u[0], 1).zero_() if summed else torch.empty_like(u)
    for rows in blocks(u[0]):
        g = g_first[rows]  # dL/dv after the reset of step t, then before its charge
        for t in reversed(range(len(u))):
            _through_spike(g, u[t, rows], None if g_spikes is None else g_spikes[t, rows], neuron)
            if g_gain is not None:
                g_gain += _dot(g, u[t, rows] - _before(t, u, v_first, rows, neuron))
            if summed:
                passed[0, rows].add_(g * gains)
            else:
                torch.mul(g, gains, out=passed[t, rows])
            g.mul_(leaks)
    return passed


def _fused_forward(
    fused: Kernel, current: Tensor, v: Tensor, time_steps: int, neuron: SurrogateNeuron
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in one pass: potentials before reset, spikes, potentials at the end."""
    like = current[0]
    u, spikes, last = fused.forward(_flat(current, like), _flat(v[None], like)[0], time_steps, _recursion(neuron))
    return _unflat(u, like), _unflat(spikes, like), _unflat(last[None], like)[0]


def _fused_backward(
    fused: Kernel, g_spikes: Tensor | None, u: Tensor, g_last: Tensor, neuron: SurrogateNeuron, *, summed: bool
) -> tuple[Tensor, Tensor]:
    like = u[0]
    gradient = torch.zeros_like(u) if g_spikes is None else g_spikes
    passed, first = fused.backward(
        _flat(gradient, like), _flat(u, like), _flat(g_last[None], like)[0], _recursion(neuron), summed=summed
    )
    return _unflat(passed, like), _unflat(first[None], like)[0]


def _recursion(neuron: SurrogateNeuron) -> Recursion:
    d, theta = neuron.dynamics, neuron.v_threshold
    return Recursion(
        leak=d.leak, gain=d.gain, level=d.alpha * theta, theta=theta, soft=d.reset == "soft",
        detach=neuron.detach_reset, shape=neuron.shape, width=neuron.width,
    )  # fmt: skip


def _flat(x: Tensor, like: Tensor) -> Tensor:
    """x (T, B, ...) as (T, N), neurons in the order in which one step `like` lies in memory."""
    dense = _like(like, len(x))
    if x.stride() != dense.stride():
        x = dense.copy_(x)
    return x.as_strided((len(x), like.numel()), (like.numel(), 1), x.storage_offset())


def _unflat(x: Tensor, like: Tensor) -> Tensor:
    dense = torch.empty_like(like, device="meta").stride()
    return x.as_strided((len(x), *like.shape), (like.numel(), *dense))


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
