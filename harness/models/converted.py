"""IF neurons that take over from an ordinary network's activations, and thresholds for those that have none."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harness.models.analog import averaged
from harness.models.calibration import percentiles
from harness.models.neurons import Dynamics, at_least_float32, simulate


class ConvertedNeuron(nn.Module):
    """A layer of IF neurons with soft reset and one threshold theta: emits theta or 0; while it `rectifies`, a ReLU.

    Over T steps of constant input x it emits theta clip(floor(x T / theta + p) / T, 0, 1) on average, where p is
    `initial_potential`, the potential at the start in thresholds.
    """

    emits_spikes = True
    v_threshold: Tensor

    def __init__(self, initial_potential: float) -> None:
        super().__init__()
        self.initial_potential, self.rectifies = initial_potential, False
        self.register_buffer("v_threshold", torch.ones(()))

    def forward(self, current: Float[Tensor, "T B ..."]) -> Float[Tensor, "T B ..."]:
        if self.rectifies:
            return current.relu()
        current, theta = at_least_float32(current), self.v_threshold
        emitted = torch.empty_like(current)
        for t, spikes in enumerate(simulate(current, theta, Dynamics(), v_start=self.initial_potential * theta)):
            emitted[t] = spikes
        return emitted.mul_(theta)


def thresholds(net: nn.Module) -> list[str]:
    """Names of the thresholds in the network's state dict."""
    return [f"{name}.v_threshold" for name, module in net.named_modules() if isinstance(module, ConvertedNeuron)]


def balance(net: nn.Module, batches: Iterable[Tensor], q: float) -> None:
    """Set every threshold to the q-th percentile of the ReLU's values in its place, over all of `batches`."""
    neurons = [module for module in net.modules() if isinstance(module, ConvertedNeuron)]
    for neuron in neurons:
        neuron.rectifies = True
    found = percentiles(net, neurons, map(averaged, batches), q)
    for neuron, theta in zip(neurons, found, strict=True):
        neuron.v_threshold.fill_(theta)
        neuron.rectifies = False
