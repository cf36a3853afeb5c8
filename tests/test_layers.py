"""Layers on two streams: what they compute, against the same layers on tensors of all time steps."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.dsr_reference import Clamped
from harness.models import streams
from harness.models.layers import BatchNorm, Conv2d, Dropout, Flatten, Linear, Scale
from harness.models.neurons import Dynamics, simulate, weighted_mean
from harness.models.pooling import AdaptiveAvgPool2d, AvgPool2d
from harness.models.rates import RateCode, RateNeuron
from harness.models.spike_train import SpikeTrain
from harness.models.streams import ALL, Streams, of_input
from harness.models.weights import standardised
from tests.tiny import unhurried

T, B = 6, 4
IF = RateCode(Dynamics(alpha=0.5))
LIF = RateCode(Dynamics(leak=0.8, gain=0.2, alpha=0.5), amplitude=4.0, slope=0.9, threshold_gain=4.0)
CODES = {"if": IF, "lif": LIF}
LAYERS = {
    "convolution": lambda: Conv2d(3, 40, 3, padding=1),
    "strided convolution": lambda: Conv2d(3, 5, 5, stride=2, padding=2, bias=False),
    "linear": lambda: nn.Sequential(Flatten(), Linear(3 * 64, 40)),
    "strided 1x1 convolution": lambda: Conv2d(3, 5, 1, stride=2),
    "standardised convolution": lambda: standardised(Conv2d(3, 40, 3, padding=1)),
    "standardised linear": lambda: nn.Sequential(Flatten(), standardised(Linear(3 * 64, 40))),
    "pooling": lambda: AvgPool2d(2),
    "overlapping pooling": lambda: AvgPool2d(3, stride=2, padding=1),
    "mean of the map": lambda: AdaptiveAvgPool2d(1),
    "growing pooling": lambda: nn.Sequential(AvgPool2d(4), AdaptiveAvgPool2d(7)),
    "scale": lambda: Scale(2.74),
    "flatten": Flatten,
    "batch norm": lambda: BatchNorm(3),
    "convolution and batch norm": lambda: nn.Sequential(Conv2d(3, 70, 3), BatchNorm(70)),
    "linear and batch norm": lambda: nn.Sequential(Flatten(), Linear(3 * 64, 40), BatchNorm(40)),
}

every_layer = pytest.mark.parametrize("name", LAYERS)
every_code = pytest.mark.parametrize("code", CODES.values(), ids=CODES)
both_inputs = pytest.mark.parametrize("static", [True, False], ids=["still", "moving"])


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def images(static: bool) -> Tensor:
    x = torch.rand(1 if static else T, B, 3, 8, 8)
    return x.expand(T, -1, -1, -1, -1)


def two_streams(x: Tensor, code: RateCode) -> Streams:
    return of_input(x, code.dynamics.rate_weights(len(x)))


def emitted(neuron: RateNeuron, currents: Tensor) -> Tensor:
    """The same neurons on all time steps of a tensor, written out in plain torch."""
    return Clamped.apply(currents, neuron.v_threshold, neuron.code)


def drawn(x: Streams, channels: slice = ALL, first: int = 0) -> Tensor:
    with torch.no_grad():
        return torch.stack([step.clone() for step in x.every_step(channels)(ALL, first)])


def split_finely(monkeypatch) -> None:
    """As little memory as there can be: narrow chunks of channels, few samples at a time, and one step in T is kept."""
    monkeypatch.setattr(streams, "CURRENT_BYTES", 0)
    monkeypatch.setattr(streams, "CURRENT_STEPS", 1)
    monkeypatch.setattr(streams, "LANES", 16)
    monkeypatch.setattr(streams, "CACHED", 1500)


@every_layer
@every_code
@both_inputs
def test_layer_on_streams_is_the_layer_on_all_time_steps(name, code, static):
    layer, x = LAYERS[name](), images(static)
    expected = layer(x)
    out = layer(two_streams(x, code))
    found = drawn(out)
    assert torch.Size((T, *out.shape)) == expected.shape
    torch.testing.assert_close(found, expected.detach())
    rates = out.rates()
    torch.testing.assert_close(rates.weighted, weighted_mean(expected, code.dynamics.rate_weights(T)))
    if code.weighted:
        torch.testing.assert_close(rates.plain, expected.mean(0))
    else:
        assert rates.plain is None


@every_layer
@both_inputs
def test_some_channels_from_some_step_on_are_those_of_all(name, static):
    layer, x = LAYERS[name]().eval(), images(static)
    out = layer(two_streams(x, IF))
    whole = drawn(out)
    torch.testing.assert_close(drawn(out, slice(1, 3), 2), whole[2:, :, 1:3])


@every_layer
@both_inputs
def test_streams_leave_their_input_alone(name, static):
    layer, x = LAYERS[name](), images(static)
    before = x.clone()
    drawn(layer(two_streams(x, LIF)))
    assert torch.equal(x, before)


@both_inputs
@pytest.mark.parametrize("finely", [False, True])
def test_batch_norm_moves_its_running_statistics_once_as_torchs_does(static, finely, monkeypatch):
    if finely:
        split_finely(monkeypatch)
    convolution, ours, theirs = Conv2d(3, 40, 3), BatchNorm(40), nn.BatchNorm2d(40)
    x = images(static)
    out = RateNeuron(IF, v_threshold=1.0, bound=0.1, train_threshold=True)(ours(convolution(two_streams(x, IF))))
    assert out.rates()
    theirs(
        nn.functional.conv2d(x[:1].flatten(0, 1) if static else x.flatten(0, 1), convolution.weight, convolution.bias)
    )
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def network(code: RateCode) -> nn.Module:
    def neuron() -> RateNeuron:
        return RateNeuron(code, v_threshold=0.2, bound=0.1, train_threshold=True)

    return nn.Sequential(
        Conv2d(3, 40, 3, padding=1, bias=False), BatchNorm(40), neuron(), AvgPool2d(2), Dropout(0.2),
        Conv2d(40, 50, 3, padding=1, bias=False), BatchNorm(50), neuron(), Flatten(), Linear(50 * 16, 5), neuron(),
    )  # fmt: skip


def trained(net: nn.Module, x: Streams | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The rates that a network ends in, and the gradients of a function of them."""
    net.zero_grad()
    torch.manual_seed(1)
    out = net(x)
    rates = out.rates().weighted if isinstance(out, Streams) else out.mean(0)
    (rates**2).sum().backward()
    return rates.detach(), {name: p.grad.clone() for name, p in net.named_parameters()}


@every_code
@both_inputs
def test_taking_channels_in_chunks_and_steps_twice_changes_nothing(code, static, monkeypatch):
    net, x = network(code), images(static)
    rates, gradients = trained(net, two_streams(x, code))
    statistics = net[1].running_var.clone()
    net[1].running_var.fill_(1)
    split_finely(monkeypatch)
    again, same = trained(net, two_streams(x, code))
    torch.testing.assert_close(again, rates, rtol=1e-12, atol=0)
    torch.testing.assert_close(net[1].running_var, statistics)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, rtol=1e-9, atol=1e-12)


@every_code
@both_inputs
def test_neuron_emits_the_same_spikes_on_streams_and_on_tensors(code, static):
    net, x = network(code).eval(), images(static)
    for layer in net:
        if isinstance(layer, BatchNorm):
            layer.running_var.fill_(0.05)
    expected = x
    for depth, layer in enumerate(net, 1):
        expected = emitted(layer, expected) if isinstance(layer, RateNeuron) else layer(expected)
        if depth in (3, 8):
            with torch.no_grad():
                found = drawn(net[:depth](two_streams(x, code)))
            assert 0 < (expected != 0).double().mean() < 1
            torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=0)


@every_code
def test_rates_of_a_neuron_are_the_means_of_what_it_emits(code):
    neuron = RateNeuron(code, v_threshold=1.0, bound=0.1, train_threshold=True)
    out = neuron(two_streams(3 * images(static=False), code))
    emitted = drawn(out)
    torch.testing.assert_close(out.rates().weighted, weighted_mean(emitted, code.dynamics.rate_weights(T)))
    if code.weighted:
        torch.testing.assert_close(out.rates().plain, emitted.mean(0))
        assert not out.rates().plain.requires_grad


@every_code
def test_residual_branches_add_up(code):
    neuron = RateNeuron(code, v_threshold=1.0, bound=0.1, train_threshold=True)
    convolution, shortcut = Conv2d(3, 5, 3, padding=1), nn.Sequential(Conv2d(3, 5, 1), BatchNorm(5))
    x = images(static=False)

    def block(x, spiking):
        spikes = spiking(x)
        return BatchNorm(5)(convolution(spikes) + shortcut(spikes)), shortcut(x)

    (out, still), (expected, _) = block(two_streams(x, code), neuron), block(x, lambda x: emitted(neuron, x))
    torch.testing.assert_close(drawn(out), expected.detach())
    torch.testing.assert_close(out.rates().weighted, weighted_mean(expected, code.dynamics.rate_weights(T)))
    assert still.shape == out.shape


def test_static_and_moving_streams_add_up():
    convolution, neuron = Conv2d(3, 3, 1), RateNeuron(IF, v_threshold=1.0, bound=0.1, train_threshold=True)
    x = images(static=True)
    both = convolution(two_streams(x, IF)) + neuron(two_streams(x, IF))
    assert not both.static
    torch.testing.assert_close(drawn(both), (convolution(x) + emitted(neuron, x)).detach())


def test_batch_norm_below_a_sum_that_is_made_twice_moves_once(monkeypatch):
    split_finely(monkeypatch)
    shortcut, top = BatchNorm(3), BatchNorm(3)
    neuron = RateNeuron(IF, v_threshold=1.0, bound=0.1, train_threshold=True)
    x = images(static=False)
    neuron(top(shortcut(Conv2d(3, 3, 1)(two_streams(x, IF))) + two_streams(x, IF)))
    assert shortcut.running_var.lt(1).all()
    assert shortcut.running_var.gt(0.89).all(), "two updates would have left 0.81"


def test_batch_norm_keeps_a_small_variance_far_from_zero():
    torch.set_default_dtype(torch.float32)
    layer, x = BatchNorm(3), 1000 + 0.1 * torch.randn(T, 50, 3, 8, 8)
    out = drawn(layer(two_streams(x, IF)))
    torch.testing.assert_close(out.std((0, 1, 3, 4)), torch.ones(3), rtol=0.02, atol=0)


def test_batch_norm_above_spikes_keeps_every_step():
    # A spike train hands out one buffer again and again.
    neuron, x = RateNeuron(IF, v_threshold=1.0, bound=0.1, train_threshold=True), images(static=False)
    for between in (nn.Identity(), Flatten()):
        layer = nn.Sequential(neuron, between, BatchNorm(3 if isinstance(between, nn.Identity) else 192))
        expected = layer[1:](emitted(neuron, x))
        torch.testing.assert_close(drawn(layer(two_streams(x, IF))), expected.detach())


@unhurried
@given(time_steps=st.integers(1, 19), channels=st.integers(1, 5), seed=st.integers(0, 99))
def test_spike_train_gives_back_the_spikes_it_was_given(time_steps, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    spikes = (torch.rand(time_steps, 2, channels, 3, 3, generator=generator) > 0.5).double()
    train = SpikeTrain(spikes.shape[1:], time_steps, torch.device("cpu"))
    for start, stop in pairwise({0, channels // 2, channels}):
        some = slice(start, stop)
        passed = list(train.record(ALL, some, iter(spikes[:, :, some])))
        assert len(passed) == time_steps
    first = seed % time_steps
    found = torch.stack([step.clone() for step in train.steps(ALL, ALL, first, torch.tensor(0.5))])
    assert torch.equal(found, 0.5 * spikes[first:])
    assert train.words.numel() == -(-time_steps // 8) * spikes[0].numel()


def test_simulation_takes_memory_for_one_step_only():
    currents = torch.rand(5, 3, 4)
    buffers = {spikes.data_ptr() for spikes in simulate(currents, 1.0, Dynamics())}
    assert len(buffers) == 1
