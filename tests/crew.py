"""Real processes that talk through gloo, as the workers of one trial do, without Ray."""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 120
"""After which processes that hang are ended."""


def run(function: Callable[..., Any], world: int, *arguments: Any) -> list[Any]:
    """What function(rank, world, *arguments) returns in each of `world` processes that have a process group.

    Results are tensors and plain values. Raises AssertionError with the traceback of a process that failed.
    """
    # A server that has imported torch once forks them; forking this process could take locks along.
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "harness.loop"])
    with tempfile.TemporaryDirectory() as folder:
        crew = [context.Process(target=_work, args=(function, rank, world, folder, arguments)) for rank in range(world)]
        for worker in crew:
            worker.start()
        for worker in crew:
            worker.join(SECONDS)
            if worker.is_alive():
                worker.kill()
                worker.join()
        found = []
        for rank in range(world):
            file = Path(folder) / str(rank)
            assert file.exists(), f"worker {rank} ended without a word"
            result, failure = torch.load(file, weights_only=False)
            assert failure is None, f"worker {rank}:\n{failure}"
            found.append(result)
        return found


def _work(function: Callable[..., Any], rank: int, world: int, folder: str, arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        outcome = function(rank, world, *arguments), None
    except BaseException:  # noqa: BLE001 whatever it is, the test that started this process says so
        outcome = None, traceback.format_exc()
    torch.save(outcome, Path(folder) / str(rank))
    # Others may still be at it, and would see this one's connections break.
    os._exit(0) if outcome[1] else dist.destroy_process_group()
