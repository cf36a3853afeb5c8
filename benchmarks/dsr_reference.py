"""DSR's PreAct-ResNet-18 for CIFAR, unrolled in plain torch: what the product's two gradients are measured against.

The equations are those of `harness/models/rates.py`; here nothing is saved or shared. Time is merged into the batch,
time-major; every layer runs on (T * B, C, H, W), the first too, and autograd keeps all of it; the neuron loops over t
in Python. Parameters stand in the same order and with the same shapes as in the product's network.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.rates import RateCode

Neurons = Any
"""Makes a layer of neurons."""


class PlainNeuron(nn.Module):
    """A layer of IF or LIF neurons with a trained threshold."""

    def __init__(self, code: RateCode, v_threshold: float, time_steps: int) -> None:
        super().__init__()
        self.code, self.time_steps = code, time_steps
        self.v_threshold = nn.Parameter(torch.tensor(v_threshold))

    def forward(self, x: Tensor) -> Tensor:
        return Clamped.apply(x.unflatten(0, (self.time_steps, -1)), self.v_threshold, self.code).flatten(0, 1)


class Clamped(torch.autograd.Function):
    """Currents (T, B, ...), threshold -> emitted values. Keeps the currents of all steps, as the authors' code does."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, theta: Tensor, code: RateCode) -> Tensor:
        neuron, emitted = code.dynamics, []
        v = torch.zeros_like(current[0])
        for step in current:
            v = neuron.leak * v + neuron.gain * step
            spikes = (v >= neuron.alpha * theta).to(v.dtype)
            v = v - theta * spikes
            emitted.append(theta * code.amplitude * spikes)
        ctx.save_for_backward(current, theta)
        ctx.code = code
        return torch.stack(emitted)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (current, theta), code = ctx.saved_tensors, ctx.code
        time_steps = len(current)
        weights = current.new_tensor(code.dynamics.rate_weights(time_steps))
        mean = torch.tensordot(weights, current, 1)
        total = time_steps * torch.tensordot(weights, gradients[0], 1)
        top = theta * code.amplitude / code.slope
        passing = (mean > 0) & (mean < top) if code.weighted else (mean >= 0) & (mean <= top)
        below = (total * passing * code.slope / time_steps).expand_as(current)
        return below, code.threshold_gain * (total * (mean > top)).sum(), None


class PlainBlock(nn.Module):
    """x <- neurons(norm(x)); [convolution -> norm -> neurons -> convolution](x) + shortcut(x)."""

    def __init__(self, inputs: int, outputs: int, stride: int, neurons: Neurons) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(inputs), neurons())
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1),
            nn.BatchNorm2d(outputs),
            neurons(),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.residual(x) + self.shortcut(x)


class PlainNetwork(nn.Module):
    """x (T, B, 3, 32, 32) -> scores (B, K)."""

    def __init__(self, code: RateCode, v_threshold: float, classes: int, time_steps: int) -> None:
        super().__init__()
        self.code = code

        def neurons() -> PlainNeuron:
            return PlainNeuron(code, v_threshold, time_steps)

        layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False)]
        inputs = 64
        for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [PlainBlock(inputs, outputs, stride, neurons), PlainBlock(outputs, outputs, 1, neurons)]
            inputs = outputs
        layers += [nn.BatchNorm2d(512), neurons(), nn.AvgPool2d(4), neurons(), nn.Flatten(), nn.Linear(512, classes)]
        self.body = nn.Sequential(*layers)
        self.readout = nn.Sequential(nn.BatchNorm1d(classes), neurons())

    def forward(self, x: Tensor) -> Tensor:
        out = self.readout(self.body(x.flatten(0, 1))).unflatten(0, (len(x), -1))  # T B K
        return torch.tensordot(out.new_tensor(self.code.dynamics.rate_weights(len(x))), out, 1)


def plain_step(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The loss of one training step, which leaves gradients in the parameters."""
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    return loss.detach()
