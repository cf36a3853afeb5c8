"""FFCV 1.0.2 without its traps: the only file that knows FFCV.

FFCV is unmaintained. As it comes, a failure in its reading thread or in a writing process makes the program wait for
ever, an epoch that is left early keeps its thread and buffers, and importing or reading sets torch's number of threads
to its own. Here files are written in this process, epochs are always closed, and failures are raised.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import Empty
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

MISSING = "FFCV is not installed: run scripts/install_ffcv.sh PYTHON, or choose another loader"


def available() -> str | None:
    """The version of FFCV that is installed, None where it or something it needs is not. Does not import it."""
    if not all(importlib.util.find_spec(name) for name in ("ffcv", "numba", "cv2", "tqdm")):
        return None
    try:
        return version("ffcv")
    except PackageNotFoundError:
        return None


class Reader:
    """A .beton file opened once: FFCV compiles its reading code for each of its loaders, which takes seconds."""

    def __init__(self, file: Path, shape: tuple[int, ...]):
        load()
        from ffcv.fields.decoders import IntDecoder, NDArrayDecoder, SimpleRGBImageDecoder
        from ffcv.loader import Loader
        from ffcv.transforms import ToTensor

        decoder = SimpleRGBImageDecoder() if _is_rgb(shape) else NDArrayDecoder()
        pipelines = {"sample": [decoder, ToTensor()], "label": [IntDecoder(), ToTensor()]}
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
