"""How fast recordings of events are fed as frames, beside tonic: its reader and ToFrame, and its disk cache.

Command: python benchmarks/event_loaders.py [--repetitions 3]

Recordings are drawn here and written in the official formats of N-MNIST and CIFAR10-DVS; nothing is downloaded. Every
way ends in float32 (T, B, 2, H, W) on the CPU, in batches shuffled anew in each epoch. tonic's go through a DataLoader
with two workers that live on over epochs; ours have a thread that reads and one that converts. Ours read one file at
every T; tonic's cache, warm, is one of its own for each T, of int16 as ToFrame makes them. About five
minutes on two cores.
"""

import argparse
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import process_tree
import report
import torch

from harness import allocator
from harness.config import DatasetBlock, Store
from harness.contract import DatasetInfo, Sample
from harness.data import ffcv_compat, loader
from harness.data.prepare import Prepared, prepare_source
from harness.data.source import Source
from harness.formats.lazy import Lazy

TIME_STEPS = (5, 10, 20)
WORKERS = 2
OURS = ("ffcv", "memory")
TARGETS = {"tonic": 20, "tonic's disk cache": 10}
Batches = Callable[[int], Iterator[torch.Tensor]]
"""The batches of an epoch, by its number."""


@dataclass(frozen=True)
class Camera:
    """A set of recordings like those of an official one."""

    name: str
    side: int
    """Pixels of the sensor, either way."""
    num_events: int
    duration_us: int
    samples: int
    batch_size: int
    suffix: str
    write: Callable[[np.ndarray], bytes]


def n_mnist(found: np.ndarray) -> bytes:
    """Five bytes an event: x, y, then one bit of polarity and 23 of microseconds, big-endian."""
    late = (found["p"].astype(np.int64) << 23) | found["t"]
    columns = [found["x"], found["y"], late >> 16, late >> 8, late]
    return (np.stack(columns, axis=1) & 255).astype(np.uint8).tobytes()


def aedat4(found: np.ndarray, side: int = 128) -> bytes:
    """An AEDAT 4 file without compression: 16 bytes an event, in packets of 8,192."""
    keys = {"compression": ("string", "NONE"), "typeIdentifier": ("string", "EVTS")}
    sides = {"sizeX": ("int", str(side)), "sizeY": ("int", str(side))}
    attributes, size = (
        "".join(f'<attr key="{key}" type="{kind}">{value}</attr>' for key, (kind, value) in of.items())
        for of in (keys, sides)
    )
    node = (
        f'<node name="0" path="/outInfo/0/">{attributes}<node name="info" path="/outInfo/0/info/">{size}</node></node>'
    )
    about = f'<dv version="2.0"><node name="outInfo" path="/outInfo/">{node}</node></dv>'.encode()
    header = struct.pack("<I4sHHHHHxxiI", 20, b"IOHE", 10, 8, 0, 0, 4, 12, 4) + struct.pack("<I", len(about)) + about
    header += bytes(4 - len(header) % 4)
    whole = np.zeros(len(found), [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1"), ("unused", "u1", 3)])
    for field in "txyp":
        whole[field] = found[field]
    content = [b"#!AER-DAT4.0\r\n", _prefixed(header)]
    for start in range(0, len(whole), 8192):
        events = whole[start : start + 8192]
        head = struct.pack("<I4sHHHxxiII", 16, b"EVTS", 6, 8, 4, 8, 4, len(events))
        packet = _prefixed(head + events.tobytes())
        content += [struct.pack("<II", 0, len(packet)), packet]
    return b"".join(content)


def _prefixed(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


CAMERAS = (
    Camera("N-MNIST", 34, 4_200, 300_000, 2_000, 64, ".bin", n_mnist),
    Camera("CIFAR10-DVS", 128, 200_000, 1_300_000, 100, 16, ".aedat4", aedat4),
)


def written(camera: Camera, folder: Path) -> list[Path]:
    """Files of random events: uniform in time, denser in the middle of the picture."""
    folder.mkdir()
    files = []
    for number in range(camera.samples):
        random = np.random.default_rng([camera.side, number])
        found = np.zeros(camera.num_events, [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1")])
        found["t"] = np.sort(random.integers(0, camera.duration_us, camera.num_events))
        for field in "xy":
            found[field] = random.triangular(0, camera.side / 2, camera.side, camera.num_events)
        found["p"] = random.integers(0, 2, camera.num_events)
        files.append(folder / f"{number:05}{camera.suffix}")
        files[-1].write_bytes(camera.write(found))
    return files


def read(file: Path) -> Any:
    """The events in a file, by tonic."""
    import tonic

    if file.suffix == ".bin":
        return tonic.io.read_mnist_file(str(file), dtype=tonic.datasets.NMNIST.dtype)
    found = tonic.io.read_aedat4(str(file))
    found.dtype.names = ("t", "x", "y", "p")
    return found


class Recordings(torch.utils.data.Dataset):
    """Samples as tonic's datasets give them: events, made into frames by a transform."""

    def __init__(self, files: Sequence[Path], transform: Callable[[Any], Any]):
        self._files, self._transform = files, transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._transform(read(self._files[index])), index % 10


def theirs(camera: Camera, files: Sequence[Path], time_steps: int, cached: Path | None) -> Batches:
    """tonic's way; with `cached`, a folder, through its disk cache."""
    import tonic

    to_frame = tonic.transforms.ToFrame(sensor_size=(camera.side, camera.side, 2), n_time_bins=time_steps)
    recordings: Any = Recordings(files, to_frame)
    if cached is not None:
        recordings = tonic.DiskCachedDataset(recordings, cache_path=str(cached))
        for index in range(len(files)):
            recordings[index]
    batches: Any = torch.utils.data.DataLoader(
        recordings, batch_size=camera.batch_size, shuffle=True, num_workers=WORKERS, persistent_workers=True,
        drop_last=True,
    )  # fmt: skip
    return lambda _: (x.transpose(0, 1).to(torch.float32).contiguous() for x, _ in batches)


def ours(camera: Camera, time_steps: int, kind: str) -> Batches:
    """The harness's way."""
    block = DatasetBlock.model_validate({"name": camera.name, "validation": 0, "loader": kind})
    data = loader.open_data(block, time_steps=time_steps)
    return lambda epoch: (x for x, _ in data.batches("train", camera.batch_size, epoch=epoch))


def source(camera: Camera, files: Sequence[Path]) -> Source:
    """The recordings as a dataset of the harness; all of them for training, one for testing."""

    def samples(root: Path, split: str) -> Sequence[Sample]:
        return Lazy(files if split == "train" else files[:1], lambda file: (read(file), int(file.stem) % 10))

    info = DatasetInfo(
        camera.name, (2, camera.side, camera.side), 10, {"train": len(files), "test": 1}, (), (), source="drawn here",
        licence="none needed", citation="none", stored="events",
    )  # fmt: skip
    return Source(camera.name.lower(), cast(Any, SimpleNamespace(INFO=info, samples=samples)), None, Store())


def rates(batches: Batches, seconds: float) -> tuple[float, float]:
    """Samples a second and milliseconds of processor time a sample, over whole epochs that take at least `seconds`."""
    seen, epoch = 0, 1
    started, cpu = time.perf_counter(), process_tree.cpu_seconds()
    while time.perf_counter() - started < seconds:
        seen += sum(x.shape[1] for x in batches(epoch))
        epoch += 1
    return seen / (time.perf_counter() - started), 1000 * (process_tree.cpu_seconds() - cpu) / seen


def measured(
    camera: Camera, files: Sequence[Path], time_steps: int, options: argparse.Namespace
) -> list[report.Measure]:
    """The figures of one camera at one T."""
    with TemporaryDirectory() as cached:
        ways = {kind: ours(camera, time_steps, kind) for kind in OURS if kind != "ffcv" or ffcv_compat.available()}
        ways["tonic"] = theirs(camera, files, time_steps, None)
        ways["tonic's disk cache"] = theirs(camera, files, time_steps, Path(cached))
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for batches in ways.values():
            list(batches(0))  # opened, compiled, workers started
        for _ in range(options.repetitions):
            for name, batches in ways.items():
                found[name].append(rates(batches, options.seconds))
    what = f"{camera.name}, T = {time_steps}"
    measures = []
    for name, each in found.items():
        per_second, cpu = ([pair[column] for pair in each] for column in (0, 1))
        measures += [
            report.measure(f"{what}: {name}", median(per_second), "samples/s"),
            report.measure(f"{what}: {name}, slowest of {len(each)}", min(per_second), "samples/s"),
            report.measure(f"{what}: {name}", median(per_second) * time_steps, "frames/s"),
            report.measure(f"{what}: {name}", median(cpu), "ms CPU/sample"),
        ]
    for name in (kind for kind in OURS if kind in ways):
        for against, target in TARGETS.items():
            pairs = zip(found[against], found[name], strict=True)
            ratio = median(their_cpu / our_cpu for (_, their_cpu), (_, our_cpu) in pairs)
            measures.append(report.measure(f"{what}: CPU, {against} over {name}", ratio, "ratio", at_least=target))
    return measures


def stored_bytes(camera: Camera, files: Sequence[Path], prepared: Prepared) -> list[report.Measure]:
    """What a sample takes on the disk."""
    original = sum(file.stat().st_size for file in files) / len(files)
    ours = (prepared.folder / "train.beton").stat().st_blocks * 512 / len(files)  # without holes
    return [
        report.measure(f"{camera.name}: original file", original, "B/sample"),
        report.measure(f"{camera.name}: prepared file", ours, "B/sample"),
        report.measure(f"{camera.name}: prepared over original", ours / original, "ratio", at_most=1.0),
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement, at least")
    options = parser.parse_args()
    torch.set_num_threads(1)
    allocator.keep_memory()
    measures = []
    with TemporaryDirectory() as folder:
        for camera in CAMERAS:
            files = written(camera, Path(folder) / camera.name)
            opened = source(camera, files)
            setattr(loader, "of", lambda block, opened=opened: opened)  # noqa: B010 a dataset without a file
            measures += stored_bytes(camera, files, prepare_source(opened))
            for time_steps in TIME_STEPS:
                measures += measured(camera, files, time_steps, options)
    report.write("event_loaders", measures, "python benchmarks/event_loaders.py")


if __name__ == "__main__":
    main()
