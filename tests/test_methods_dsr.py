"""DSR against its equations and against the unrolled computation of its authors. All exact claims in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from harness.methods import dsr
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.tiny import labels, moving, still, unhurried

F64 = torch.float64
every_neuron = pytest.mark.parametrize("neuron", ["if", "lif"])
both_inputs = pytest.mark.parametrize("inputs", [still, moving])


@pytest.fixture(autouse=True)
def _double(monkeypatch):
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)


def emitted(current: torch.Tensor, **settings) -> torch.Tensor:
    """What one layer of DSR's neurons emits for currents (T, B, N)."""
    config = dsr.Config(**settings)
    neuron = dsr.RateNeuron(config.code, v_threshold=config.v_threshold, bound=1e-9, train_threshold=True)
    return neuron.eval()(current)


@unhurried
@given(
    seed=st.integers(0, 999), alpha=st.sampled_from([0.3, 0.5, 1.0]), time_steps=st.sampled_from([1, 5, 20]),
    neuron=st.sampled_from(["if", "lif"]),
)  # fmt: skip
def test_emitted_and_received_differ_by_what_is_left_in_the_potential(seed, alpha, time_steps, neuron):
    """The finite-T identity: no charge is lost. The potential is found by writing the recursion out."""
    current = 4 * torch.randn(time_steps, 3, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)
    out = emitted(current, neuron=neuron, alpha=alpha, v_threshold=1.0)
    beta, gain, amplitude = (1.0, 1.0, 1.0) if neuron == "if" else (math.exp(-0.05), 1 - math.exp(-0.05), 20.0)
    v = torch.zeros(3, 2, dtype=F64)
    received, sent = torch.zeros_like(v), torch.zeros_like(v)
    for step, spike in zip(current, out, strict=True):
        v = beta * v + gain * step
        fired = v >= alpha
        assert torch.equal(spike, fired * torch.tensor(amplitude, dtype=F64))
        v = v - fired.to(F64)
        received, sent = beta * received + gain * step, beta * sent + spike / amplitude
    torch.testing.assert_close(received - sent, v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("time_steps", [5, 20])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_rate_of_a_constant_current_is_the_clamp_within_a_quantum(time_steps, alpha):
    current = torch.linspace(-3, 9, 481, dtype=F64)
    rate = emitted(current.expand(time_steps, 1, -1), neuron="if", alpha=alpha, v_threshold=6.0).mean(0)[0]
    assert (rate - current.clamp(0, 6)).abs().max() <= max(alpha, 1 - alpha) * 6 / time_steps + 1e-12
    assert (rate[current < 0] == 0).all()
    assert (rate[current > 6] == 6).all()


def test_single_step_compares_with_alpha_theta():
    current = torch.tensor([[[-1.0, 2.9, 3.0, 7.0]]])
    assert emitted(current, neuron="if", alpha=0.5, v_threshold=6.0).tolist() == [[[0, 0, 6, 6]]]
    lif = emitted(current, neuron="lif", alpha=0.5, v_threshold=0.3)  # charge is (1 - exp(-.05)) I
    assert lif.tolist() == [[[0, 0, 0, pytest.approx(6)]]]


@every_neuron
def test_gradient_of_an_unrolled_neuron_is_the_clamps(neuron):
    config = dsr.Config(neuron=neuron, v_threshold=1.0, dt=None if neuron == "if" else 0.1)
    top = 1.0 if neuron == "if" else 10.0
    current = (top * torch.tensor([-0.5, 0.4, 1.5])).expand(4, 1, 3).clone().requires_grad_()
    layer = dsr.RateNeuron(config.code, v_threshold=1.0, bound=1e-9, train_threshold=True)
    gradient = torch.randn(4, 1, 3)
    layer(current).backward(gradient)
    weights = torch.tensor(config.code.dynamics.rate_weights(4))[:, None, None]
    total = 4 * (weights * gradient).sum(0)  # 1 3
    torch.testing.assert_close(current.grad, (total * torch.tensor([0, 1, 0]) / 4).expand(4, 1, 3))
    authors_dt = 1.0 if neuron == "if" else 0.1
    assert layer.v_threshold.grad.item() == pytest.approx(total[0, 2].item() * authors_dt)


@pytest.mark.parametrize(("neuron", "passing"), [("if", [0, 1, 1, 0]), ("lif", [0, 0, 0, 0])])
def test_edges_of_the_clamp_belong_to_the_if_neuron_and_not_to_the_lif_neuron(neuron, passing):
    code = dsr.Config(neuron=neuron, v_threshold=1.0).code
    top = 1.0 if neuron == "if" else 20.0
    inner, above = code.edges(torch.tensor([-1.0, 0.0, top, top + 1]), torch.tensor(1.0))
    assert inner.int().tolist() == passing
    assert above.int().tolist() == [0, 0, 0, 1]


def step(gradient: str, x: torch.Tensor, network: str = "convnet", *, seed: int = 0, **settings):
    """Loss and gradients of one training step in float64."""
    options = settings.pop("options", {})
    task = tiny.task(network, time_steps=len(x), **options)
    method, config, net = tiny.build("dsr", {"gradient": gradient, **settings}, task, seed=seed)
    output, found = tiny.gradients(method, config, net.train(), x, labels())
    return output, found, net


@every_neuron
@both_inputs
@pytest.mark.parametrize("readout", ["spiking", "linear"])
def test_both_gradients_agree_in_loss_and_in_every_batch_norm(neuron, inputs, readout):
    x = inputs(5, dtype=F64)
    ours, representation, _ = step("representation", x, neuron=neuron, readout=readout)
    theirs, unrolled, _ = step("unrolled", x, neuron=neuron, readout=readout)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-10, atol=1e-12)
    norms = [name for name, gradient in unrolled.items() if gradient.dim() == 1 and "threshold" not in name]
    assert norms
    for name in norms:
        torch.testing.assert_close(representation[name], unrolled[name], rtol=1e-9, atol=1e-11)
    flat = [torch.cat([g.flatten() for g in found.values()]) for found in (representation, unrolled)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.95


@every_neuron
@both_inputs
def test_both_gradients_are_equal_without_batch_norm(neuron, inputs):
    settings = {"neuron": neuron, "readout": "linear", "options": {"batch_norm": False}}
    _, representation, _ = step("representation", inputs(5, dtype=F64), "mlp", **settings)
    _, unrolled, _ = step("unrolled", inputs(5, dtype=F64), "mlp", **settings)
    for name, gradient in unrolled.items():
        torch.testing.assert_close(representation[name], gradient, rtol=1e-9, atol=1e-12)


def test_without_batch_norm_it_is_a_clamp_network_at_the_spiking_networks_rates():
    settings = {"neuron": "if", "readout": "linear", "v_threshold": 0.5, "options": {"batch_norm": False}}
    x = still(8, dtype=F64)
    output, found, net = step("representation", x, "mlp", **settings)
    hidden, neuron, last = net.body[1], net.body[2], net.body[-1]
    current = F.linear(x[0].flatten(1), hidden.weight, hidden.bias)
    rate = emitted(current.detach().expand(8, *current.shape), neuron="if", v_threshold=0.5).mean(0)
    theta = neuron.v_threshold
    clamped = torch.minimum(current.clamp(min=0), theta)
    activity = clamped + (rate - clamped).detach()
    loss = F.cross_entropy(F.linear(activity, last.weight, last.bias), labels())
    loss.backward()
    assert loss.item() == pytest.approx(output.loss.item(), rel=1e-12)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", ["released", "exact"])
def test_threshold_gradient_of_lif_has_the_factor_that_its_option_names(form):
    _, released, _ = step("unrolled", still(4, dtype=F64), neuron="lif", v_threshold=0.01)
    _, found, _ = step("unrolled", still(4, dtype=F64), neuron="lif", v_threshold=0.01, threshold_gradient=form)
    factor = {"released": 1.0, "exact": 1 / 0.05**2}[form]
    thresholds = [name for name in found if "threshold" in name]
    assert any(released[name] != 0 for name in thresholds)
    for name in thresholds:
        torch.testing.assert_close(found[name], released[name] * factor)


def test_threshold_never_falls_below_its_bound():
    config = dsr.Config(v_threshold=0.02, threshold_bound=0.01)
    layer = dsr.RateNeuron(config.code, v_threshold=0.02, bound=0.01, train_threshold=True)
    with torch.no_grad():
        layer.v_threshold.fill_(-3.0)
    assert layer.eval()(torch.ones(1, 1, 1)).item() == pytest.approx(0.01)
    assert layer.v_threshold.item() == -3.0, "evaluation changes no parameter"
    layer.train()(torch.ones(1, 1, 1)).sum().backward()
    assert layer.v_threshold.item() == pytest.approx(0.01)
    assert layer.v_threshold.grad is not None


@pytest.mark.parametrize(("gradient", "grows"), [("representation", False), ("unrolled", True)])
def test_only_the_unrolled_gradient_keeps_more_for_more_time_steps(gradient, grows):
    def kept(time_steps: int) -> int:
        sizes = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            step(gradient, still(time_steps, dtype=F64))
        return sum(sizes)

    assert (kept(16) > 2 * kept(4)) if grows else (kept(16) == kept(4))


def test_papers_constants_are_the_defaults_of_each_neuron():
    assert dsr.Config().model_dump(include={"v_threshold", "alpha", "tau", "dt"}) == {
        "v_threshold": 6.0, "alpha": 0.5, "tau": None, "dt": None,
    }  # fmt: skip
    lif = dsr.Config(neuron="lif")
    assert (lif.v_threshold, lif.alpha, lif.tau, lif.dt, lif.threshold_bound) == (0.3, 0.3, 1.0, 0.05, 0.0005)
    with pytest.raises(ValueError, match="tau and dt belong to neuron: lif"):
        dsr.Config(neuron="if", dt=0.1)
