"""The recursion of a layer of neurons, fused by torch.compile: each current is read and each spike written once.

Multiplications and additions are not contracted, so spikes are the plain loop's; gradients agree to rounding.

Compiling takes some seconds for each T that a process meets, and a C++ compiler on the machine.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from harness.kernels import Recursion
from harness.models import surrogate


def forward(current: Tensor, v: Tensor, time_steps: int, recursion: Recursion) -> tuple[Tensor, Tensor, Tensor]:
    """As `kernels.Forward` says."""
    return _compiled(_forward)(current, v, time_steps, *_constants(current, recursion), recursion.soft)


def backward(
    gradient: Tensor, potentials: Tensor, last: Tensor, recursion: Recursion, *, summed: bool
) -> tuple[Tensor, Tensor]:
    """As `kernels.Backward` says."""
    r = recursion
    return _compiled(_backward)(
        gradient, potentials, last, *_constants(last, r), r.soft, r.detach, r.shape, r.width, summed
    )


@cache
def _compiled(function: Callable) -> Callable:
    compiled = torch.compile(function, dynamic=True, fullgraph=True)

    def run(*given: Any) -> tuple[Tensor, ...]:
        # A process that serves a whole sweep meets more T, resets and surrogates than torch expects of one function.
        with torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=1000):
            return compiled(*given)

    return run


def _constants(like: Tensor, recursion: Recursion) -> list[Tensor]:
    """As tensors, since a new value of a number would be compiled anew."""
    r = recursion
    return [like.new_tensor(value) for value in (r.leak, r.gain, r.level, r.theta)]


def _forward(
    current: Tensor, v: Tensor, time_steps: int, leak: Tensor, gain: Tensor, level: Tensor, theta: Tensor, soft: bool
) -> tuple[Tensor, Tensor, Tensor]:
    potentials, spikes = [], []
    for t in range(time_steps):
        v = v * leak + current[min(t, len(current) - 1)] * gain
        s = (v >= level).to(v.dtype)
        potentials.append(v)
        spikes.append(s)
        v = v - theta * s if soft else v * (1 - s)
    return torch.stack(potentials), torch.stack(spikes), v


def _backward(
    gradient: Tensor, potentials: Tensor, g: Tensor,
    leak: Tensor, gain: Tensor, level: Tensor, theta: Tensor,
    soft: bool, detach: bool, shape: surrogate.Surrogate, width: float, summed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    passed = []
    for t in reversed(range(len(potentials))):
        u, through = potentials[t], gradient[t]
        h = surrogate.derivative(u - level, shape, width)
        if not detach:
            through = through - g * (theta if soft else u)
        g = (g if soft else g * (u < level)) + through * h
        passed.append(g * gain)
        g = g * leak
    return (sum(passed[1:], passed[0])[None] if summed else torch.stack(passed[::-1])), g
