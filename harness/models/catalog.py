"""Finds the architecture that a task names, and builds it.

An architecture is a module in this folder (or an entry point of the group `harness.networks`) with five names:
`Config`, a pydantic model; `NETWORKS`, default configs by name; `SMALL`, options that make any of them small enough for
checks on images of 8x8 pixels; `FEEDBACK`, whether it has a feedback connection; and `build(config, task, parts)`,
without `parts` where FEEDBACK is true (there the method drives the neurons itself). It names no neuron and no method.
Optional: `linear(config)`, whether all that stands between neurons is linear but for norms; without it, it is.
"""

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import torch
from torch import nn

from harness import models
from harness.contract import Task
from harness.models.layers import Norm, Parts, batch_norm


@cache
def architectures() -> dict[str, ModuleType]:
    """The module that offers each network, by the network's name."""
    names = [found.name for found in pkgutil.iter_modules(models.__path__) if found.name != "catalog"]
    modules = [importlib.import_module(f"harness.models.{name}") for name in names]
    modules += [point.load() for point in entry_points(group="harness.networks")]
    return {name: module for module in modules for name in getattr(module, "NETWORKS", {})}


def config(task: Task) -> Any:
    """The config of the task's network: its defaults, changed by the task's options.

    Raises ValueError when there is no such network or option.
    """
    default = _module(task).NETWORKS[task.network]
    return type(default).model_validate(default.model_dump() | dict(task.network_options))


def has_feedback(task: Task) -> bool:
    """Whether the task's network has a feedback connection, so that only some methods can train it."""
    return _module(task).FEEDBACK


def is_linear(task: Task) -> bool:
    """Whether all that stands between the task's neurons is linear but for norms, so that firing rates pass through it.

    Max pooling and products of spikes are not.
    """
    module = _module(task)
    return not hasattr(module, "linear") or module.linear(config(task))


def has_norm(task: Task) -> bool:
    """Whether the task's feed-forward network has a place for a norm, so that a method's choice of one matters."""
    places = []

    def norm(channels: int, *, branches: int = 1) -> nn.Module:
        places.append(channels)
        return nn.Identity()

    with torch.device("meta"):
        build(task, nn.Identity, norm=norm)
    return bool(places)


def build(task: Task, neuron: Callable[[], nn.Module] | None = None, *, norm: Norm = batch_norm) -> nn.Module:
    """The task's network; in a feed-forward one, `neuron()` and `norm(channels)` make what stands at their places."""
    module = _module(task)
    if module.FEEDBACK:
        return module.build(config(task), task)
    assert neuron is not None, "a feed-forward network needs neurons"
    return module.build(config(task), task, Parts(neuron, norm))


def _module(task: Task) -> ModuleType:
    if task.network not in architectures():
        raise ValueError(f"no network '{task.network}' (there are: {', '.join(sorted(architectures()))})")
    return architectures()[task.network]
