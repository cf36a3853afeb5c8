"""Trials that start from other trials' weights: which one each starts from, and what runs before what. Pure."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from harness.config import Experiment, MethodBlock
from harness.experiment_file import ConfigError
from harness.plugins import unknown

if TYPE_CHECKING:
    from harness.plan import Trial


def order(experiment: Experiment, file: str) -> list[int]:
    """Positions of the method blocks such that each stands behind the one it starts from, else in the file's order.

    Raises ConfigError for a start that does not exist, for a circle, and for a search whose trials are not known yet.
    """
    labels = [_label(entry) for entry in experiment.methods]
    found: list[int] = []
    for index in range(len(labels)):
        chain = [index]
        while (start := experiment.methods[chain[-1]].start) is not None:
            where = f"{file}: methods.{chain[-1]}.start"
            if experiment.sweep.search == "optuna":
                raise ConfigError(f"{where}: has to be known before the search; use search 'grid' or 'random'")
            if start.method not in labels:
                raise ConfigError(f"{where}: {unknown('method', start.method, labels)}")
            if (before := labels.index(start.method)) in chain:
                circle = " -> ".join(labels[place] for place in [*chain, before])
                raise ConfigError(f"{where}: a method cannot start from itself: {circle}")
            chain.append(before)
        found += [place for place in reversed(chain) if place not in found]
    return found


def origin(entry: MethodBlock, trial: "Trial", offered: Sequence["Trial"], where: str) -> "Trial":
    """The one of the trials `offered` by the other method that this method's `trial` starts from.

    Raises ConfigError when there is none or more than one.
    """
    assert entry.start is not None, "only for a method that starts from another"
    label, wanted = entry.start.method, entry.start.time_steps
    if offered[0].network != trial.network:
        raise ConfigError(
            f"{where}: '{label}' has network '{_network(offered[0])}', '{_label(entry)}' has '{_network(trial)}'; "
            f"give both the same"
        )
    steps = sorted({other.time_steps for other in offered})
    if wanted is None:
        wanted = steps[0] if len(steps) == 1 else trial.time_steps
        hint = f"choose one, such as start: {{method: {label}, time_steps: {steps[-1]}}}"
    else:
        hint = f"choose one of them or leave 'time_steps' out where it is the only one (here: {wanted})"
    fitting = [other for other in offered if other.time_steps == wanted and other.seed == trial.seed]
    if not fitting:
        raise ConfigError(f"{where}: '{label}' has no trial at T={wanted} (there are: {_listed(steps)}); {hint}")
    if len(fitting) > 1:
        raise ConfigError(
            f"{where}: '{label}' has {len(fitting)} trials at T={wanted}, seed {trial.seed}; "
            f"give the one to start from a method block of its own, with a label and no grid or searched key"
        )
    return fitting[0]


def lineage(trial: "Trial") -> "list[Trial]":
    """The trials that come before this one, oldest first."""
    return [] if trial.start is None else [*lineage(trial.start), trial.start]


def due(trials: Iterable["Trial"], is_measured: Callable[["Trial"], bool]) -> "list[Trial]":
    """The trials that have to run: those not measured yet, and what they start from as far as that is not either."""
    found: dict[str, Trial] = {}
    for trial in trials:
        for each in reversed([*lineage(trial), trial]):
            if is_measured(each):
                break
            found.setdefault(each.id, each)
    return list(found.values())


def waves(trials: Sequence["Trial"]) -> "list[list[Trial]]":
    """The trials in groups such that each starts from one of an earlier group, or from one that is not among them."""
    names = {trial.id for trial in trials}
    groups: list[list[Trial]] = []
    for trial in trials:
        depth = sum(each.id in names for each in lineage(trial))
        groups += [[] for _ in range(depth + 1 - len(groups))]
        groups[depth].append(trial)
    return [group for group in groups if group]


def _label(entry: MethodBlock) -> str:
    return entry.label or entry.name


def _network(trial: "Trial") -> str:
    options = ", ".join(f"{key}={value}" for key, value in trial.network.options.items())
    return f"{trial.network.name} ({options})" if options else trial.network.name


def _listed(steps: Iterable[int]) -> str:
    return ", ".join(f"T={step}" for step in steps)
