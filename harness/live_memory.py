"""Bytes of live tensors while code runs, counted exactly: what a training step needs, without an allocator's noise."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Follows every tensor that operations make inside the `with` block, backward passes included.

        with LiveMemory() as memory:
            method.train_step(net, x, y, config, update)
        memory.peak_bytes

    Views share their storage, and storages that were there before (weights, the input) do not count; neither does what
    an operation allocates and frees within itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors(args, kwargs):
            # What is seen first as an input was made outside. It stays in the list for as long as it lives.
            self._follow(tensor, counts=False)
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._follow(tensor, counts=True)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return out

    def _follow(self, tensor: Tensor, *, counts: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = 0 if counts else -1
            weakref.finalize(storage, self._freed, key).atexit = False
        if self._sizes[key] >= 0:  # sizes can change, where an operation writes into `out`
            self.live_bytes += storage.nbytes() - self._sizes[key]
            self._sizes[key] = storage.nbytes()

    def _freed(self, key: int) -> None:
        self.live_bytes -= max(0, self._sizes.pop(key))


def _tensors(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.device.type != "meta"]
