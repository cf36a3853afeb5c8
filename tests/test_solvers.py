import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.solvers import Solver, halved_iteration, solve
from tests.tiny import unhurried

SOLVERS = get_args(Solver)
each = pytest.mark.parametrize("solver", SOLVERS)
each_for_any_function = pytest.mark.parametrize("solver", [solver for solver in SOLVERS if solver != "gmres"])


class Affine:
    """z -> z J^T + q with ||J|| as given, another J for each sample; counts its calls."""

    def __init__(self, norm: float, *, batch_size: int = 3, size: int = 20, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        matrices = torch.randn(batch_size, size, size, dtype=torch.float64, generator=generator)
        self.matrices = norm * matrices / torch.linalg.matrix_norm(matrices, 2)[:, None, None]
        self.q = torch.randn(batch_size, size, dtype=torch.float64, generator=generator)
        self.calls = 0

    def __call__(self, z: Tensor) -> Tensor:
        self.calls += 1
        return (self.matrices @ z[..., None])[..., 0] + self.q

    @property
    def start(self) -> Tensor:
        return torch.zeros_like(self.q)

    @property
    def solution(self) -> Tensor:
        return torch.linalg.solve(torch.eye(self.q.shape[1], dtype=torch.float64) - self.matrices, self.q)


@each
@unhurried
@given(norm=st.floats(0, 0.9), seed=st.integers(0, 1000))
def test_solution_is_that_of_the_dense_equation(solver, norm, seed):
    f = Affine(norm, seed=seed)
    z, info = solve(solver, f, f.start, tolerance=1e-9, max_iterations=300)
    assert info.relative_residual <= 1e-9
    assert (z - f.solution).norm() <= 1e-7 * f.solution.norm()


@each_for_any_function
def test_solution_of_a_clamped_network_is_where_iteration_ends(solver):
    affine = Affine(0.8)
    ended = affine.start
    for _ in range(500):
        ended = affine(ended).clamp(0, 1)
    z, _ = solve(solver, lambda z: affine(z).clamp(0, 1), affine.start, tolerance=1e-12, max_iterations=200)
    torch.testing.assert_close(z, ended, rtol=0, atol=1e-10)


@pytest.mark.parametrize("norm", [0.3, 0.6, 0.9])
def test_thirty_calls_reach_one_in_a_hundred_thousand(norm):
    for solver in ("anderson", "broyden", "gmres"):
        f = Affine(norm, size=50)
        _, info = solve(solver, f, f.start, tolerance=1e-5, max_iterations=30)
        assert info.relative_residual <= 1e-5


def test_accelerated_solvers_need_fewer_calls_than_plain_iteration():
    def calls(solver: str) -> int:
        f = Affine(0.9, size=5)
        return solve(solver, f, f.start, tolerance=1e-6, max_iterations=500)[1].iterations

    assert max(calls("anderson"), calls("broyden"), calls("gmres")) < calls("neumann")


def test_broyden_ends_within_twice_the_number_of_unknowns():
    # Gay, SIAM J. Numer. Anal. 16 (1979): Broyden's method solves a linear system of n unknowns in at most 2n steps.
    f = Affine(0.95, batch_size=1, size=4)
    _, info = solve("broyden", f, f.start, tolerance=1e-9, max_iterations=2 * 4 + 1)
    assert info.relative_residual <= 1e-9


def test_anderson_ends_once_it_has_seen_every_direction():
    # With full memory it is GMRES: n directions, and one call to see that it is done.
    f = Affine(0.95, batch_size=1, size=4)
    _, info = solve("anderson", f, f.start, tolerance=1e-6, max_iterations=4 + 2)
    assert info.relative_residual <= 1e-6


@each
def test_an_iteration_is_a_call(solver):
    f = Affine(0.9)
    _, info = solve(solver, f, f.start, tolerance=1e-4, max_iterations=100)
    assert info.iterations == f.calls < 100
    g = Affine(0.9)
    _, info = solve(solver, g, g.start, tolerance=0.0, max_iterations=7)
    assert info.iterations == g.calls == 7


@each
def test_reported_residual_is_that_of_the_answer(solver):
    f = Affine(0.9)
    z, info = solve(solver, f, f.start, tolerance=1e-3, max_iterations=100)
    # That of GMRES is carried along, not measured at the end.
    rounding = 1e-9 if solver == "gmres" else 1e-12
    assert info.relative_residual == pytest.approx(((f(z) - z).norm() / f.q.norm()).item(), rel=rounding)


@each_for_any_function
def test_answer_is_the_best_point_met(solver):
    f = Affine(3.0)
    met = []
    z, info = solve(solver, lambda z: met.append(z) or f(z), f.start, tolerance=1e-9, max_iterations=12)
    residuals = [(f(point) - point).norm().item() for point in met]
    assert torch.equal(z, met[residuals.index(min(residuals))])
    assert info.relative_residual == pytest.approx(min(residuals) / residuals[0])


@each
def test_start_at_the_solution_takes_one_call(solver):
    f = Affine(0.5)
    f.q.zero_()
    z, info = solve(solver, f, f.start, tolerance=1e-5, max_iterations=30)
    assert torch.equal(z, f.start)
    assert (info.iterations, info.relative_residual) == (1, 0.0)


@each
def test_a_sample_that_is_solved_does_not_disturb_the_others(solver):
    f = Affine(0.8)
    f.q[1] = 0
    z, _ = solve(solver, f, f.start, tolerance=1e-9, max_iterations=200)
    assert (z[1] == 0).all()
    torch.testing.assert_close(z, f.solution, rtol=0, atol=1e-7)


@each
def test_function_that_breaks_down_costs_only_what_comes_after(solver):
    f = Affine(0.8)
    z, info = solve(
        solver, lambda z: f(z) if f.calls < 3 else f(z) * math.nan, f.start, tolerance=1e-9, max_iterations=30
    )
    assert z.isfinite().all()
    assert info.iterations == 4
    assert info.relative_residual < 1


@each
def test_shape_and_precision_are_those_of_the_first_guess(solver):
    z0 = torch.zeros(2, 3, 4, 4)
    z, _ = solve(solver, lambda z: 0.5 * z + 1, z0, tolerance=1e-5, max_iterations=30)
    assert (z.shape, z.dtype) == (z0.shape, z0.dtype)
    torch.testing.assert_close(z, torch.full_like(z0, 2), rtol=0, atol=1e-4)
    assert (z0 == 0).all()


@each
def test_a_residual_that_is_known_saves_a_call(solver):
    f, g = Affine(0.8), Affine(0.8)
    expected, info = solve(solver, f, f.start, tolerance=1e-6, max_iterations=100)
    found, its = solve(solver, g, g.start, residual=g.q, tolerance=1e-6, max_iterations=100)
    assert torch.equal(found, expected)
    assert (its.iterations, its.relative_residual) == (info.iterations - 1, info.relative_residual)
    assert g.calls == its.iterations


@each
def test_samples_may_depend_on_each_other(solver):
    # As batch norm makes them; then what is one linear map is that of the whole batch.
    f = Affine(0.6, batch_size=1, size=30)
    expected = f.solution.view(5, 6)
    z, info = solve(
        solver, lambda z: f(z.view(1, 30)).view(5, 6), torch.zeros_like(expected), tolerance=1e-9, max_iterations=200
    )
    assert info.relative_residual <= 1e-9
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-7)


def test_gmres_ends_after_as_many_directions_as_there_are_unknowns():
    f = Affine(5.0, batch_size=1, size=6)
    z, info = solve("gmres", f, f.start, tolerance=1e-10, max_iterations=6 + 1)
    assert info.relative_residual <= 1e-10
    torch.testing.assert_close(z, f.solution, rtol=1e-7, atol=1e-7)


def test_gmres_has_the_smallest_residual_of_its_krylov_space():
    f = Affine(0.9, batch_size=2, size=15)
    whole = torch.block_diag(*(torch.eye(15, dtype=torch.float64) - m for m in f.matrices))
    powers = [f.q.flatten()]
    for calls in range(1, 6):
        z, _ = solve("gmres", f, f.start, tolerance=0.0, max_iterations=calls, residual=f.q)
        space = whole @ torch.stack(powers, 1)
        best = torch.linalg.lstsq(space, f.q.flatten()[:, None]).solution
        smallest = (space @ best - f.q.flatten()[:, None]).norm()
        assert (f(z) - z).norm().item() == pytest.approx(smallest.item(), rel=1e-9)
        powers.append(whole @ powers[-1])


def test_halved_iteration_ends_elsewhere():
    f = Affine(0.9)
    v, info = halved_iteration(f, f.q, iterations=100)
    eye = torch.eye(20, dtype=torch.float64)
    torch.testing.assert_close(v, torch.linalg.solve(2 * eye - f.matrices, f.q), rtol=0, atol=1e-9)
    assert (v - f.solution).norm() > 0.4 * f.solution.norm()
    assert info.relative_residual == pytest.approx(((f(v) - v).norm() / f.q.norm()).item(), rel=1e-6)
    assert (info.iterations, info.relative_residual > 0.3) == (100, True)
