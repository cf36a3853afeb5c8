"""Learning while the simulation runs: a time step is simulated, judged and forgotten before the next one begins.

Potentials, traces and dropout masks go on from step to step, gradients do not; so memory is that of one step.
"""

from collections.abc import Callable, Collection

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harness.contract import StepOutput, Update
from harness.models.neurons import running_rates
from harness.models.pieces import State, advance, detached

STEPS_AT_ONCE = 8
"""Time steps that are predicted together: the most that memory is needed for."""


def learn(
    net: nn.Module, x: Float[Tensor, "T B C H W"], loss_of: Callable[[Tensor], Tensor], *,
    learning: Collection[int], after_step: Update = lambda: None,
) -> StepOutput:  # fmt: skip
    """Add up the gradients of loss_of(scores (1, B, K)) / T of the time steps in `learning`; the rest has no gradient.

    Returns the loss over all steps and the mean scores.
    """
    total, mean, state = torch.zeros(()), torch.zeros(()), None
    for t in range(len(x)):
        with torch.set_grad_enabled(t in learning):
            now, state = _step(net, x, t, state)
            loss = loss_of(now) / len(x)
        if t in learning:
            loss.backward()
            after_step()
        total, mean = total + loss.detach(), mean + now[0].detach() / len(x)
    return StepOutput(total, mean)


@torch.no_grad()
def scores(net: nn.Module, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B K"]:
    """The mean of the last layer after each time step."""
    state, steps = None, []
    # Some steps at once, since the layers below the first neurons then run once for them on an image that stays.
    for piece in x.split(STEPS_AT_ONCE):
        now, state = advance(net, piece, state)
        steps.extend(now)
    return torch.stack(list(running_rates(steps)))


def _step(net: nn.Module, x: Tensor, t: int, state: State | None) -> tuple[Tensor, State]:
    out, state = advance(net, x[t : t + 1], state)
    return out, detached(state)
