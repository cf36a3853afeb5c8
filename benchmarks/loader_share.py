"""How much of an epoch is waiting for data when the model is a linear layer, and what would feed an accelerator.

Command: python benchmarks/loader_share.py [--rate 10000]

For each dataset that is here, and each loader that it has: the share of the time that training waits for its next
batch; the processor time a sample takes the loader alone; and from it the cores that would feed an accelerator which
takes `--rate` samples a second. Torch has one thread, FFCV reads ahead in another. About three minutes on two cores.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import archives
import process_tree
import report
import torch
import torch.nn.functional as F

from harness import allocator
from harness.config import DatasetBlock
from harness.data import ffcv_compat, loader
from harness.data.loader import Data
from harness.data.source import SPLITS, of
from harness.plugins import names

CLASSES = 10
"""Of the linear layer: with ImageNet's thousand it would take longer than many a network."""


@dataclass(frozen=True)
class Case:
    """A dataset as it would be trained on."""

    title: str
    settings: dict[str, Any]
    loaders: tuple[str, ...] = ("memory", "ffcv")
    time_steps: int = 1
    batch_size: int = 128
    augment: dict[str, Any] = field(default_factory=dict)

    def block(self, kind: str) -> DatasetBlock:
        """As an experiment would name it."""
        return DatasetBlock.model_validate(
            {"validation": 0, "loader": kind, "augment": self.augment, "name": "image_folder"} | self.settings
        )


def cases() -> Iterator[Case]:
    """What is here."""
    crop = {"crop_padding": 4, "flip": True}
    yield Case("digits", {"name": "digits"})
    if of(DatasetBlock(name="mnist")).is_here():
        yield Case("MNIST", {"name": "mnist"})
    if cifar10 := archives.unpacked("cifar10-jpeg"):
        yield Case("CIFAR-10 (JPEG)", {"path": str(cifar10), "size": 32}, augment=crop)
    if sample := archives.unpacked("imagenet-sample"):
        whole = {"path": str(trained_on(sample)), "size": 224, "whole": True}
        resized = {"random_resized_crop": [0.08, 1], "flip": True}
        yield Case("ImageNet sample", whole, loaders=("ffcv",), batch_size=50, augment=resized)
    if "digits_events" in names("datasets"):
        yield Case("digits, events, T = 10", {"name": "digits_events"}, time_steps=10)
    noise = {"name": "noise", "temporal": True, "train": 512, "test": 16}
    for side, batch_size in ((34, 128), (128, 16)):
        title = f"noise of events, 2x{side}x{side}, T = 10"
        yield Case(title, noise | {"shape": [2, side, side]}, time_steps=10, batch_size=batch_size)


def trained_on(sample: Path) -> Path:
    """A folder in which the sample's training images are for testing, too: of the others, not all classes are there."""
    folder = sample.with_name(f"{sample.name}-train")
    folder.mkdir(exist_ok=True)
    for split in SPLITS:
        if not (folder / split).exists():
            (folder / split).symlink_to(sample / "train")
    return folder


@dataclass
class Found:
    """What was measured of one way to feed one dataset, each repetition."""

    data: Data
    shares: list[float] = field(default_factory=list)
    trained: list[float] = field(default_factory=list)
    """Samples a second."""
    cpu: list[float] = field(default_factory=list)
    """Milliseconds a sample, of the loader alone."""


def train(data: Data, batch_size: int, seconds: float) -> tuple[float, float]:
    """The share of the time spent waiting for batches, and samples a second, over at least `seconds`."""
    net = torch.nn.Linear(prod(data.info.shape), CLASSES)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    waited, seen, epoch, started = 0.0, 0, 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        batches, epoch = data.batches("train", batch_size, epoch=epoch), epoch + 1
        before = time.perf_counter()
        for x, y in batches:
            waited += time.perf_counter() - before
            scores = net(x.flatten(-3))
            F.cross_entropy(scores.mean(0) if data.info.temporal else scores, y % CLASSES).backward()
            optimizer.step()
            optimizer.zero_grad()
            seen += len(y)
            before = time.perf_counter()
        waited += time.perf_counter() - before
    took = time.perf_counter() - started
    return waited / took, seen / took


def feed(data: Data, batch_size: int, seconds: float) -> float:
    """Milliseconds of processor time a sample that the loader takes alone."""
    seen, epoch, started, cpu = 0, 0, time.perf_counter(), process_tree.cpu_seconds()
    while time.perf_counter() - started < seconds:
        seen += sum(len(y) for _, y in data.batches("train", batch_size, epoch=epoch))
        epoch += 1
    return 1000 * (process_tree.cpu_seconds() - cpu) / seen


def measures(title: str, found: Found, rate: float) -> list[report.Measure]:
    """The figures of one way to feed one dataset."""
    cpu = median(found.cpu)
    return [
        report.measure(f"{title}: loader's share of an epoch", median(found.shares), "of 1"),
        report.measure(f"{title}: with a linear layer", median(found.trained), "samples/s"),
        report.measure(f"{title}: loader alone", cpu, "ms CPU/sample"),
        report.measure(f"{title}: to feed {rate:g} samples/s", cpu * rate / 1000, "cores"),
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=10_000, help="samples a second that an accelerator takes")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement, at least")
    options = parser.parse_args()
    torch.set_num_threads(1)
    allocator.keep_memory()
    made: list[report.Measure] = []
    for case in cases():
        kinds = [kind for kind in case.loaders if kind != "ffcv" or ffcv_compat.available()]
        every = {kind: Found(loader.open_data(case.block(kind), time_steps=case.time_steps)) for kind in kinds}
        for found in every.values():
            next(found.data.batches("train", case.batch_size))  # compiled, and in memory
        for _ in range(options.repetitions):
            for found in every.values():
                share, rate = train(found.data, case.batch_size, options.seconds)
                found.shares.append(share)
                found.trained.append(rate)
                found.cpu.append(feed(found.data, case.batch_size, options.seconds))
        for kind, found in every.items():
            made += measures(f"{case.title}, {kind}", found, options.rate)
            found.data.close()
    report.write("loader_share", made, f"python benchmarks/loader_share.py --rate {options.rate:g}")


if __name__ == "__main__":
    main()
