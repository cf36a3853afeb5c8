"""Fixed points z = f(z): of a network's state, or of the linear equation v = J^T v + q of implicit differentiation.

Every solver takes f and a first guess z0 of shape (B, ...) and returns the best z it met with an `Info`. Inner products
are taken sample by sample, so that samples do not slow each other down; the residual ||f(z) - z|| is over the batch,
relative to that of the first guess. One iteration is one call of f.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, assert_never

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
Solver = Literal["neumann", "anderson", "broyden"]


@dataclass(frozen=True)
class Info:
    """How a solution was reached."""

    iterations: int
    relative_residual: float


def solve(
    solver: Solver, f: Function, z0: Tensor, *, tolerance: float, max_iterations: int
) -> tuple[Tensor, Info]:  # fmt: skip
    """A fixed point of f to a relative tolerance, or the best z within max_iterations calls of f."""
    propose = _proposer(solver)
    z, best, first, lowest = z0, z0, 0.0, float("inf")
    for iteration in range(1, max_iterations + 1):
        residual = f(z) - z
        norm = residual.norm().item()
        if iteration == 1:
            first = norm
        if norm < lowest:
            best, lowest = z, norm
        if lowest <= tolerance * first or not norm < float("inf"):
            break
        z = propose(z.flatten(1), residual.flatten(1)).view_as(z)
    return best, Info(iteration, lowest / first if first else 0.0)


def _proposer(solver: Solver) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of z and its residual, both (B, N), that remembers earlier ones and returns the next z."""
    match solver:
        case "neumann":
            return torch.add
        case "anderson":
            return _Anderson()
        case "broyden":
            return _Broyden()
        case _:
            assert_never(solver)


class _Anderson:
    """Anderson acceleration: the combination of the last z whose residuals, combined so, are smallest."""

    def __init__(self, memory: int = 6) -> None:
        self.points: deque[tuple[Tensor, Tensor]] = deque(maxlen=memory)

    def __call__(self, z: Tensor, residual: Tensor) -> Tensor:
        self.points.append((z, residual))
        if len(self.points) == 1:
            return z + residual
        points, residuals = (torch.stack(kind, -1).diff(dim=-1) for kind in zip(*self.points, strict=True))  # B N m
        gram = residuals.mT @ residuals  # B m m
        # A ridge far below the solution's accuracy: differences become parallel as the iteration converges.
        ridge = torch.finfo(z.dtype).eps * gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp_min(1e-30)
        gram = gram + ridge * torch.eye(gram.shape[1], dtype=z.dtype, device=z.device)
        mix = torch.linalg.solve(gram, residuals.mT @ residual[..., None])  # B m 1
        return z + residual - ((points + residuals) @ mix)[..., 0]


class _Broyden:
    """Broyden's first method for z - f(z) = 0, from the identity, in the form that stores one step an iteration.

    The first step is the plain iteration z <- f(z). Source: Kelley, Iterative Methods for Linear and Nonlinear
    Equations, SIAM 1995, section 7.3.
    """

    def __init__(self, memory: int = 16) -> None:
        self.memory = memory
        self.steps: list[tuple[Tensor, Tensor]] = []

    def __call__(self, z: Tensor, residual: Tensor) -> Tensor:
        if len(self.steps) == self.memory:
            self.steps = []
        step = residual
        for (earlier, square), (later, _) in pairwise(self.steps):
            step = step + later * (_dot(earlier, step) / square)
        if self.steps:
            last, square = self.steps[-1]
            step = step / (1 - _dot(last, step) / square)
        self.steps.append((step, _dot(step, step).clamp_min(torch.finfo(step.dtype).tiny)))
        return z + step


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


def implicit(
    image: Tensor, state: Tensor, f: Function, solve_adjoint: Callable[[Function, Tensor], Tensor]
) -> Tensor:  # fmt: skip
    """`state` as an equilibrium of f: its value, with the gradient of the solution of z = f(z).

    `image` is f(state) with the graph that leads to the parameters. Backward finds v = J^T v + q, where q is the
    gradient of the state and J = df/dz at the state, and hands v to `image` (the implicit function theorem).
    `solve_adjoint` gets the map v -> J^T v + q and a first guess, and returns v.
    """

    def adjoint(q: Tensor) -> Tensor:
        with torch.enable_grad():
            point = state.detach().requires_grad_()
            value = f(point)

        def transposed(v: Tensor) -> Tensor:
            return torch.autograd.grad(value, point, v, retain_graph=True)[0] + q

        return solve_adjoint(transposed, torch.zeros_like(q))

    return _Implicit.apply(image, state, adjoint)


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, state: Tensor, adjoint: Function) -> Tensor:
        ctx.adjoint = adjoint
        return state.view_as(state)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.adjoint(gradients[0]), None, None
