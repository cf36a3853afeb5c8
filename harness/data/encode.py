"""Writes samples into the files that loaders read, all in one pass, because decoding is what takes the time."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.contract import DatasetInfo, Sample
from harness.data import beton, event_store, images
from harness.data.source import SPLITS, Source

Progress = Callable[[int, int], None]
"""Called with the samples done and the samples in all."""

STRETCH = 1024
"""Samples that are hashed together; after each stretch an interrupted preparation can go on."""
CHUNK = 16
"""Samples that one thread makes in one go."""
LARGE_PAGE = 1 << 25
"""Bytes of a page where it is not known how large a sample may be."""
NPY_HEADER_BYTES = 128


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
    progress: Progress | None = None,
    check: Callable[[], None] = lambda: None,
) -> str:
    """Write those of `files` into `folder`, and return the fingerprint: a hash of what is stored and its classes.

    Goes on behind what an interrupted preparation has left in `folder`, if `resumable(files)`. `check` is called before
    each stretch is made to count; what it raises ends the writing.

    Raises ValueError when the samples are not what the dataset promises.
    """
    info, whole = source.info, hashlib.sha256()
    for split in SPLITS:
        if len(samples[split]) != info.sizes[split]:
            given, size = len(samples[split]), info.sizes[split]
            raise ValueError(f"{source.name} has {given} samples in '{split}' instead of {size}")
    total, done = sum(info.sizes.values()), already(info, folder, files)

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, total)

    tell(0)
    pool = ThreadPoolExecutor(_cores())
    try:
        for split in SPLITS:
            whole.update(f"{split} {info.sizes[split]} {info.shape} ".encode())
            make = partial(_encoded, source, split, samples[split])
            for digest in _split(info, split, partial(_in_order, pool, make), folder, files, tell, check):
                whole.update(bytes.fromhex(digest))
    finally:
        pool.shutdown(cancel_futures=True)
    return f"sha256:{whole.hexdigest()}"


def resumable(files: set[str]) -> bool:
    """Whether the writing of these goes on where it was interrupted; arrays are quick to write anew."""
    return not any(file.endswith(".npy") for file in files)


def already(info: DatasetInfo, folder: Path, files: set[str]) -> int:
    """How many samples need not be written again."""
    if not resumable(files):
        return 0
    return sum(beton.marked(folder / beton_file(split), field(info)) for split in SPLITS)


def known_bytes(info: DatasetInfo, files: set[str]) -> int | None:
    """What these files will take; None where that depends on what is in the samples."""
    if info.stored != "pixels":
        return None
    total = 0
    for split, number in info.sizes.items():
        if files.issuperset(array_files(split)):
            total += number * (prod(info.shape) + 8) + 2 * NPY_HEADER_BYTES
        if beton_file(split) in files:
            total += beton.file_bytes(field(info), number, prod(info.shape), _page(info))
    return total


def _split(
    info: DatasetInfo,
    split: str,
    encoded_at: Callable[[range], Iterator[Encoded]],
    folder: Path,
    files: set[str],
    tell: Callable[[int], None],
    check: Callable[[], None],
) -> Iterator[str]:
    """Write one split, and yield the hash of every `STRETCH` samples of it."""
    size = info.sizes[split]
    with ExitStack() as stack:
        writers: list[Callable[[Encoded], None]] = []
        file = None
        if files.issuperset(array_files(split)):
            writers.append(stack.enter_context(_array_writer(folder, split, info)))
        if beton_file(split) in files:
            file = stack.enter_context(beton.Writer(folder / beton_file(split), field(info), size, _page(info)))
            writers.append(partial(_append, file))
        yield from file.notes if file else ()
        told = first = file.done if file else 0
        stretch = hashlib.sha256()
        for done, encoded in enumerate(encoded_at(range(first, size)), start=first + 1):
            stretch.update(encoded.payload.data)
            stretch.update(encoded.label.to_bytes(8, "little"))
            for write in writers:
                write(encoded)
            if done % STRETCH == 0 or done == size:
                check()
                if file and resumable(files):
                    file.mark(stretch.hexdigest())
                yield stretch.hexdigest()
                stretch = hashlib.sha256()
            if done % CHUNK == 0 or done == size:
                tell(done - told)
                told = done
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


def _in_order(pool: ThreadPoolExecutor, make: Callable[[int], Encoded], indices: range) -> Iterator[Encoded]:
    """The samples one by one, made ahead by the threads of a pool, but no more than these are kept busy by."""

    def chunk(start: int) -> list[Encoded]:
        return [make(index) for index in indices[start : start + CHUNK]]

    ahead: deque[Future[list[Encoded]]] = deque()
    for start in range(0, len(indices), CHUNK):
        ahead.append(pool.submit(chunk, start))
        if len(ahead) > _cores() + 1:
            yield from ahead.popleft().result()
    while ahead:
        yield from ahead.popleft().result()


def _page(info: DatasetInfo) -> int:
    """Bytes of a page of the .beton files."""
    return beton.page_size(prod(info.shape)) if info.stored == "pixels" else LARGE_PAGE


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
