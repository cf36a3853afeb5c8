"""How far firing rates after t steps are from what the theory of their method takes them for: it vanishes as t grows.

Both methods differentiate an equation of firing rates that holds in the limit. R is the mean over steps 1..t, weighted
by leak^(t - step) for LIF; I what flows into a layer, s its spikes:

    DSR   representation_error    of R(o) against clamp(slope R(I), 0, amplitude theta)    (`models/rates.py`)
    IDE   equilibrium_residual    of a against f(a), layer by layer                        (`models/equilibrium.py`)

A figure is relative and over the whole batch: `gap`. The input of a layer is the true one, of the spiking layers below,
so a layer does not answer for the errors of others. For IF both fall like 1 / t. For LIF, which forgets, they end at a
floor that grows with 1 - leak; DSR's has the error of the released slope in it, too (2 to 5 %).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise, tee
from operator import itemgetter

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harness.models.currents import Currents
from harness.models.equilibrium import clamped, represent, simulate
from harness.models.neurons import Dynamics, at_least_float32, running_rates
from harness.models.rates import RateNeuron
from harness.models.streams import ALL, Streams

WHOLE = "whole loop"
"""The entry of several layers' composition, f of the last layer's rates alone."""


def gap(actual: Tensor, expected: Tensor) -> Tensor:
    """||actual - expected|| / max(||actual||, ||expected||): 1 where only one of them is zero, 0 where both are."""
    larger = torch.maximum(*(torch.linalg.vector_norm(rates) for rates in (actual, expected)))
    return torch.linalg.vector_norm(actual - expected) / larger.clamp_min(torch.finfo(larger.dtype).tiny)


@torch.no_grad()
def representation_errors(
    run: Callable[[], object], neurons: Mapping[str, RateNeuron]
) -> dict[str, Float[Tensor, "T"]]:  # fmt: skip
    """The gap of every layer of rate neurons after each step, while `run` takes a batch through a net in evaluation."""
    found: dict[str, Tensor] = {}

    def look(name: str, neuron: nn.Module, inputs: tuple[Streams], emitted: Streams) -> None:
        found[name] = torch.stack(list(_representation_gaps(neuron, inputs[0], emitted)))  # type: ignore[arg-type]

    hooks = [neuron.register_forward_hook(partial(look, name)) for name, neuron in neurons.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _representation_gaps(neuron: RateNeuron, currents: Streams, emitted: Streams) -> Iterator[Tensor]:
    code = neuron.code
    top = neuron.v_threshold.clamp(min=neuron.bound) * code.amplitude
    flowing, emitting = (streams.every_step(ALL)(ALL, 0) for streams in (currents, emitted))
    means = running_rates(map(at_least_float32, flowing), code.dynamics.leak)
    for mean, rate in zip(means, running_rates(emitting, code.dynamics.leak), strict=True):
        yield gap(rate, torch.minimum((mean * code.slope).clamp_(min=0), top))


@torch.no_grad()
def equilibrium_residuals(
    currents: Currents, v_threshold: float, dynamics: Dynamics
) -> dict[str, Float[Tensor, "T"]]:  # fmt: skip
    """The gap of every layer's rates to what the fixed-point equation makes of the rates that feed it, after each step.

    Of several layers also that of the whole loop, f(a) against a. In evaluation, where currents are affine in the
    input, so that the mean of those so far is the current of the mean input.
    """
    layers = ["layer 1", *(f"layer {number}" for number, _ in enumerate(currents.links, start=2))]
    branches = tee(simulate(currents, v_threshold, dynamics), len(layers))
    rates = [running_rates(map(itemgetter(layer), branch), dynamics.leak) for layer, branch in enumerate(branches)]
    found: dict[str, list[Tensor]] = {name: [] for name in (*layers, *([WHOLE] if currents.links else []))}
    # One step of everything at a time, for the next one overwrites the spikes.
    for mean, *a in zip(running_rates(currents.steps(), dynamics.leak), *rates, strict=True):
        inflow = [mean + currents.feedback(a[-1])]
        inflow += [link(below) for link, (below, _) in zip(currents.links, pairwise(a), strict=True)]
        for name, rate, current in zip(layers, a, inflow, strict=True):
            found[name].append(gap(rate, clamped(current, v_threshold)))
        if currents.links:
            found[WHOLE].append(gap(a[-1], represent(replace(currents, mean=mean), a[-1], v_threshold)))
    return {name: torch.stack(values) for name, values in found.items()}
