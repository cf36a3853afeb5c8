"""Tiny tasks and batches, on which a method takes its step in milliseconds."""

from types import ModuleType
from typing import Any

import torch
from hypothesis import settings
from torch import Tensor, nn

from harness import plugins
from harness.contract import MethodConfig, StepOutput, Task
from harness.models import catalog

unhurried = settings(max_examples=25)
"""For facts that take a while to check."""


def task(network: str = "mlp", *, time_steps: int = 4, classes: int = 3, shape=(1, 8, 8), **options) -> Task:
    """A task of a few pixels on a small network; `options` of the network come on top."""
    return Task(
        shape=shape, classes=classes, time_steps=time_steps, temporal=False, network=network,
        network_options=getattr(catalog.architectures().get(network), "SMALL", {}) | options,
    )  # fmt: skip


def still(time_steps: int = 4, batch_size: int = 6, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Images that are repeated over time without a copy, (T, B, 1, 8, 8)."""
    images = torch.randn(batch_size, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return images.expand(time_steps, *images.shape)


def moving(time_steps: int = 4, batch_size: int = 6, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Frames that change over time, (T, B, 1, 8, 8)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(time_steps, batch_size, 1, 8, 8, generator=generator, dtype=dtype)


def labels(batch_size: int = 6, classes: int = 3) -> Tensor:
    return torch.arange(batch_size) % classes


def build(name: str, settings: dict[str, Any], task: Task, *, seed: int = 0) -> tuple[ModuleType, MethodConfig, Any]:
    """A method by name, its config, and its freshly initialised network."""
    method = plugins.load("methods", name)
    config = method.Config(**settings)
    torch.manual_seed(seed)
    return method, config, method.build(config, task)


def gradients(
    method: ModuleType, config: MethodConfig, net: nn.Module, x: Tensor, y: Tensor
) -> tuple[StepOutput, dict[str, Tensor]]:
    """What a training step reports, and the gradients it hands to the optimizer, by parameter."""
    found: dict[str, Tensor] = {}

    def update() -> None:
        found.update({name: p.grad.clone() for name, p in net.named_parameters()})
        net.zero_grad()

    output = method.train_step(net, x, y, config, update)
    return output, found
