"""The processes that train one trial together: where Ray Train puts them, how they talk, what each of them does."""

from collections.abc import Mapping
from typing import Any

from harness.plan import Trial
from harness.trial import Run, run


def scaling(scale: Mapping[str, Any], gpus: float) -> Any:
    """Ray Train's ScalingConfig for a trial of `scale`, `gpus` for each worker."""
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=scale["workers"],
        use_gpu=gpus > 0,
        resources_per_worker=worker_resources(scale, gpus),
        placement_strategy=scale["placement"].upper(),
    )


def worker_resources(scale: Mapping[str, Any], gpus: float) -> dict[str, float]:
    """What one worker takes, in Ray's names."""
    asked = {"CPU": scale["cpus_per_worker"], "GPU": gpus, "memory": int((scale["memory_gb_per_worker"] or 0) * 1e9)}
    return {name: amount for name, amount in asked.items() if amount}


def process_group(scale: Mapping[str, Any], gpus: float) -> Any:
    """Ray Train's TorchConfig: NCCL between GPUs, gloo between CPUs."""
    from ray.train.torch import TorchConfig

    return TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=scale["timeout_seconds"])


def train(parameters: dict[str, Any]) -> None:
    """One of the processes that train a trial together."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    trial, shared = Trial.model_validate(parameters["trial"]), Run.model_validate(parameters["run"])
    context = ray.train.get_context()
    if shared.gpu:
        torch.cuda.set_device(get_device())

    def report(metrics: dict[str, Any]) -> None:
        ray.train.report(shown(trial, metrics))

    run(trial, shared, rank=context.get_world_rank(), world=context.get_world_size(), report=report)


def shown(trial: Trial, metrics: dict[str, Any]) -> dict[str, Any]:
    """An epoch's figures as Tune takes them; epochs count from 1 there."""
    return {**metrics, "trial": trial.id, "epoch": metrics["epoch"] + 1}
