"""Two ways to start the same trial: in a reused Tune actor, or in Ray Train workers that train it together.

A Train run costs 10 to 25 s and 1.3 GB before its first step, a reused actor well under a second; hence the first way
for a trial of one worker. Both call `harness.trial.run`.
"""

import logging
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from harness import attempt, claim, patience, ranks
from harness.board import Board
from harness.loop import Stopped
from harness.patience import GaveUp
from harness.plan import Trial
from harness.record import Record
from harness.search import resolve
from harness.trial import Run, run

log = logging.getLogger(__name__)


def in_actor(parameters: dict[str, Any]) -> None:
    """A trial of one worker, as a Tune function."""
    from ray import tune

    trial, shared, board = resolve(parameters), Run.model_validate(parameters["run"]), Board(parameters["board"])
    patience.inherit(parameters["patience"])

    def report(metrics: dict[str, Any]) -> None:
        tune.report(ranks.shown(trial, metrics))

    def start(guard: attempt.Guard) -> Record | None:
        with ranks.noted(board, trial):
            return run(trial, shared, report=report, stopping=board.asked, guard=guard)

    with board.relayed():
        _told(board, lambda: attempt.alone(trial, shared, start, stopping=board.is_stopping, party=board.name))


def with_workers(parameters: dict[str, Any]) -> None:
    """A trial of several workers, as a Tune function that drives one Ray Train run after the other until one ends."""
    trial, shared, board = resolve(parameters), Run.model_validate(parameters["run"]), Board(parameters["board"])
    patience.inherit(parameters["patience"])
    start = partial(_together, trial, shared, parameters["scale"], board)
    with board.relayed():
        _told(board, lambda: attempt.recorded(trial, shared, start))


def _told(board: Board, train: Callable[[], Record]) -> None:
    """Tell Tune what came out. A trial that was stopped never ends for Tune, which would start the next in its place.

    The driver ends the sweep when all trials that run have been stopped.
    """
    from ray import tune

    try:
        result = train()
    except (Stopped, GaveUp) as why:
        if isinstance(why, GaveUp):
            board.give_up(str(why))
        tune.report({"stopped": True, "validation_accuracy": 0.0})
        threading.Event().wait()
    tune.report({"validation_accuracy": result.validation_accuracy or 0.0})


def _together(trial: Trial, shared: Run, scale: dict[str, Any], board: Board) -> Record:
    """Ray Train runs until the trial has its record. Raises what ends the last run that may fail, or Stopped.

    Train itself goes on when workers die, and waits for the places that they need; it does not survive its controller.
    """
    from ray.exceptions import RayActorError
    from ray.train import ControllerError

    failures = 0
    while True:
        unless = partial(attempt.is_over, trial, shared, board.is_stopping)
        with claim.held(shared.checkpoints(trial), f"training {trial.name}", unless=unless, party=board.name):
            pass  # nobody else trains it: until here no place was held that others could use
        if found := attempt.measured(trial, shared):
            return found
        if board.is_stopping():
            raise Stopped
        try:
            if _fit(trial, shared, scale, board) == ranks.STOPPED:
                raise Stopped
        except (RayActorError, ControllerError) as error:
            failures += 1
            if failures > scale["max_failures"]:
                raise
            log.warning("%s: %s; goes on from its checkpoint", trial.name, attempt.reason(error))


def _fit(trial: Trial, shared: Run, scale: dict[str, Any], board: Board) -> str | None:
    """One Ray Train run: what its rank 0 returns."""
    from ray.train import FailureConfig, RunConfig, UserCallback
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    gpus = scale["gpus_per_worker"]
    needs = f"{scale['workers']} workers x {scale['cpus_per_worker']} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")

    class Witness(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            why = attempt.reason(attempt.first_of(worker_exceptions))
            board.say(f"{trial.name}: {why}; goes on from its checkpoint, waiting for {needs}")

    # Our own checkpoint continues a trial, so Train takes every run for a new one, and its files are logs.
    with tempfile.TemporaryDirectory(prefix="harness-train-", ignore_cleanup_errors=True) as logs:
        result = TorchTrainer(
            ranks.train,
            train_loop_config={
                "trial": trial.model_dump(mode="json"),
                "run": shared.model_dump(),
                "board": board.name,
                "patience": patience.limit_seconds(),
            },
            torch_config=ranks.process_group(scale, gpus),
            scaling_config=ranks.scaling(scale, gpus),
            run_config=RunConfig(
                name=trial.id,
                storage_path=logs,
                callbacks=[TuneReportCallback(), Witness()],
                # Places that are not there are waited for: that is no failure of the trial's.
                failure_config=FailureConfig(max_failures=scale["max_failures"], controller_failure_limit=-1),
            ),
        ).fit()
    return result.return_value
