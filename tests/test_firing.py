import pytest
import torch
from torch import nn

from harness import plugins
from harness.firing import FiringCounter
from harness.models.neurons import Dynamics
from harness.models.surrogate_neuron import SurrogateNeuron
from tests import tiny


def counted(net, *calls) -> FiringCounter:
    counter = FiringCounter(net)
    for call in calls:
        with torch.no_grad(), counter:
            call()
    return counter


def neuron(**options) -> SurrogateNeuron:
    return SurrogateNeuron(
        Dynamics(**options), v_threshold=1.0, shape="triangle", width=1.0, detach_reset=False
    )  # fmt: skip


def test_rates_dead_and_saturated_neurons_are_those_of_all_batches():
    net = nn.Sequential(neuron())
    always, once, never = 1.0, 0.25, 0.0  # in 4 steps, IF neurons spike 4 times, once and not at all
    current = torch.tensor([always, once, never]).expand(4, 2, 3).contiguous()
    found = counted(net, lambda: net(current), lambda: net(current[:, :1])).layers["0"]
    assert (found.neurons, found.steps) == (3, 4 * 3)
    assert (found.rate, found.dead, found.saturated) == (5 / 12, 1 / 3, 1 / 3)


def test_neuron_that_one_sample_of_many_makes_spike_is_not_dead():
    net = nn.Sequential(neuron())
    current = torch.zeros(2, 5, 2)
    current[0, 3] = 1.5
    found = counted(net, lambda: net(current)).layers["0"]
    assert (found.dead, found.saturated) == (0, 0)


class Own(nn.Module):
    """Neurons that say nothing of being such."""

    def forward(self, current):
        return 0.5 * (current > 0)


def test_neurons_of_ones_own_are_found_by_what_they_put_out():
    net = nn.Sequential(nn.Linear(4, 6), Own(), nn.Linear(6, 3))
    found = counted(net, lambda: net(torch.randn(4, 5, 4)))
    assert list(found.layers) == ["1"]
    assert found.layers["1"].neurons == 6


@pytest.mark.parametrize("name", ["bptt", "conversion", "dsr", "ottt", "sltt"])
@pytest.mark.parametrize("temporal", [False, True])
def test_neurons_of_every_method_are_counted_at_every_step_of_every_sample(name, temporal):
    method, task = plugins.load("methods", name), tiny.task("convnet", time_steps=9)
    config = method.resolve(method.Config(), task) if hasattr(method, "resolve") else method.Config()
    net = method.build(config, task).eval()
    x = tiny.moving(9) if temporal else tiny.still(9)
    found = counted(net, lambda: method.predict(net, x, config), lambda: method.predict(net, x[:, :2], config))
    assert len(found.layers) == (3 if name == "dsr" else 2)  # its readout spikes, too
    assert {layer.steps for layer in found.layers.values()} == {9 * 8}
    assert 0 < next(iter(found.layers.values())).rate < 1
    assert not any(name.endswith(".neuron") for name in found.layers)


@pytest.mark.parametrize("network", ["400 (F400)", "CIFARNet-F"])
def test_networks_with_feedback_have_their_layers_counted_in_order(network):
    method, task = plugins.load("methods", "ide"), tiny.task(network, time_steps=5)
    config = method.Config()
    net = method.build(config, task).eval()
    x = tiny.still(5)
    found = counted(net, lambda: method.predict(net, x, config), lambda: method.predict(net, x[:, :2], config))
    sizes = [hidden.numel() for hidden in net.body.hidden]
    assert [layer.neurons for layer in found.layers.values()] == sizes
    assert list(found.layers) == [f"layer {index}" for index in range(1, len(sizes) + 1)]
    assert {layer.steps for layer in found.layers.values()} == {5 * 8}


def test_rates_are_those_of_the_spikes_that_the_next_layer_takes():
    method, task = plugins.load("methods", "bptt"), tiny.task(time_steps=8)
    config = method.Config(v_threshold=0.3)
    net = method.build(config, task).eval()
    taken = []
    net.body[-1].register_forward_pre_hook(lambda module, given: taken.append(given[0]))
    found = counted(net, lambda: method.predict(net, tiny.still(8), config))
    (layer,) = found.layers.values()
    assert layer.rate == pytest.approx((taken[0] != 0).double().mean().item())
