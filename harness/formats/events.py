"""Events of a neuromorphic camera -> frames that count them, as uint8 (F, 2, H, W); channel 0 is 'off', 1 is 'on'.

Events are a structured array with the fields x, y, t (microseconds) and p (polarity), as tonic's readers return it.
"""

import importlib
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

MISSING = "event data are read by {package}, which is not installed: pip install 'snn-harness[events]' {package}"


def by_time(events: np.ndarray, frames: int, window_us: int, size: int, *, binary: bool = False) -> np.ndarray:
    """Frames of `window_us` microseconds each from t = 0 on; later events are dropped. `binary`: 0 or 1."""
    counts = _histogram(events, events["t"].astype(np.int64) // window_us, frames, size)
    return np.minimum(counts, 1 if binary else 255).astype(np.uint8)


def by_count(events: np.ndarray, frames: int, size: int) -> np.ndarray:
    """Float32 frames of equal event count, the last one with what is left over."""
    each = max(len(events) // frames, 1)
    index = np.minimum(np.arange(len(events)) // each, frames - 1)
    return _histogram(events, index, frames, size).astype(np.float32)


def resized(counts: np.ndarray, size: int, unit: float) -> np.ndarray:
    """Frames resized bilinearly (without anti-aliasing) to `size` pixels, as uint8 in steps of `unit` events."""
    if counts.shape[-1] != size:
        counts = interpolate(torch.from_numpy(counts), (size, size), mode="bilinear", align_corners=False).numpy()
    return np.minimum(np.rint(counts / unit), 255).astype(np.uint8)


def need(package: str) -> Any:
    """Say what to install when `package`, which reads the files, is missing. Raises ValueError."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(MISSING.format(package=error.name)) from error


def _histogram(events: np.ndarray, frame: np.ndarray, frames: int, size: int) -> np.ndarray:
    """Events per frame, polarity, row and column, int64; those outside are dropped."""
    x, y, p = (events[field].astype(np.int64) for field in ("x", "y", "p"))
    inside = (frame >= 0) & (frame < frames) & (x >= 0) & (x < size) & (y >= 0) & (y < size)
    cells = ((frame * 2 + p) * size + y) * size + x
    return np.bincount(cells[inside], minlength=frames * 2 * size * size).reshape(frames, 2, size, size)
