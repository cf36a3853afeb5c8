"""When training looks up from its work inside an epoch: to save itself, and to ask whether it should stop."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 1.0
"""Between two questions whether to stop, about."""


@dataclass(frozen=True)
class Pauses:
    """What a training does in between; by default nothing. The same on all workers."""

    save: Callable[[dict[str, Any]], None] | None = None
    """Keeps a state; called by rank 0 alone."""
    steps: int | None = None
    """Updates after which the training is saved inside an epoch."""
    stopping: Callable[[], bool] | None = None
    """Whether the training should save itself and stop; any worker may say so."""

    def due(self, step: int) -> bool:
        """Whether the training is to be saved behind its `step`-th update, counted from 1."""
        return self.save is not None and self.steps is not None and step % self.steps == 0


class Question:
    """Asks `stopping` about once a second; with several workers, all at the same step, and all get one answer.

    One worker looks at its clock after each step. Several count steps until the next question, as many as rank 0 is
    likely to take in a second; so that they exchange a message a second, not one a step.
    """

    def __init__(self, stopping: Callable[[], bool] | None, *, rank: int, world: int, device: torch.device) -> None:
        self.stopping, self.rank, self.world, self.device = stopping, rank, world, device
        self.asked, self.steps, self.ahead = time.monotonic(), 0, 1

    def after_step(self) -> bool:
        """Whether to stop, as far as it was time to ask."""
        self.steps += 1
        if self.world == 1:
            return time.monotonic() - self.asked >= SECONDS and self.now()
        return self.steps >= self.ahead and self.now()

    def now(self) -> bool:
        """Whether any worker wants to stop; all workers have to ask."""
        if self.stopping is None:
            return False
        wanted = self.stopping()
        now = time.monotonic()
        if self.world > 1:
            # Twice as many as last time at most: the first steps, or a pause, say little about those to come.
            pace = self.steps * SECONDS / max(now - self.asked, 1e-9)
            ahead = max(1, min(int(pace), 2 * self.steps))
            mine = [float(wanted), float(ahead) if self.rank == 0 else 0.0]
            sums = torch.tensor(mine, dtype=torch.float64, device=self.device)
            dist.all_reduce(sums)
            wanted, self.ahead = bool(sums[0].item()), int(sums[1].item())
        self.asked, self.steps = now, 0
        return wanted
