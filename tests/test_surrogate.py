import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.models.surrogate import WIDTHS, derivative, heaviside
from tests.tiny import unhurried

SHAPES = sorted(WIDTHS)
widths = st.floats(0.3, 8)

# What each shape is the derivative of: steps that go from 0 to 1.
PRIMITIVES = {
    "rectangle": lambda x, a: (x / a + 0.5).clamp(0, 1),
    "triangle": lambda x, gamma: 0.5 + 0.5 * ((x / gamma).clamp(-1, 1) * (2 - (x / gamma).clamp(-1, 1).abs())),
    "sigmoid": lambda x, k: torch.sigmoid(k * x),
    "arctan": lambda x, a: torch.atan(math.pi / 2 * a * x) / math.pi + 0.5,
    "gaussian": lambda x, a: 0.5 * (1 + torch.erf(x / (a * math.sqrt(2)))),
}


@pytest.mark.parametrize("shape", SHAPES)
@unhurried
@given(width=widths)
def test_derivative_integrates_to_one(shape, width):
    angle = torch.linspace(-math.pi / 2, math.pi / 2, 40_001, dtype=torch.float64)[1:-1]
    density = derivative(torch.tan(angle), shape, width) / torch.cos(angle) ** 2
    assert torch.trapezoid(density, angle).item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
@unhurried
@given(width=widths, seed=st.integers(0, 1000))
def test_derivative_is_that_of_a_smooth_step(shape, width, seed):
    x = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    (slope,) = torch.autograd.grad(PRIMITIVES[shape](x, width).sum(), x)
    torch.testing.assert_close(derivative(x.detach(), shape, width), slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_derivative_is_even_and_highest_at_the_threshold(shape):
    x = torch.linspace(0, 3, 50)
    h = derivative(x, shape, WIDTHS[shape])
    torch.testing.assert_close(h, derivative(-x, shape, WIDTHS[shape]))
    assert (h.diff() <= 0).all()


def test_published_shapes_have_height_one_at_the_threshold():
    zero = torch.zeros(1)
    heights = {shape: derivative(zero, shape, WIDTHS[shape]).item() for shape in SHAPES}
    assert heights == pytest.approx(dict.fromkeys(SHAPES, 1.0))


@pytest.mark.parametrize("shape", SHAPES)
def test_spike_is_fired_at_the_threshold_and_above(shape):
    x = torch.tensor([-1.0, -1e-30, 0.0, 1e-30, 1.0])
    assert heaviside(x, shape, 1.0).tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_of_a_spike_is_the_surrogate_times_what_comes_from_above(shape):
    x = torch.linspace(-2, 2, 21, dtype=torch.float64, requires_grad=True)
    above = torch.linspace(1, 3, 21, dtype=torch.float64)
    heaviside(x, shape, 0.7).backward(above)
    assert torch.equal(x.grad, above * derivative(x.detach(), shape, 0.7))


@pytest.mark.parametrize("shape", SHAPES)
def test_derivative_leaves_its_input_alone(shape):
    x = torch.linspace(-2, 2, 21)
    derivative(x, shape, 1.0)
    assert torch.equal(x, torch.linspace(-2, 2, 21))
