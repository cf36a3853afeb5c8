"""Events of a neuromorphic camera, as datasets hand them over."""

import importlib
from typing import Any

import numpy as np

MISSING = "event data are read by {package}, which is not installed: pip install 'snn-harness[events]' {package}"
EVENT = np.dtype([("t", "<i8"), ("x", "<i4"), ("y", "<i4"), ("p", "<i1")])
"""Microseconds, column, row, polarity (0 off, 1 on)."""


def need(package: str) -> Any:
    """Say what to install when `package`, which reads the files, is missing. Raises ValueError."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(MISSING.format(package=error.name)) from error
