"""Memory that does not suffice: what counts as that, how all workers of a trial learn of it and begin again."""

import contextlib
import gc
import json
import time
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before there is a group: its functions' defaults hold on to what they find

PATIENCE_SECONDS = 1.0
"""For another worker's word, when the connection to it broke. It says so before it lets go, unless it has died."""
ADVICE = "fewer samples at a time need less: train.micro_batches (a number, or auto)"


class OutOfMemory(Exception):
    """A training step needed more memory than there is; fewer samples at a time may fit."""


class Lack(NamedTuple):
    """Memory that did not suffice, as the worker tells it that noticed."""

    reason: str
    in_step: bool
    """In a training step, which can be taken in smaller parts."""
    peak_bytes: int | None
    peak_kind: Any


def is_lacking(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class Meeting:
    """How the workers of one trial find each other: once, and again when one of them ran out of memory.

    That one tells the others through the store which they met in, and lets go of its connections: the others wait for
    its part of some message, and an error is how they learn that they need not.
    """

    def __init__(self, world: int) -> None:
        self.world, self.times = world, 0
        self.store: Any = None
        if world > 1:
            self.store = dist.distributed_c10d._get_default_store()
            self.rank, self.backend = dist.get_rank(), dist.get_backend()
            self.seconds = _timeout()

    def tell(self, lack: Lack) -> None:
        """Let the other workers know, and let go of them."""
        if self.store is not None:
            self.store.set(self._key, json.dumps(lack))
            self._part()

    def hear(self) -> Lack | None:
        """What another worker told, if that is why the connection to it broke."""
        if self.store is None:
            return None
        with contextlib.suppress(Exception):  # the store is gone with rank 0: that one has died
            ends = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < ends:
                if self.store.check([self._key]):
                    lack = Lack(*json.loads(self.store.get(self._key)))
                    self._part()
                    return lack
                time.sleep(0.05)
        return None

    def again(self) -> None:
        """Meet anew, all workers."""
        if self.store is None:
            return
        self.times += 1
        dist.init_process_group(
            self.backend, store=dist.PrefixStore(f"again {self.times}", self.store), rank=self.rank,
            world_size=self.world, timeout=self.seconds,
        )  # fmt: skip

    @property
    def _key(self) -> str:
        return f"out of memory {self.times}"

    def _part(self) -> None:
        gc.collect()  # connections close when nobody holds the group, and DistributedDataParallel is part of circles
        if self.backend == "nccl":
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()


def _timeout() -> timedelta:
    group = dist.distributed_c10d._get_default_group()
    return group._get_backend(torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")).options._timeout


def more_parts(parts: int, samples: int) -> int | None:
    """The next number of parts to try for a worker's share of a batch: twice as many or the next that divides it.

    None when each sample is a part already.
    """
    return next((more for more in range(2 * parts, samples + 1) if samples % more == 0), None)
