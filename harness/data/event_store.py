"""Recordings of events as bytes, exactly: what one sample of a .beton file of events holds.

All little-endian, one after the other:

- the number of stretches of 2¹⁶ microseconds that the recording has (uint32), from its first event on;
- for each stretch, how many events there are up to its end (uint32);
- where each event happened (uint16, or uint32 for sensors that need it): the number of the cell among those of a frame
  (P, H, W), polarity by polarity, row by row;
- when, in microseconds after the begin of its stretch (uint16).

Sorted by time. So the events of any span of time are found by bisection, their times need not be read, and an event
takes 4 bytes.
"""

from math import prod
from typing import NamedTuple

import numpy as np

STRETCH_BITS = 16
LONGEST_US = 1 << 32
"""Events that come later are left out: 71 minutes."""
HEADER = 4
"""Bytes of the number of stretches."""


def cell_type(shape: tuple[int, ...]) -> np.dtype:
    """The type of a cell's number, for frames of `shape` (P, H, W)."""
    return np.dtype("<u2" if prod(shape) <= 1 << 16 else "<u4")


def pack(events: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of a recording: a structured array with integer fields t (microseconds), x, y and p.

    Events outside the sensor of `shape` (P, H, W) are left out, and so is what comes later than 71 minutes.
    """
    t, x, y, p = (events[name].astype(np.int64) for name in ("t", "x", "y", "p"))
    inside = (x >= 0) & (x < shape[2]) & (y >= 0) & (y < shape[1]) & (p >= 0) & (p < shape[0])
    t, x, y, p = (each[inside] for each in (t, x, y, p))
    order = np.argsort(t, kind="stable")
    t = t[order] - (t[order[0]] if len(order) else 0)
    kept = order[t < LONGEST_US]
    t = t[: len(kept)]
    cells = (p[kept] * shape[1] + y[kept]) * shape[2] + x[kept]
    stretches = int(t[-1] >> STRETCH_BITS) + 1 if len(t) else 0
    ends = np.searchsorted(t, np.arange(1, stretches + 1) << STRETCH_BITS)
    parts = [np.array([stretches], "<u4"), ends.astype("<u4"), cells.astype(cell_type(shape)), t.astype("<u2")]
    return np.concatenate([part.view(np.uint8) for part in parts])


class Stored(NamedTuple):
    """The parts of a recording of N events, as views of its bytes."""

    ends: np.ndarray
    """Events up to the end of each stretch, uint32."""
    cells: np.ndarray
    """Where each event happened, uint16 or uint32 (N,)."""
    offsets: np.ndarray
    """Microseconds after the begin of its stretch, uint16 (N,)."""


def parts(stored: np.ndarray, shape: tuple[int, ...]) -> Stored:
    """The parts of a recording of a sensor of `shape` (P, H, W)."""
    kind = cell_type(shape)
    begin = HEADER + 4 * int(stored[:HEADER].view("<u4")[0])
    count = (len(stored) - begin) // (kind.itemsize + 2)
    middle = begin + count * kind.itemsize
    return Stored(stored[HEADER:begin].view("<u4"), stored[begin:middle].view(kind), stored[middle:].view("<u2"))


def unpack(stored: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Times (N,) in microseconds after the first event, int64, and cells (N,)."""
    ends, cells, offsets = parts(stored, shape)
    stretch = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=ends.dtype.type(0)))
    return (stretch << STRETCH_BITS) + offsets, cells
