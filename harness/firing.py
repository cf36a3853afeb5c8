"""Which neurons fire how often while a network runs: rates, dead and saturated neurons, layer by layer.

What counts as a layer of neurons, in this order:
- a module whose class says `emits_spikes = True`, such as those of `harness/models`: what it puts out;
- any other module that puts out spikes (zeros and one other value) for an input of the same shape which is none,
  unless it is torch's or has modules inside; so neurons of one's own need nothing more, if they spike at all;
- potentials that `neurons.fire` tests outside of such modules, as those of networks with feedback: 'layer 1', ...
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.models.streams import ALL, Streams

aten = torch.ops.aten


@dataclass
class Layer:
    """Sums over the samples and time steps of one layer of neurons."""

    spikes: Tensor
    """Of each neuron, (C, ...)."""
    steps: int = 0
    """Time steps of all samples together."""

    @property
    def neurons(self) -> int:
        return self.spikes.numel()

    @property
    def rate(self) -> float:
        """Mean fraction of steps in which a neuron spikes."""
        return float(self.spikes.sum()) / (self.steps * self.neurons)

    @property
    def dead(self) -> float:
        """Fraction of neurons that never spiked."""
        return float((self.spikes == 0).double().mean())

    @property
    def saturated(self) -> float:
        """Fraction of neurons that always spiked."""
        return float((self.spikes == self.steps).double().mean())


class FiringCounter(TorchDispatchMode):
    """Counts while it is entered; enter it anew for every batch, after which `layers` hold the sums of all batches."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.layers: dict[str, Layer] = {}
        self._hooks: list[Any] = []
        self._depth = 0
        """How many modules of neurons are at work, one inside the other."""
        self._buffers: dict[int, tuple[str, Tensor]] = {}
        """Where spikes are written outside of such modules -> the layer; kept so that the memory is not used again."""

    def __enter__(self) -> Any:
        self._depth, self._buffers = 0, {}
        for name, module in self.net.named_modules():
            declared = getattr(type(module), "emits_spikes", False)
            layer = name.removesuffix(".neuron") or "neurons"  # what wraps a neuron stands in the architecture's place
            if declared or ("parametrizations" not in name and _might_be_neurons(module)):
                self._hooks += [
                    module.register_forward_pre_hook(self._enter),
                    module.register_forward_hook(self._leaving(layer, declared=declared)),
                ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._buffers = [], {}
        return super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        fires = func in (aten.ge.Tensor_out, aten.ge.Scalar_out)
        if fires and not self._depth and not out.is_meta:
            layer = f"layer {len(self._buffers) + 1}"
            layer, _ = self._buffers.setdefault(out.data_ptr(), (layer, out))
            self._count(layer, [out])
        return out

    def _enter(self, module: nn.Module, given: Any) -> None:
        self._depth += 1

    def _leaving(self, name: str, *, declared: bool) -> Any:
        def leave(module: nn.Module, given: Any, out: Any) -> None:
            self._depth -= 1
            if isinstance(out, Streams) and declared:
                self._count(name, out.every_step(ALL)(ALL, 0))
            elif isinstance(out, Tensor) and (declared or name in self.layers or _fires(given, out)):
                self._count(name, [out.flatten(0, 1)])

        return leave

    def _count(self, name: str, spikes: Iterable[Tensor]) -> None:
        """Add spikes of shape (B, ...) or, of several time steps, (T * B, ...)."""
        for some in spikes:
            if name not in self.layers:
                self.layers[name] = Layer(torch.zeros(some.shape[1:], dtype=torch.float64, device=some.device))
            layer = self.layers[name]
            layer.spikes += (some != 0).float().sum(0)
            layer.steps += len(some)


def _might_be_neurons(module: nn.Module) -> bool:
    return not type(module).__module__.startswith("torch.") and not any(module.children())


def _fires(given: Any, out: Tensor) -> bool:
    """Whether the output, but not the input, is spikes (T, B, ...)."""
    if len(given) != 1 or not isinstance(given[0], Tensor) or given[0].shape != out.shape or out.dim() < 3:
        return False
    if not out.is_floating_point() or not _are_spikes(out[0, 0]):  # most that are none show it soon
        return False
    return bool(out.any()) and _are_spikes(out) and not _are_spikes(given[0])


def _are_spikes(x: Tensor) -> bool:
    return bool(((x == 0) | (x == x.max())).all())
