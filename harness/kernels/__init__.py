"""A layer of neurons through all time steps in one pass over memory, where the plain loop makes many.

`cuda.py` is a Triton kernel, `compiled.py` the same by torch.compile for CPUs. Both give the spikes of the plain loop
in `models/surrogate_neuron.py` bit for bit, and take flat tensors: time steps T, neurons N.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from harness.models.surrogate import Surrogate


@dataclass(frozen=True)
class Recursion:
    """v <- leak v + gain I;  s = [v >= level];  v <- v - theta s or, unless `soft`, v (1 - s).

    `shape` and `width` are those of the surrogate derivative of s; `detach` cuts the gradient through the reset.
    """

    leak: float
    gain: float
    level: float
    theta: float
    soft: bool
    detach: bool
    shape: Surrogate
    width: float


class Forward(Protocol):
    def __call__(
        self, current: Tensor, v: Tensor, time_steps: int, recursion: Recursion
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Potentials before reset (T, N), spikes (T, N) and potentials at the end (N).

        `current` is (T, N), or (1, N) if all steps are the same; `v` (N) are the potentials at the beginning.
        """


class Backward(Protocol):
    def __call__(
        self, gradient: Tensor, potentials: Tensor, last: Tensor, recursion: Recursion, *, summed: bool
    ) -> tuple[Tensor, Tensor]:
        """dL/dI (T, N), or its sum (1, N) over time, and dL/dv (N) at the beginning.

        `gradient` is dL/ds (T, N), `last` dL/dv (N) at the end.
        """


@dataclass(frozen=True)
class Kernel:
    """What each module of this folder offers."""

    forward: Forward
    backward: Backward


def kernel(current: Tensor, *, compile: bool) -> Kernel | None:
    """The kernel for such currents: on a GPU Triton's; on a CPU the compiled one if wanted; None for the plain loop."""
    if current.dtype != torch.float32:
        return None
    if current.device.type == "cuda" and _has_triton():
        from harness.kernels import cuda

        return Kernel(cuda.forward, cuda.backward)
    # torch.compile sees nothing while somebody counts operations; the plain loop's spikes are the same.
    if current.device.type == "cpu" and compile and _get_current_dispatch_mode() is None:
        from harness.kernels import compiled

        return Kernel(compiled.forward, compiled.backward)
    return None


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
