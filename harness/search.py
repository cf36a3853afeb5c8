"""Searching instead of listing: Optuna's suggestions and ASHA's early stops, within one study at a time.

A study is one method at one T with one seed. Points of different studies are never compared: that would tune one method
at another's expense.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness import plan, record, storage
from harness.config import Experiment, Range
from harness.plan import Trial
from harness.record import Record


def resolve(parameters: Mapping[str, Any]) -> Trial:
    """The trial that Tune's parameters stand for: a whole trial, or a study's base and a suggested point."""
    trial = Trial.model_validate(parameters["trial"])
    point = {key: value for key, value in parameters.items() if key.startswith(("settings.", "train."))}
    return plan.at(trial, point) if point else trial


def optuna(experiment: Experiment, base: Trial) -> tuple[int, Any]:
    """How many points the study still lacks, and a Tune search algorithm that suggests them.

    Points measured by earlier commands are told to Optuna instead of being measured again.
    """
    from optuna import logging
    from ray.tune.search.optuna import OptunaSearch

    logging.set_verbosity(logging.WARNING)
    ranges = plan.space(experiment, base)
    known = [result for result in tried(experiment, base) if result.validation_accuracy is not None]
    searcher = OptunaSearch(
        space={path: _distribution(given, plan.integer(base, path)) for path, given in ranges.items()},
        metric="validation_accuracy",
        mode="max",
        # A continued study must not repeat the random points it began with.
        seed=experiment.sweep.seed + len(known),
        points_to_evaluate=[_point(result.trial, ranges) for result in known] or None,
        evaluated_rewards=[result.validation_accuracy for result in known] or None,
    )
    return (experiment.sweep.trials or 1) - len(known), searcher


def listed(trials: Sequence[Trial]) -> Any:
    """A Tune search algorithm that hands out these trials, one after the other.

    Tune's own `grid_search` copies and walks the whole list again for each of its trials.
    """
    from ray.tune.search import Searcher

    class Listed(Searcher):
        def __init__(self) -> None:
            super().__init__()
            self.left = iter(trials)

        def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
            return True

        def suggest(self, trial_id: str) -> Any:
            trial = next(self.left, None)
            return Searcher.FINISHED if trial is None else {"trial": trial.model_dump(mode="json")}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            """Nothing is learnt from it."""

        def save(self, checkpoint_path: str) -> None:
            """Nothing: Tune is never asked to restore a sweep."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing, for the same reason."""

    return Listed()


def asha(experiment: Experiment, trials: list[Trial]) -> Any:
    """Tune's scheduler that stops the worse of these trials early, or None if none of them can be stopped."""
    epochs = max((trial.train.epochs for trial in trials), default=0)
    if experiment.sweep.asha is None or epochs < experiment.sweep.asha.grace_epochs:
        return None
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr="epoch",
        # One more than there are: at max_t a trial would be stopped before it has evaluated and recorded itself.
        max_t=epochs + 1,
        grace_period=experiment.sweep.asha.grace_epochs,
        reduction_factor=experiment.sweep.asha.reduction_factor,
    )


def tried(experiment: Experiment, base: Trial) -> list[Record]:
    """Records of the points that a study has tried, in this command or before."""
    return all_tried(experiment, [base])[base.id]


def all_tried(experiment: Experiment, bases: Sequence[Trial]) -> dict[str, list[Record]]:
    """The same for several studies, by their trials' ids; every record is read once for all of them."""
    ids = [name.removesuffix(".json") for name in sorted(storage.names(experiment.folder)) if name.endswith(".json")]
    records = list(record.of([name for name in ids if record.is_id(name)], experiment.folder).values())
    found = {}
    for searched in {tuple(sorted(plan.space(experiment, base))) for base in bases}:
        points: dict[str, list[Record]] = {}
        for result in records:
            points.setdefault(_rest(result.trial, searched), []).append(result)
        for base in bases:
            if tuple(sorted(plan.space(experiment, base))) == searched:
                found[base.id] = points.get(_rest(base.model_dump(mode="json"), searched), [])
    return found


def _rest(trial: Mapping[str, Any], searched: Iterable[str]) -> str:
    """A trial's configuration without the searched values, as text."""
    copy = json.loads(json.dumps(trial))
    for path in searched:
        block, key = path.split(".", 1)
        copy[block].pop(key, None)
    return json.dumps(copy, sort_keys=True)


def _point(trial: Mapping[str, Any], ranges: Mapping[str, Range]) -> dict[str, Any]:
    # A setting that came later is not stored where it has its default.
    settings = Trial.model_validate(trial).config().model_dump()
    blocks = {"settings": settings, "train": trial["train"]}
    return {path: blocks[path.split(".", 1)[0]][path.split(".", 1)[1]] for path in ranges}


def _distribution(given: Range, whole: bool) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if given.choices is not None:
        return CategoricalDistribution(given.choices)
    assert given.low is not None
    assert given.high is not None
    if whole:
        return IntDistribution(int(given.low), int(given.high), log=given.log)
    return FloatDistribution(given.low, given.high, log=given.log)
