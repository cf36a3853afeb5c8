"""Experiment -> trials. Pure: reads no files but the plug-ins' own code, knows no Ray and no clock."""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import BaseModel, SerializerFunctionWrapHandler, ValidationError, model_serializer

from harness import plugins, stages
from harness.config import Block, DatasetBlock, Experiment, MethodBlock, NetworkBlock, Range, Selection, Train
from harness.contract import DatasetInfo, MethodConfig, Origin, Task
from harness.data import source
from harness.experiment_file import ConfigError, checked, describe


class Trial(Block):
    """One training run, complete: what is hashed here is what the result depends on."""

    dataset: DatasetBlock
    network: NetworkBlock
    method: str
    label: str
    """What tables call the method; not part of the identity."""
    settings: dict[str, Any]
    """Every hyperparameter of the method, defaults filled in, but for one that came later and has its default."""
    time_steps: int
    seed: int
    train: Train
    selection: Selection
    workers: int
    start: Self | None = None
    """The trial whose trained weights this one begins with; None: fresh ones."""

    @model_serializer(mode="wrap")
    def _without_absent_start(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content = handler(self)
        if content.get("start", True) is None:
            del content["start"]
        return content

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that depend on everything that the result depends on, and on nothing else."""
        content = self.model_dump(
            mode="json", exclude={"label": True, "dataset": {"loader", "os_cache"}, "start": True}
        )
        if self.start is not None:
            content["start"] = self.start.id
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """What people are told: label, T, seed and id."""
        return f"{self.label} T={self.time_steps} seed {self.seed} ({self.id})"

    def task(self, info: DatasetInfo) -> Task:
        """What the method is told about this trial's data and network."""
        return Task(
            shape=info.shape,
            classes=info.classes,
            time_steps=self.time_steps,
            temporal=info.temporal,
            network=self.network.name,
            network_options=self.network.options,
            start=self.start._origin() if self.start else None,
        )

    def _origin(self) -> Origin:
        return Origin(self.method, self.config().model_dump(), self.time_steps)

    def config(self) -> MethodConfig:
        """The method's settings as its own model."""
        return plugins.load("methods", self.method).Config.model_validate(self.settings)


def expand(experiment: Experiment, info: DatasetInfo, *, file: str = "experiment") -> list[Trial]:
    """Every trial of the experiment, in the file's order; under `optuna`, one trial for each study (see `at`).

    Raises ConfigError for a name, setting or pairing that cannot be.
    """
    try:
        info = source.seen(info, experiment.dataset)
    except ValueError as error:
        raise ConfigError(f"{file}: dataset.{error}") from error
    found: dict[str, list[Trial]] = {}
    for index in stages.order(experiment, file):
        entry = experiment.methods[index]
        offered = found[entry.start.method] if entry.start else []
        trials = _of_method(experiment, entry, info, offered, f"{file}: methods.{index}")
        found[entry.label or entry.name] = list(trials)
    _refuse_unused_space(experiment, file)
    in_order = [trial for entry in experiment.methods for trial in found[entry.label or entry.name]]
    once: dict[str, Trial] = {}
    for trial in in_order:
        once.setdefault(trial.id, trial)
    return list(once.values())


def at(trial: Trial, point: Mapping[str, Any]) -> Trial:
    """The trial with the searched values of `point` ('settings.KEY' or 'train.KEY') put in."""
    content = trial.model_dump()
    for path, value in point.items():
        block, key = path.split(".", 1)
        content[block][key] = value
    model = plugins.load("methods", trial.method).Config
    config = checked(model, content["settings"], f"sweep.space: '{trial.label}' with {point}")
    return Trial.model_validate(content | {"settings": stored(config)})


def stored(config: MethodConfig) -> dict[str, Any]:
    """A method's settings as a trial holds them: without those that came later and have their default."""
    fields = type(config).model_fields
    later = {key for key, field in fields.items() if (field.json_schema_extra or {}).get("later")}  # type: ignore[union-attr]
    return config.model_dump(exclude={key for key in later if getattr(config, key) == fields[key].default})


def space(experiment: Experiment, trial: Trial) -> dict[str, Range]:
    """What is searched for this trial's method: the experiment's space without the settings that the method lacks."""
    config = plugins.load("methods", trial.method).Config
    found = {}
    for path, given in experiment.sweep.space.items():
        block, key = path.split(".", 1)
        if block == "train" or key in config.model_fields:
            found[path] = _range(given, config, key, path)
    return found


def _of_method(
    experiment: Experiment, entry: MethodBlock, info: DatasetInfo, offered: list[Trial], where: str
) -> Iterator[Trial]:
    """The trials of one method block; `offered` are those of the method that it starts from."""
    try:
        method = plugins.load("methods", entry.name)
    except ValueError as error:
        raise ConfigError(f"{where}.name: {error}") from error
    network = entry.network or experiment.network
    train = _recipe(experiment, entry, method, where)
    for time_steps in _time_steps(experiment, entry, method, where):
        for point in _grid(entry.grid):
            settings = checked(method.Config, {**entry.settings, **point}, f"{where}.settings")
            base = Trial(
                dataset=experiment.dataset, network=network, method=entry.name, label=entry.label or entry.name,
                settings=stored(settings), time_steps=time_steps, seed=experiment.seeds[0], train=train,
                selection=experiment.evaluation.selection, workers=experiment.scale.workers,
            )  # fmt: skip
            _refuse_unknown_network(base, where)
            for number, seed in enumerate(experiment.seeds):
                trial = base.model_copy(update={"seed": seed})
                if entry.start:
                    trial = trial.model_copy(update={"start": stages.origin(entry, trial, offered, f"{where}.start")})
                trial = _resolved(trial, method, info, where)
                if number == 0:
                    _refuse_useless_sync(trial, method, info, where)
                for found in _searched(experiment, trial):
                    _refuse_impossible_batches(found, method, where)
                    yield found


def _recipe(experiment: Experiment, entry: MethodBlock, method: Any, where: str) -> Train:
    train = checked(Train, {**_given(experiment.train), **entry.train}, f"{where}.train")
    if getattr(method, "TRAINED", True):
        return train
    if entry.start is None:
        raise ConfigError(f"{where}: '{entry.name}' trains nothing; say whose weights it takes, such as start: ann")
    if entry.train.get("epochs", 0) != 0:
        raise ConfigError(f"{where}.train.epochs: '{entry.name}' trains nothing; remove the key")
    return train.model_copy(update={"epochs": 0})


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


def _refuse_unknown_network(trial: Trial, where: str) -> None:
    """Raise ConfigError when there is no such network, or it has no such option."""
    try:
        architecture = plugins.load("networks", trial.network.name)
    except ValueError as error:
        raise ConfigError(f"{where}.network: {error}") from error
    default = architecture.NETWORKS[trial.network.name]
    checked(type(default), default.model_dump() | trial.network.options, f"{where}.network")


def _resolved(trial: Trial, method: Any, info: DatasetInfo, where: str) -> Trial:
    """The trial with the settings that its method ties to the task.

    Raises ConfigError when the method says in a sentence that it cannot do this task.
    """
    config, task = trial.config(), trial.task(info)
    if hasattr(method, "resolve"):
        try:
            config = method.Config.model_validate(method.resolve(config, task).model_dump())
        except ValueError as error:
            text = describe(error, method.Config) if isinstance(error, ValidationError) else error
            raise ConfigError(f"{where}.settings: {text}") from error
        trial = trial.model_copy(update={"settings": stored(config)})
    if hasattr(method, "skip") and (reason := method.skip(config, task)):
        raise ConfigError(f"{where}: '{trial.method}' on network '{trial.network.name}', {info.title}: {reason}")
    return trial


def _refuse_impossible_batches(trial: Trial, method: Any, where: str) -> None:
    """Raise ConfigError where the samples of an update cannot be shared out as asked."""
    train, workers = trial.train, trial.workers
    if train.epochs == 0:
        return
    share, rest = divmod(train.batch_size, workers)
    if rest:
        raise ConfigError(
            f"{where}: train.batch_size: {train.batch_size} cannot be shared equally by {workers} workers "
            f"(scale.workers)"
        )
    if train.micro_batches != 1 and not getattr(method, "updates_once", lambda config: True)(trial.config()):
        raise ConfigError(
            f"{where}: train.micro_batches: '{trial.label}' updates the weights more than once a batch, so a batch "
            f"cannot be computed in parts; remove the key"
        )
    if isinstance(train.micro_batches, int) and share % train.micro_batches:
        raise ConfigError(
            f"{where}: train.micro_batches: {train.micro_batches} does not divide a worker's share of a batch, "
            f"{share} of {train.batch_size} samples"
        )


def _refuse_useless_sync(trial: Trial, method: Any, info: DatasetInfo, where: str) -> None:
    """Raise ConfigError where batch norm over all workers is asked for without effect."""
    if not trial.train.sync_batch_norm or trial.train.epochs == 0:
        return
    if trial.workers == 1:
        raise ConfigError(
            f"{where}: train.sync_batch_norm: a single worker (scale.workers) sees all samples anyway; remove the key"
        )
    import torch

    from harness.models import synced

    with torch.random.fork_rng():
        net = method.build(trial.config(), trial.task(info))
    try:
        found = synced.norms(net)
    except ValueError as error:
        raise ConfigError(f"{where}: train.sync_batch_norm: {error}") from error
    if not found:
        raise ConfigError(
            f"{where}: train.sync_batch_norm: '{trial.label}' on '{trial.network.name}' has no norm; remove the key"
        )


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
