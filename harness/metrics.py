"""Accuracy and loss as sums and counts: they add up over batches and workers, ratios are made at the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

TOP = 5
"""How many of the likeliest classes the right one may be among."""


@dataclass(frozen=True)
class Anytime:
    """More sums over the samples seen so far: what a test shows and training does not need to know."""

    correct_top5: Float[Tensor, "T"]
    """Samples whose class is among the five likeliest after each time step; all zero where there are no more than
    five classes, for which it says nothing."""
    exit_steps: Float[Tensor, "E"]
    """For each confidence, time steps until the likeliest class has it, at the latest T; see `record.EarlyExit`."""
    exit_correct: Float[Tensor, "E"]
    """Samples classified correctly then."""

    @classmethod
    def of(cls, scores: Float[Tensor, "T B K"], y: Int[Tensor, "B"], confidences: Sequence[float]) -> Self:
        """The sums of one batch."""
        time_steps, _, classes = scores.shape
        top5 = scores.new_zeros(time_steps, dtype=torch.float64)
        if classes > TOP:
            top5 = (scores.topk(TOP, dim=-1).indices == y[:, None]).any(-1).sum(1).double()
        probability, decision = scores.double().softmax(-1).max(-1)  # T B
        wanted = torch.tensor(confidences, dtype=torch.float64, device=scores.device)
        sure = probability >= wanted.view(-1, 1, 1)  # E T B
        sure[:, -1] = True
        first = sure.byte().argmax(1)  # E B
        right = (decision == y).gather(0, first)
        return cls(top5, (first + 1).sum(1).double(), right.sum(1).double())

    @classmethod
    def empty(cls, time_steps: int, confidences: Sequence[float], device: torch.device) -> Self:
        """The sums of no samples."""
        sizes = (time_steps, len(confidences), len(confidences))
        return cls(*(torch.zeros(size, dtype=torch.float64, device=device) for size in sizes))

    def merge(self, other: "Anytime") -> "Anytime":
        """The sums of both."""
        return Anytime(
            self.correct_top5 + other.correct_top5,
            self.exit_steps + other.exit_steps,
            self.exit_correct + other.exit_correct,
        )


@dataclass(frozen=True)
class Tally:
    """Sums over the samples seen so far."""

    correct: Float[Tensor, "T"]
    """Samples classified correctly after each time step."""
    loss: Float[Tensor, ""]
    """Summed cross-entropy of the scores after the last step."""
    count: Float[Tensor, ""]
    anytime: Anytime | None = None

    @classmethod
    def of(
        cls, scores: Float[Tensor, "T B K"], y: Int[Tensor, "B"], confidences: Sequence[float] | None = None
    ) -> Self:
        """The tally of one batch; float64, so that sums over millions of samples stay exact.

        `confidences` of early exits; None leaves `anytime` out.
        """
        correct = (scores.argmax(-1) == y).sum(1).double()
        loss = F.cross_entropy(scores[-1].float(), y, reduction="sum").double()
        count = torch.tensor(float(len(y)), dtype=torch.float64, device=y.device)
        return cls(correct, loss, count, None if confidences is None else Anytime.of(scores, y, confidences))

    @classmethod
    def empty(cls, time_steps: int, device: torch.device, confidences: Sequence[float] | None = None) -> Self:
        """The tally of no samples."""
        zero = torch.zeros((), dtype=torch.float64, device=device)
        anytime = None if confidences is None else Anytime.empty(time_steps, confidences, device)
        return cls(torch.zeros(time_steps, dtype=torch.float64, device=device), zero, zero, anytime)

    def merge(self, other: "Tally") -> "Tally":
        """The tally of both."""
        both = self.anytime and other.anytime and self.anytime.merge(other.anytime)
        return Tally(self.correct + other.correct, self.loss + other.loss, self.count + other.count, both)

    def over_workers(self) -> "Tally":
        """The tally of all workers' samples together; the same on every worker."""
        if not dist.is_initialized():
            return self
        parts = [self.correct, self.loss[None], self.count[None]]
        if self.anytime:
            parts += [self.anytime.correct_top5, self.anytime.exit_steps, self.anytime.exit_correct]
        sums = torch.cat(parts)
        dist.all_reduce(sums)
        correct, loss, count, *more = sums.split([len(part) for part in parts])
        return Tally(correct, loss[0], count[0], Anytime(*more) if more else None)

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
