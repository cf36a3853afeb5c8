"""A simulation in pieces of time: what layers keep from one piece to the next, and pieces that are computed twice.

Neurons keep their potentials, dropout its masks. Between two pieces these stand outside of the network, as a `State`,
so that nothing is left in it when a batch ends.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass
class Kept:
    """What one layer keeps; a layer that keeps something has it as `kept`, None outside of a simulation in pieces."""

    value: Tensor | None = None


State = tuple[Tensor | None, ...]
"""What every layer kept, in the order of the network's modules; None where a simulation begins."""


def advance(net: nn.Module, x: Tensor, state: State | None = None) -> tuple[Any, State]:
    """net(x) for a piece x (t, B, ...) of the time steps that follows on `state`, and the state at its end."""
    layers: list[Any] = [layer for layer in net.modules() if hasattr(layer, "kept")]
    for layer, value in zip(layers, state or [None] * len(layers), strict=True):
        layer.kept = Kept(value)
    try:
        out = net(x)
        return out, tuple(layer.kept.value for layer in layers)
    finally:
        for layer in layers:
            layer.kept = None


def detached(state: State) -> State:
    """The same state, through which no gradient flows back in time."""
    return tuple(None if value is None else value.detach() for value in state)


def in_segments(net: nn.Module, x: Tensor, num_segments: int) -> Tensor:
    """net(x) with its gradient, in memory for one segment of the time steps at a time.

    Backward runs each segment but the last a second time (gradient checkpointing, Chen et al., arXiv:1604.06174).
    The network must do to each time step alone what it does to several, but for neurons and dropout.
    """

    def segment(piece: Tensor, *state: Tensor | None) -> tuple[Any, ...]:
        out, after = advance(net, piece, state or None)
        return out, *after

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _statistics_at_rest(net)

    *first, last = x.tensor_split(num_segments)
    state: State = ()
    outs = []
    for piece in first:
        out, *kept = checkpoint(segment, piece, *state, use_reentrant=False, context_fn=contexts)
        outs.append(out)
        state = tuple(kept)
    return torch.cat([*outs, segment(last, *state)[0]])


@contextmanager
def _statistics_at_rest(net: nn.Module) -> Iterator[None]:
    """Norms still use the statistics of what they see, but the running ones have moved in the first run already."""
    norms: list[Any] = [layer for layer in net.modules() if hasattr(layer, "running_mean")]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
