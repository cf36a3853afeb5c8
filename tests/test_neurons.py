import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.models import surrogate_neuron as surrogate_layer
from harness.models.neurons import Dynamics, charge, fire, running_rates, weighted_mean
from harness.models.pieces import advance
from harness.models.surrogate_neuron import SurrogateNeuron
from tests.tiny import unhurried

DYNAMICS = [
    Dynamics(),
    Dynamics(alpha=0.5),
    Dynamics(leak=0.5, reset="hard"),
    Dynamics(leak=0.9, gain=0.1, alpha=0.3),
]
each = pytest.mark.parametrize("dynamics", DYNAMICS, ids=str)


def currents(time_steps: int = 7, batch_size: int = 3, neurons: int = 5, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(time_steps, batch_size, neurons, dtype=torch.float64, generator=generator) + 0.5


def spikes(current: Tensor, theta: float | Tensor, dynamics: Dynamics) -> Tensor:
    v, found = torch.zeros_like(current[0]), torch.full_like(current, math.nan)
    for step, emitted in zip(current, found, strict=True):
        charge(v, step, dynamics)
        fire(v, emitted, theta, dynamics)
    return found


def one_neuron(current: list[float], theta: float, dynamics: Dynamics) -> list[float]:
    """The recursion of a single neuron, in plain Python."""
    v, emitted = 0.0, []
    for value in current:
        v = dynamics.leak * v + dynamics.gain * value
        fired = v >= dynamics.alpha * theta
        emitted.append(float(fired))
        if fired:
            v = 0.0 if dynamics.reset == "hard" else v - theta
    return emitted


@each
@unhurried
@given(seed=st.integers(0, 10_000), theta=st.floats(0.1, 3))
def test_charge_and_fire_are_the_recursion_of_every_neuron(dynamics, seed, theta):
    current = currents(seed=seed)
    expected = [one_neuron(neuron.tolist(), theta, dynamics) for neuron in current.flatten(1).T]
    assert spikes(current, theta, dynamics).flatten(1).T.tolist() == expected


@each
def test_threshold_may_be_a_tensor(dynamics):
    theta = torch.tensor(0.7, dtype=torch.float64)
    assert torch.equal(spikes(currents(), theta, dynamics), spikes(currents(), 0.7, dynamics))


@each
def test_charge_and_fire_leave_currents_alone(dynamics):
    current = currents()
    spikes(current, 1.0, dynamics)
    assert torch.equal(current, currents())


def test_neuron_fires_on_reaching_its_threshold():
    assert spikes(torch.tensor([[[1.0]]]), 1.0, Dynamics()).item() == 1


def test_reset_is_by_theta_where_firing_is_at_half_of_it():
    # v: 0.5 fires -> -0.5; 0 -> silent; 0.5 fires
    assert spikes(torch.full((3, 1, 1), 0.5), 1.0, Dynamics(alpha=0.5)).flatten().tolist() == [1, 0, 1]


def test_hard_reset_forgets_what_was_above_the_threshold():
    current = torch.tensor([2.5, 0.0, 0.0]).view(3, 1, 1)
    assert spikes(current, 1.0, Dynamics()).flatten().tolist() == [1, 1, 0]
    assert spikes(current, 1.0, Dynamics(reset="hard")).flatten().tolist() == [1, 0, 0]


def test_leak_after_the_reset_is_leak_before_the_charge():
    # Written as in IDE: U_t = U+_{t-1} + I_t, U+_t = leak * (U_t - theta s_t).
    leak, theta, current = 0.95, 2.0, currents(time_steps=30)
    v, expected = torch.zeros_like(current[0]), []
    for step in current:
        v = v + step
        expected.append((v >= theta).double())
        v = leak * (v - theta * expected[-1])
    assert torch.equal(spikes(current, theta, Dynamics(leak=leak)), torch.stack(expected))


@unhurried
@given(leak=st.floats(0.1, 1), time_steps=st.integers(1, 50))
def test_rate_weights_sum_to_one_and_shrink_by_the_leak(leak, time_steps):
    weights = Dynamics(leak=leak).rate_weights(time_steps)
    assert sum(weights) == pytest.approx(1)
    assert [a / b for a, b in itertools.pairwise(weights)] == pytest.approx([leak] * (time_steps - 1))


def test_rate_of_the_if_neuron_is_the_plain_mean():
    assert Dynamics().rate_weights(8) == [1 / 8] * 8


@unhurried
@given(leak=st.floats(0.1, 1), seed=st.integers(0, 1000))
def test_running_rate_after_each_step_is_the_weighted_mean_so_far(leak, seed):
    steps = currents(seed=seed)
    for t, rate in enumerate(running_rates(steps, leak), start=1):
        weights = torch.tensor(Dynamics(leak=leak).rate_weights(t), dtype=torch.float64)
        torch.testing.assert_close(rate, torch.tensordot(weights, steps[:t], 1), rtol=1e-12, atol=1e-12)


def test_running_rate_does_not_write_to_its_input():
    steps = currents()
    list(running_rates(steps, 0.5))
    assert torch.equal(steps, currents())


@pytest.mark.parametrize("time_steps", [1, 7])
def test_weighted_mean_is_the_dot_product_with_time(time_steps):
    x = currents(time_steps)
    weights = Dynamics(leak=0.8).rate_weights(time_steps)
    expected = torch.tensordot(torch.tensor(weights, dtype=torch.float64), x, 1)
    torch.testing.assert_close(weighted_mean(x, weights), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(x, currents(time_steps))


def surrogate_neuron(dynamics: Dynamics, *, train_leak: bool = False) -> SurrogateNeuron:
    return SurrogateNeuron(
        dynamics, v_threshold=0.7, shape="triangle", width=1.0, detach_reset=False, train_leak=train_leak
    )


@each
def test_surrogate_neuron_fires_as_charge_and_fire_do(dynamics):
    assert torch.equal(surrogate_neuron(dynamics)(currents()), spikes(currents(), 0.7, dynamics))


@each
def test_surrogate_neuron_adds_up_half_precision_in_float32(dynamics):
    half = currents().bfloat16()
    emitted = surrogate_neuron(dynamics)(half)
    assert emitted.dtype == torch.float32
    assert torch.equal(emitted, spikes(half.float(), 0.7, dynamics))


def trained(neuron: SurrogateNeuron, current: Tensor, pieces: int = 1) -> list[Tensor]:
    """Spikes and gradients, the simulation being cut into pieces of time."""
    neuron.zero_grad()
    current = current.detach().requires_grad_()
    emitted, state = [], None
    for piece in current.tensor_split(pieces):
        out, state = advance(neuron, piece, state)
        emitted.append(out)
    emitted = torch.cat(emitted)
    (emitted * torch.randn(emitted.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return [emitted.detach(), current.grad, *(p.grad.clone() for p in neuron.parameters())]


PLIF = Dynamics(leak=0.7, gain=0.3, reset="hard")
each_trained = pytest.mark.parametrize(
    "neuron", [*map(surrogate_neuron, DYNAMICS), surrogate_neuron(PLIF, train_leak=True).double()], ids=str
)


@each_trained
@pytest.mark.parametrize("pieces", [2, 7])
def test_pieces_of_time_are_the_whole(neuron, pieces):
    for found, expected in zip(trained(neuron, currents(), pieces), trained(neuron, currents()), strict=True):
        torch.testing.assert_close(found, expected)


@each_trained
def test_simulating_few_samples_at_a_time_changes_no_bit(neuron, monkeypatch):
    expected = trained(neuron, currents(batch_size=8))
    monkeypatch.setattr(surrogate_layer, "CACHED", 12)
    assert len(surrogate_layer.blocks(currents(batch_size=8)[0])) == 4
    for found, same in zip(trained(neuron, currents(batch_size=8))[:2], expected[:2], strict=True):
        assert torch.equal(found, same)


@each_trained
def test_a_current_that_stays_the_same_is_that_current_in_memory(neuron):
    view = currents(1).expand(6, -1, -1)
    (spikes, passed, *more), (same, expected, *more_too) = (
        trained(neuron, x) for x in (view, view.clone(memory_format=torch.contiguous_format))
    )
    assert torch.equal(spikes, same)
    torch.testing.assert_close(passed.sum(0), expected.sum(0))
    torch.testing.assert_close(more, more_too)
