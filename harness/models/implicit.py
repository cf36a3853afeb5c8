"""The implicit function theorem as an autograd function: a fixed point's value, with the gradient of the equation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.solvers import Function


def implicit(
    f: Function, state: Tensor, solve_adjoint: Callable[[Function, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`state` as an equilibrium of f: its value, with the gradient of the solution of z = f(z); and f(state).

    Calls f once, with autograd. Backward finds v = J^T v + q, where q is the gradient of the state and J = df/dz at the
    state, and sends v through f into the parameters (the implicit function theorem). `solve_adjoint` gets the map
    v -> J^T v + q, and q, and returns v.
    """
    point = state.detach().requires_grad_()
    image = f(point)

    def adjoint(q: Tensor) -> Tensor:
        def transposed(v: Tensor) -> Tensor:
            return torch.autograd.grad(image, point, v, retain_graph=True)[0] + q

        return solve_adjoint(transposed, q)

    return _Implicit.apply(image, state, adjoint), image.detach()


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, state: Tensor, adjoint: Function) -> Tensor:
        ctx.adjoint = adjoint
        return state.view_as(state)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.adjoint(gradients[0]), None, None
