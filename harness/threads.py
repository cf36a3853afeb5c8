"""numba's threads, set up so that they go with torch's: as many as torch has, asleep when there is nothing to do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


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
    # Threads that wait for work turn in circles by default, on cores that others could use. OpenMP reads this when it
    # is loaded, and torch's has been: only numba's is meant.
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = before or "passive"
    try:
        found.set_num_threads(found.get_num_threads())
    finally:
        if before is None:
            del os.environ["OMP_WAIT_POLICY"]
    return found
