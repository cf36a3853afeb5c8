"""Losses of a classifier's scores over time. Labels y are classes (B,) or probabilities (B, K)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def cross_entropy(scores: Float[Tensor, "T B K"], y: Tensor) -> Float[Tensor, ""]:
    """Of the mean scores ("standard direct training", SDT, in the words of arXiv:2202.11946)."""
    return F.cross_entropy(scores.mean(0), y)


def mse(scores: Float[Tensor, "T B K"], y: Tensor) -> Float[Tensor, ""]:
    """Squared distance of the mean scores from the one-hot label, mean over samples and classes.

    STBP (arXiv:1706.02609) and PLIF (arXiv:2007.05785), whose scores are spikes; STBP has half the sum over classes.
    """
    mean = scores.mean(0)
    return F.mse_loss(mean, probabilities(y, mean))


def at_each_step(
    scores: Float[Tensor, "T B K"], y: Tensor, *, mse_share: float, level: float | None
) -> Float[Tensor, ""]:
    """Mean over time of (1 - c) cross-entropy + c MSE, c the `mse_share`; the MSE is to `level`, None for one-hot.

    TET (Deng et al., ICLR 2022, arXiv:2202.11946), with lambda = c and phi = `level`, OTTT and SLTT.
    """
    rows = scores.flatten(0, 1)
    each = y.repeat(len(scores), *[1] * (y.dim() - 1))  # T*B, T*B K
    loss = F.cross_entropy(rows, each)
    if mse_share == 0:
        return loss
    target = probabilities(each, rows) if level is None else torch.full_like(rows, level)
    return (1 - mse_share) * loss + mse_share * F.mse_loss(rows, target)


def probabilities(y: Tensor, scores: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Labels as probabilities, in the type of the scores."""
    return (F.one_hot(y, scores.shape[-1]) if y.dim() == 1 else y).to(scores.dtype)
