"""The trials that have no record yet, as Ray Tune trials."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, Protocol

from harness import backlog, capacity, cluster, interrupt, provenance, ranks, record, search, stages, storage
from harness.backlog import due, finished
from harness.config import Experiment
from harness.forecast import longest_first
from harness.plan import Trial
from harness.record import Record
from harness.trial import Report, Run, blank
from harness.trial import run as run_trial
from harness.workers import attempt, in_actor, with_workers


class Watcher(Protocol):
    """Is told what happens while a sweep runs, on the driver's main thread."""

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        """An epoch has ended, counted from 1."""

    def finished(self, result: Record) -> None:
        """A trial has its record."""


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


def run_of(experiment: Experiment, *, gpu: bool = False) -> Run:
    """What all trials of an experiment share."""
    commit, dirty = provenance.commit()
    return Run(
        experiment=experiment.name, folder=str(experiment.folder), evaluation=experiment.evaluation,
        loader=experiment.dataset.loader, threads=experiment.scale.cpus_per_worker, gpu=gpu,
        checkpoint_steps=experiment.sweep.checkpoint_steps,
        command=provenance.command(), commit=commit, dirty=dirty,
    )  # fmt: skip


def run(experiment: Experiment, trials: list[Trial], watchers: Sequence[Watcher] = ()) -> Summary:
    """Run every trial that has no record yet, after what it starts from, and return the records of all.

    Raises Interrupted on SIGINT and SIGTERM; the same call then goes on where it stopped. Raises ConfigError when a
    trial can never fit on the cluster, or when the weights that it starts from are no longer there.
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
            shared = run_of(experiment, gpu=room.need.gpus > 0)
            for wave in stages.waves(missing):
                startable, blocked = backlog.split(wave, shared)
                for result in blocked:
                    for watcher in watchers:
                        watcher.finished(result)
                for group in _groups(experiment, startable):
                    _tune(experiment, group, shared, room, watchers)
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


def _tune(
    experiment: Experiment, trials: list[Trial], shared: Run, room: capacity.Room, watchers: Sequence[Watcher]
) -> None:
    """One Tune run over a group of trials; afterwards every one of them has a record."""
    from ray import tune

    scale, sweep = experiment.scale, experiment.sweep
    gpus = room.need.gpus
    samples, searcher = 1, None
    parameters: dict[str, Any] = {
        "run": shared.model_dump(),
        "scale": {**scale.model_dump(), "gpus_per_worker": gpus, "max_failures": sweep.max_failures},
    }
    if sweep.search == "optuna":
        parameters["trial"] = trials[0].model_dump(mode="json")
        samples, searcher = search.optuna(experiment, trials[0])
    else:
        samples, searcher = len(trials), search.listed(trials)
    if samples < 1:
        return
    capacity.wait(room)
    algorithm, follower = capacity.limited(room, searcher, samples)
    # A trial of several workers only waits for them itself, and must not hold a CPU that they need.
    one = scale.workers == 1
    needs = ranks.worker_resources(scale.model_dump(), gpus) if one else {"node:__internal_head__": 0.001}
    with tempfile.TemporaryDirectory(prefix="harness-tune-", ignore_cleanup_errors=True) as logs:
        tuner = tune.Tuner(
            tune.with_resources(in_actor if one else with_workers, needs),
            param_space=parameters,
            tune_config=tune.TuneConfig(
                num_samples=samples, search_alg=algorithm, scheduler=search.asha(experiment, trials), reuse_actors=one,
                # Named only where trials are compared: without held-out samples there is no such figure.
                **({"metric": "validation_accuracy", "mode": "max"} if sweep.search != "grid" else {}),
            ),
            run_config=tune.RunConfig(
                name="sweep", storage_path=logs, verbose=0,
                failure_config=tune.FailureConfig(max_failures=sweep.max_failures if one else 0),
                callbacks=[_callback(shared, watchers), follower],
            ),
        )  # fmt: skip
        tuner.fit()


def _callback(shared: Run, watchers: Sequence[Watcher]) -> Any:
    """Tune's view of the trials, turned into records and passed on to the watchers."""
    from ray import tune

    class Callback(tune.Callback):
        def __reduce__(self) -> Any:
            # Tune stores its callbacks for a restore that we never ask for; watchers hold what cannot be stored.
            return tune.Callback, ()

        def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
            if "epoch" in result:
                for watcher in watchers:
                    watcher.epoch(result["trial"], result["epoch"], result)

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            # The last thing that a trial reports is no epoch, so one that ends on an epoch was stopped.
            result = trial.last_result or {}
            self._ended(trial, _skipped(result) if "epoch" in result else None)

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            if trial.status == "ERROR":
                self._ended(trial, ("failed", _last_line(str(trial.get_error() or "process died"))))

        def _ended(self, trial: Any, died: tuple[record.Outcome, str] | None) -> None:
            """Tell the watchers, after writing the record of a trial that could not do so itself."""
            ours = search.resolve(trial.config)
            if died:
                record.write(blank(ours, shared, *died), storage.at(shared.folder))
            result = record.read(record.path(storage.at(shared.folder), ours.id))
            for watcher in watchers:
                watcher.finished(result)

    return Callback()


def _skipped(result: dict[str, Any]) -> tuple[record.Outcome, str]:
    accuracy = result.get("validation_accuracy", float("nan"))
    return "skipped", f"stopped early by ASHA after epoch {result['epoch']} at {accuracy:.2f} % validation accuracy"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else text


def run_one(experiment: Experiment, trial: Trial, on_epoch: Report) -> Record:
    """Run one trial in this process, without Ray unless it needs several workers, and return its record.

    What it starts from runs first, if that has no record yet. Raises Interrupted on SIGINT and SIGTERM, ConfigError
    when weights to start from are no longer there.
    """
    if experiment.scale.workers > 1:
        return run(experiment, [trial]).records[0]
    import torch

    gpu = experiment.scale.gpus_per_worker != 0 and torch.cuda.is_available()
    shared = run_of(experiment, gpu=gpu)
    missing = due([trial], experiment.folder)
    backlog.refuse_lost_weights(missing, shared)
    with interrupt.raised():
        for wave in stages.waves(missing):
            for each in backlog.split(wave, shared)[0]:
                attempt(each, shared, partial(run_trial, each, shared, report=on_epoch))
    return record.read(record.path(experiment.folder, trial.id))
