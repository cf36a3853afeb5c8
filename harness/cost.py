"""What a trained network costs: latency, memory, firing rates, operations, energy. Measured, or left out."""

import logging
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness import allocator, energy, latency
from harness.config import Evaluation
from harness.contract import Method, MethodConfig, Task
from harness.evaluation import Feed, in_time
from harness.firing import FiringCounter
from harness.operations import OperationCounter
from harness.record import Cost, Epoch

log = logging.getLogger(__name__)

RESET_PEAK = "/proc/self/clear_refs"
SAMPLES, BATCH = 256, 64
"""Test samples that operations and spikes are counted over, in batches of this size; fewer where there are fewer."""


def measure(
    net: nn.Module, method: Method, config: MethodConfig, task: Task, feed: Feed, history: list[Epoch], *,
    evaluation: Evaluation, samples_per_epoch: int, device: torch.device,
) -> Cost:  # fmt: skip
    """Every cost of one trained network.

    What cannot be measured is left out, and `Cost.missing` says why: no accuracy is lost for it.
    """
    net.eval()
    seconds = [epoch.seconds for epoch in history[1:] or history]
    memory, kind = peak_memory(device)  # before measuring needs any
    found = Cost(
        parameters=sum(p.numel() for p in net.parameters() if p.requires_grad),
        throughput=samples_per_epoch / statistics.median(seconds) if seconds else None,
        peak_memory_bytes=memory,
        peak_memory_kind=kind,
    )
    try:
        counted, x = _counted(net, method, config, task, feed, evaluation)
        found = found.model_copy(update=counted)
        times = latency.measure(lambda some: method.predict(net, some, config), x, evaluation, device)
        return found.model_copy(update={"latency": times})
    except Exception as error:
        log.warning("not all costs could be measured", exc_info=True)
        return found.model_copy(update={"missing": f"{type(error).__name__}: {' '.join(str(error).split())}"})


def _counted(
    net: nn.Module, method: Method, config: MethodConfig, task: Task, feed: Feed, evaluation: Evaluation
) -> tuple[dict[str, Any], Tensor]:
    """What is counted on the first test samples, and as many of these as latency is measured with, (T, B, ...)."""
    counter, kept = Counter(net, getattr(method, "SPIKING", True)), list[Tensor]()
    seen, wanted = 0, max(evaluation.latency_batch_sizes)
    for x, _ in feed.batches("test", min(BATCH, evaluation.batch_size)):
        if seen < SAMPLES:
            some = in_time(x, task)[:, : SAMPLES - seen]
            counter.watch(partial(method.predict, net, some, config), some.shape[1])
        if seen < wanted:
            kept.append(x)
        seen += x.shape[1 if task.temporal else 0]
        if seen >= max(SAMPLES, wanted):
            break
    return counter.figures(), in_time(torch.cat(kept, dim=1 if task.temporal else 0), task)


class Counter:
    """Operations and spikes of a network, over any number of batches."""

    def __init__(self, net: nn.Module, spiking: bool) -> None:
        self.spiking, self.samples = spiking, 0
        self.operations, self.firing = OperationCounter(net), FiringCounter(net)

    def watch(self, predict: Callable[[], Any], samples: int) -> None:
        """Count what the prediction of so many samples takes."""
        if self.spiking:
            with self.firing, self.operations:
                predict()
        else:
            with self.operations:
                predict()
        self.samples += samples

    def figures(self) -> dict[str, Any]:
        """The counts as fields of a `Cost`, means over samples."""
        neurons = self.firing.layers
        return {
            "operations": self.operations.operations(self.samples),
            "energy": energy.of(
                self.operations.layers.values(), neurons.values(), self.samples, spiking=self.spiking
            ),
            "neurons": sum(layer.neurons for layer in neurons.values()) or None,
            "firing_rates": {name: layer.rate for name, layer in neurons.items()},
            "dead": {name: layer.dead for name, layer in neurons.items()},
            "saturated": {name: layer.saturated for name, layer in neurons.items()},
        }  # fmt: skip


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
