"""Two ways to start the same trial: in a reused Tune actor, or in Ray Train workers that train it together.

A Train run costs 10 to 25 s and 1.3 GB before its first step, a reused actor well under a second; hence the first way
for a trial of one worker. Both call `harness.trial.run`.
"""

import tempfile
from collections.abc import Callable
from typing import Any

from harness import ranks, record, storage
from harness.plan import Trial
from harness.record import Record
from harness.search import resolve
from harness.trial import Run, blank, run


def in_actor(parameters: dict[str, Any]) -> None:
    """A trial of one worker, as a Tune function."""
    from ray import tune

    trial, shared = resolve(parameters), Run.model_validate(parameters["run"])

    def report(metrics: dict[str, Any]) -> None:
        tune.report(ranks.shown(trial, metrics))

    result = attempt(trial, shared, lambda: run(trial, shared, report=report))
    tune.report({"validation_accuracy": result.validation_accuracy or 0.0})


def with_workers(parameters: dict[str, Any]) -> None:
    """A trial of several workers, as a Tune function that drives one Ray Train run."""
    from ray import tune
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trial, shared, scale = resolve(parameters), Run.model_validate(parameters["run"]), parameters["scale"]
    gpus = scale["gpus_per_worker"]

    def start() -> Record:
        # Our own checkpoint continues a trial, so Train takes every run for a new one, and its files are logs.
        with tempfile.TemporaryDirectory(prefix="harness-train-", ignore_cleanup_errors=True) as logs:
            TorchTrainer(
                ranks.train,
                train_loop_config={"trial": trial.model_dump(mode="json"), "run": shared.model_dump()},
                torch_config=ranks.process_group(scale, gpus),
                scaling_config=ranks.scaling(scale, gpus),
                run_config=RunConfig(
                    name=trial.id,
                    storage_path=logs,
                    callbacks=[TuneReportCallback()],
                    failure_config=FailureConfig(max_failures=scale["max_failures"], controller_failure_limit=3),
                ),
            ).fit()
        return record.read(record.path(storage.at(shared.folder), trial.id))

    result = attempt(trial, shared, start)
    tune.report({"validation_accuracy": result.validation_accuracy or 0.0})


def attempt(trial: Trial, shared: Run, start: Callable[[], Record | None]) -> Record:
    """Run a trial unless its record is there already, and turn an error into a record with outcome `failed`."""
    file = record.path(storage.at(shared.folder), trial.id)
    if file.exists() and (before := record.read(file)).outcome != "failed":
        return before
    try:
        result = start()
        assert result is not None, "rank 0 returns the record"
        return result
    except Exception as error:  # noqa: BLE001 - the one place where a trial's error becomes its record
        failed = blank(trial, shared, "failed", _reason(error))
        record.write(failed, file.parent)
        return failed


def _reason(error: Exception) -> str:
    """What went wrong in one line: the workers' own error where Ray Train wrapped it."""
    causes = list(getattr(error, "worker_failures", {}).values())
    error = causes[0] if causes else error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
