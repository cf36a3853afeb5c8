"""Optimizer and learning rate of a recipe: how it follows the batch size, and its schedule."""

import math
from collections.abc import Iterable
from typing import Any, assert_never

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from harness.config import Train


def optimizer(groups: Iterable[torch.nn.Parameter] | list[dict[str, Any]], recipe: Train) -> Optimizer:
    """The recipe's optimizer over parameters or torch parameter groups; a group's own `lr` is scaled alike."""
    scaled: Any = [_scaled(group, recipe) if isinstance(group, dict) else group for group in groups]
    lr, decay = recipe.lr * lr_scale(recipe), recipe.weight_decay
    match recipe.optimizer:
        case "sgd":
            return SGD(scaled, lr=lr, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=decay)
        case "adam":
            return Adam(scaled, lr=lr, weight_decay=decay)
        case "adamw":
            return AdamW(scaled, lr=lr, weight_decay=decay)
        case _:
            assert_never(recipe.optimizer)


def lr_scale(recipe: Train) -> float:
    """What the learning rate is multiplied by for the recipe's batch size B, given the size that it was chosen for.

    `linear`: B / reference, under which k updates of one size move about as far as one update of k times the size
    (Goyal et al., arXiv:1706.02677, section 2.1; its warm-up is `warmup_steps`). `sqrt`: the square root of that, under
    which the covariance of an update's noise stays (Krizhevsky, arXiv:1404.5997, section 5).
    """
    if recipe.lr_scaling is None:
        return 1.0
    ratio = recipe.batch_size / recipe.lr_scaling.reference
    match recipe.lr_scaling.rule:
        case "linear":
            return ratio
        case "sqrt":
            return math.sqrt(ratio)
        case _:
            assert_never(recipe.lr_scaling.rule)


def _scaled(group: dict[str, Any], recipe: Train) -> dict[str, Any]:
    return group | {"lr": group["lr"] * lr_scale(recipe)} if "lr" in group else group


def lr_factor(recipe: Train, *, epoch: int, step: int) -> float:
    """What the base learning rate of this batch size is multiplied by, in [0, 1].

    The schedule moves once an epoch, the linear warm-up once a batch, as in DSR's and IDE-FSNN's published recipes.
    `epoch` counts from 0; `step` counts batches from 0 over the whole training.
    """
    match recipe.schedule:
        case "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
        case "step":
            factor = recipe.gamma ** sum(epoch >= milestone for milestone in recipe.milestones)
        case "constant":
            factor = 1.0
        case _:
            assert_never(recipe.schedule)
    return factor * min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else factor


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Scale every group's own base learning rate, which is remembered at the first call."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
