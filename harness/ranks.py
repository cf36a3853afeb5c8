"""The processes that train one trial together: where Ray Train puts them, how they talk, what each of them does."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import psutil
import torch

from harness import attempt, claim, cost, patience
from harness.board import Board
from harness.loop import Stopped
from harness.patience import GaveUp
from harness.plan import Trial
from harness.trial import Guard, Run, run

STOPPED, ELSEWHERE = "stopped", "elsewhere"
"""What the workers return that were asked to stop, and those whose trial another process trains."""
CLAIM_SECONDS = 10.0
"""How long workers wait for a claim with all their places held, before they leave them to others."""


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


def train(parameters: dict[str, Any]) -> str | None:
    """One of the processes that train a trial together: STOPPED or ELSEWHERE if that led to no record."""
    import ray.train
    from ray.train.torch import get_device

    trial, shared = Trial.model_validate(parameters["trial"]), Run.model_validate(parameters["run"])
    board, context = Board(parameters["board"]), ray.train.get_context()
    patience.inherit(parameters["patience"])
    if shared.gpu:
        torch.cuda.set_device(get_device())

    def report(metrics: dict[str, Any]) -> None:
        ray.train.report(shown(trial, metrics))

    rank, world = context.get_world_rank(), context.get_world_size()
    with board.relayed():
        try:
            with _claimed(trial, shared, board, rank) as (verdict, guard):
                if verdict is None:
                    with noted(board, trial):
                        run(trial, shared, rank=rank, world=world, report=report, stopping=board.asked, guard=guard)
            return verdict
        except Stopped:
            return STOPPED
        except GaveUp as why:
            board.give_up(str(why))
            raise


@contextmanager
def _claimed(trial: Trial, shared: Run, board: Board, rank: int) -> Iterator[tuple[str | None, Guard | None]]:
    """Why there is nothing to train, if so, on all ranks alike; and rank 0's guard while it holds the claim."""
    from ray.train.collective import broadcast_from_rank_zero

    until = time.monotonic() + CLAIM_SECONDS

    def unless() -> bool:
        return time.monotonic() > until or attempt.is_over(trial, shared, board.is_stopping)

    with ExitStack() as stack:
        verdict = guard = None
        if rank == 0:
            folder, what = shared.checkpoints(trial), f"training {trial.name}"
            mine = stack.enter_context(claim.held(folder, what, unless=unless, party=board.name))
            if board.is_stopping():
                verdict = STOPPED
            elif mine is None or attempt.measured(trial, shared):
                verdict = ELSEWHERE
            else:
                guard = claim.guard(mine, folder)
        yield broadcast_from_rank_zero(verdict), guard


def noted(board: Board, trial: Trial) -> AbstractContextManager:
    """Within it is noted how much memory this process holds at its most, should it be killed for it."""
    return board.noted(trial.id, lambda: cost.peak_memory(torch.device("cpu"))[0])


def shown(trial: Trial, metrics: dict[str, Any]) -> dict[str, Any]:
    """An epoch's figures as Tune takes them; epochs count from 1 there."""
    return {**metrics, "trial": trial.id, "epoch": metrics["epoch"] + 1}
