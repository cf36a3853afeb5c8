"""numba's threads, beside torch's: as many as are asked for, and torch's stay as many as they were."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


@contextmanager
def numba(number: int) -> Iterator[None]:
    """Let compiled code use `number` threads, or as many as there are, while it lasts; no effect without numba."""
    found = library()
    if found is None:
        yield
        return
    before = found.get_num_threads()
    found.set_num_threads(max(1, min(number, found.config.NUMBA_NUM_THREADS)))
    try:
        yield
    finally:
        found.set_num_threads(before)


@cache
def library() -> Any:
    """The module numba, once its threads are there; None where it is not installed."""
    # numba's other layers are not safe beside torch's OpenMP and forked loaders.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")
    try:
        import numba as found
    except ModuleNotFoundError:
        return None
    before = torch.get_num_threads()
    found.set_num_threads(found.get_num_threads())
    torch.set_num_threads(before)  # they share OpenMP, where numba has set its own number
    return found
