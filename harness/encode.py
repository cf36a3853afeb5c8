"""Writes samples into the files that loaders read, all in one pass, because decoding is what takes the time."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness import beton, event_store, images
from harness.contract import DatasetInfo, Sample
from harness.source import SPLITS, Source

Progress = Callable[[int, int], None]
"""Called with the samples done and the samples in all."""

STRETCH = 1024
"""Samples that are hashed together; after each stretch an interrupted preparation can go on."""
LARGE_PAGE = 1 << 25
"""Bytes of a page where it is not known how large a sample may be."""


class Encoded(NamedTuple):
    """A sample as a .beton file keeps it."""

    payload: np.ndarray
    label: int
    about: Mapping[str, int]


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
    """Write those of `files` into `folder`, and return the fingerprint: a hash of what is stored and its classes.

    Goes on behind what an interrupted preparation has left in `folder`.

    Raises ValueError when the samples are not what the dataset promises.
    """
    info, whole, before = source.info, hashlib.sha256(), 0
    for split in SPLITS:
        size = info.sizes[split]
        if len(samples[split]) != size:
            raise ValueError(f"{source.name} has {len(samples[split])} samples in '{split}' instead of {size}")
        whole.update(f"{split} {size} {info.shape} ".encode())
        for digest, done in _split(source, split, samples[split], folder, files):
            whole.update(digest)
            if progress:
                progress(before + done, sum(info.sizes.values()))
        before += size
    return f"sha256:{whole.hexdigest()}"


def resumable(info: DatasetInfo) -> bool:
    """Whether an interrupted preparation goes on where it was; pixels are quick to write anew."""
    return info.stored != "pixels"


def _split(
    source: Source, split: str, samples: Sequence[Sample], folder: Path, files: set[str]
) -> Iterator[tuple[bytes, int]]:
    """Write one split; of every `STRETCH` samples, their hash and how many samples are done by then."""
    info = source.info
    with ExitStack() as stack:
        writers: list[Callable[[Encoded], None]] = []
        file = None
        if files.issuperset(array_files(split)):
            writers.append(stack.enter_context(_array_writer(folder, split, info)))
        if beton_file(split) in files:
            page = beton.page_size(prod(info.shape)) if info.stored == "pixels" else LARGE_PAGE
            file = stack.enter_context(beton.Writer(folder / beton_file(split), field(info), len(samples), page))
            writers.append(partial(_append, file))
        digests: list[str] = list(file.note) if file and file.done else []
        for index, digest in enumerate(digests, start=1):
            yield bytes.fromhex(digest), min(index * STRETCH, len(samples))
        for start in range(len(digests) * STRETCH, len(samples), STRETCH):
            stretch, end = hashlib.sha256(), min(start + STRETCH, len(samples))
            for encoded in _in_order(range(start, end), partial(_encoded, source, split, samples)):
                stretch.update(encoded.payload.data)
                stretch.update(encoded.label.to_bytes(8, "little"))
                for write in writers:
                    write(encoded)
            digests.append(stretch.hexdigest())
            if file and resumable(info):
                file.mark(digests)
            yield stretch.digest(), end
        if file:
            file.finish()


def field(info: DatasetInfo) -> beton.Field:
    """What a sample is in a .beton file."""
    if info.stored == "events":
        return beton.BYTES
    return beton.IMAGE if info.stored == "images" or info.shape[0] == 3 else beton.array(info.shape)


def _encoded(source: Source, split: str, samples: Sequence[Sample], index: int) -> Encoded:
    """One sample, checked, as it is kept."""
    content, label = samples[index]
    info, where = source.info, f"sample {index} of {source.name} '{split}'"
    if not 0 <= label < info.classes:
        raise ValueError(f"{where} is of class {label} instead of one of {info.classes} classes")
    if info.stored == "events":
        return Encoded(event_store.pack(content, info.shape), label, {})
    expected = info.shape if info.stored == "pixels" else (3, *content.shape[1:])
    if content.shape != expected or content.dtype != np.uint8:
        raise ValueError(f"{where} is {content.dtype} {content.shape} instead of uint8 {expected}")
    if info.stored == "images":
        payload, about = images.encoded(content.transpose(1, 2, 0), source.store, index)  # H W C
        return Encoded(payload, label, about)
    if info.shape[0] != 3:
        return Encoded(np.ascontiguousarray(content), label, {})
    height, width = info.shape[1:]
    pixels = np.ascontiguousarray(content.transpose(1, 2, 0))
    return Encoded(pixels, label, {"mode": beton.RAW, "width": width, "height": height})


def _append(file: beton.Writer, encoded: Encoded) -> None:
    file.add(encoded.payload, encoded.label, **encoded.about)


@contextmanager
def _array_writer(folder: Path, split: str, info: DatasetInfo) -> Iterator[Callable[[Encoded], None]]:
    """Gives a function that takes the samples in order. Not a mapped file: on a full disk that kills the process."""
    images_file, labels_file = array_files(split)
    labels: list[int] = []
    with (folder / images_file).open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (info.sizes[split], *info.shape)}
        np.lib.format.write_array_header_1_0(file, header)

        def write(encoded: Encoded) -> None:
            pixels = encoded.payload.transpose(2, 0, 1) if info.shape[0] == 3 else encoded.payload  # C H W
            file.write(pixels.tobytes())
            labels.append(encoded.label)

        yield write
    np.save(folder / labels_file, np.array(labels, dtype=np.int64))


def _in_order(indices: range, make: Callable[[int], Encoded]) -> Iterator[Encoded]:
    """The samples one by one, made by as many threads as there are cores."""
    chunks = [indices[start : start + 32] for start in range(0, len(indices), 32)]
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        for start in range(0, len(chunks), 2 * cores):
            for made in pool.map(lambda chunk: [make(index) for index in chunk], chunks[start : start + 2 * cores]):
                yield from made
