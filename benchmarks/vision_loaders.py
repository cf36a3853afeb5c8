"""How fast images are fed, against torchvision's loader and FFCV's own decoders, and how long the first batch takes.

Command: python benchmarks/vision_loaders.py

Expects `imagenet-sample.zip` (train/<wnid>/*.JPEG) and `cifar10-jpeg.zip` (train/<class>/*.jpg, test/<class>/*.jpg)
under HARNESS_DATA. About fifteen minutes on two cores. Contestants take turns, each in a process of its own; what they
take of the cores is that of all their processes and threads, in milliseconds an image, because neighbours disturb it
less than the time by the clock; OpenMP's threads, of all of them, sleep while they wait. Nothing is trained.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import report
import vision_contestants as contestants

from harness.data.prepare import prepare_source
from harness.data.source import cache, of, roots

REPEATED = {"train": 16, "test": 8}
"""How often each of the 250 photographs stands in an epoch, so that it lasts a while."""
TARGETS = {  # of torchvision's milliseconds over ours, for training and for evaluation
    "JPEG 500": (2.1, None), "JPEG 256": (5, None), "raw 256": (7, 15),
}  # fmt: skip
FFCV_TARGET, CIFAR_TARGET, FIRST_BATCH_SECONDS, GROWTH = 0.95, 15, 3, 1.05

Runs = dict[str, list[dict[str, float]]]


def unpacked(name: str) -> Path:
    """The folder of an archive's images, unpacked into the cache when it is not there yet."""
    folder = cache() / "raw" / name
    if not folder.is_dir():
        archive = next((root / f"{name}.zip" for root in roots() if (root / f"{name}.zip").is_file()), None)
        if archive is None:
            raise SystemExit(f"no {name}.zip under HARNESS_DATA")
        partial = folder.with_suffix(".partial")
        zipfile.ZipFile(archive).extractall(partial)
        partial.rename(folder)
    return folder


def repeated(photographs: Path) -> Path:
    """A folder of both splits, in which each of the photographs stands several times, as links."""
    folder = photographs.with_name(f"{photographs.name}-repeated")
    for split, times in REPEATED.items():
        for file in sorted((photographs / "train").rglob("*.JPEG")):
            below = folder / split / file.parent.name
            below.mkdir(parents=True, exist_ok=True)
            for number in range(times):
                link = below / f"{file.stem}-{number}.JPEG"
                if not link.exists():
                    link.symlink_to(file)
    return folder


class Contestant:
    """A loader in a process of its own."""

    def __init__(self, name: str, how: str, folder: Path):
        command = [sys.executable, contestants.__file__, name, how, str(folder)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=os.environ | {"OMP_WAIT_POLICY": "passive"}, **pipes)

    def epoch(self, part: str) -> dict[str, float]:
        """What an epoch took."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{part}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a contestant has failed")
        found = json.loads(line)
        found["ms"] = 1000 * found["cpu"] / found["samples"]
        found["rate"] = found["samples"] / found["seconds"]
        return found

    def close(self) -> None:
        self._process.communicate()


def alternated(named: dict[str, Contestant], part: str, repetitions: int) -> Runs:
    """Epochs of contestants that take turns; one epoch of each goes before and does not count."""
    runs: Runs = defaultdict(list)
    for number in range(repetitions + 1):
        for name, contestant in named.items():
            found = contestant.epoch(part)
            if number:
                runs[name].append(found)
    return runs


def middle(runs: list[dict[str, float]], key: str) -> float:
    return median(run[key] for run in runs)


def rates(runs: Runs, what: str) -> list[report.Measure]:
    """Images a second and milliseconds an image, with their spread."""
    measures = []
    for name, found in runs.items():
        times = sorted(run["ms"] for run in found)
        measures += [
            report.measure(f"{name}, {what}", middle(found, "rate"), "images/s"),
            report.measure(f"{name}, {what}, CPU", median(times), "ms/image"),
            report.measure(f"{name}, {what}, CPU, least of {len(times)}", times[0], "ms/image"),
            report.measure(f"{name}, {what}, CPU, most of {len(times)}", times[-1], "ms/image"),
        ]
    return measures


def over(runs: Runs, theirs: str, ours: str, what: str, target: float | None) -> report.Measure:
    """Their milliseconds over ours: the middle of the ratios of all rounds."""
    ratio = median(b["ms"] / a["ms"] for a, b in zip(runs[ours], runs[theirs], strict=True))
    return report.measure(f"{ours} over {theirs}, {what}", ratio, "ratio", at_least=target)


def photographs(folder: Path, repetitions: int) -> list[report.Measure]:
    """Photographs, kept in three ways, against torchvision and bare FFCV."""
    measures: list[report.Measure] = []
    theirs = Contestant("torchvision", "JPEG 500", folder)
    for how, targets in TARGETS.items():
        named = {"torchvision": theirs} | {name: Contestant(name, how, folder) for name in ("ours", "bare FFCV")}
        memory = []
        for part, target in zip(("train", "test"), targets, strict=True):
            what = f"{how}, {part}"
            runs = alternated(named, part, repetitions)
            memory += [run["memory"] for run in runs["ours"]]
            measures += rates(runs, what)
            measures.append(over(runs, "torchvision", "ours", what, target))
            measures.append(over(runs, "bare FFCV", "ours", what, FFCV_TARGET))
        measures.append(report.measure(f"ours, {how}, memory", max(memory) / 2**20, "MiB"))
        growth = memory[repetitions - 1] / memory[0]
        what = f"ours, {how}, memory after {repetitions} epochs over that after one"
        measures.append(report.measure(what, growth, "ratio", at_most=GROWTH))
        for name in ("ours", "bare FFCV"):
            named[name].close()
    theirs.close()
    return measures


def small(folder: Path, repetitions: int) -> list[report.Measure]:
    """Images of CIFAR's size, from memory and streamed."""
    names = ("torchvision", "ours, from memory", "ours")
    named = {name: Contestant(name, "small", folder) for name in names}
    measures: list[report.Measure] = []
    for part in ("train", "test"):
        runs, what = alternated(named, part, repetitions), f"CIFAR-10 (JPEG), {part}"
        measures += rates(runs, what)
        target = CIFAR_TARGET if part == "train" else None
        measures += [over(runs, "torchvision", name, what, target) for name in names[1:]]
    for contestant in named.values():
        contestant.close()
    return measures


def first_batches(folder: Path, how: str, repetitions: int) -> list[report.Measure]:
    """Seconds to the first batch where nothing is compiled yet, and in processes after that."""
    firsts: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as compiled:
        for _ in range(repetitions + 1):
            command = [sys.executable, contestants.__file__, "first", how, str(folder)]
            environment: dict[str, Any] = {"env": os.environ | {"NUMBA_CACHE_DIR": compiled}}
            firsts.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, **environment).stdout))
    later = [sum(each.values()) for each in firsts[1:]]
    return [
        report.measure(f"{how}, first process ever: first batch", sum(firsts[0].values()), "s"),
        report.measure(f"{how}, next process: import FFCV", middle(firsts[1:], "import"), "s"),
        report.measure(f"{how}, next process: both", median(later), "s", at_most=FIRST_BATCH_SECONDS),
        report.measure(f"{how}, next process: longest of {len(later)}", max(later), "s"),
    ]  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    sample, cifar = repeated(unpacked("imagenet-sample")), unpacked("cifar10-jpeg")
    for folder, how in [(sample, how) for how in TARGETS] + [(cifar, "small")]:
        prepare_source(of(contestants.block(folder, "ffcv", how)), beton=True)
    measures = photographs(sample, options.repetitions) + small(cifar, options.repetitions)
    for folder, how in ((sample, "JPEG 500"), (cifar, "small")):
        measures += first_batches(folder, how, options.repetitions)
    report.write("vision_loaders", measures, f"python benchmarks/vision_loaders.py --repetitions {options.repetitions}")


if __name__ == "__main__":
    main()
