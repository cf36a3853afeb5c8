"""Fixed points z = f(z): of a network's state, or of the linear equation v = J^T v + q of implicit differentiation.

Every solver takes f and a first guess z0 of shape (B, ...) and returns the best z it met with an `Info`. The residual
||f(z) - z|| is over the batch, relative to that of the first guess. One iteration is one call of f. What each keeps, in
copies of z and besides z, its residual and the best z so far:

    neumann    z <- f(z)                                                              nothing
    anderson   f(z), corrected by the last m steps; inner products sample by sample   2 m + 2, m = 4
    broyden    quasi-Newton; inner products sample by sample                          one an iteration, at most 16
    gmres      for affine f: the smallest residual that k calls can give              k + 1, at most 11

Sample by sample, samples do not slow each other down. GMRES works on the whole batch, since it relies on f being one
linear map, and batch norm couples the samples of a batch. Where it couples those of several workers, all of them solve
one equation together, each with its own samples' part of z: `summed` then adds up over workers.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, assert_never

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
Summed = Callable[[Tensor], Tensor]
"""A worker's sums -> those of all workers. They must be the same to the bit on each: iterations hang on them."""
Solver = Literal["neumann", "anderson", "broyden", "gmres"]


@dataclass(frozen=True)
class Info:
    """How a solution was reached."""

    iterations: int
    relative_residual: float


def solve(
    solver: Solver, f: Function, z0: Tensor, *, tolerance: float, max_iterations: int, residual: Tensor | None = None,
    summed: Summed | None = None,
) -> tuple[Tensor, Info]:  # fmt: skip
    """A fixed point of f to a relative tolerance, or the best z within max_iterations calls of f.

    `residual` is f(z0) - z0, where it is known already; that saves a call. GMRES asks for an affine f. `summed`: z is
    this worker's part of what all of them solve together.
    """
    calls = 0
    if residual is None:
        residual, calls = f(z0) - z0, 1
    first = length(residual, summed).item()
    if solver == "gmres":
        return _gmres(f, z0, residual, calls, target=tolerance * first, max_iterations=max_iterations, summed=summed)
    propose = _proposer(solver)
    z, best, norm, lowest = z0, z0, first, first
    while lowest > tolerance * first and norm < float("inf") and calls < max_iterations:
        z = propose(z, residual)
        residual, calls = f(z) - z, calls + 1
        norm = length(residual, summed).item()
        if norm < lowest:
            best, lowest = z, norm
    return best, Info(calls, lowest / first if first else 0.0)


def length(z: Tensor, summed: Summed | None = None) -> Tensor:
    """The norm of z, or of all workers' parts of it."""
    return z.norm() if summed is None else summed(z.square().sum()).sqrt()


def _proposer(solver: Literal["neumann", "anderson", "broyden"]) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of z and its residual that remembers earlier ones and returns the next z."""
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

    def __init__(self, memory: int = 4) -> None:
        self.last: tuple[Tensor, Tensor] | None = None
        self.steps: deque[tuple[Tensor, Tensor]] = deque(maxlen=memory)
        """By how much f(z) and the residual changed from one z to the next."""

    def __call__(self, z: Tensor, residual: Tensor) -> Tensor:
        if self.last is not None:
            change = residual - self.last[1]
            self.steps.append(((z - self.last[0]).add_(change), change))
        self.last = z, residual
        image = z + residual
        if self.steps:
            for weight, (step, _) in zip(self._mix(residual), self.steps, strict=True):
                image.addcmul_(weight, step, value=-1)
        return image

    def _mix(self, residual: Tensor) -> Tensor:
        """The weights (m, B, 1, ...) of the changes that take most off the residual."""
        changes = [change for _, change in self.steps]
        one = (len(residual),) + (1,) * (residual.dim() - 1)
        gram = torch.stack([torch.stack([_dot(a, b).flatten() for b in changes], -1) for a in changes], -1)  # B m m
        # A ridge far below the solution's accuracy: changes become parallel as the iteration converges.
        ridge = torch.finfo(gram.dtype).eps * gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp_min(1e-30)
        gram = gram + ridge * torch.eye(len(changes), dtype=gram.dtype, device=gram.device)
        right = torch.stack([_dot(change, residual).flatten() for change in changes], -1)  # B m
        return torch.linalg.solve(gram, right).T.unflatten(1, one)


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
    """Of each sample; (B, 1, ...), in whatever order a and b lie in memory."""
    return (a * b).sum(tuple(range(1, a.dim())), keepdim=True)


def _gmres(
    f: Function, z: Tensor, residual: Tensor, calls: int, *, target: float, max_iterations: int, memory: int = 10,
    summed: Summed | None = None,
) -> tuple[Tensor, Info]:  # fmt: skip
    """GMRES for z - f(z) = 0 with affine f, begun anew after every `memory` calls.

    Source: Saad and Schultz, SIAM J. Sci. Stat. Comput. 7 (1986). The residual is that of the small least-squares
    problem, which costs no call.
    """
    first = norm = length(residual, summed).item()
    while target < norm < float("inf") and calls < max_iterations:
        # f(z + scale d) - f(z) = scale J d; with a scale of the residual's size, rounding does not hide J d.
        image, scale = z + residual, norm
        basis, columns = [residual / scale], list[list[float]]()
        mix, left = list[float](), list[float]()
        ended = False
        while not ended and len(columns) < memory:
            new = f(torch.add(z, basis[-1], alpha=scale)) - image
            calls += 1
            column = _orthogonalise(new.div_(-scale).add_(basis[-1]), basis, summed)
            if not all(map(math.isfinite, column)):
                ended = True
                break
            columns.append(column)
            mix, left = _least_squares(columns, scale)
            norm = math.hypot(*left)
            # With nothing new in the direction, the solution lies in the space of the basis.
            ended = norm <= target or calls >= max_iterations or column[-1] == 0
            if not ended:
                basis.append(new.div_(column[-1]))
        z = _combined(mix, basis, z)
        if ended:
            break
        residual = _combined(left, basis, torch.zeros_like(z))
    return z, Info(calls, norm / first if first else 0.0)


def _orthogonalise(new: Tensor, basis: list[Tensor], summed: Summed | None) -> list[float]:
    """Take the part along the basis (orthonormal) out of `new`, in place; what it was, and the length that is left."""
    parts = []
    for direction in basis:
        part = (direction * new).sum()
        parts.append(part if summed is None else summed(part))
        new.addcmul_(direction, parts[-1], value=-1)
    return torch.stack([*parts, length(new, summed)]).tolist()


def _least_squares(columns: list[list[float]], scale: float) -> tuple[list[float], list[float]]:
    """The y that makes scale e_1 - H y shortest, and that vector; H (k + 1, k) is given by what its columns hold.

    By Givens' rotations, in Python: LAPACK's last bits depend on where in memory the numbers lie.
    """
    rotations: list[tuple[float, float]] = []
    right, triangle = [scale], list[list[float]]()
    for column in columns:
        rotated = list(column)
        for row, (c, s) in enumerate(rotations):
            above, below = rotated[row], rotated[row + 1]
            rotated[row], rotated[row + 1] = c * above + s * below, c * below - s * above
        length = math.hypot(*rotated[-2:])
        c, s = (rotated[-2] / length, rotated[-1] / length) if length else (1.0, 0.0)
        rotations.append((c, s))
        triangle.append([*rotated[:-2], length])
        right[-1:] = [c * right[-1], -s * right[-1]]
    mix = [0.0] * len(columns)
    for row in reversed(range(len(columns))):
        rest = right[row] - sum(triangle[later][row] * mix[later] for later in range(row + 1, len(columns)))
        mix[row] = rest / triangle[row][row] if triangle[row][row] else 0.0
    left = [scale] + [0.0] * len(columns)
    for weight, column in zip(mix, columns, strict=True):
        for row, entry in enumerate(column):
            left[row] -= entry * weight
    return mix, left


def _combined(weights: list[float], basis: list[Tensor], start: Tensor) -> Tensor:
    total = start.clone()
    for weight, direction in zip(weights, basis, strict=False):
        total.add_(direction, alpha=weight)
    return total


def halved_iteration(f: Function, q: Tensor, *, iterations: int) -> tuple[Tensor, Info]:
    """v <- f(v) / 2 from v = q, with f(v) = J^T v + q: tends to (2 I - J^T)^-1 q, not to the fixed point of f.

    What the released code of IDE-FSNN does under the name 'iter', there for reproducing it. Its relative residual is
    that of v = f(v), and costs no call: the last but one v is looked at.
    """
    v = q
    residual = torch.zeros_like(q)
    for _ in range(iterations):
        image = f(v)
        residual, v = image - v, image / 2
    return v, Info(iterations, (residual.norm() / q.norm()).item())
