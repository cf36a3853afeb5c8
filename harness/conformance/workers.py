"""Check that several workers train as one process does on the concatenated batch: two real processes."""

import multiprocessing
import os
import tempfile
import traceback
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from harness.conformance import step
from harness.conformance.case import Case, cases, labels
from harness.conformance.expect import EXACT, expect, expect_close
from harness.conformance.step import Gradients
from harness.descent import average_gradients

WORLD = 2
STEPS = 2
SECONDS = 120
"""How long workers may take; one that waits for a message which never comes is ended then."""


def check_workers(case: Case) -> None:
    """Gradients of two workers are those of one process on the concatenated batch, to rounding."""
    position = [str(sibling) for sibling in _siblings(case.method, case.network)].index(str(case))
    expected = updates(case, rank=0, world=1)
    for rank, found in enumerate(_of_workers(case.method, case.network)):
        expect(position < len(found), f"worker {rank} stopped before this case; see the first that fails")
        mine = found[position]
        expect(not isinstance(mine, str), f"worker {rank} failed:\n{mine}")
        counts = f"worker {rank} called `update` {len(mine)} times, a single process {len(expected)} times"
        expect(len(mine) == len(expected), counts)
        for count, (some, others) in enumerate(zip(mine, expected, strict=True), 1):
            for name, gradient in others.items():
                where = f"gradient of {name} in worker {rank} at update {count} (left), of one process (right)"
                hint = 'backward has to come through `net(x)` as it was given, or else REDUCE = "explicit"'
                expect_close(some[name], gradient, f"{where}; {hint}", tolerance=10 * EXACT)  # type: ignore[arg-type]


def updates(case: Case, *, rank: int, world: int) -> list[Gradients]:
    """The averaged gradients of some steps of plain descent in float64, on this worker's share of the batch."""
    module, _, net = case.build(dropout=0.0, exact=True)
    step.steady(net.double())
    explicit = getattr(module, "REDUCE", "ddp") == "explicit"
    wrapped: nn.Module = DistributedDataParallel(net) if world > 1 and not explicit else net

    def change(net: nn.Module) -> None:
        if world > 1 and explicit:
            average_gradients([p for _, p in step.trained(net)], world)
        with torch.no_grad():
            for _, p in step.trained(net):
                if p.grad is not None:
                    p.sub_(p.grad, alpha=0.05)

    x, y = case.x(dtype=torch.float64)[:, rank::world], labels()[rank::world]
    taken = [
        step.take(case, net, x, y, seed=i, exact=True, change=change, wrap=lambda _: wrapped) for i in range(STEPS)
    ]
    return [gradients for each in taken for gradients in each.updates]


def _siblings(method: str, network: str) -> list[Case]:
    """What is tried in one start of the workers: every setting, on one kind of input."""
    found = cases(method, [network])
    return [case for case in found if case.inputs == found[0].inputs]


@cache
def _of_workers(method: str, network: str) -> list[Any]:
    """For each worker and case: the updates, or what went wrong."""
    # A server that has imported torch once forks the workers; forking this process could take locks along.
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo"])  # what DistributedDataParallel imports, which takes longest
    with tempfile.TemporaryDirectory() as folder:
        workers = [context.Process(target=_work, args=(method, network, rank, folder)) for rank in range(WORLD)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(SECONDS)
            if worker.is_alive():
                worker.kill()
                worker.join()
        files = [Path(folder) / str(rank) for rank in range(WORLD)]
        return [torch.load(file) if file.exists() else [] for file in files]


def _work(method: str, network: str, rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD, timeout=timedelta(seconds=30)
    )
    found: list[list[Gradients] | str] = []
    for case in _siblings(method, network):
        try:
            found.append(updates(case, rank=rank, world=WORLD))
        except Exception:  # noqa: BLE001 - a method's error is what the check reports
            found.append(traceback.format_exc())
            break  # the other worker may be somewhere else now
    torch.save(found, Path(folder) / str(rank))
    dist.destroy_process_group()
