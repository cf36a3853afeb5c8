"""Optimizer and learning-rate schedule of a recipe."""

import math
from collections.abc import Iterable
from typing import Any, assert_never

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from harness.config import Train


def optimizer(groups: Iterable[torch.nn.Parameter] | list[dict[str, Any]], recipe: Train) -> Optimizer:
    """The recipe's optimizer over parameters or torch parameter groups."""
    lr, decay = recipe.lr, recipe.weight_decay
    match recipe.optimizer:
        case "sgd":
            return SGD(groups, lr=lr, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=decay)
        case "adam":
            return Adam(groups, lr=lr, weight_decay=decay)
        case "adamw":
            return AdamW(groups, lr=lr, weight_decay=decay)
        case _:
            assert_never(recipe.optimizer)


def lr_factor(recipe: Train, *, epoch: int, step: int) -> float:
    """What the base learning rate is multiplied by, in [0, 1].

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
