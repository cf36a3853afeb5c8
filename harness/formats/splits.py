"""Cuts a test split out of data that come without one."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def held_out(labels: Sequence[int] | np.ndarray, every: int, seed: int | None = None) -> np.ndarray:
    """Whether each sample is for testing, (N,): of the samples, class by class, every `every`-th from the first on.

    So each class is split alike, but for rounding. In the given order within a class, or shuffled by `seed`.
    """
    order = np.arange(len(labels)) if seed is None else np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(np.asarray(labels)[order], kind="stable")]
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[order[::every]] = True
    return chosen


def part(items: Sequence[Item], test: np.ndarray, split: str) -> list[Item]:
    """Those of the items that belong to 'train' or 'test'; `test` says of each whether it is for testing."""
    return [items[index] for index in np.flatnonzero(test == (split == "test")).tolist()]
