"""Recordings of events as bytes, exactly: what one sample of a .beton file of events holds.

First when each event happened, in microseconds after the first one (uint32), then where (uint16, or uint32 for sensors
that need it): the number of the cell among those of a frame (P, H, W), polarity by polarity, row by row. Sorted by
time, so that the events of any stretch of time are found by bisection and their times need not be read.
"""

from math import prod

import numpy as np


def cell_type(shape: tuple[int, ...]) -> np.dtype:
    """The type of a cell's number, for frames of `shape` (P, H, W)."""
    return np.dtype("<u2" if prod(shape) <= 1 << 16 else "<u4")


def pack(events: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of a recording: a structured array with integer fields t, x, y and p.

    Events outside the sensor of `shape` (P, H, W) are left out, and so is what comes later than 71 minutes.
    """
    t, x, y, p = (events[name].astype(np.int64) for name in ("t", "x", "y", "p"))
    inside = (x >= 0) & (x < shape[2]) & (y >= 0) & (y < shape[1]) & (p >= 0) & (p < shape[0])
    t, x, y, p = (each[inside] for each in (t, x, y, p))
    order = np.argsort(t, kind="stable")
    t = t[order] - (t[order[0]] if len(order) else 0)
    kept = order[t < 1 << 32]
    cells = (p[kept] * shape[1] + y[kept]) * shape[2] + x[kept]
    times = t[: len(kept)].astype("<u4")
    return np.concatenate([times.view(np.uint8), cells.astype(cell_type(shape)).view(np.uint8)])


def unpack(stored: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Times (N,) in microseconds after the first event, and cells (N,), as views of the stored bytes."""
    kind = cell_type(shape)
    count = len(stored) // (4 + kind.itemsize)
    return stored[: 4 * count].view("<u4"), stored[4 * count :].view(kind)
