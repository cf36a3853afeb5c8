"""The loaders that `vision_loaders.py` compares, each in a process that reads an epoch when told to.

Told to by lines 'train' or 'test' on stdin; what it took comes back as a line of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import torch

from harness import torchvision_cpu
from harness.config import DatasetBlock
from harness.data import ffcv_compat
from harness.data.loader import open_data
from harness.data.prepare import prepare_source
from harness.data.source import of
from harness.formats.folders import IMAGENET_MEAN, IMAGENET_STD

WORKERS, BATCH_SIZE = 2, 64
STORES = {
    "JPEG 500": {"max_side": 500},
    "JPEG 256": {"max_side": 256},
    "raw 256": {"max_side": 256, "jpeg": 0},
}
SIZE, CENTRE = 224, 224 / 256
Epoch = Callable[[str, int], Iterable]
"""All batches of 'train' or 'test' in the epoch of that number."""


def block(folder: Path, kind: str, how: str) -> DatasetBlock:
    """What an experiment would say."""
    given: dict = {"name": "image_folder", "path": str(folder), "loader": kind, "validation": 0}
    if how == "small":
        given |= {"size": 32, "augment": {"crop_padding": 4, "flip": True}}
    else:
        augment = {"random_resized_crop": (0.08, 1), "flip": True}
        given |= {"size": SIZE, "whole": True, "store": STORES[how], "augment": augment}
    return DatasetBlock.model_validate(given)


def ours(folder: Path, how: str, kind: str = "ffcv") -> Epoch:
    data, batch_size = open_data(block(folder, kind, how)), 128 if how == "small" else BATCH_SIZE
    return lambda part, epoch: data.batches(part, batch_size, epoch=epoch)


def torchvisions(folder: Path, how: str) -> Epoch:
    """ImageFolder, Pillow, transforms v2 and DataLoader, as in PyTorch's own examples."""
    v2, datasets = torchvision_cpu.load("torchvision.transforms.v2"), torchvision_cpu.load("torchvision.datasets")
    changes = {
        "train": [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()],
        "test": [v2.Resize(round(SIZE / CENTRE)), v2.CenterCrop(SIZE)],
    }
    if how == "small":
        changes = {"train": [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()], "test": []}
    after = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    loaders = {
        part: torch.utils.data.DataLoader(
            datasets.ImageFolder(str(folder / part), v2.Compose(changes[part] + after)),
            batch_size=128 if how == "small" else BATCH_SIZE,
            shuffle=part == "train",
            drop_last=part == "train",
            num_workers=WORKERS,
            persistent_workers=True,
        )
        for part in changes
    }
    return lambda part, epoch: loaders[part]


def bare_ffcv(folder: Path, how: str) -> Epoch:
    """FFCV's own decoders and transforms on the same file."""
    ffcv_compat.load()
    import numpy as np
    from ffcv.fields import decoders
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage

    prepared = prepare_source(of(block(folder, "ffcv", how)), beton=True)
    mean, std = (np.array(each) * 255 for each in (IMAGENET_MEAN, IMAGENET_STD))
    normalise = [NormalizeImage(mean, std, np.float32), ToTensor(), ToTorchImage()]
    changes = {
        "train": [decoders.RandomResizedCropRGBImageDecoder((SIZE, SIZE)), RandomHorizontalFlip(), *normalise],
        "test": [decoders.CenterCropRGBImageDecoder((SIZE, SIZE), CENTRE), *normalise],
    }
    loaders = {
        part: Loader(
            str(prepared.folder / f"{part}.beton"),
            batch_size=BATCH_SIZE,
            num_workers=WORKERS,
            order=OrderOption.RANDOM if part == "train" else OrderOption.SEQUENTIAL,
            drop_last=part == "train",
            pipelines={"sample": changes[part]},
        )
        for part in changes
    }
    return lambda part, epoch: loaders[part]


CONTESTANTS = {
    "ours": ours,
    "ours, from memory": lambda folder, how: ours(folder, how, "memory"),
    "torchvision": torchvisions,
    "bare FFCV": bare_ffcv,
}


def tree_cpu_seconds() -> float:
    """What this process and all that it has started took of the cores."""
    me = psutil.Process()
    times = [me.cpu_times(), *(child.cpu_times() for child in me.children(recursive=True))]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)


def tree_memory_bytes() -> int:
    """Memory of this process and its children, pages that several share counted once."""
    me = psutil.Process()
    return sum(each.memory_full_info().pss for each in (me, *me.children(recursive=True)))


def serve(name: str, how: str, folder: Path) -> None:
    """Read an epoch for each line on stdin."""
    torch.set_num_threads(WORKERS)
    epoch = CONTESTANTS[name](folder, how)
    for number, line in enumerate(sys.stdin):
        cpu, started, samples = tree_cpu_seconds(), time.perf_counter(), 0
        for batch in epoch(line.strip(), number):
            samples += len(batch[0])
        seconds, cpu = time.perf_counter() - started, tree_cpu_seconds() - cpu
        found = {"samples": samples, "seconds": seconds, "cpu": cpu, "memory": tree_memory_bytes()}
        print(json.dumps(found), flush=True)


def first(how: str, folder: Path) -> None:
    """Seconds that importing FFCV takes, and those from opening prepared data to the first training batch."""
    torch.set_num_threads(WORKERS)
    started = time.perf_counter()
    ffcv_compat.load()
    imported = time.perf_counter()
    next(iter(ours(folder, how)("train", 0)))
    print(json.dumps({"import": imported - started, "first batch": time.perf_counter() - imported}))
    sys.stdout.flush()
    os._exit(0)  # the epoch has only begun


if __name__ == "__main__":
    if sys.argv[1] == "first":
        first(sys.argv[2], Path(sys.argv[3]))
    serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
