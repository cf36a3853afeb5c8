"""Two ways to start the same trial: in a reused Tune actor, or in Ray Train workers that train it together.

A Train run costs 10 to 25 s and 1.3 GB before its first step, a reused actor well under a second; hence the first way
for a trial of one worker. Both call `harness.trial.run`.
"""

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import record
from harness.plan import Trial
from harness.record import Record
from harness.search import resolve
from harness.trial import Run, blank, run


def in_actor(parameters: dict[str, Any]) -> None:
    """A trial of one worker, as a Tune function."""
    from ray import tune

    trial, shared = resolve(parameters), Run.model_validate(parameters["run"])

    def report(metrics: dict[str, Any]) -> None:
        tune.report(_shown(trial, metrics))

    result = attempt(trial, shared, lambda: run(trial, shared, report=report))
    tune.report({"validation_accuracy": result.validation_accuracy or 0.0})


def with_workers(parameters: dict[str, Any]) -> None:
    """A trial of several workers, as a Tune function that drives one Ray Train run."""
    from ray import tune
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trial, shared, scale = resolve(parameters), Run.model_validate(parameters["run"]), parameters["scale"]
    gpus = scale["gpus_per_worker"]

    def start() -> Record:
        # Our own checkpoint continues a trial, so Train has to take every run for a new one.
        name, storage = f"{trial.id}-{uuid.uuid4().hex[:8]}", Path(shared.folder) / "ray" / "train"
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"trial": trial.model_dump(mode="json"), "run": shared.model_dump()},
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=600),
            scaling_config=ScalingConfig(
                num_workers=scale["workers"],
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": scale["cpus_per_worker"], **({"GPU": gpus} if gpus else {})},
            ),
            run_config=RunConfig(
                name=name,
                storage_path=str(storage),
                callbacks=[TuneReportCallback()],
                failure_config=FailureConfig(max_failures=scale["max_failures"], controller_failure_limit=3),
            ),
        )
        try:
            trainer.fit()
        finally:
            shutil.rmtree(storage / name, ignore_errors=True)
        return record.read(record.path(Path(shared.folder), trial.id))

    result = attempt(trial, shared, start)
    tune.report({"validation_accuracy": result.validation_accuracy or 0.0})


def _worker(parameters: dict[str, Any]) -> None:
    """One of the processes that train a trial together."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    trial, shared = Trial.model_validate(parameters["trial"]), Run.model_validate(parameters["run"])
    context = ray.train.get_context()
    if shared.gpu:
        torch.cuda.set_device(get_device())

    def report(metrics: dict[str, Any]) -> None:
        ray.train.report(_shown(trial, metrics))

    run(trial, shared, rank=context.get_world_rank(), world=context.get_world_size(), report=report)


def attempt(trial: Trial, shared: Run, start: Callable[[], Record | None]) -> Record:
    """Run a trial unless its record is there already, and turn an error into a record with outcome `failed`."""
    file = record.path(Path(shared.folder), trial.id)
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


def _shown(trial: Trial, metrics: dict[str, Any]) -> dict[str, Any]:
    """An epoch's figures as Tune takes them; epochs count from 1 there."""
    return {**metrics, "trial": trial.id, "epoch": metrics["epoch"] + 1}


def _reason(error: Exception) -> str:
    """What went wrong in one line: the workers' own error where Ray Train wrapped it."""
    causes = list(getattr(error, "worker_failures", {}).values())
    error = causes[0] if causes else error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
