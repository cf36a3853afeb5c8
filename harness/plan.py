"""Experiment -> trials. Pure: reads no files but the plug-ins' own code, knows no Ray and no clock."""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from harness import plugins
from harness.config import Block, DatasetBlock, Experiment, MethodBlock, NetworkBlock, Range, Selection, Train
from harness.contract import DatasetInfo, MethodConfig, Task
from harness.experiment_file import ConfigError, checked


class Trial(Block):
    """One training run, complete: what is hashed here is what the result depends on."""

    dataset: DatasetBlock
    network: NetworkBlock
    method: str
    label: str
    """What tables call the method; not part of the identity."""
    settings: dict[str, Any]
    """Every hyperparameter of the method, defaults filled in."""
    time_steps: int
    seed: int
    train: Train
    selection: Selection
    workers: int

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that depend on everything that the result depends on, and on nothing else."""
        content = self.model_dump(mode="json", exclude={"label": True, "dataset": {"loader"}})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def task(self, info: DatasetInfo) -> Task:
        """What the method is told about this trial's data and network."""
        return Task(
            shape=info.shape,
            classes=info.classes,
            time_steps=self.time_steps,
            temporal=info.temporal,
            network=self.network.name,
            network_options=self.network.options,
        )

    def config(self) -> MethodConfig:
        """The method's settings as its own model."""
        return plugins.load("methods", self.method).Config.model_validate(self.settings)


def expand(experiment: Experiment, info: DatasetInfo, *, file: str = "experiment") -> list[Trial]:
    """Every trial of the experiment, in the file's order; under `optuna`, one trial for each study (see `at`).

    Raises ConfigError for a name, setting or pairing that cannot be.
    """
    trials: dict[str, Trial] = {}
    for index, entry in enumerate(experiment.methods):
        for trial in _of_method(experiment, entry, info, f"{file}: methods.{index}"):
            trials.setdefault(trial.id, trial)
    _refuse_unused_space(experiment, file)
    return list(trials.values())


def at(trial: Trial, point: Mapping[str, Any]) -> Trial:
    """The trial with the searched values of `point` ('settings.KEY' or 'train.KEY') put in."""
    content = trial.model_dump()
    for path, value in point.items():
        block, key = path.split(".", 1)
        content[block][key] = value
    content["settings"] = plugins.load("methods", trial.method).Config.model_validate(content["settings"]).model_dump()
    return Trial.model_validate(content)


def space(experiment: Experiment, trial: Trial) -> dict[str, Range]:
    """What is searched for this trial's method: the experiment's space without the settings that the method lacks."""
    config = plugins.load("methods", trial.method).Config
    found = {}
    for path, given in experiment.sweep.space.items():
        block, key = path.split(".", 1)
        if block == "train" or key in config.model_fields:
            found[path] = _range(given, config, key, path)
    return found


def _of_method(experiment: Experiment, entry: MethodBlock, info: DatasetInfo, where: str) -> Iterator[Trial]:
    try:
        method = plugins.load("methods", entry.name)
    except ValueError as error:
        raise ConfigError(f"{where}.name: {error}") from error
    network = entry.network or experiment.network
    train = checked(Train, {**_given(experiment.train), **entry.train}, f"{where}.train")
    for time_steps in _time_steps(experiment, entry, method, where):
        for point in _grid(entry.grid):
            settings = checked(method.Config, {**entry.settings, **point}, f"{where}.settings")
            base = Trial(
                dataset=experiment.dataset, network=network, method=entry.name, label=entry.label or entry.name,
                settings=settings.model_dump(), time_steps=time_steps, seed=experiment.seeds[0], train=train,
                selection=experiment.evaluation.selection, workers=experiment.scale.workers,
            )  # fmt: skip
            _refuse_impossible(base, settings, info, where)
            for seed in experiment.seeds:
                yield from _searched(experiment, base.model_copy(update={"seed": seed}))


def _time_steps(experiment: Experiment, entry: MethodBlock, method: Any, where: str) -> tuple[int, ...]:
    if getattr(method, "SPIKING", True):
        return entry.time_steps or experiment.time_steps
    if entry.time_steps:
        raise ConfigError(f"{where}.time_steps: '{entry.name}' has no time steps; remove the key")
    return (1,)


def _given(train: Train) -> dict[str, Any]:
    return train.model_dump(include=train.model_fields_set)


def _grid(grid: Mapping[str, list]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _refuse_impossible(trial: Trial, settings: MethodConfig, info: DatasetInfo, where: str) -> None:
    """Raise ConfigError when the network is unknown or the method says in a sentence that it cannot do this task."""
    try:
        architecture = plugins.load("networks", trial.network.name)
    except ValueError as error:
        raise ConfigError(f"{where}.network: {error}") from error
    default = architecture.NETWORKS[trial.network.name]
    checked(type(default), default.model_dump() | trial.network.options, f"{where}.network")
    skip = getattr(plugins.load("methods", trial.method), "skip", None)
    if skip and (reason := skip(settings, trial.task(info))):
        raise ConfigError(f"{where}: '{trial.method}' on network '{trial.network.name}', {info.title}: {reason}")


def _searched(experiment: Experiment, trial: Trial) -> Iterator[Trial]:
    """The trial itself (grid, and the study of optuna) or, for random search, one trial per drawn point."""
    sweep = experiment.sweep
    if sweep.search != "random":
        yield trial
        return
    ranges = space(experiment, trial)
    # The same points for every seed, so that mean and deviation over seeds mean something.
    generator = random.Random(f"{sweep.seed}/{trial.label}/{trial.time_steps}")
    for _ in range((sweep.trials or 1) if ranges else 1):
        yield at(trial, {path: _draw(ranges[path], generator, integer(trial, path)) for path in sorted(ranges)})


def _draw(given: Range, generator: random.Random, whole: bool) -> Any:
    if given.choices is not None:
        return generator.choice(given.choices)
    assert given.low is not None
    assert given.high is not None
    if given.log:
        value = math.exp(generator.uniform(math.log(given.low), math.log(given.high)))
    else:
        value = generator.uniform(given.low, given.high)
    return round(value) if whole else value


def integer(trial: Trial, path: str) -> bool:
    """Whether the searched key `path` takes whole numbers only."""
    block, key = path.split(".", 1)
    model = Train if block == "train" else plugins.load("methods", trial.method).Config
    return model.model_fields[key].annotation is int


def _range(given: Range | str, config: type[BaseModel], key: str, path: str) -> Range:
    if isinstance(given, Range):
        return given
    extra = config.model_fields[key].json_schema_extra if key in config.model_fields else None
    own = extra.get("search") if isinstance(extra, dict) else None
    if not isinstance(own, dict):
        raise ConfigError(f"sweep.space.{path}: no search range of its own; give 'low' and 'high' or 'choices'")
    return Range.model_validate(own)


def _refuse_unused_space(experiment: Experiment, file: str) -> None:
    """Raise ConfigError for a searched key that no method of the experiment has."""
    configs = [plugins.load("methods", entry.name).Config for entry in experiment.methods]
    settings = {f"settings.{key}" for config in configs for key in config.model_fields}
    allowed = settings | {f"train.{key}" for key in Train.model_fields}
    for path in experiment.sweep.space:
        if path not in allowed:
            raise ConfigError(f"{file}: sweep.space: {plugins.unknown('key', path, allowed)}")
