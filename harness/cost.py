"""What a trained network costs: latency, memory, firing rates, operations, energy. Measured, or left out."""

import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness import allocator
from harness.contract import Method, MethodConfig, Task
from harness.evaluation import Feed, in_time
from harness.record import Cost, Energy, Epoch, Latency

MAC_PICOJOULES = 4.6
AC_PICOJOULES = 0.9
ENERGY_SOURCE = "45 nm CMOS, 32-bit floating point (Horowitz, ISSCC 2014); arithmetic only, no memory access"

RESET_PEAK = "/proc/self/clear_refs"
WARM_UP = 3
"""Untimed calls before latency is measured."""


def measure(
    net: nn.Module, method: Method, config: MethodConfig, task: Task, feed: Feed, history: list[Epoch], *,
    batch_size: int, repeats: int, samples_per_epoch: int, device: torch.device,
) -> Cost:  # fmt: skip
    """Every cost of one trained network. `batch_size` and `repeats` are those of the latency measurement."""
    net.eval()
    x = in_time(next(iter(feed.batches("test", max(batch_size, 64))))[0], task)
    with Activity(net) as activity:
        method.predict(net, x, config)
    memory, kind = peak_memory(device)
    seconds = [epoch.seconds for epoch in history[1:] or history]
    return Cost(
        parameters=sum(p.numel() for p in net.parameters() if p.requires_grad),
        latency=[latency(lambda: method.predict(net, x[:, :batch_size], config), batch_size, task, repeats, device)]
        if repeats
        else [],
        throughput=samples_per_epoch / statistics.median(seconds) if seconds else None,
        peak_memory_bytes=memory,
        peak_memory_kind=kind,
        **activity.per_sample(x.shape[1]),
    )


def latency(predict: Callable[[], Any], batch_size: int, task: Task, repeats: int, device: torch.device) -> Latency:
    """Milliseconds a sample of a whole inference, over `repeats` calls after a warm-up."""
    times = []
    for index in range(WARM_UP + repeats):
        started = time.perf_counter()
        predict()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= WARM_UP:
            times.append(1000 * (time.perf_counter() - started) / batch_size)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return Latency(
        batch_size=batch_size,
        time_steps=task.time_steps,
        median_ms=statistics.median(times),
        p95_ms=sorted(times)[min(len(times) - 1, int(0.95 * len(times)))],
        repeats=repeats,
        device=name,
    )


def reset_peak_memory() -> None:
    """Start a new peak: a process that serves many trials would otherwise report the largest of them.

    Memory that is kept without being used is given back first, so that the peak is of what is needed.
    """
    allocator.give_back()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if os.access(RESET_PEAK, os.W_OK):
        Path(RESET_PEAK).write_text("5")


def peak_memory(device: torch.device) -> tuple[int | None, Any]:
    """Peak bytes since `reset_peak_memory`, and what kind of bytes; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "device allocator"
    if not os.access(RESET_PEAK, os.W_OK):
        return None, None
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), "resident set"


@dataclass
class _Layer:
    """Sums over one layer's calls."""

    macs: float = 0.0
    synops: float = 0.0
    active: float = 0.0
    inputs: float = 0.0


class Activity(TorchDispatchMode):
    """Counts what convolutions and matrix products really do while it is entered, however a method calls them.

    A product whose input holds zeros and one other value is driven by spikes: it costs one accumulate for every weight
    that an active input meets. Any other product costs its multiply-accumulates.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.names = {_storage(p): name.removesuffix(".weight") for name, p in net.named_parameters()}
        self.layers: dict[str, _Layer] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        aten = torch.ops.aten
        match func:
            case aten.convolution.default:
                x, weight, transposed = args[0], args[1], args[6]
                calls = x.numel() if transposed else out.numel()
                self._count(x, weight, calls * math.prod(weight.shape[1:]))
            case aten.addmm.default:
                self._count(args[1], args[2], args[1].numel() * args[2].shape[1])
            case aten.mm.default:
                self._count(args[0], args[1], args[0].numel() * args[1].shape[1])
        return out

    def _count(self, x: Tensor, weight: Tensor, macs: float) -> None:
        if x.is_meta:  # only asks for a shape
            return
        name = self.names.setdefault(_storage(weight), f"product {len(self.layers) + 1}")
        layer = self.layers.setdefault(name, _Layer())
        nonzero = x[x != 0]
        if nonzero.numel() and nonzero.min() != nonzero.max():
            layer.macs += macs
        else:
            layer.synops += macs * nonzero.numel() / x.numel()
            layer.active += nonzero.numel()
            layer.inputs += x.numel()

    def per_sample(self, samples: int) -> dict[str, Any]:
        """The counts as fields of a `Cost`: means over `samples`, firing rates by the layer that takes the spikes."""
        macs = sum(layer.macs for layer in self.layers.values()) / samples
        synops = sum(layer.synops for layer in self.layers.values()) / samples
        rates = {name: layer.active / layer.inputs for name, layer in self.layers.items() if layer.inputs}
        energy = Energy(
            nanojoules=(macs * MAC_PICOJOULES + synops * AC_PICOJOULES) / 1000,
            mac_picojoules=MAC_PICOJOULES, ac_picojoules=AC_PICOJOULES, source=ENERGY_SOURCE,
        )  # fmt: skip
        return {"macs": macs, "synops": synops, "firing_rates": rates, "energy": energy}


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
