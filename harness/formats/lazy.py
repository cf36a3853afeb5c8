"""Samples that are read one by one, when they are asked for."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Generic, TypeVar

from harness.contract import Sample

Item = TypeVar("Item")


class Lazy(Sequence[Sample], Generic[Item]):
    """As many samples as `items` (files, numbers), each what `read` makes of one of them."""

    def __init__(self, items: Sequence[Item], read: Callable[[Item], Sample]):
        self.items, self._read = items, read

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self._read(self.items[index])


class Listed(Sequence[Sample]):
    """Samples that are listed, which takes long where there are many, when they are first asked for or counted."""

    def __init__(self, listed: Callable[[], Sequence[Sample]]):
        self._listed = cache(listed)

    def __len__(self) -> int:
        return len(self._listed())

    def __getitem__(self, index: Any) -> Any:
        return self._listed()[index]
