"""Recordings of events become T frames when they are read: counts of events, uint8 (T, P, H, W).

A frame holds the events from its begin, inclusive, to its end, exclusive. Times are integers of microseconds, counted
from the first event of a recording; D is the time of the last one, n the number of events.

- By time: each frame is D // T long, or `duration_us` // T, or `window_us`, and the first begins at `start_us`; with no
  duration given, D - `start_us` takes the place of D.
- By count: each frame has n // T events, of those from `start_us` on, for `duration_us`.

What is left over belongs to no frame: the rest of the division, and so, by time, the last event at least. This is what
tonic's `ToFrame` does with `n_time_bins`, with `time_window`, `start_time` and `end_time`, and with `n_event_bins`; a
frame to which no event belongs is empty. Counts are clipped at 255.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from harness.config import Frames
from harness.contract import DatasetInfo
from harness.data import event_store

DRAWS = 1 << 16
"""Steps in which the fraction of events that are left out is drawn."""
_FAR = 2 * event_store.LONGEST_US


@dataclass(frozen=True)
class Cut:
    """How recordings of one sensor become frames of one shape."""

    sensor: tuple[int, int, int]
    """Polarities, height and width of what is stored."""
    shape: tuple[int, int, int, int]
    """Frames, polarities, height and width of what is made."""
    by_count: bool
    start: int
    """Microseconds; so are the two that follow, in which 0 stands for none given."""
    duration: int
    window: int
    highest: int
    """At which counts are clipped."""

    @cached_property
    def table(self) -> np.ndarray:
        """For each cell of the sensor the cell of a frame, uint16 or uint32; empty where they are the same."""
        if self.sensor == self.shape[1:]:
            return np.empty(0, np.uint16)
        polarity, row, column = np.indices(self.sensor)
        _, polarities, height, width = self.shape
        block = self.sensor[1] // height
        cells = (polarity % polarities * height + row // block) * width + column // block
        return cells.ravel().astype(event_store.cell_type(self.shape[1:]))

    @property
    def numbers(self) -> tuple[int, ...]:
        """What the kernel has to know beside the table."""
        wide = event_store.cell_type(self.sensor).itemsize == 4
        return wide, self.by_count, self.start, self.duration, self.window, self.highest, prod(self.sensor)


def cut(info: DatasetInfo, frames: Frames, time_steps: int) -> Cut:
    """How the events of a dataset (its own `info`) become `time_steps` frames, before `frames.size` is heard."""
    height, width = (side // frames.downsample for side in info.shape[1:])
    return Cut(
        sensor=info.shape,
        shape=(time_steps, frames.polarities, height, width),
        by_count=frames.by == "count",
        start=min(frames.start_us, _FAR),
        duration=min(frames.duration_us or 0, _FAR),
        window=min(frames.window_us or 0, _FAR),
        highest=1 if frames.binary else 255,
    )


def count(cut: Cut, stored: np.ndarray, drop: np.ndarray | None = None) -> np.ndarray:
    """The frames of one stored recording, by numpy alone. `drop` is a row of what `augment.drops` returns."""
    parts = event_store.parts(stored, cut.sensor)
    borders = _borders(cut, parts)
    chosen = np.arange(borders[0], borders[-1])
    frame = np.repeat(np.arange(cut.shape[0]), np.diff(borders))
    if drop is not None:
        kept = _draws(int(drop[0]), chosen) >= drop[1]
        chosen, frame = chosen[kept], frame[kept]
    cells = parts.cells[chosen]
    cells = cut.table[cells] if len(cut.table) else cells
    counts = np.bincount(frame * prod(cut.shape[1:]) + cells, minlength=prod(cut.shape))
    return counts.clip(max=cut.highest).astype(np.uint8).reshape(cut.shape)


def resized(x: Tensor, size: int) -> Tensor:
    """Frames (B, T, P, h, w) resized to `size` pixels, bilinearly, without anti-aliasing: float32."""
    made = interpolate(x.flatten(0, 1).to(torch.float32), (size, size), mode="bilinear", align_corners=False)
    return made.unflatten(0, x.shape[:2])  # B T P H W


def _borders(cut: Cut, parts: event_store.Stored) -> np.ndarray:
    """The first event of each frame, and the end of the last (T + 1,)."""
    time_steps = cut.shape[0]
    if cut.by_count:
        first = _before(parts, cut.start)
        end = _before(parts, cut.start + cut.duration) if cut.duration else len(parts.offsets)
        return first + np.arange(time_steps + 1) * ((end - first) // time_steps)
    window = cut.window or cut.duration // time_steps
    if not cut.window and not cut.duration and len(parts.offsets):
        last = (len(parts.ends) - 1 << event_store.STRETCH_BITS) + int(parts.offsets[-1])
        window = max(last - cut.start, 0) // time_steps
    return np.array([_before(parts, cut.start + step * window) for step in range(time_steps + 1)])


def _before(parts: event_store.Stored, time: int) -> int:
    """How many events come before a time."""
    stretch, offset = divmod(time, 1 << event_store.STRETCH_BITS)
    if stretch >= len(parts.ends):
        return len(parts.offsets)
    begin = int(parts.ends[stretch - 1]) if stretch else 0
    return begin + int(np.searchsorted(parts.offsets[begin : parts.ends[stretch]], offset))


def _draws(key: int, events: np.ndarray) -> np.ndarray:
    """For each event, by its number, one of `DRAWS` values: 16 bits of a hash (splitmix64) of key and number."""
    word = np.uint64(key) + (events >> 2).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return (word >> ((events & 3) * 16).astype(np.uint64)) & np.uint64(DRAWS - 1)
