"""The processes that train one trial together: where Ray Train puts them, how they talk, what each of them does."""

import os
from collections.abc import Mapping
from typing import Any

import psutil

from harness.plan import Trial
from harness.trial import Run, run


def scaling(scale: Mapping[str, Any], gpus: float) -> Any:
    """Ray Train's ScalingConfig for a trial of `scale`, `gpus` for each worker."""
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=scale["workers"],
        use_gpu=gpus > 0,
        resources_per_worker={"CPU": scale["cpus_per_worker"], **({"GPU": gpus} if gpus else {})},
        placement_strategy=scale["placement"].upper(),
    )


def process_group(scale: Mapping[str, Any], gpus: float) -> Any:
    """Ray Train's TorchConfig: NCCL between GPUs, gloo between CPUs, over the network that carries Ray's addresses."""
    from ray.train.torch import TorchConfig

    backend = TorchConfig().backend_cls

    class OnRaysNetwork(backend):  # type: ignore[misc] # Ray's way to do something before the group is made
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(use_rays_network)
            super().on_start(worker_group, backend_config)

    class Config(TorchConfig):
        backend_cls = property(lambda self: OnRaysNetwork)

    return Config(backend="nccl" if gpus else "gloo", timeout_s=scale["timeout_seconds"])


def use_rays_network() -> None:
    """In a worker: talk through the interface that has the address under which Ray knows this node, unless told.

    By default gloo takes that of the host's name, which many hosts map to 127.0.1.1, where no other node listens.
    """
    from ray.util import get_node_ip_address

    if name := interface(get_node_ip_address()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # NCCL takes a name alone for the beginning of one


def interface(address: str) -> str | None:
    """The name of this machine's network interface that has the IP address; None where none has it."""
    for name, addresses in psutil.net_if_addrs().items():
        # IPv6 addresses of a link carry the interface's name behind a percent sign.
        if any(found.address.partition("%")[0] == address for found in addresses):
            return name
    return None


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
