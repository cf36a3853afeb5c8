"""Accuracy and loss as sums and counts: they add up over batches and workers, ratios are made at the end."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Tally:
    """Sums over the samples seen so far."""

    correct: Float[Tensor, "T"]
    """Samples classified correctly after each time step."""
    loss: Float[Tensor, ""]
    """Summed cross-entropy of the scores after the last step."""
    count: Float[Tensor, ""]

    @classmethod
    def of(cls, scores: Float[Tensor, "T B K"], y: Int[Tensor, "B"]) -> Self:
        """The tally of one batch; float64, so that sums over millions of samples stay exact."""
        correct = (scores.argmax(-1) == y).sum(1).double()
        loss = F.cross_entropy(scores[-1].float(), y, reduction="sum").double()
        return cls(correct, loss, torch.tensor(float(len(y)), dtype=torch.float64, device=y.device))

    @classmethod
    def empty(cls, time_steps: int, device: torch.device) -> Self:
        """The tally of no samples."""
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return cls(torch.zeros(time_steps, dtype=torch.float64, device=device), zero, zero)

    def merge(self, other: "Tally") -> "Tally":
        """The tally of both."""
        return Tally(self.correct + other.correct, self.loss + other.loss, self.count + other.count)

    def over_workers(self) -> "Tally":
        """The tally of all workers' samples together; the same on every worker."""
        if not dist.is_initialized():
            return self
        sums = torch.cat([self.correct, self.loss[None], self.count[None]])
        dist.all_reduce(sums)
        return Tally(sums[:-2], sums[-2], sums[-1])

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.count.item())

    @property
    def accuracies(self) -> list[float]:
        """Top-1 accuracy in percent after each time step."""
        return (100 * self.correct / self.count).tolist()

    @property
    def mean_loss(self) -> float:
        """Mean cross-entropy of the scores after the last step."""
        return (self.loss / self.count).item()
