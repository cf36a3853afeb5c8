"""What the theory of a method says vanishes with T: against closed forms, the recursion written out, and itself."""

import math

import pytest
import torch
from torch import nn

from harness import result
from harness.models.convergence import WHOLE, gap, representation_errors
from harness.models.neurons import Dynamics
from harness.models.rates import RateCode, RateNeuron
from harness.models.streams import of_input
from tests import tiny, toy
from tests.tiny import moving, still

every_neuron = pytest.mark.parametrize("neuron", ["if", "lif"])
both_inputs = pytest.mark.parametrize("inputs", [still, moving], ids=["still", "moving"])
FEEDBACK = {"400 (F400)": {"widths": (12,)}, "AlexNet-F": {"widths": (4, 6, 6), "strides": (2, 1, 2)}}
FEED_FORWARD = ["mlp", "convnet", "PreAct-ResNet-18", "SEW-ResNet-18", "VGG-11"]


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def measured(name: str, settings, network: str, x, **options):
    """The method's figures of a fixed network in evaluation, whose deeper neurons fire, too."""
    pooling = {"pooling": "average"} if network == "SEW-ResNet-18" else {}
    method, config, net = tiny.build(name, settings, tiny.task(network, time_steps=len(x), **pooling, **options))
    for key, buffer in net.named_buffers():
        if key.endswith("running_var"):
            buffer.fill_(0.02)
    found = method.convergence(net.eval(), x, config)
    return net, found


def images(time_steps: int, batch_size: int = 6):
    return still(time_steps, batch_size, dtype=torch.float64)


def neuron(dynamics: Dynamics, *, theta: float = 1.0, **code) -> RateNeuron:
    return RateNeuron(RateCode(dynamics, **code), v_threshold=theta, bound=0.01, train_threshold=True).eval()


def errors(layer: RateNeuron, current: torch.Tensor, time_steps: int) -> torch.Tensor:
    x = of_input(current.expand(time_steps, *current.shape), layer.code.dynamics.rate_weights(time_steps))
    with torch.no_grad():
        return representation_errors(lambda: layer(x), {"layer": layer})["layer"]


def test_one_neuron_by_hand():
    # v = 0.4, 0.8, 1.2 -> spike, 0.2; 0.6, 1.0 -> spike, 0: rates 0, 0, 1/3, 1/4, 2/5 against 0.4.
    found = errors(neuron(Dynamics()), torch.tensor([[0.4]]), 5)
    torch.testing.assert_close(found, torch.tensor([1, 1, 1 / 6, 3 / 8, 0]), atol=1e-12, rtol=0)


def test_a_saturated_neuron_is_its_clamp():
    assert errors(neuron(Dynamics(), theta=0.5), torch.tensor([[3.0]]), 4).tolist() == [0.0] * 4


def test_a_silent_layer_has_no_error():
    assert errors(neuron(Dynamics()), torch.tensor([[-1.0, 0.0]]), 4).tolist() == [0.0] * 4


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
def test_if_errors_stay_below_the_bound_of_constant_currents(alpha):
    # |R(o) - clamp(R(I), 0, theta)| <= max(alpha, 1 - alpha) theta / t
    current = torch.linspace(0.005, 1, 200)[None]
    found = errors(neuron(Dynamics(alpha=alpha)), current, 32)
    length = torch.linalg.vector_norm(current)
    steps = torch.arange(1, 33)
    reach = max(alpha, 1 - alpha) * math.sqrt(200) / steps
    assert (found <= 1.0000001 * reach / length).all()


def test_dsr_s_lif_errors_are_those_of_the_recursion_written_out():
    tau, dt, alpha, theta = 1.0, 0.1, 0.5, 0.6
    beta, current = math.exp(-dt / tau), torch.linspace(-1, 8, 50)[None]
    layer = neuron(Dynamics(leak=beta, gain=1 - beta, alpha=alpha), theta=theta, amplitude=1 / dt, slope=1 / tau)
    expected, emitted, v = [], [], torch.zeros_like(current)
    for t in range(1, 13):
        v = beta * v + (1 - beta) * current
        spikes = (v >= alpha * theta).double()
        v = v - theta * spikes
        emitted.append(theta * spikes / dt)
        weights = [beta ** (t - step) for step in range(1, t + 1)]
        rate = sum(w * o for w, o in zip(weights, emitted, strict=True)) / sum(weights)
        clamp = (current / tau).clamp(0, theta / dt)
        expected.append((rate - clamp).norm() / max(rate.norm(), clamp.norm()))
    torch.testing.assert_close(errors(layer, current, 12), torch.stack(expected), atol=1e-10, rtol=0)


@every_neuron
@both_inputs
def test_ide_s_residual_is_that_of_the_recursion_written_out(neuron, inputs):
    x = inputs(9, dtype=torch.float64)
    net, found = measured("ide", {"neuron": neuron, "v_threshold": 1.0}, "400 (F400)", x, dropout=0.0)
    leak, body = net.dynamics.leak, net.body
    weight = body.feedback()
    stage = body.stages[0]
    scale = stage.norm.weight / (stage.norm.running_var + stage.norm.eps).sqrt()
    currents = nn.functional.linear(x.flatten(2), stage.affine.weight, stage.affine.bias)
    currents = (currents - stage.norm.running_mean) * scale + stage.norm.bias
    u = s = torch.zeros_like(currents[0])
    trace = drive = torch.zeros_like(u)
    norm, expected = 0.0, []
    for current in currents:
        u = leak * u + current + s @ weight.T
        s = (u >= 1).double()
        u = u - s
        trace, drive, norm = leak * trace + s, leak * drive + current, leak * norm + 1
        a = trace / norm
        image = (a @ weight.T + drive / norm).clamp(0, 1)
        expected.append((image - a).norm() / max(a.norm(), image.norm()))
    assert found.keys() == {"equilibrium_residual"}
    torch.testing.assert_close(
        found["equilibrium_residual"]["layer 1"], torch.stack(expected).detach(), atol=1e-10, rtol=0
    )


def test_ide_s_whole_loop_is_what_training_reports():
    method, config, net = tiny.build("ide", {}, tiny.task("AlexNet-F", dropout=0.0, **FEEDBACK["AlexNet-F"]))
    x = images(6)
    found = method.convergence(net.eval(), x, config)["equilibrium_residual"]
    _, extras = net(x)
    assert found[WHOLE][-1].item() == pytest.approx(extras["equilibrium_relative_residual"])
    assert list(found) == ["layer 1", "layer 2", "layer 3", WHOLE]


@every_neuron
@pytest.mark.parametrize("network", FEED_FORWARD)
def test_dsr_s_error_falls_with_time_in_every_layer(network, neuron):
    net, found = measured("dsr", {"neuron": neuron}, network, images(64, 4))
    layers = found["representation_error"]
    assert layers.keys() == net.sites().keys()
    for layer, error in layers.items():
        assert error[63] < error[3] or error[3] == 0, layer
    assert all(error[3] > 0 for error in list(layers.values())[:2])
    assert neuron == "lif" or max(error[63].item() for error in layers.values()) < 0.2


@every_neuron
@pytest.mark.parametrize("network", FEEDBACK)
def test_ide_s_residual_falls_with_time_in_every_layer(network, neuron):
    _, found = measured("ide", {"neuron": neuron}, network, images(64, 4), dropout=0.0, **FEEDBACK[network])
    for layer, residual in found["equilibrium_residual"].items():
        assert residual[63] < residual[3], layer
        assert neuron == "lif" or residual[63] < 0.2


def test_the_gap_is_relative_to_the_larger():
    one, two = torch.tensor([3.0, 4.0]), torch.zeros(2)
    assert [gap(one, two).item(), gap(two, one).item(), gap(two, two).item(), gap(one, one).item()] == [1, 1, 0, 0]
    assert gap(one, 2 * one).item() == 0.5


def test_looking_at_a_network_leaves_no_hook_behind():
    net, _ = measured("dsr", {}, "mlp", images(3))
    assert not any(site._forward_hooks for site in net.sites().values())


class Measured(toy.Linear):
    @staticmethod
    def convergence(net, x, config):
        assert not net.training
        return {"error": {"all": torch.arange(1.0, len(x) + 1) / 3}}


def test_a_record_holds_plain_numbers_of_six_digits():
    assert result.convergence(toy.training(Measured)) == {"error": {"all": [0.333333, 0.666667, 1.0]}}


def test_a_method_without_a_theory_has_no_figures():
    assert result.convergence(toy.training()) == {}


def test_a_measure_that_fails_costs_no_trained_network(caplog):
    class Failing(Measured):
        @staticmethod
        def convergence(net, x, config):
            raise ArithmeticError("no limit")

    assert result.convergence(toy.training(Failing)) == {}
    assert "no limit" in caplog.text
