"""The two halves of a feedback network of spiking neurons: spikes without a gradient, firing rates with one.

    simulate    U1_t = leak V1_{t-1} + F_fb(sL_{t-1}) + F_x(x_t),    Ui_t = leak Vi_{t-1} + F_{i-1}(s{i-1}_t)
                s_t = [U_t >= theta],   V_t = U_t - theta s_t;   only the feedback is a step late
    represent   f(a) = aL,   a1 = clamp((F_fb(a) + F_x(x)) / theta, 0, 1),   ai = clamp(F_{i-1}(a{i-1}) / theta, 0, 1)

The last layer's rates approach a fixed point of f: up to 1 / T for IF, up to a floor that grows with 1 - leak for LIF.
Source: Xiao et al., NeurIPS 2021 (arXiv:2109.14247).
"""

from collections.abc import Callable, Iterator
from typing import Literal, assert_never

import torch
from torch import Tensor

from harness.models.currents import Currents
from harness.models.neurons import Dynamics, charge, fire

NormStatistics = Literal["running", "batch"]
"""Which statistics batch norm between layers has in the simulation, in training."""
SETTLING_ROUNDS = 5
"""How often f is applied to find the statistics of a batch."""


@torch.no_grad()
def simulate(
    currents: Currents, v_threshold: float, dynamics: Dynamics, statistics: NormStatistics = "running"
) -> Iterator[list[Tensor]]:
    """The spikes (0 or 1) of every layer, step by step; the next step overwrites them."""
    links = _frozen(currents, v_threshold, statistics)
    potentials, spikes = list[Tensor](), list[Tensor]()
    for t, current in enumerate(currents.steps()):
        for layer in range(1 + len(links)):
            if layer > 0:
                current = links[layer - 1](spikes[layer - 1])
            if t == 0:
                potentials.append(torch.zeros_like(current))
                spikes.append(torch.empty_like(current))
            charge(potentials[layer], current, dynamics)
            if layer == 0 and t > 0:
                potentials[0].add_(currents.feedback(spikes[-1]))
            fire(potentials[layer], spikes[layer], v_threshold, dynamics)
        yield spikes


def represent(currents: Currents, rates: Tensor, v_threshold: float) -> Tensor:
    """f(a), with autograd."""
    a = clamped(currents.feedback(rates) + currents.mean, v_threshold)
    for link in currents.links:
        a = clamped(link(a), v_threshold)
    return a


def clamped(current: Tensor, v_threshold: float) -> Tensor:
    """The rates that currents drive a layer to."""
    return (current / v_threshold).clamp(0, 1)


def _frozen(
    currents: Currents, v_threshold: float, statistics: NormStatistics
) -> list[Callable[[Tensor], Tensor]]:  # fmt: skip
    """The links between the layers, with the statistics that the simulation keeps to."""
    match statistics:
        case "running":
            return [link.frozen(link.stage.running) for link in currents.links]
        case "batch":
            return _settled(currents, v_threshold)
        case _:
            assert_never(statistics)


def _settled(currents: Currents, v_threshold: float) -> list[Callable[[Tensor], Tensor]]:
    """The links with the statistics that currents have about where f(f(f(...0))) ends; in evaluation, running ones."""
    if not currents.links or not currents.links[0].stage.norm.training:
        return [link.frozen(link.stage.running) for link in currents.links]
    rates = frozen = None
    for _ in range(SETTLING_ROUNDS):
        drive = currents.mean if rates is None else currents.mean + currents.feedback(rates)
        rates, frozen = clamped(drive, v_threshold), []
        for link in currents.links:
            frozen.append(link.frozen(link.stage.statistics(link.stage.before_norm(rates))))
            rates = clamped(frozen[-1](rates), v_threshold)
    assert frozen is not None
    return frozen


def released_events(x: Tensor, mean: Tensor, leak: float) -> tuple[Tensor, list[Tensor], Tensor]:
    """What IDE-FSNN's released code makes of event input x (T, B, ...) in training, `mean` being its weighted mean.

    Its sum over time is accumulated in the memory of the last frame, so that the simulation sees the mean there. The
    second time it starts from that frame, takes one step too many, which adds it to itself, and divides by the weights
    of T + 1 steps. Returns the mean that f sees, the frames, and the input whose statistics normalise the frames.
    """
    weights = [leak**t for t in range(len(x) + 1)]
    others = sum(weights[:-1]) * mean - x[-1]
    return (mean + others) * ((1 + weights[-1]) / sum(weights)), [*x[:-1], mean], mean
