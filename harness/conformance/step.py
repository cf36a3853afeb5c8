"""Training steps as checks take them: what a step reports, and the gradients it hands over."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from harness.conformance.case import Case
from harness.contract import StepOutput
from harness.models.layers import Dropout

Gradients = dict[str, Tensor | None]


class Step(NamedTuple):
    """One call of `train_step`."""

    output: StepOutput
    updates: list[Gradients]
    """A copy of the gradients at every call of `update()`, by parameter."""


def take(
    case: Case, net: nn.Module, x: Tensor, y: Tensor, *, seed: int = 2, exact: bool = False,
    change: Callable[[nn.Module], None] = lambda net: None, wrap: Callable[[nn.Module], Any] = lambda net: net,
) -> Step:  # fmt: skip
    """Take a step from a seed; `change` is done to the network at every update, by default nothing."""
    updates: list[Gradients] = []

    def update() -> None:
        change(net)
        updates.append({name: None if p.grad is None else p.grad.clone() for name, p in trained(net)})
        net.zero_grad(set_to_none=True)

    config = case.config(case.task(len(x)), exact=exact)
    torch.manual_seed(seed)
    return Step(case.module.train_step(wrap(net), x, y, config, update), updates)


def trained(net: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that the optimizer gets."""
    return [(name, p) for name, p in net.named_parameters() if p.requires_grad]


def steady(net: nn.Module) -> nn.Module:
    """Training mode in which a step computes what prediction computes.

    Modules with running state (float buffers, such as a norm's statistics) and dropouts are in evaluation.
    """
    for module in net.train().modules():
        has_state = any(buffer.is_floating_point() for buffer in module.buffers(recurse=False))
        if module is not net and (has_state or isinstance(module, Dropout | _DropoutNd)):
            module.eval()
    return net
