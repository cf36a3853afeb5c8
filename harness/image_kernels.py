"""What is done to images when they are read, compiled: whole batches, image by image in as many threads as numba has.

Compiled once and then kept on disk; only FFCV's C functions are called, by name, once `ffcv_compat.load()` was called.
"""

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, parallel=True)
def copy(data: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
    """Copy the bytes from each of `starts` (B,) on into the rows of `out` (B, N)."""
    size = out.shape[1]
    for b in numba.prange(len(starts)):
        out[b] = data[starts[b] : starts[b] + size]
