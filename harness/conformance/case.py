"""A method with settings on a small network: what every check is about. Cases are found by themselves."""

import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from harness import plugins
from harness.contract import MethodConfig, Task
from harness.models import catalog

Inputs = Literal["still", "moving"]
INPUTS: tuple[Inputs, ...] = ("still", "moving")
CLASSES = 3
TIME_STEPS = 4
BATCH_SIZE = 6
RUNNING_VARIANCE = 0.02
"""Batch norms start with this one, since the deeper neurons of an untrained network would not fire in evaluation."""


@cache
def load(method: str) -> Any:
    """The module of a method: a name of `harness list methods`, a dotted module name, or the path of a Python file.

    Raises ValueError with what there is when there is no such method.
    """
    if method.endswith(".py"):
        return _from_file(Path(method))
    if method in plugins.names("methods"):
        return plugins.load("methods", method)
    try:
        found = "." in method and importlib.util.find_spec(method) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise ValueError(plugins.unknown("method", method, plugins.names("methods")))
    return importlib.import_module(method)


def _from_file(file: Path) -> Any:
    if not file.is_file():
        raise ValueError(f"no file '{file}'")
    spec = importlib.util.spec_from_file_location(f"method_under_check_{file.stem}", file)
    assert spec is not None, "the name ends in .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic and dataclasses look up names of annotations
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Case:
    """A method with settings, on a network, with one kind of input."""

    method: str
    """As `load` takes it."""
    network: str
    inputs: Inputs = "still"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the defaults."""

    def __str__(self) -> str:
        return ", ".join([self.network, self.inputs, *(f"{key}={value}" for key, value in self.settings.items())])

    @property
    def module(self) -> Any:
        return load(self.method)

    @property
    def temporal(self) -> bool:
        return self.inputs == "moving"

    @property
    def trained(self) -> bool:
        return getattr(self.module, "TRAINED", True)

    def task(self, time_steps: int = TIME_STEPS, **options: Any) -> Task:
        """The task; of the options of the network, those that it does not have are left out."""
        module = catalog.architectures()[self.network]
        known = type(module.NETWORKS[self.network]).model_fields
        options = {key: value for key, value in options.items() if key in known}
        return Task(
            shape=(2 if self.temporal else 1, 8, 8), classes=CLASSES, time_steps=time_steps, temporal=self.temporal,
            network=self.network, network_options=module.SMALL | options,
        )  # fmt: skip

    def config(self, task: Task, *, exact: bool = False) -> MethodConfig:
        """The settings as the method's own model, with everything that depends on the task.

        `exact`: with those that the method calls EXACT too, as far as they go with these settings.
        """
        settings = dict(self.settings)
        more = getattr(self.module, "EXACT", {}) | settings if exact else settings
        config = self.module.Config(**(settings if _refusal(self.module.Config, more) else more))
        return self.resolved(config, task)

    def resolved(self, config: MethodConfig, task: Task) -> MethodConfig:
        """The config with what the method fills in for a task."""
        return self.module.resolve(config, task) if hasattr(self.module, "resolve") else config

    def build(
        self, time_steps: int = TIME_STEPS, *, seed: int = 0, exact: bool = False,
        running_variance: float = RUNNING_VARIANCE, **options: Any,
    ) -> tuple[Any, MethodConfig, nn.Module]:  # fmt: skip
        """Method, config and a new network. `exact`: with the settings that the method calls EXACT."""
        task = self.task(time_steps, **options)
        config = self.config(task, exact=exact)
        torch.manual_seed(seed)
        net = self.module.build(config, task)
        for name, buffer in net.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(running_variance)
        return self.module, config, net

    def x(
        self, time_steps: int = TIME_STEPS, batch_size: int = BATCH_SIZE, *, dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> Tensor:  # fmt: skip
        """Input of shape (T, B, C, 8, 8), as the loop makes it; its values do not depend on the dtype."""
        generator = torch.Generator().manual_seed(seed)
        steps, channels, *size = (time_steps if self.temporal else 1, *self.task().shape)
        x = torch.randn(steps, batch_size, channels, *size, generator=generator).to(dtype)
        return x if self.temporal else x[0].expand(time_steps, *x.shape[1:])


def labels(batch_size: int = BATCH_SIZE) -> Tensor:
    """Every class in turn."""
    return torch.arange(batch_size) % CLASSES


def cases(method: str, networks: list[str] | None = None) -> list[Case]:
    """Every case of a method: each setting on the first network, the defaults on the others, with all inputs accepted.

    Without `networks`, these are one of every architecture. Raises ValueError for a network that there is not.
    """
    bare = [Case(method, network, inputs) for network in ordered(networks) for inputs in INPUTS]
    default = [case for case in bare if refusal(case) is None]
    found = [replace(case, settings=settings) for case in default[:1] for settings in variants(method)]
    home = [replace(case, inputs=inputs) for case in found for inputs in INPUTS]
    return [case for case in [*default, *home] if refusal(case) is None]


def refusal(case: Case) -> str | None:
    """Why the method does not do this, in its own words, or None."""
    if not hasattr(case.module, "skip"):
        return None
    return case.module.skip(case.config(case.task()), case.task())


@cache
def _num_layers(network: str) -> int:
    neuron = None if catalog.architectures()[network].FEEDBACK else nn.Identity
    return len(list(catalog.build(Case("", network).task(), neuron).modules()))


def ordered(networks: list[str] | None = None) -> list[str]:
    """The networks (by default the first of every architecture), those with the fewest layers first."""
    there_are = catalog.architectures()
    for network in networks or ():
        if network not in there_are:
            raise ValueError(plugins.unknown("network", network, there_are))
    firsts = {module.__name__: network for network, module in reversed(there_are.items())}
    return sorted(networks or firsts.values(), key=lambda network: (_num_layers(network), network))


def variants(method: str) -> list[dict[str, Any]]:
    """The settings that differ from the defaults in one choice (of a Literal, enum or bool), and in all at once."""
    found = [settings for settings, reason in _changes(method) if reason is None]
    together: dict[str, Any] = {}
    for settings, _ in _changes(method):
        if _refusal(load(method).Config, together | settings) is None:
            together |= settings
    return found if together in ({}, *found) else [*found, together]


def refused(method: str) -> list[tuple[dict[str, Any], str]]:
    """The same, for choices that the method's own validation does not let stand alone, with its reasons."""
    return [(settings, reason) for settings, reason in _changes(method) if reason is not None]


def _changes(method: str) -> Iterator[tuple[dict[str, Any], str | None]]:
    config = load(method).Config
    for name, about in config.model_fields.items():
        for choice in _choices(about.annotation):
            if choice == getattr(config(), name):
                continue
            yield {name: choice}, _refusal(config, {name: choice})


def _refusal(config: type[MethodConfig], settings: dict[str, Any]) -> str | None:
    try:
        config(**settings)
    except ValidationError as error:
        return error.errors()[0]["msg"]
    return None


def _choices(annotation: Any) -> tuple[Any, ...]:
    """What an annotation allows, if that is a closed set."""
    origin = get_origin(annotation)
    if origin is Literal:
        return get_args(annotation)
    if origin is Annotated:
        return _choices(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(choice for part in get_args(annotation) for choice in _choices(part))
    if annotation is bool:
        return (True, False)
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return tuple(annotation)
    return ()
