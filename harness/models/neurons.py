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
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Reset = Literal["soft", "hard"]


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


def at_least_float32(current: Tensor) -> Tensor:
    """Potentials add up over time, so they are never kept in half precision."""
    return current.to(torch.promote_types(current.dtype, torch.float32))
