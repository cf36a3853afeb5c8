"""Trials as Ray Tune runs them: which places they take, what their ends become, and when a sweep ends before them."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from harness import attempt, capacity, patience, ranks, record, search, storage
from harness.board import Board
from harness.config import Experiment
from harness.patience import GaveUp
from harness.plan import Trial
from harness.record import Record
from harness.trial import Run
from harness.workers import in_actor, with_workers

LOOK_SECONDS = 5.0
"""Between two looks at whether the driver's own node is alive."""

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Is told what happens while a sweep runs, on the driver's main thread."""

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        """An epoch has ended, counted from 1."""

    def finished(self, result: Record) -> None:
        """A trial has its record."""


class Ended(Exception):
    """All trials that ran have saved themselves, as they were asked to."""


def run(
    experiment: Experiment, trials: list[Trial], shared: Run, room: capacity.Room, *,
    watchers: Sequence[Watcher], stopping: Callable[[], bool],
) -> None:  # fmt: skip
    """One Tune run over a group of trials; afterwards every one of them has a record.

    Raises Ended, as soon as the running trials are saved, once `stopping()` says so; GaveUp when storage did not take
    what one of them measured.
    """
    from ray import tune

    _quieten()
    scale, sweep, board = experiment.scale, experiment.sweep, Board.new()
    samples, searcher = 1, None
    parameters: dict[str, Any] = {
        "run": shared.model_dump(),
        "scale": {**scale.model_dump(), "gpus_per_worker": room.need.gpus, "max_failures": sweep.max_failures},
        "board": board.name,
        "patience": patience.limit_seconds(),
    }
    if sweep.search == "optuna":
        parameters["trial"] = trials[0].model_dump(mode="json")
        samples, searcher = search.optuna(experiment, trials[0])
    else:
        samples, searcher = len(trials), search.listed(trials)
    if samples < 1:
        return
    capacity.wait(room, unless=stopping)
    if stopping():
        raise Ended
    algorithm, follower = capacity.limited(room, searcher, samples)
    # A trial of several workers only waits for them itself, and must not hold a CPU that they need.
    one = scale.workers == 1
    needs = ranks.worker_resources(scale.model_dump(), room.need.gpus) if one else {"node:__internal_head__": 0.001}
    with tempfile.TemporaryDirectory(prefix="harness-tune-", ignore_cleanup_errors=True) as logs, board.read(stopping):
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
                failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
                callbacks=[_callback(shared, board, watchers, stopping), follower],
            ),
        )  # fmt: skip
        with _deaths_for_memory():
            tuner.fit()


def _quieten() -> None:
    """Of a process that dies, Tune shows a traceback and Ray a paragraph, on stdout; we say in a line what happened."""
    from ray._private import worker

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    worker.print_to_stdstream = lambda data, ignore_prefix=False: log.info("%s", " ".join(data["lines"]))


@contextmanager
def _deaths_for_memory() -> Iterator[None]:
    """Have Tune take a process that Ray ended for want of memory for dead, like others; it would give up everything."""
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import OutOfMemoryError, RayActorError

    failed = RayActorManager._actor_task_failed

    def understood(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        lack = isinstance(exception, OutOfMemoryError)
        failed(self, tracked_actor_task, RayActorError(error_msg=str(exception)) if lack else exception)

    RayActorManager._actor_task_failed = understood
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = failed


class _Home:
    """The Ray node that the driver is on: without it a sweep would wait for ever for what cannot come."""

    def __init__(self) -> None:
        import ray

        self._node, self._looked = ray.get_runtime_context().get_node_id(), time.monotonic()

    def look(self) -> None:
        """Every few seconds: raise GaveUp when the node is dead."""
        import ray

        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        if any(node["NodeID"] == self._node and not node["Alive"] for node in ray.nodes()):
            raise GaveUp(
                "the Ray node that this command ran on has died; what was done is saved, the same command goes on"
            )


def _callback(shared: Run, board: Board, watchers: Sequence[Watcher], stopping: Callable[[], bool]) -> Any:
    """Tune's view of the trials, turned into records and passed on to the watchers."""
    from ray import tune

    stopped: set[str] = set()
    home = _Home()

    class Callback(tune.Callback):
        def __reduce__(self) -> Any:
            # Tune stores its callbacks for a restore that we never ask for; watchers hold what cannot be stored.
            return tune.Callback, ()

        def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
            running = {trial.trial_id for trial in trials if trial.status == "RUNNING"}
            why = board.gave_up() if stopped else None
            if (why or stopping()) and running <= stopped:
                raise GaveUp(why) if why else Ended
            home.look()

        def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
            if result.get("stopped"):
                stopped.add(trial.trial_id)
            elif "epoch" in result:
                for watcher in watchers:
                    watcher.epoch(result["trial"], result["epoch"], result)

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            # The last thing that a trial reports is no epoch, so one that ends on an epoch was stopped.
            result = trial.last_result or {}
            ours = search.resolve(trial.config)
            if "epoch" in result:
                accuracy = result.get("validation_accuracy", float("nan"))
                seen = f"after epoch {result['epoch']} at {accuracy:.2f} % validation accuracy"
                self._finished(attempt.settled(ours, shared, "skipped", f"stopped early by ASHA {seen}"))
            else:
                self._finished(record.read(record.path(storage.at(shared.folder), ours.id)))

        def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            log.warning("%s: %s; goes on from its checkpoint", search.resolve(trial.config).name, _why(trial))

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            if trial.status == "ERROR":
                ours = search.resolve(trial.config)
                self._finished(attempt.settled(ours, shared, "failed", _why(trial), peak=board.peak(ours.id)))

        def _finished(self, result: Record) -> None:
            for watcher in watchers:
                watcher.finished(result)

    return Callback()


def _why(trial: Any) -> str:
    """What a trial's process died of; Tune has it in a file on the driver's side."""
    name = trial.run_metadata.error_filename
    file = Path(trial.storage.trial_driver_staging_path, name or "")
    told = file.read_text().rpartition("Failure # ")[2] if file.is_file() else ""
    return attempt.shortened(told) or "its process died"
