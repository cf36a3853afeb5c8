"""The recursion of a layer of neurons as Triton kernels: potentials stay in registers through all T time steps.

Spikes are those of the plain loop bit for bit, since only the one product and sum that torch fuses are fused here
(`enable_fp_fusion=False`); gradients agree to rounding. With TRITON_INTERPRET=1 the same code runs on a CPU, slowly:
that is how it is tested without a GPU.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.kernels import Recursion

NEURONS = 512
"""Of one program."""


def forward(current: Tensor, v: Tensor, time_steps: int, recursion: Recursion) -> tuple[Tensor, Tensor, Tensor]:
    """As `kernels.Forward` says."""
    potentials = current.new_empty(time_steps, v.numel())
    spikes, last = torch.empty_like(potentials), torch.empty_like(v)
    r = recursion
    _forward[_grid(v)](
        current, v, potentials, spikes, last, r.leak, r.gain, r.level, r.theta,
        v.numel(), 0 if len(current) == 1 else v.numel(),
        T=time_steps, SOFT=r.soft, NEURONS=NEURONS, enable_fp_fusion=False,
    )  # fmt: skip
    return potentials, spikes, last


def backward(
    gradient: Tensor, potentials: Tensor, last: Tensor, recursion: Recursion, *, summed: bool
) -> tuple[Tensor, Tensor]:
    """As `kernels.Backward` says."""
    passed = torch.empty_like(potentials[:1] if summed else potentials)
    first, r = torch.empty_like(last), recursion
    _backward[_grid(last)](
        gradient, potentials, last, passed, first, r.leak, r.gain, r.level, r.theta, last.numel(),
        T=len(potentials), SUMMED=summed, SOFT=r.soft, DETACH=r.detach, SHAPE=r.shape, WIDTH=r.width,
        SQRT_2PI=math.sqrt(2 * math.pi), HALF_PI=math.pi / 2, NEURONS=NEURONS,
    )  # fmt: skip
    return passed, first


def _grid(v: Tensor) -> tuple[int]:
    return (triton.cdiv(v.numel(), NEURONS),)


@triton.jit
def _forward(
    current, before, potentials, spikes, last, leak, gain, level, theta, n, stride,
    T: tl.constexpr, SOFT: tl.constexpr, NEURONS: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * NEURONS + tl.arange(0, NEURONS)
    inside = at < n
    v = tl.load(before + at, mask=inside, other=0.0)
    for t in range(T):
        now = at + t * tl.full((), n, tl.int64)
        v = tl.fma(tl.load(current + at + t * tl.full((), stride, tl.int64), mask=inside, other=0.0), gain, v * leak)
        tl.store(potentials + now, v, mask=inside)
        s = (v >= level).to(v.dtype)
        tl.store(spikes + now, s, mask=inside)
        v = v - s * theta if SOFT else v * (1 - s)
    tl.store(last + at, v, mask=inside)


@triton.jit
def _backward(
    gradient, potentials, last, passed, first, leak, gain, level, theta, n,
    T: tl.constexpr, SUMMED: tl.constexpr, SOFT: tl.constexpr, DETACH: tl.constexpr, SHAPE: tl.constexpr,
    WIDTH: tl.constexpr, SQRT_2PI: tl.constexpr, HALF_PI: tl.constexpr, NEURONS: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * NEURONS + tl.arange(0, NEURONS)
    inside = at < n
    g = tl.load(last + at, mask=inside, other=0.0)
    total = tl.zeros_like(g)
    for step in range(T):
        now = at + (T - 1 - step) * tl.full((), n, tl.int64)
        u = tl.load(potentials + now, mask=inside, other=0.0)
        h = _derivative(u - level, SHAPE, WIDTH, SQRT_2PI, HALF_PI)
        through = tl.load(gradient + now, mask=inside, other=0.0)
        if not DETACH:
            through -= g * theta if SOFT else g * u
        if not SOFT:
            g = tl.where(u < level, g, 0.0)
        g += through * h
        if SUMMED:
            total += g * gain
        else:
            tl.store(passed + now, g * gain, mask=inside)
        g *= leak
    if SUMMED:
        tl.store(passed + at, total, mask=inside)
    tl.store(first + at, g, mask=inside)


@triton.jit
def _derivative(
    x, SHAPE: tl.constexpr, WIDTH: tl.constexpr, SQRT_2PI: tl.constexpr, HALF_PI: tl.constexpr
):  # fmt: skip
    """`surrogate.derivative`."""
    if SHAPE == "rectangle":
        h = tl.where(tl.abs(x) < WIDTH / 2, 1 / WIDTH, 0.0).to(x.dtype)
    elif SHAPE == "triangle":
        h = tl.maximum(WIDTH - tl.abs(x), 0.0) / (WIDTH * WIDTH)
    elif SHAPE == "sigmoid":
        firing = 1 / (1 + tl.exp(-WIDTH * x))
        h = WIDTH * firing * (1 - firing)
    elif SHAPE == "arctan":
        scaled = HALF_PI * WIDTH * x
        h = (WIDTH / 2) / (1 + scaled * scaled)
    else:
        tl.static_assert(SHAPE == "gaussian")
        h = tl.exp(-x * x / (2 * WIDTH * WIDTH)) / (SQRT_2PI * WIDTH)
    return h
