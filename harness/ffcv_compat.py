"""FFCV 1.0.2 without its traps: the only file that knows FFCV.

FFCV is unmaintained. As it comes, a failure in its reading thread or in a writing process makes the program wait for
ever, an epoch that is left early keeps its thread and buffers, and importing or reading sets torch's number of threads
to its own. Here files are written in this process, epochs are always closed, and failures are raised.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from queue import Empty
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

MISSING = "FFCV is not installed: run scripts/install_ffcv.sh PYTHON, or choose another loader"
SMALLEST_PAGE, LARGEST_PAGE = 1 << 21, 1 << 31


def available() -> str | None:
    """The version of FFCV that is installed, None where it or something it needs is not. Does not import it."""
    if not all(importlib.util.find_spec(name) for name in ("ffcv", "numba", "cv2", "tqdm")):
        return None
    try:
        return version("ffcv")
    except PackageNotFoundError:
        return None


@contextmanager
def writer(file: Path, shape: tuple[int, ...], num_samples: int) -> Iterator[Callable[[int, np.ndarray, int], None]]:
    """Write a .beton file: gives a function that takes index, uint8 image of `shape` and class, in any order.

    Images of three channels are stored raw as RGB of shape (H, W, C), anything else as an array of `shape`. The file
    is the same to the byte each time, unlike one written by several processes.
    """
    load()
    from ffcv.fields import IntField, NDArrayField, RGBImageField
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.writer import DatasetWriter, handle_sample

    fields = {"image": RGBImageField("raw") if _is_rgb(shape) else NDArrayField(np.dtype("u1"), shape)}
    fields["label"] = IntField()
    whole = DatasetWriter(str(file), fields, page_size=_page_size(shape))
    whole.num_samples = num_samples
    whole.prepare()
    whole.metadata_sm.close()  # shared memory for writing processes, of which there are none
    whole.metadata_sm.unlink()
    metadata = np.zeros(num_samples, whole.metadata_type)
    allocator = MemoryAllocator(str(file), whole.data_region_start, whole.page_size)

    def write(index: int, image: np.ndarray, label: int) -> None:
        stored = np.ascontiguousarray(image.transpose(1, 2, 0) if _is_rgb(shape) else image)
        handle_sample((stored, label), index, metadata.dtype.names, metadata, allocator, fields)

    with allocator:  # leaving it writes the last page
        yield write
    whole.metadata_sm = SimpleNamespace(buf=metadata.tobytes())
    whole.finalize(allocator.allocations)


class Reader:
    """A .beton file opened once: FFCV compiles its reading code for each of its loaders, which takes seconds."""

    def __init__(self, file: Path, shape: tuple[int, ...]):
        load()
        from ffcv.fields.decoders import IntDecoder, NDArrayDecoder, SimpleRGBImageDecoder
        from ffcv.loader import Loader
        from ffcv.transforms import ToTensor

        decoder = SimpleRGBImageDecoder() if _is_rgb(shape) else NDArrayDecoder()
        pipelines = {"image": [decoder, ToTensor()], "label": [IntDecoder(), ToTensor()]}
        self._rgb = _is_rgb(shape)
        # One worker: reading is copying, and code for one thread compiles faster. The seed is not used, but without
        # one it is drawn from numpy's global generator.
        self._loader: Any = Loader(str(file), batch_size=1, num_workers=1, drop_last=False, seed=0, pipelines=pipelines)

    def read(self, indices: np.ndarray, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield uint8 images (B, C, H, W) and int64 labels (B,) of the samples at `indices`, in that order.

        The images are views into a ring of buffers, valid until the next batch is asked for.
        """
        self._loader.batch_size = batch_size
        epoch = _epoch()(self._loader, np.ascontiguousarray(indices, dtype=np.uint64))
        try:
            for images, labels in epoch:
                yield images.permute(0, 3, 1, 2) if self._rgb else images, labels.reshape(-1).clone()
        finally:
            epoch.finish()

    def close(self) -> None:
        self._loader = None


def _is_rgb(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] == 3


def _page_size(shape: tuple[int, ...]) -> int:
    """A page holds several samples; the file is at least a page, so small images get the smallest."""
    size = max(SMALLEST_PAGE, 1 << (4 * prod(shape) - 1).bit_length())
    if prod(shape) > LARGEST_PAGE:
        raise ValueError(f"a sample of shape {shape} is larger than FFCV can store ({LARGEST_PAGE} bytes)")
    return min(size, LARGEST_PAGE)


@cache
def load() -> None:
    """Import FFCV, which takes seconds, so that it leaves torch's number of threads alone.

    Raises ValueError where it is not installed.
    """
    if available() is None:
        raise ValueError(MISSING)
    threads = torch.get_num_threads()
    # numba's other layers are not safe beside torch's OpenMP and forked loaders.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")
    if importlib.util.find_spec("distutils") is None:  # Python 3.12 without setuptools
        log = ModuleType("distutils.log")
        log.warn = print  # type: ignore[attr-defined]
        sys.modules["distutils"], sys.modules["distutils.log"] = ModuleType("distutils"), log

    import numba
    from ffcv.pipeline.compiler import Compiler

    def set_num_threads(compiler: Any, number: int) -> None:
        compiler.num_threads = number
        numba.set_num_threads(number)

    Compiler.set_num_threads = classmethod(set_num_threads)
    torch.set_num_threads(threads)  # importing FFCV has set it to 1


@cache
def _epoch() -> Any:
    """The class of one pass over given samples, which raises what goes wrong in its thread, and ends it."""
    from ffcv.loader.epoch_iterator import EpochIterator

    class Epoch(EpochIterator):
        failure: BaseException | None = None

        def run(self) -> None:
            try:
                super().run()
            except BaseException as error:  # noqa: BLE001 raised again where the batches are read
                self.failure = error

        def __next__(self) -> tuple[Tensor, Tensor]:
            while True:
                is_over = not self.is_alive()  # asked first: what the thread put before it ended is then in the queue
                try:
                    item = self.output_queue.get(timeout=0.2)
                    break
                except Empty:
                    if is_over:
                        raise RuntimeError(f"FFCV's reading thread failed: {self.failure!r}") from self.failure
            if item is None:
                raise StopIteration
            return item[1]

        def finish(self) -> None:
            """End the thread, also when it waits to hand over a batch that nobody wants."""
            self.close()
            while self.is_alive():
                try:
                    self.output_queue.get(timeout=0.05)
                except Empty:
                    self.join(timeout=0.05)

    return Epoch
