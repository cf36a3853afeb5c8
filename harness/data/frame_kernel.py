"""Frames from events, compiled: the same as `frames.count`, at about a nanosecond an event.

Times are only looked at to find the borders of frames, by bisection. numba's cache keeps the machine code, so that only
the first process of all compiles.
"""

from typing import Any

import numpy as np
from numba import njit, prange

from harness.data.event_store import HEADER, STRETCH_BITS
from harness.data.frames import DRAWS, Cut

NO_DROPS, NONE = np.empty((0, 2), np.uint64), np.uint64(0)
OFFSET, LAST_DRAW = (1 << STRETCH_BITS) - 1, np.uint64(DRAWS - 1)


def fill(
    data: np.ndarray, starts: np.ndarray, sizes: np.ndarray, cut: Cut, drops: np.ndarray | None, out: np.ndarray
) -> None:
    """Write the frames of the recordings at `data[starts[b] : starts[b] + sizes[b]]` into `out` (B, T, P, H, W).

    `starts` are multiples of 4; in as many threads as numba has.
    """
    flat = out.reshape(len(out), cut.shape[0], -1)
    _fill(*_numbers(data), starts, sizes, cut.table, cut.numbers, NO_DROPS if drops is None else drops, flat)


def make(stored: np.ndarray, cut: Cut, drop: np.ndarray | None, out: np.ndarray) -> None:
    """Write the frames of one recording, its bytes, into `out` (T, P, H, W); in this thread alone."""
    key, left_out = (NONE, NONE) if drop is None else drop
    _make(*_numbers(stored), 0, len(stored), cut.table, cut.numbers, key, left_out, out.reshape(len(out), -1))


def _numbers(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes as numbers of 16 and of 32 bits; read-only as a mapped file is, so that nothing is compiled twice."""
    views = data[: len(data) & ~1].view(np.uint16), data[: len(data) & ~3].view(np.uint32)
    for view in views:
        view.flags.writeable = False
    return views


@njit(cache=True, nogil=True, parallel=True)
def _fill(halves, words, starts, sizes, table, numbers, drops, out):
    for b in prange(len(starts)):
        key, left_out = (drops[b, 0], drops[b, 1]) if len(drops) else (NONE, NONE)
        _make(halves, words, starts[b], sizes[b], table, numbers, key, left_out, out[b])


@njit(cache=True, nogil=True)
def _make(halves, words, start, size, table, numbers, key, left_out, out):
    wide, by_count, begin, duration, window, highest, cells = numbers
    stretches = np.int64(words[start >> 2])
    first = start + HEADER + 4 * stretches
    width = 4 if wide else 2
    count = max(start + size - first, 0) // (width + 2)
    ends = words[(start + HEADER) >> 2 : first >> 2]
    offsets = halves[(first + width * count) >> 1 :][:count]
    borders = _borders(ends, offsets, len(out), by_count, begin, duration, window)
    if wide:
        _count(words[first >> 2 :][:count], borders, table, highest, cells, key, left_out, out)
    else:
        _count(halves[first >> 1 :][:count], borders, table, highest, cells, key, left_out, out)


@njit(cache=True, nogil=True)
def _borders(ends, offsets, time_steps, by_count, start, duration, window):
    borders = np.empty(time_steps + 1, np.int64)
    if by_count:
        first = _before(ends, offsets, start)
        end = _before(ends, offsets, start + duration) if duration else len(offsets)
        for step in range(time_steps + 1):
            borders[step] = first + step * ((end - first) // time_steps)
        return borders
    if not window and duration:
        window = duration // time_steps
    elif not window and len(offsets):
        last = ((len(ends) - 1) << STRETCH_BITS) + np.int64(offsets[-1])
        window = max(last - start, 0) // time_steps
    for step in range(time_steps + 1):
        borders[step] = _before(ends, offsets, start + step * window)
    return borders


@njit(cache=True, nogil=True)
def _before(ends, offsets, time):
    stretch, offset = time >> STRETCH_BITS, time & OFFSET
    if stretch >= len(ends):
        return len(offsets)
    # Both are in order, unless the file is damaged.
    low: Any = min(np.int64(ends[stretch - 1]), len(offsets)) if stretch else 0
    high: Any = min(np.int64(ends[stretch]), len(offsets))
    while low < high:
        middle = (low + high) >> 1
        if offsets[middle] < offset:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def _count(where, borders, table, highest, cells, key, left_out, out):
    for step in range(len(out)):
        frame = out[step]
        frame[:] = 0
        if left_out:
            _add_some(where, borders[step], borders[step + 1], table, highest, cells, key, left_out, frame)
        elif len(table):
            for event in range(borders[step], borders[step + 1]):
                if where[event] < cells:  # else the file is damaged
                    cell = table[where[event]]
                    frame[cell] += frame[cell] < highest
        else:
            for event in range(borders[step], borders[step + 1]):
                cell = where[event]
                if cell < cells:
                    frame[cell] += frame[cell] < highest


@njit(cache=True, nogil=True)
def _add_some(where, begin, end, table, highest, cells, key, left_out, frame):
    """One hash serves four events, 16 bits each."""
    word = _hash(key, begin >> 2)
    for event in range(begin, end):
        if not event & 3:
            word = _hash(key, event >> 2)
        kept = ((word >> np.uint64(16 * (event & 3))) & LAST_DRAW) >= left_out
        if where[event] < cells:
            cell = table[where[event]] if len(table) else where[event]
            frame[cell] += kept & (frame[cell] < highest)


@njit(cache=True, nogil=True)
def _hash(key, number):
    word = key + np.uint64(number) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
