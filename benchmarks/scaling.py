"""Scaling from one worker to two on this machine, against two processes that have nothing to do with each other.

    weak     two workers with a batch each of the size that one had     bound: time of two independent processes
    strong   two workers that share one worker's batch                  bound: the same, each with half a batch

Two workers cannot be faster than two independent processes, which share cores, caches and memory as they do and
exchange nothing; the target is a share of that bound. All kinds alternate in the same two processes.

Command: python benchmarks/scaling.py
"""

import argparse
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import report
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from harness import plan
from harness.config import Experiment
from harness.data import loader
from harness.loop import Setup, Training
from harness.plugins import load

TARGET = 0.95
METHODS = {"bptt": "DDP's all-reduce beside backward", "sltt": "one all-reduce in update()"}
BATCH_SIZE = 64
KINDS = ("alone", "half alone", "independent", "half independent", "weak", "strong")


def experiment(method: str, batch_size: int, steps: int, epochs: int) -> Experiment:
    """T = 4 on noise of CIFAR's size, with a network of convolutions."""
    return Experiment.model_validate(
        {
            "name": "scaling", "dataset": {"name": "noise", "train": 2 * BATCH_SIZE * (steps + 1), "validation": 0.02},
            "network": {"name": "convnet", "stages": [[16], [32]]}, "methods": [method], "time_steps": 4,
            "train": {"epochs": epochs, "batch_size": batch_size, "limit_batches": steps},
            "evaluation": {"selection": "last"},
        }
    )  # fmt: skip


def step_seconds(method: str, kind: str, *, steps: int, epochs: int, rank: int, world: int) -> float:
    """Seconds of a training step, the median over epochs but the first."""
    share = BATCH_SIZE // 2 if kind in ("half alone", "half independent", "strong") else BATCH_SIZE
    asked = experiment(method, share * world, steps, epochs)
    data = loader.open_data(asked.dataset)
    (trial,) = plan.expand(asked, data.info)
    setup = Setup(
        load("methods", method), trial.config(), trial.task(data.info), trial.train, data, seed=0, rank=rank,  # type: ignore[arg-type]
        world=world,
    )  # fmt: skip
    found = [epoch.seconds / steps for epoch in Training(setup).epochs()]
    return median(found[1:])


def schedule(repetitions: int) -> Iterator[tuple[str, str]]:
    for _ in range(repetitions):
        for method in METHODS:
            for kind in KINDS:
                yield method, kind


def work(rank: int, folder: str, repetitions: int, steps: int, epochs: int) -> None:
    """One of the two processes: takes its part in every kind of run, and writes what it took."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number, (method, kind) in enumerate(schedule(repetitions)):
        # Together they begin, and end before the next; in between there is a group only where it is used.
        meet(rank, Path(folder) / f"begin {number}")
        together = kind in ("weak", "strong")
        if together:
            dist.init_process_group("gloo", init_method=f"file://{folder}/group{number}", rank=rank, world_size=2)
        if rank == 0 or "alone" not in kind:
            which = {"rank": rank, "world": 2} if together else {"rank": 0, "world": 1}
            found[method, kind].append(step_seconds(method, kind, steps=steps, epochs=epochs, **which))
        if together:
            dist.destroy_process_group()
        meet(rank, Path(folder) / f"end {number}")
    torch.save(dict(found), Path(folder) / f"found{rank}")


def meet(rank: int, place: Path) -> None:
    """Wait, without using the processor, until the other process is here too."""
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    dist.barrier()
    dist.destroy_process_group()


def measures(found: list[dict[tuple[str, str], list[float]]]) -> list[report.Measure]:
    """Step times, and of each repetition the share of the bound that was reached."""
    rows = []
    for method, how in METHODS.items():
        # What two processes do takes as long as the slower of them.
        times = {
            kind: [max(pair) for pair in zip(*(of[method, kind] for of in found if (method, kind) in of), strict=True)]
            for kind in KINDS
        }
        rows += [report.measure(f"{method}, step, {kind}", 1000 * median(times[kind]), "ms") for kind in KINDS]
        for kind, bound, alone in (("weak", "independent", "alone"), ("strong", "half independent", "alone")):
            shares = [limit / time for limit, time in zip(times[bound], times[kind], strict=True)]
            scale = 2 if kind == "weak" else 1
            gains = [scale * one / time for one, time in zip(times[alone], times[kind], strict=True)]
            limits = [scale * one / time for one, time in zip(times[alone], times[bound], strict=True)]
            rows += [
                report.measure(f"{method}, {kind}: samples a second, two workers over one", median(gains), "ratio"),
                report.measure(f"{method}, {kind}: the same of two independent processes", median(limits), "ratio"),
                report.measure(
                    f"{method}, {kind}: share of that bound ({how})", median(shares), "ratio", at_least=TARGET
                ),
                report.measure(f"{method}, {kind}: smallest share", min(shares), "ratio"),
                report.measure(f"{method}, {kind}: largest share", max(shares), "ratio"),
            ]
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="Steps an epoch.")
    parser.add_argument("--epochs", type=int, default=4, help="Epochs of each run; the first is not counted.")
    parser.add_argument("--folder", type=Path, default=report.FOLDER)
    options = parser.parse_args()
    loader.open_data(experiment("bptt", BATCH_SIZE, options.steps, options.epochs).dataset)  # prepared once
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (folder, options.repetitions, options.steps, options.epochs), nprocs=2)
        found = [torch.load(Path(folder) / f"found{rank}") for rank in range(2)]
    report.write("scaling", measures(found), "python benchmarks/scaling.py", folder=options.folder)


if __name__ == "__main__":
    main()
