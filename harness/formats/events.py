"""Events of neuromorphic cameras, as datasets hand them over; their files are read by tonic, which is GPL-3."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

MISSING = "event data are read by {package}, which is not installed: pip install 'snn-harness[events]' {package}"
FIELDS = ("t", "x", "y", "p")
EVENT = np.dtype(list(zip(FIELDS, ("<i8", "<i4", "<i4", "<i1"), strict=True)))
"""Microseconds, column, row, polarity (0 off, 1 on)."""
BIN_BYTES = 5
"""Of one event in a .bin file."""


def need(package: str) -> Any:
    """Say what to install when `package`, which reads the files, is missing. Raises ValueError."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(MISSING.format(package=error.name)) from error


def of_columns(t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Events (N,) of type `EVENT`, whatever the types that a reader gives."""
    events = np.empty(len(t), EVENT)
    events["t"], events["x"], events["y"], events["p"] = t, x, y, p
    return events


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Turn what readers raise on a file that is cut short or something else into a ValueError that names it."""
    try:
        yield
    except (EOFError, IndexError, RuntimeError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def read_bin(file: Path, *, stabilize: bool = False) -> np.ndarray:
    """The events of a file of N-MNIST or N-Caltech101, 40 bits each. `stabilize`: without N-MNIST's three saccades.

    Raises ValueError naming the file when it is not one.
    """
    tonic, size_bytes = need("tonic"), file.stat().st_size
    if not size_bytes or size_bytes % BIN_BYTES:
        raise ValueError(f"{file} is damaged: {size_bytes} bytes are not events of {BIN_BYTES} bytes")
    found = tonic.io.read_mnist_file(str(file), dtype=tonic.datasets.NMNIST.dtype)
    found = tonic.datasets.nmnist.stabilize(found) if stabilize else found
    return of_columns(*(found[name] for name in FIELDS))


def read_aedat4(file: Path) -> np.ndarray:
    """The events of a file in the format AEDAT 4. Raises ValueError naming the file when it is not one."""
    need("aedat")  # which tonic needs for this format
    tonic = need("tonic")
    with naming(file):
        found = tonic.io.read_aedat4(str(file))
    return of_columns(*(found[name] for name in found.dtype.names))  # t, x, y and polarity, whatever aedat calls it


def read_npy(file: Path) -> np.ndarray:
    """The events of a file of DVS-Gesture as tonic offers it: columns x, y, p and t in milliseconds, of any type.

    Raises ValueError naming the file when it is not one.
    """
    with naming(file):
        found = np.load(file)
        if found.ndim != 2 or found.shape[1] != 4:
            raise ValueError(f"an array {found.shape} instead of one of four columns")
    x, y, p, t = found.T
    return of_columns(t.astype(np.int64) * 1000, x, y, p)
