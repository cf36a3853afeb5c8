import pytest
import torch
from torch import Tensor, nn

from harness.models.layers import Conv2d, Dropout, Flatten, Linear
from harness.models.neurons import Dynamics
from harness.models.pieces import advance
from harness.models.pooling import AvgPool2d
from harness.models.surrogate_neuron import SurrogateNeuron
from harness.models.traced import Traced, Tracing


@pytest.fixture
def spikes_and_trace() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    spikes = (torch.rand(4, 3, 6, 6, dtype=torch.float64) > 0.5).double().requires_grad_()
    return spikes, torch.rand(4, 3, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize(("kernel_size", "padding"), [(3, 1), (1, 0)])
def test_convolution_learns_from_the_trace_and_passes_on_the_gradient_of_the_spikes(
    spikes_and_trace, kernel_size, padding
):
    spikes, trace = spikes_and_trace
    layer = Conv2d(3, 5, kernel_size, stride=2, padding=padding).double()
    out = layer(Traced(spikes, trace))
    torch.testing.assert_close(out, layer(spikes[None]))
    delta = torch.randn_like(out)
    out.backward(delta)
    weight = torch.nn.grad.conv2d_weight(trace, layer.weight.shape, delta[0], stride=2, padding=padding)
    passed = torch.nn.grad.conv2d_input(spikes.shape, layer.weight, delta[0], stride=2, padding=padding)
    torch.testing.assert_close(layer.weight.grad, weight)
    torch.testing.assert_close(spikes.grad, passed)
    torch.testing.assert_close(layer.bias.grad, delta.sum((0, 1, 3, 4)))


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layer_learns_from_the_trace_behind_layers_without_weights(spikes_and_trace, bias):
    spikes, trace = spikes_and_trace
    layers = nn.Sequential(AvgPool2d(2), Flatten(), Linear(27, 5, bias=bias)).double()
    out = layers(Traced(spikes, trace))
    torch.testing.assert_close(out, layers(spikes[None]))
    delta = torch.randn_like(out)
    out.backward(delta)
    pooled = nn.functional.avg_pool2d(trace, 2).flatten(1)
    torch.testing.assert_close(layers[2].weight.grad, delta[0].T @ pooled)
    assert spikes.grad.abs().sum() > 0


def test_layout_of_the_trace_does_not_matter(spikes_and_trace):
    spikes, trace = spikes_and_trace
    layer, gradients = Conv2d(3, 5, 3).double(), []
    for layout in (torch.contiguous_format, torch.channels_last):
        layer(Traced(spikes, trace.contiguous(memory_format=layout))).square().sum().backward()
        gradients.append(layer.weight.grad.clone())
        layer.zero_grad()
    torch.testing.assert_close(*gradients)


def test_spikes_that_are_their_own_trace_learn_as_usual(spikes_and_trace):
    spikes, _ = spikes_and_trace
    layer = Conv2d(3, 5, 3).double()
    gradients = []
    for x in (Traced(spikes, spikes.detach()), spikes[None]):
        layer(x).square().sum().backward()
        gradients.append(layer.weight.grad.clone())
        layer.zero_grad()
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("layer", [AvgPool2d(2), Flatten(), Dropout(0.5)], ids=str)
def test_layer_without_weights_treats_the_trace_as_the_spikes(spikes_and_trace, layer):
    spikes, _ = spikes_and_trace
    out = layer(Traced(spikes, spikes.detach()))
    assert torch.equal(out.spikes, out.trace)


def test_traces_of_a_sum_add_up(spikes_and_trace):
    spikes, trace = spikes_and_trace
    both = Traced(spikes, trace) + Traced(spikes, trace)
    assert torch.equal(both.spikes, 2 * spikes)
    assert torch.equal(both.trace, 2 * trace)


def test_spikes_added_to_currents_are_currents(spikes_and_trace):
    spikes, trace = spikes_and_trace
    current = torch.rand(1, 4, 3, 6, 6, dtype=torch.float64)
    for total in (current + Traced(spikes, trace), Traced(spikes, trace) + current):
        assert torch.equal(total, current + spikes)


def test_trace_is_the_decaying_sum_of_the_spikes_so_far():
    torch.manual_seed(0)
    neuron = SurrogateNeuron(Dynamics(leak=0.5), v_threshold=1.0, shape="sigmoid", width=4.0, detach_reset=True)
    net, state = Tracing(neuron, 0.7), None
    currents = 2 * torch.randn(5, 3, 4)
    expected = torch.zeros(3, 4)
    for t, spikes in enumerate(neuron(currents)):
        out, state = advance(net, currents[t : t + 1], state)
        expected = 0.7 * expected + spikes
        assert torch.equal(out.spikes, spikes)
        torch.testing.assert_close(out.trace, expected)


def test_there_are_no_traces_in_evaluation():
    neuron = SurrogateNeuron(Dynamics(), v_threshold=1.0, shape="sigmoid", width=4.0, detach_reset=True)
    out, state = advance(Tracing(neuron, 0.7).eval(), torch.ones(1, 2, 3))
    assert torch.equal(out, torch.ones(1, 2, 3))
    assert [value is None for value in state].count(True) == 1
