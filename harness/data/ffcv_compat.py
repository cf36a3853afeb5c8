"""FFCV 1.0.2 without its traps: the only file that knows FFCV.

FFCV is unmaintained. As it comes, a failure in its reading thread or in a writing process makes the program wait for
ever, an epoch that is left early keeps its thread and buffers, importing or reading sets torch's number of threads to
its own, and seconds go into compiling for every loader. Here FFCV reads ahead and does nothing else: files are written
by `beton`, what is stored becomes a batch in a `Fill`, epochs are always closed, and failures are raised.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from io import FileIO
from pathlib import Path
from queue import Empty, Queue
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from harness.data import beton, threads

if TYPE_CHECKING:
    from harness.data.readers import Fill

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
    """A .beton file opened once, read any number of times.

    FFCV reads ahead in a thread of its own, into a ring of buffers; what makes a batch of the stored bytes is ours.
    """

    def __init__(self, file: Path, *, threads: int = 1, os_cache: bool = True):
        """`threads`: how many a batch is made by. Without `os_cache`, pages are read when they are needed and then
        forgotten, by FFCV rather than by the operating system."""
        load()
        import numba
        from ffcv.loader import Loader

        self._file = beton.read(file)
        self._threads = max(1, min(threads, numba.config.NUMBA_NUM_THREADS))
        with _leanly():
            # The seed is not used, but without one it is drawn from numpy's global generator.
            self._loader: Any = Loader(
                str(file),
                batch_size=1,
                num_workers=self._threads,
                os_cache=os_cache,
                drop_last=False,
                seed=0,
                pipelines={"sample": None, "label": None},
            )

    def read(self, indices: np.ndarray, batch_size: int, fill: "Fill") -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `fill` makes of the samples at `indices`, in that order, and int64 labels (B,).

        The samples are views into a ring of buffers, valid until the next batch is asked for.
        """
        from ffcv.pipeline.graph import Graph
        from ffcv.pipeline.pipeline_spec import PipelineSpec

        whole, order = self._loader, np.ascontiguousarray(indices, dtype=np.int64)
        loader = copy(whole)
        loader.batch_size = batch_size
        filling = {"sample": PipelineSpec("sample", decoder=_filling(self._file, fill))}
        handlers, columns = whole.reader.handlers, whole.field_name_to_f_ix
        with _leanly():
            loader.graph = Graph(filling, handlers, columns, whole.reader.metadata, memory_read=None)
            loader.generate_code()
        epoch = _epoch()(loader, order)
        try:
            done = 0
            for (samples,) in epoch:
                chosen = order[done : done + len(samples)]
                done += len(samples)
                yield torch.from_numpy(samples), torch.from_numpy(self._file.labels[chosen])
        finally:
            epoch.finish()

    def close(self) -> None:
        self._loader = None


def _filling(file: beton.File, fill: "Fill") -> Any:
    """FFCV's operation that hands each batch of an epoch to `fill`, wherever the bytes are."""
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.operation import Operation

    page_bits = int(file.page_size).bit_length() - 1

    class Filling(Operation):
        def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
            return previous_state, AllocationQuery(fill.shape, fill.dtype)

        def generate_code(self) -> Any:
            done = 0

            def make(indices: np.ndarray, out: np.ndarray, _: np.ndarray, state: tuple[np.ndarray, ...]) -> np.ndarray:
                nonlocal done
                about = file.about[indices]
                starts = about["ptr"].astype(np.int64)
                data = np.asarray(state[0]).reshape(-1)
                data.flags.writeable = False  # as a mapped file is: nothing is compiled twice
                if len(state) == 4:  # not the mapped file but pages, wherever there was room
                    starts = (state[3][starts >> page_bits].astype(np.int64) << page_bits) + starts % file.page_size
                sizes = file.sizes[indices].astype(np.int64)
                positions = slice(done, done + len(indices))
                done += len(indices)
                fill(data, starts, sizes, about, positions, out)
                return out

            return make

    return Filling()


@cache
def load() -> None:
    """Import FFCV so that it compiles nothing, and leaves torch's number of threads alone.

    Its C functions can then be called by name from compiled code.

    Raises ValueError where it is not installed.
    """
    if available() is None:
        raise ValueError(MISSING)
    before, numba = torch.get_num_threads(), threads.library()
    if importlib.util.find_spec("distutils") is None:  # Python 3.12 without setuptools
        log = ModuleType("distutils.log")
        log.warn = print  # type: ignore[attr-defined]
        sys.modules["distutils"], sys.modules["distutils.log"] = ModuleType("distutils"), log

    importlib.import_module("numba.typed")
    compiled, numba.typed.Dict = numba.typed.Dict, dict  # FFCV's constants in one, which takes seconds to compile
    try:
        import ffcv._libffcv
        from ffcv.memory_managers.process_cache import schedule
        from ffcv.pipeline.compiler import Compiler
    finally:
        numba.typed.Dict = compiled

    def set_num_threads(compiler: Any, number: int) -> None:
        compiler.num_threads = number
        numba.set_num_threads(number)

    Compiler.set_num_threads = classmethod(set_num_threads)
    torch.set_num_threads(before)  # importing FFCV has set it to 1
    importlib.import_module("llvmlite.binding").load_library_permanently(ffcv._libffcv.__file__)
    schedule.PageReader, schedule.Queue = _page_reader(schedule.PageReader), _Failing


@contextmanager
def _leanly() -> Iterator[None]:
    """While it lasts, FFCV makes loaders without compiling, and without dictionaries of all samples.

    What it would compile for reading also changes a type of numba's in place, which breaks what is compiled later.
    """
    from ffcv.memory_managers import base, os_cache, process_cache
    from ffcv.pipeline.compiler import Compiler

    def manage(manager: Any, reader: Any) -> None:
        manager.reader, manager.ptrs, manager.sizes = reader, None, None
        manager.sample_to_pages = _Pages(reader.alloc_table["ptr"], reader.page_size)

    changes: list[tuple[Any, str, Any]] = [
        (base.MemoryManager, "__init__", manage),
        (os_cache.OSCacheManager, "compile_reader", lambda manager: None),
        (process_cache.ProcessCacheManager, "compile_reader", lambda manager: None),
        (Compiler, "is_enabled", False),
    ]
    usual = [getattr(changed, name) for changed, name, _ in changes]
    for changed, name, value in changes:
        setattr(changed, name, value)
    try:
        yield
    finally:
        for (changed, name, _), value in zip(changes, usual, strict=True):
            setattr(changed, name, value)


class _Pages:
    """The page of each sample, as FFCV asks for it."""

    def __init__(self, starts: np.ndarray, page_size: int):
        self._pages = (starts // page_size).astype(np.int64)

    def __getitem__(self, sample: int) -> tuple[int]:
        return (int(self._pages[sample]),)


class _Failing(Queue):
    """A queue that raises the exceptions that are put into it."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        item = super().get(block, timeout)
        if isinstance(item, BaseException):
            raise item
        return item


def _page_reader(theirs: type) -> type:
    """FFCV's thread that reads pages, which takes no notice when reading fails, with that changed."""

    class PageReader(theirs):
        def run(self) -> None:
            try:
                with open(self.fname, "rb", buffering=0) as file:
                    while (query := self.queries.get()) is not None:
                        page, slot = query
                        file.seek(page * self.page_size)
                        _read_into(file, self.memory[slot])
                        self.loaded.put(page)
            except Exception as error:  # noqa: BLE001 raised again where the page is waited for
                self.loaded.put(error)

    return PageReader


def _read_into(file: FileIO, page: np.ndarray) -> None:
    """Fill `page`, or as much of it as there is; one call reads 2 GiB at most."""
    done = 0
    while done < len(page) and (got := file.readinto(page.data[done:])):
        done += got


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

        def run_pipeline(self, *given: Any) -> tuple[np.ndarray, ...]:
            if self.terminate_event.is_set():
                raise StopIteration
            return super().run_pipeline(*given)

        def __next__(self) -> tuple[np.ndarray, ...]:
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
            """End the thread, also when it waits to hand over a batch that nobody wants; then those it waits for."""
            self.terminate_event.set()
            while self.is_alive():
                try:
                    self.output_queue.get(timeout=0.05)
                except Empty:
                    self.join(timeout=0.05)
            self.close()
            for thread in getattr(getattr(self.memory_context, "executor", None), "threads", ()):
                thread.join()

    return Epoch
