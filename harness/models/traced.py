"""Spikes and their traces through one network, step by step: how a weight learns from the past without a graph.

The trace of a spike train is a_t = decay * a_{t-1} + s_t. Behind a neuron, layers receive `Traced` in place of a tensor
of one time step. Their output is that of the spikes; so is the gradient that goes on to the layers below; but weights
get their gradient as if the traces had been their input: delta_t (x) a_t instead of delta_t (x) s_t (OTTT, Xiao et al.,
NeurIPS 2022, arXiv:2210.04195).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from harness.models.linear_maps import LinearMap
from harness.models.pieces import Kept


@dataclass(frozen=True)
class Traced:
    """What one layer hands to the next in one time step: two tensors of shape (B, C, ...)."""

    spikes: Tensor
    trace: Tensor
    """Has no gradient."""

    @property
    def shape(self) -> torch.Size:
        return self.spikes.shape

    @property
    def device(self) -> torch.device:
        return self.spikes.device

    def map(self, op: Callable[[Tensor], Tensor]) -> Self:
        """Apply a linear map without parameters."""
        return type(self)(op(self.spikes), op(self.trace))

    def flatten(self) -> Self:
        """All dimensions but the batch's as one."""
        return self.map(lambda rows: rows.flatten(1))

    def scale(self, factors: Tensor) -> Self:
        """Multiply by factors of shape (B, C, ...)."""
        return self.map(lambda rows: rows * factors.to(rows.dtype))

    def __add__(self, other: Self | Tensor) -> Self | Tensor:
        # Added to currents (1, B, C, ...), spikes are part of the current of the next neuron, which has its own trace.
        if isinstance(other, Tensor):
            return self.spikes + other
        return type(self)(self.spikes + other.spikes, self.trace + other.trace)

    __radd__ = __add__

    def affine(self, op: LinearMap, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map of the spikes, (1, B, ...), with the weight's gradient by the trace."""
        spikes, trace = self.spikes, self.trace
        if torch.is_autocast_enabled(spikes.device.type):
            dtype = torch.get_autocast_dtype(spikes.device.type)
            spikes, trace = spikes.to(dtype), trace.to(dtype)
        if trace.stride() != spikes.stride():
            trace = torch.empty_strided(spikes.shape, spikes.stride(), dtype=trace.dtype, device=trace.device).copy_(
                trace
            )
        replaced = 0

        # A linear map keeps its input for nothing but the gradient of its weight: there the trace takes its place.
        def keep(tensor: Tensor) -> Tensor:
            nonlocal replaced
            if tensor.data_ptr() != spikes.data_ptr():
                return tensor
            replaced += 1
            return trace.as_strided(tensor.shape, tensor.stride())  # where the map took some of the spikes only, too

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = op(spikes, weight, bias)
        assert replaced == 1 or not out.requires_grad, "a linear map that does not keep its input, or keeps it twice"
        return out[None]


class Tracing(nn.Module):
    """A layer of neurons that gives out its spikes with their traces while it learns, else spikes alone."""

    def __init__(self, neuron: nn.Module, decay: float) -> None:
        super().__init__()
        self.neuron, self.decay = neuron, decay
        self.kept: Kept | None = None

    def forward(self, current: Tensor | Traced) -> Tensor | Traced:
        spikes = self.neuron(current if isinstance(current, Tensor) else current.spikes[None])
        return traced(spikes, self.decay, self.kept) if self.kept and self.training else spikes


def traced(step: Tensor, decay: float, kept: Kept) -> Traced:
    """A time step (1, B, ...) with its trace, which goes on from what is kept."""
    assert len(step) == 1, "traces are made one time step at a time"
    now = step[0].detach()
    kept.value = now.clone() if kept.value is None else torch.add(now, kept.value, alpha=decay)
    return Traced(step[0], kept.value)
