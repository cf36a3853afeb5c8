"""The trials that have no record yet, as Ray Tune trials."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from harness import (
    attempt,
    backlog,
    capacity,
    cluster,
    interrupt,
    patience,
    provenance,
    record,
    search,
    stages,
    storage,
    tuning,
)
from harness.backlog import due, finished
from harness.config import Experiment
from harness.forecast import longest_first
from harness.loop import Stopped
from harness.plan import Trial
from harness.record import Record
from harness.trial import Guard, Report, Run
from harness.trial import run as run_trial
from harness.tuning import Watcher


@dataclass
class Summary:
    """What a sweep did."""

    records: list[Record] = field(default_factory=list)
    """Every trial's record, of this command and of earlier ones."""
    skipped: int = 0
    """Trials that had a record before this command."""

    @property
    def failed(self) -> list[Record]:
        """Records of trials that failed."""
        return [result for result in self.records if result.outcome == "failed"]


def ahead(experiment: Experiment, trials: list[Trial]) -> list[int]:
    """Epochs of every trial that `run` has yet to run."""
    if experiment.sweep.search == "optuna":
        points, tried = experiment.sweep.trials or 1, search.all_tried(experiment, trials)
        return [t.train.epochs for t in trials for _ in range(points - len(tried[t.id]))]
    return [trial.train.epochs for trial in due(trials, experiment.folder)]


def run_of(experiment: Experiment, *, gpus: float = 0.0) -> Run:
    """What all trials of an experiment share; `gpus` that each worker holds."""
    patience.limit_seconds()  # refused before anything is measured, if the environment holds no number
    commit, dirty = provenance.commit()
    return Run(
        experiment=experiment.name, folder=str(experiment.folder), evaluation=experiment.evaluation,
        loader=experiment.dataset.loader, threads=experiment.scale.cpus_per_worker, gpu=gpus > 0, gpus_per_worker=gpus,
        checkpoint_steps=experiment.sweep.checkpoint_steps,
        command=provenance.command(), commit=commit, dirty=dirty,
    )  # fmt: skip


def run(experiment: Experiment, trials: list[Trial], watchers: Sequence[Watcher] = ()) -> Summary:
    """Run every trial that has no record yet, after what it starts from, and return the records of all.

    Raises Interrupted on SIGINT and SIGTERM, once the running trials have saved themselves, and GaveUp when storage
    does not take what was measured; the same call then goes on where it stopped. Raises ConfigError when a trial can
    never fit on the cluster, or when the weights that it starts from are no longer there.
    """
    folder = experiment.folder
    before = finished(trials, folder)
    studies = experiment.sweep.search == "optuna"
    missing = trials if studies else due(trials, folder)
    if missing:
        backlog.refuse_lost_weights(missing, run_of(experiment))
        # Once more inside: ray.init puts a handler of its own in the place of ours.
        with interrupt.raised(), cluster.connected(experiment.scale), interrupt.raised():
            room = capacity.room(experiment.scale, experiment.sweep.max_concurrent)
            storage.make_folder(folder)
            shared = run_of(experiment, gpus=room.need.gpus)
            for wave in stages.waves(missing):
                startable, blocked = backlog.split(wave, shared)
                for result in blocked:
                    for watcher in watchers:
                        watcher.finished(result)
                for group in _groups(experiment, startable):
                    with interrupt.wished() as stopping, contextlib.suppress(tuning.Ended):
                        tuning.run(experiment, group, shared, room, watchers=watchers, stopping=stopping)
    if studies:
        return Summary([result for points in search.all_tried(experiment, trials).values() for result in points])
    return Summary(list(record.of([trial.id for trial in trials], folder).values()), len(before))


def _groups(experiment: Experiment, trials: list[Trial]) -> Iterator[list[Trial]]:
    """Trials that Tune sees together: all of them or, where they are compared while they run, study by study."""
    if experiment.sweep.search == "optuna":
        yield from ([trial] for trial in trials)
    elif experiment.sweep.asha:
        yield from (list(study) for _, study in groupby(trials, key=lambda t: (t.label, t.time_steps, t.seed)))
    elif trials:
        yield longest_first(trials)


def run_one(experiment: Experiment, trial: Trial, on_epoch: Report) -> Record:
    """Run one trial in this process, without Ray unless it needs several workers, and return its record.

    What it starts from runs first, if that has no record yet. Raises Interrupted on SIGINT and SIGTERM, ConfigError
    when weights to start from are no longer there.
    """
    if experiment.scale.workers > 1:
        return run(experiment, [trial]).records[0]
    import torch

    gpu = experiment.scale.gpus_per_worker != 0 and torch.cuda.is_available()
    shared = run_of(experiment, gpus=float(gpu))
    missing = due([trial], experiment.folder)
    backlog.refuse_lost_weights(missing, shared)
    with interrupt.wished() as stopping, contextlib.suppress(Stopped):
        for wave in stages.waves(missing):
            for each in backlog.split(wave, shared)[0]:
                attempt.alone(each, shared, partial(_here, each, shared, on_epoch, stopping), stopping=stopping)
    return record.read(record.path(experiment.folder, trial.id))


def _here(trial: Trial, shared: Run, report: Report, stopping: Callable[[], bool], guard: Guard) -> Record | None:
    return run_trial(trial, shared, report=report, stopping=stopping, guard=guard)
