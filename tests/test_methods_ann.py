"""ann's activations and readouts, against formulas written out another way."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from harness import plugins
from harness.models import catalog
from harness.models.analog import LEAST_THRESHOLD, ClipFloorShift
from harness.models.neurons import Dynamics, simulate
from tests import tiny

ann = plugins.load("methods", "ann")


def test_by_default_it_is_the_architecture_with_relus_to_the_bit():
    method, config, net = tiny.build("ann", {}, tiny.task("convnet"))
    torch.manual_seed(0)
    body = catalog.build(tiny.task("convnet"), nn.ReLU)
    expected = {f"body.{name}": value for name, value in body.state_dict().items()}
    found = net.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    x = tiny.still(1)
    assert torch.equal(method.predict(net.eval(), x, config), body.eval()(x))


@pytest.mark.parametrize(("levels", "theta"), [(1, 1.0), (4, 0.7), (8, 2.5)])
def test_qcfs_is_the_rate_of_an_if_neuron_that_starts_half_way(levels, theta):
    activation = ClipFloorShift(levels, theta).double()
    theta = activation.v_threshold.item()
    x = torch.linspace(-1.5 * theta, 2.5 * theta, 4001, dtype=torch.float64)
    spikes = torch.stack([s.clone() for s in simulate([x] * levels, theta, Dynamics(), v_start=theta / 2)])
    rate = theta * spikes.mean(0)
    away = ((x * levels / theta + 0.5) % 1 - 0.5).abs() < 0.499  # where rounding does not decide
    assert torch.allclose(activation(x)[away], rate[away], rtol=1e-12)
    by_numpy = theta * np.clip(np.floor(x.numpy() * levels / theta + 0.5) / levels, 0, 1)
    assert np.allclose(activation(x).detach().numpy()[away], by_numpy[away], rtol=1e-12)


def test_qcfs_passes_gradients_through_its_floor():
    """With the floor taken for the identity: h = clip(x + theta / 2L, 0, theta) in x, and by hand in theta."""
    levels, theta = 4, 1.5
    activation = ClipFloorShift(levels, theta).double()
    x = torch.linspace(-1.0, 3.0, 81, dtype=torch.float64, requires_grad=True)
    activation(x).sum().backward()
    steps = torch.floor(x.detach() * levels / theta + 0.5)
    inside = (steps >= 0) & (steps <= levels)
    assert torch.allclose(x.grad, inside.double())
    above = steps > levels
    expected = torch.where(inside, (steps - x.detach() * levels / theta) / levels, above.double()).sum()
    assert torch.allclose(activation.v_threshold.grad, expected)


def test_training_keeps_the_threshold_of_qcfs_above_zero():
    activation = ClipFloorShift(4, 1.0)
    activation.v_threshold.data.fill_(-3.0)
    activation(torch.randn(5))
    assert activation.v_threshold.item() == pytest.approx(LEAST_THRESHOLD)


def test_rectified_readout_is_batch_norm_and_relu_on_the_same_scores():
    (_, _, plain), (_, _, net) = (tiny.build("ann", {"readout": r}, tiny.task()) for r in ("linear", "rectified"))
    x = tiny.still()
    expected = torch.nn.functional.batch_norm(plain.train()(x), None, None, training=True).relu()
    torch.testing.assert_close(net.train()(x), expected)
    assert {name for name in net.state_dict() if name.startswith("readout")} == {
        f"readout.0.{name}" for name in ("weight", "bias", "running_mean", "running_var")
    }


def test_settings_of_qcfs_are_filled_in_and_mean_nothing_to_a_relu():
    assert (ann.Config(activation="qcfs").levels, ann.Config(activation="qcfs").initial_threshold) == (4, 8.0)
    assert ann.Config(activation="qcfs", levels=8).levels == 8
    assert ann.Config().levels is None
    with pytest.raises(ValidationError, match="levels belong to activation: qcfs"):
        ann.Config(levels=4)
