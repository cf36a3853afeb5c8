"""Writes samples into the files that loaders read, all in one pass, because decoding is what takes the time."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from harness import ffcv_compat
from harness.contract import DatasetInfo, Sample
from harness.source import SPLITS, Source

Progress = Callable[[int, int], None]
"""Called with the samples done and the samples in all."""


def array_files(split: str) -> tuple[str, str]:
    return f"{split}.images.npy", f"{split}.labels.npy"


def beton_file(split: str) -> str:
    return f"{split}.beton"


def encode(
    source: Source,
    samples: Mapping[str, Sequence[Sample]],
    folder: Path,
    files: set[str],
    progress: Progress | None,
) -> str:
    """Write those of `files` into `folder`, and return the fingerprint: the hash of pixels and labels in order.

    Raises ValueError when the samples are not what the dataset promises.
    """
    info, digest, done = source.info, hashlib.sha256(), 0
    for split in SPLITS:
        size = info.sizes[split]
        if len(samples[split]) != size:
            raise ValueError(f"{source.name} has {len(samples[split])} samples in '{split}' instead of {size}")
        digest.update(f"{split} {size} {info.sample_shape} ".encode())
        labels, shape = np.empty(size, dtype="<i8"), info.sample_shape
        with ExitStack() as stack:
            writers = []
            if files.issuperset(array_files(split)):
                writers.append(stack.enter_context(_array_writer(folder, split, info)))
            if beton_file(split) in files:
                writers.append(stack.enter_context(ffcv_compat.writer(folder / beton_file(split), shape, size)))
            for index, (image, label) in enumerate(_in_order(samples[split])):
                if image.shape != shape or image.dtype != np.uint8 or not 0 <= label < info.classes:
                    raise ValueError(
                        f"sample {index} of {source.name} '{split}' is {image.dtype} {image.shape} of class {label}, "
                        f"instead of uint8 {shape} of one of {info.classes} classes"
                    )
                digest.update(image.tobytes())
                labels[index] = label
                for write in writers:
                    write(index, image, label)
                done += 1
                if progress and (done % 256 == 0 or index + 1 == size):
                    progress(done, sum(info.sizes.values()))
        digest.update(labels.tobytes())
    return f"sha256:{digest.hexdigest()}"


@contextmanager
def _array_writer(folder: Path, split: str, info: DatasetInfo) -> Iterator[Callable[[int, np.ndarray, int], None]]:
    """Gives a function that takes the samples in order. Not a mapped file: on a full disk that kills the process."""
    images_file, labels_file = array_files(split)
    labels = np.empty(info.sizes[split], dtype=np.int64)
    with (folder / images_file).open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), *info.sample_shape)}
        np.lib.format.write_array_header_1_0(file, header)

        def write(index: int, image: np.ndarray, label: int) -> None:
            file.write(image.tobytes())
            labels[index] = label

        yield write
    np.save(folder / labels_file, labels)


def _in_order(samples: Sequence[Sample]) -> Iterator[Sample]:
    """The samples one by one, decoded by as many threads as there are cores."""
    ranges = [range(start, min(start + 32, len(samples))) for start in range(0, len(samples), 32)]
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        for start in range(0, len(ranges), 2 * cores):
            for chunk in pool.map(lambda chunk: [samples[index] for index in chunk], ranges[start : start + 2 * cores]):
                yield from chunk
