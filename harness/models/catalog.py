"""Finds the architecture that a task names, and builds it.

An architecture is a module in this folder (or an entry point of the group `harness.networks`) with four names:
`Config`, a pydantic model; `NETWORKS`, default configs by name; `FEEDBACK`, whether it has a feedback connection; and
`build(config, task, neuron)`, without `neuron` where FEEDBACK is true (there the method drives the neurons itself).
"""

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from torch import nn

from harness import models
from harness.contract import Task
from harness.models.layers import Neuron


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


def build(task: Task, neuron: Neuron | None = None) -> nn.Module:
    """The task's network; `neuron()` makes what stands at each neuron's place in a feed-forward network."""
    module = _module(task)
    return module.build(config(task), task) if module.FEEDBACK else module.build(config(task), task, neuron)


def _module(task: Task) -> ModuleType:
    if task.network not in architectures():
        raise ValueError(f"no network '{task.network}' (there are: {', '.join(sorted(architectures()))})")
    return architectures()[task.network]
