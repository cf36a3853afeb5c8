"""Judges a network on a part of the data: every sample once over all workers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from harness.config import Train
from harness.contract import Method, MethodConfig, Task
from harness.metrics import Tally


class Feed(Protocol):
    """Where batches come from; `harness.data.loader.Data` is one."""

    sizes: Mapping[str, int]

    def batches(
        self, part: str, batch_size: int, *, epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1,
        augmented: bool = True, start: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
        """This worker's share of one pass: x of shape (B, C, H, W), or frames (T, B, C, H, W), and y (B,).

        Of 'train' all but the first `start` batches, which are not read.
        """


@torch.no_grad()
def evaluate(
    net: nn.Module, method: Method, config: MethodConfig, task: Task, feed: Feed, part: str, *,
    batch_size: int, limit_batches: int | None = None, device: torch.device, rank: int = 0, world: int = 1,
    confidences: Sequence[float] | None = None,
) -> Tally:  # fmt: skip
    """Accuracy after each time step and loss over one part, or its first `limit_batches`, summed over all workers.

    `confidences`: count top-5 accuracy and exits at these, too, which takes a little longer; None: do not.
    """
    net.eval()
    tally = None
    size = feed.sizes[part]
    # Workers share samples, not batches: theirs may be a little larger together than `batch_size`.
    left = len(range(rank, size if limit_batches is None else min(size, limit_batches * batch_size), world))
    for x, y in feed.batches(part, batch_size, rank=rank, world=world) if left else ():
        x, y = in_time(x, task)[:, :left], y[:left]
        batch = Tally.of(method.predict(net, x, config), y, confidences)
        tally = tally.merge(batch) if tally else batch
        left -= len(y)
        if not left:
            break
    time_steps = task.time_steps if getattr(method, "SPIKING", True) else 1
    return (tally or Tally.empty(time_steps, device, confidences)).over_workers()


def in_time(x: Tensor, task: Task) -> Tensor:
    """Input of shape (T, B, C, H, W): frames of events as they are, a still image as a view that repeats it T times."""
    return x if task.temporal else x.unsqueeze(0).expand(task.time_steps, *x.shape)


def precision(recipe: Train, device: torch.device) -> AbstractContextManager:
    """The context in which the recipe's precision holds."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16")
