"""How fast the three loaders feed CIFAR-10 (JPEG), and how long the first batch takes.

Command: python benchmarks/loaders.py [--path FOLDER]

Expects `cifar10-jpeg.zip` under HARNESS_DATA, or by --path the folder with train/<class>/*.jpg and test/<class>/*.jpg.
About four minutes on two cores. Nothing is trained: what is measured is an upper bound that training shares cores with.
"""

import argparse
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from statistics import median

import report
import torch

from harness import ffcv_compat
from harness.config import Augment, DatasetBlock
from harness.loader import Data, open_data
from harness.prepare import prepare
from harness.source import cache, roots

TITLE = "CIFAR-10 (JPEG)"
BATCH_SIZE = 128
WARM_UP_BATCHES = 20
AUGMENT = Augment(crop_padding=4, flip=True)


def unpacked() -> Path:
    """The folder of images, unpacked into the cache when it is not there yet."""
    folder = cache() / "raw" / "cifar10-jpeg"
    if not folder.is_dir():
        archive = next((root / "cifar10-jpeg.zip" for root in roots() if (root / "cifar10-jpeg.zip").is_file()), None)
        if archive is None:
            raise SystemExit("no cifar10-jpeg.zip under HARNESS_DATA; give the folder of images by --path")
        partial = folder.with_suffix(".partial")
        zipfile.ZipFile(archive).extractall(partial)
        partial.rename(folder)
    return folder


def opened(folder: Path, kind: str) -> Data:
    """The data as an experiment would open them."""
    content = {"name": "image_folder", "path": str(folder), "size": 32, "title": TITLE}
    return open_data(DatasetBlock.model_validate(content | {"loader": kind, "augment": AUGMENT}))


def samples_per_second(data: Data, part: str, seconds: float) -> float:
    """The rate over at least `seconds`, epoch after epoch, once the first batches have come."""
    seen, fed, started = 0, 0, 0.0
    for epoch in range(10_000):
        for x, _ in data.batches(part, BATCH_SIZE, epoch=epoch):
            fed += 1
            if fed == WARM_UP_BATCHES:
                started = time.perf_counter()
            elif fed > WARM_UP_BATCHES:
                seen += len(x)
                if time.perf_counter() - started > seconds:
                    return seen / (time.perf_counter() - started)
    raise AssertionError("fed more than anything can")


def first_batch_seconds(folder: Path, kind: str) -> float:
    """Seconds from opening prepared data to the first training batch, in a process that has only imported torch."""
    command = [sys.executable, __file__, "--path", str(folder), "--first", kind]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, help="folder of images")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--first", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.path or unpacked()
    if options.first:
        started = time.perf_counter()
        next(opened(folder, options.first).batches("train", BATCH_SIZE))
        print(time.perf_counter() - started)
        return
    kinds = ["memory", "ffcv", "torch"] if ffcv_compat.available() else ["memory", "torch"]
    prepare("image_folder", {"path": str(folder), "size": 32, "title": TITLE}, beton=True)
    data = {kind: opened(folder, kind) for kind in kinds}
    rates: dict[tuple[str, str], list[float]] = {(kind, part): [] for kind in kinds for part in ("train", "test")}
    firsts: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(options.repetitions):
        for kind in kinds:
            firsts[kind].append(first_batch_seconds(folder, kind))
            for part in ("train", "test"):
                rates[kind, part].append(samples_per_second(data[kind], part, options.seconds))
    what = f"{TITLE}, batch {BATCH_SIZE}, {torch.get_num_threads()} threads"
    measures = []
    for (kind, part), found in rates.items():
        measures += [
            report.measure(f"{kind} loader, {part}, {what}", median(found), "samples/s"),
            report.measure(f"{kind} loader, {part}, slowest of {len(found)}", min(found), "samples/s"),
            report.measure(f"{kind} loader, {part}, fastest of {len(found)}", max(found), "samples/s"),
        ]
    for kind in kinds[:-1]:
        ratios = [ours / theirs for ours, theirs in zip(rates[kind, "train"], rates["torch", "train"], strict=True)]
        measures.append(report.measure(f"{kind} over torch loader, train", median(ratios), "ratio"))
    for kind, seconds in firsts.items():
        measures += [
            report.measure(f"{kind} loader, first batch", median(seconds), "s"),
            report.measure(f"{kind} loader, first batch, longest of {len(seconds)}", max(seconds), "s"),
        ]
    report.write("loaders", measures, "python benchmarks/loaders.py")


if __name__ == "__main__":
    main()
