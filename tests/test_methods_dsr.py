"""DSR against the authors' computation in plain torch, closed forms and a network of clamps. In float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from harness.methods import ann, dsr
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from benchmarks.dsr_reference import Clamped
from harness.models import catalog
from harness.models.layers import BatchNorm
from harness.models.neurons import charge, fire
from tests import tiny
from tests.tiny import labels, moving, still, unhurried

every_neuron = pytest.mark.parametrize("neuron", ["if", "lif"])
every_gradient = pytest.mark.parametrize("gradient", ["representation", "unrolled"])
every_readout = pytest.mark.parametrize("readout", ["spiking", "linear"])
both_inputs = pytest.mark.parametrize("inputs", [still, moving], ids=["still", "moving"])
NETWORKS = {
    "mlp": {"hidden": (12, 10)},
    "convnet": {"stages": ((4,), (6, 5))},
    "PreAct-ResNet-18": {},
    # A norm stands above the sum of a convolution and of a normalised shortcut.
    "PreAct-ResNet-34": {"form": "imagenet"},
    "SEW-ResNet-18": {"pooling": "average"},
}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class AllSteps(nn.Module):
    """The same network through all time steps, its neurons with the released code's backward."""

    class Neuron(nn.Module):
        def __init__(self, code) -> None:
            super().__init__()
            self.code, self.v_threshold = code, nn.Parameter(torch.zeros(()))

        def forward(self, current: Tensor) -> Tensor:
            return Clamped.apply(current, self.v_threshold, self.code)

    def __init__(self, net: dsr.Network, task) -> None:
        super().__init__()
        self.time_weights, self.spiking = net.code.dynamics.rate_weights, net.config.readout == "spiking"
        self.body = catalog.build(task, lambda: self.Neuron(net.code))
        self.readout = nn.Sequential(BatchNorm(task.classes), self.Neuron(net.code)) if self.spiking else nn.Identity()
        self.load_state_dict(net.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        out = self.readout(self.body(x))
        return torch.tensordot(torch.tensor(self.time_weights(len(x))), out, 1) if self.spiking else out.mean(0)


def network(name: str = "mlp", *, options: dict | None = None, seed: int = 0, time_steps: int = 8, **settings):
    """Config, task and a network in training, whose neurons are below, in and above the clamp."""
    task = tiny.task(name, time_steps=time_steps, **(NETWORKS[name] if options is None else options))
    _, config, net = tiny.build("dsr", settings, task, seed=seed)
    for parameter_name, p in net.named_parameters():
        if parameter_name.endswith("weight") and p.dim() == 1:
            nn.init.uniform_(p, 3, 8)
        if parameter_name.endswith("bias"):
            nn.init.uniform_(p, 0, 4)
    return config, task, net.train()


def learned(net: nn.Module, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """The scores of a training step, and its gradients by name."""
    scores = net(x)
    F.cross_entropy(scores, labels(len(scores)) if y is None else y).backward()
    return scores.detach(), {name: p.grad for name, p in net.named_parameters()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], *, but=lambda name: False) -> None:
    largest = max(g.abs().max() for g in expected.values())
    for name, g in expected.items():
        if not but(name):
            tell = lambda text, name=name: f"{name}: {text}"  # noqa: E731
            torch.testing.assert_close(found[name], g, rtol=1e-8, atol=1e-11 * largest.item(), msg=tell)


@every_neuron
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("inputs", "readout"), [(still, "spiking"), (moving, "spiking"), (moving, "linear")],
    ids=["still", "moving", "linear"],
)  # fmt: skip
def test_unrolled_is_the_authors_computation_through_all_time_steps(neuron, name, inputs, readout):
    _, task, net = network(name, neuron=neuron, gradient="unrolled", readout=readout)
    x, authors = inputs(8, dtype=torch.float64), AllSteps(net, task)
    expected_scores, expected = learned(authors, x)
    scores, found = learned(net, x)
    torch.testing.assert_close(scores, expected_scores, rtol=1e-10, atol=1e-10)
    assert_equal(found, expected)
    thresholds = [g for key, g in expected.items() if "v_threshold" in key]
    assert sum(g != 0 for g in thresholds) >= len(thresholds) / 2
    for key, buffer in net.named_buffers():
        torch.testing.assert_close(buffer, authors.get_buffer(key), rtol=1e-10, atol=1e-10)


@every_neuron
@pytest.mark.parametrize("name", ["mlp", "convnet", "PreAct-ResNet-18"])
@both_inputs
def test_representation_lacks_the_covariance_over_time_and_nothing_else(neuron, name, inputs):
    (_, _, net), (_, _, other) = (network(name, neuron=neuron, gradient=g) for g in ("representation", "unrolled"))
    x = inputs(8, dtype=torch.float64)
    scores, found = learned(net, x)
    expected_scores, expected = learned(other, x)
    torch.testing.assert_close(scores, expected_scores, rtol=1e-10, atol=1e-10)
    last = [key for key in expected if key.startswith("body.") and key.endswith("weight")][-1]
    assert_equal(found, expected, but=lambda key: expected[key].dim() > 1 and key != last)
    ours, theirs = (torch.cat([g.flatten() for g in grads.values()]) for grads in (found, expected))
    assert F.cosine_similarity(ours, theirs, dim=0) > 0.9
    assert not torch.allclose(ours, theirs), "the covariance is not nothing"


@every_neuron
@both_inputs
def test_representation_is_unrolled_where_there_is_no_batch_norm(neuron, inputs):
    options = {"stages": ((4,), (6, 5)), "batch_norm": False}
    _, task, net = network("convnet", options=options, neuron=neuron, readout="linear")
    x = 3 * inputs(8, dtype=torch.float64)
    _, expected = learned(AllSteps(net, task), x)
    assert_equal(learned(net, x)[1], expected)
    assert all(g.abs().max() > 0 for key, g in expected.items() if "weight" in key)


@every_gradient
def test_dropout_is_one_mask_for_both_streams_and_all_time_steps(gradient):
    # A network whose dropped neurons have no weights has the same gradients.
    _, _, net = network(options={"hidden": (40,), "dropout": 0.5}, gradient=gradient, neuron="lif")
    _, _, plain = network(options={"hidden": (40,)}, gradient=gradient, neuron="lif")
    masks = []
    dropout = net.body[4]
    dropout.register_forward_hook(lambda module, args, out: masks.append(out.rates().plain / args[0].rates().plain))
    x = moving(8, 1, dtype=torch.float64)
    scores, found = learned(net, x)
    mask = masks[0].nan_to_num(1).squeeze(0)
    assert set(mask.tolist()) == {0.0, 2.0} | {1.0} & set(mask.tolist())
    with torch.no_grad():
        plain.body[5].weight *= mask
    same_scores, same = learned(plain, x)
    torch.testing.assert_close(scores, same_scores)
    torch.testing.assert_close(found["body.1.weight"], same["body.1.weight"])


@every_neuron
@every_gradient
@both_inputs
def test_without_batch_norm_gradients_are_those_of_clamps_at_the_measured_rates(neuron, gradient, inputs):
    # Weights meet the plain mean of the spikes below; edges are those of the mean that the neuron weights.
    _, _, net = network(
        options={"hidden": (12, 10), "batch_norm": False}, neuron=neuron, gradient=gradient, readout="linear"
    )
    with torch.no_grad():
        for layer in (net.body[1], net.body[4]):
            layer.weight *= 6
    x, code, p = inputs(10, dtype=torch.float64), net.code, dict(net.named_parameters())
    weights = torch.tensor(code.dynamics.rate_weights(10))
    train = x.contiguous().flatten(2)
    rate = train.mean(0)
    for layer, site in (("body.1", "body.2"), ("body.4", "body.5")):
        weight, bias, theta = p[f"{layer}.weight"], p[f"{layer}.bias"], p[f"{site}.v_threshold"]
        currents = F.linear(train, weight, bias).detach()
        train = Clamped.apply(currents, theta, code).detach()
        mean, top = torch.tensordot(weights, currents, 1), theta.detach() * code.amplitude / code.slope
        current = F.linear(rate, weight, bias)
        clamp = ((mean > 0) & (mean < top)) * code.slope * current + (mean > top) * code.threshold_gain * theta
        rate = train.mean(0) + clamp - clamp.detach()
    F.cross_entropy(F.linear(rate, p["body.7.weight"], p["body.7.bias"]), labels()).backward()
    expected = {name: parameter.grad.clone() for name, parameter in p.items()}
    net.zero_grad()
    assert_equal(learned(net, x)[1], expected)
    assert all(g.abs().max() > 0 for name, g in expected.items() if inputs is still or "v_threshold" not in name)


def one_layer(neurons: int, *, time_steps: int = 4, **settings):
    """Neurons whose currents are the pixels of an image of that width, and whose mean output is the scores.

    With a batch of one, the first layer's bias has the gradient of each neuron's current, summed over time.
    """
    options = {"hidden": (neurons,), "batch_norm": False}
    task = tiny.task("mlp", classes=neurons, shape=(1, 1, neurons), time_steps=time_steps, **options)
    _, config, net = tiny.build("dsr", {"readout": "linear"} | settings, task)
    for layer in (net.body[1], net.body[4]):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return config, net.train()


def steady(currents: list[float] | Tensor, time_steps: int) -> Tensor:
    return torch.as_tensor(currents).view(1, 1, 1, -1).expand(time_steps, 1, 1, 1, -1)


def rates(net, x: Tensor) -> Tensor:
    """The mean output of `one_layer` after each time step, (T, N)."""
    return net.eval().scores(x).squeeze(1)


def score_gradient(scores: Tensor) -> Tensor:
    """dL/d(scores) of cross-entropy for a batch of one with label 0."""
    return torch.softmax(scores, 1)[0] - F.one_hot(torch.tensor(0), scores.shape[1])


@every_gradient
def test_gradient_of_the_if_neuron_passes_both_edges_of_the_clamp(gradient):
    _, net = one_layer(6, neuron="if", gradient=gradient, v_threshold=2.0, alpha=0.5)
    scores, found = learned(net, steady([-1.0, 0.0, 1.0, 2.0, 2.5, 5.0], 4), torch.tensor([0]))
    g = score_gradient(scores)
    torch.testing.assert_close(found["body.1.bias"], g * torch.tensor([0, 1, 1, 1, 0, 0]))
    torch.testing.assert_close(found["body.2.v_threshold"], g[4] + g[5])


@every_gradient
@pytest.mark.parametrize(("threshold_gradient", "gain"), [("released", 0.25), ("exact", 4.0)])
def test_gradient_of_the_lif_neuron_stops_at_both_edges_of_the_clamp(gradient, threshold_gradient, gain):
    # Full scale is tau theta / dt = 4; one step, so that means are exact.
    _, net = one_layer(
        6, neuron="lif", gradient=gradient, v_threshold=0.5, alpha=0.5, tau=2.0, dt=0.25,
        threshold_gradient=threshold_gradient,
    )  # fmt: skip
    scores, found = learned(net, steady([-1.0, 0.0, 1.0, 4.0, 5.0, 3.9], 1), torch.tensor([0]))
    g = score_gradient(scores)
    torch.testing.assert_close(found["body.1.bias"], g * torch.tensor([0, 0, 1, 0, 0, 1]) / 2)
    torch.testing.assert_close(found["body.2.v_threshold"], gain * g[4])


@every_neuron
@every_gradient
@unhurried
@given(seed=st.integers(0, 999), time_steps=st.sampled_from([1, 2, 9]))
def test_gradient_of_a_layer_is_the_closed_form_for_any_input(neuron, gradient, seed, time_steps):
    torch.set_default_dtype(torch.float64)  # hypothesis runs fixtures once
    _, net = one_layer(30, neuron=neuron, gradient=gradient, time_steps=time_steps)
    generator = torch.Generator().manual_seed(seed)
    x = 3 + 4 * torch.randn(time_steps, 1, 1, 1, 30, generator=generator)
    scores, found = learned(net, x, torch.tensor([0]))
    g = score_gradient(scores)
    mean = torch.tensordot(torch.tensor(net.code.dynamics.rate_weights(time_steps)), x, 1).flatten()
    torch.testing.assert_close(found["body.1.bias"], g * ((mean > 0) & (mean < 6)), rtol=1e-9, atol=1e-12)
    dt = net.config.dt or 1.0
    torch.testing.assert_close(found["body.2.v_threshold"], dt * g[mean > 6].sum(), rtol=1e-9, atol=1e-12)


@every_gradient
def test_exact_slope_is_that_of_the_lif_neuron_in_a_step(gradient):
    # (1 - beta) / dt = 0.9516 at dt = 0.1; the clamp's upper edge moves up with it, from 6 to 6.305.
    found = {}
    for slope in ("released", "exact"):
        _, net = one_layer(3, neuron="lif", gradient=gradient, slope=slope, dt=0.1, time_steps=4)
        scores, gradients = learned(net, steady([1.0, 6.2, 6.4], 4), torch.tensor([0]))
        found[slope] = gradients["body.1.bias"] / score_gradient(scores)
    exact = (1 - math.exp(-0.1)) / 0.1
    assert exact == pytest.approx(0.9516, abs=5e-5)
    torch.testing.assert_close(found["released"], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(found["exact"], torch.tensor([exact, exact, 0]))


@every_gradient
def test_released_readout_weights_time_twice(gradient):
    results = {}
    for form in ("released", "exact"):
        _, _, net = network("convnet", neuron="lif", gradient=gradient, readout_factor=form, time_steps=20)
        results[form] = learned(net, moving(20, dtype=torch.float64))
    torch.testing.assert_close(*(scores for scores, _ in results.values()))
    kappa = 1.0818
    for name, g in results["released"][1].items():
        torch.testing.assert_close(results["exact"][1][name] * kappa, g, rtol=1e-4, atol=1e-9, msg=name)


@every_neuron
def test_gradient_of_theta_is_scaled_and_no_other(neuron):
    plain, scaled = (
        learned(network(neuron=neuron, threshold_gradient_scale=scale)[2], moving(dtype=torch.float64))[1]
        for scale in (1.0, 0.001)
    )
    assert any(g != 0 for name, g in plain.items() if "v_threshold" in name)
    for name, g in plain.items():
        torch.testing.assert_close(scaled[name], g * (0.001 if "v_threshold" in name else 1), msg=name)


@every_neuron
@unhurried
@given(
    seed=st.integers(0, 999), alpha=st.sampled_from([0.3, 0.5, 1.0]), time_steps=st.sampled_from([1, 5, 20])
)  # fmt: skip
def test_spikes_and_last_potential_account_for_every_current(neuron, alpha, time_steps, seed):
    # IF: R(o) = R(I) - U / T.   LIF: R_w(o) = (1 - beta) / dt R_w(I) - U / (dt S).
    config = dsr.resolve(dsr.Config(neuron=neuron, alpha=alpha), tiny.task(time_steps=time_steps))
    code = dsr.rate_code(config)
    current = 4 * torch.randn(time_steps, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    v, spikes = torch.zeros(30, dtype=torch.float64), torch.zeros_like(current)
    for step, s in zip(current, spikes, strict=True):
        charge(v, step, code.dynamics)
        fire(v, s, config.v_threshold, code.dynamics)
    weights = torch.tensor(code.dynamics.rate_weights(time_steps), dtype=torch.float64)
    dt, beta = config.dt or 1.0, code.dynamics.leak
    gain = 1.0 if neuron == "if" else (1 - beta) / dt
    total = sum(beta**k for k in range(time_steps))
    expected = gain * (weights @ current) - v / (dt * total)
    found = weights @ (config.v_threshold * code.amplitude * spikes)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("time_steps", [5, 20])
def test_rate_of_a_constant_current_is_the_clamp_to_a_quantum(alpha, time_steps):
    _, net = one_layer(401, neuron="if", alpha=alpha, v_threshold=2.0)
    current = torch.linspace(-2, 4, 401)
    found = rates(net, steady(current, time_steps))[-1]
    assert (found - current.clamp(0, 2)).abs().max() <= max(alpha, 1 - alpha) * 2 / time_steps + 1e-12
    assert (found[current < 0] == 0).all()
    assert (found[current > 2] == 2).all()


def test_firing_at_half_the_threshold_rounds_where_firing_at_all_of_it_rounds_down():
    # Mean error in units of theta / T.
    for alpha, expected in ((0.5, 0.0), (1.0, -0.5)):
        _, net = one_layer(1000, neuron="if", alpha=alpha, v_threshold=1.0)
        current = (torch.arange(1000) + 0.5) / 1000
        error = rates(net, steady(current, 20))[-1] - current
        assert error.mean().item() * 20 == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("alpha", "largest", "mean"),
    [(0.1, 6.9, 1.7), (0.2, 6.1, 1.0), (0.3, 5.3, 0.3), (0.4, 5.5, -0.5), (0.5, 6.3, -1.3), (1.0, 10.2, -4.9)],
)
def test_error_of_the_lif_rate_is_what_the_authors_neuron_has(alpha, largest, mean):
    # Percent of full scale, T = 20, dt = 0.05, tau = 1, theta = 0.3: measured on the released code.
    _, net = one_layer(2001, neuron="lif", alpha=alpha, time_steps=20)
    current = torch.linspace(0, 6, 2001)
    spikes = Clamped.apply(current.expand(20, -1), net.body[2].v_threshold, net.code).detach()
    error = 100 * (torch.tensor(net.code.dynamics.rate_weights(20)) @ spikes - current) / 6
    assert error.abs().max().item() == pytest.approx(largest, abs=0.15)
    assert error.mean().item() == pytest.approx(mean, abs=0.15)


@every_neuron
def test_one_time_step_fires_at_alpha_theta_and_emits_theta(neuron):
    _, net = one_layer(5, neuron=neuron, v_threshold=2.0, alpha=0.5, **({"dt": 0.5} if neuron == "lif" else {}))
    gain, amplitude = (1.0, 2.0) if neuron == "if" else (1 - math.exp(-0.5), 4.0)
    current = [-1.0, 0.0, 0.999 / gain, 1.001 / gain, 9.0]
    assert rates(net, steady(current, 1)).tolist() == [[0, 0, 0, amplitude, amplitude]]


def test_order_of_time_steps_changes_rates_but_not_where_an_if_neuron_learns():
    x = 3 + 6 * torch.randn(8, 1, 1, 1, 40, generator=torch.Generator().manual_seed(0))
    results = []
    for frames in (x, x.flip(0)):
        scores, found = learned(one_layer(40, neuron="if")[1], frames, torch.tensor([0]))
        results.append((scores, found["body.1.bias"] != 0))
    assert not torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@every_neuron
def test_threshold_never_stays_below_its_bound_and_learns_on(neuron):
    _, net = one_layer(4, neuron=neuron, threshold_bound=0.2)
    threshold, x = net.body[2].v_threshold, steady([9.0, 8.0, 9.0, -1.0], 4)
    threshold.data.fill_(0.2)
    expected = rates(net, x)
    threshold.data.fill_(-1.0)
    torch.testing.assert_close(rates(net, x), expected)
    assert threshold.item() == -1, "evaluation changes no parameter"
    _, found = learned(net.train(), x, torch.tensor([0]))
    assert threshold.item() == pytest.approx(0.2)
    assert found["body.2.v_threshold"] != 0


def test_fixed_threshold_is_saved_but_not_trained():
    _, _, net = network(train_threshold=False, v_threshold=3.0)
    thresholds = [name for name in net.state_dict() if name.endswith("v_threshold")]
    assert len(thresholds) == 3
    assert not {*thresholds} & dict(net.named_parameters()).keys()


def test_thresholds_may_have_a_weight_decay_of_their_own():
    config, _, net = network(threshold_weight_decay=0.0)
    optimizer = torch.optim.SGD(dsr.param_groups(net, config), lr=0.5, weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (1.0 if "v_threshold" in name else 0.95))
    config, _, net = network()
    assert all("weight_decay" not in group for group in dsr.param_groups(net, config)), "as released, one for all"


@every_neuron
def test_scores_of_the_spiking_readout_are_rates_between_nothing_and_full_scale(neuron):
    _, _, net = network(neuron=neuron)
    scores = net.eval().scores(moving(20, dtype=torch.float64) * 9)
    assert scores.min() >= 0
    assert scores.max() <= 6 + 1e-9
    assert scores.std() > 0.1


@every_gradient
@every_neuron
@both_inputs
def test_memory_for_backward_does_not_grow_with_time(gradient, neuron, inputs):
    def saved_bytes(time_steps: int) -> int:
        _, _, net = network("convnet", gradient=gradient, neuron=neuron, time_steps=20)
        held: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            scores = net(inputs(time_steps, dtype=torch.float64))
        assert scores.requires_grad
        return sum(tensor.untyped_storage().nbytes() for tensor in held.values())

    assert saved_bytes(4) == saved_bytes(16)


@pytest.mark.parametrize(
    ("settings", "time_steps", "expected"),
    [
        ({}, 5, (6.0, 0.5, 0.01, None, None)),
        ({}, 20, (6.0, 0.5, 0.01, None, None)),
        ({"neuron": "lif"}, 5, (0.6, 0.5, 0.001, 1.0, 0.1)),
        ({"neuron": "lif"}, 9, (0.6, 0.5, 0.001, 1.0, 0.1)),
        ({"neuron": "lif"}, 10, (0.3, 0.3, 0.0005, 1.0, 0.05)),
        ({"neuron": "lif"}, 20, (0.3, 0.3, 0.0005, 1.0, 0.05)),
        ({"neuron": "lif", "dt": 0.02, "alpha": 0.4}, 50, (0.12, 0.4, 0.0002, 1.0, 0.02)),
        ({"neuron": "lif", "v_threshold": 0.7, "tau": 2.0}, 5, (0.7, 0.5, 0.001, 2.0, 0.1)),
    ],
    ids=str,
)
def test_settings_left_open_follow_the_recipe_of_the_number_of_time_steps(settings, time_steps, expected):
    task = tiny.task(time_steps=time_steps)
    c = dsr.resolve(dsr.Config(**settings), task)
    assert (c.v_threshold, c.alpha, c.threshold_bound, c.tau, c.dt) == expected
    assert dsr.resolve(c, task) == c


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"neuron": "if", "dt": 0.1}, "tau and dt belong to neuron: lif"),
        ({"tau": 1.0}, "tau and dt belong to neuron: lif"),
        ({"slope": "exact"}, "slope belongs to neuron: lif"),
        ({"threshold_gradient": "exact"}, "threshold_gradient belongs to neuron: lif"),
        ({"neuron": "lif", "readout": "linear", "readout_factor": "exact"}, "belongs to readout: spiking"),
        ({"train_threshold": False, "threshold_weight_decay": 0.0}, "without effect"),
        ({"alpha": 1.5}, "alpha"),
        ({"v_threshold": 0}, "v_threshold"),
        ({"gradient": "surrogate"}, "gradient"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        dsr.Config(**settings)


def relu_network(task) -> nn.Module:
    torch.manual_seed(5)
    net = ann.build(ann.Config(readout="rectified"), task)
    for name, buffer in net.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.2, 2)
    return net.eval()


@every_neuron
def test_start_takes_over_weights_and_calibrates_each_threshold(neuron):
    config, task, net = network("convnet", neuron=neuron, calibration_percentile=95.0, calibration_batches=2)
    source, seen = relu_network(task), {}
    for name, module in source.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, args, out, name=name: seen.setdefault(name, []).append(out.detach()))
    batches = [still(8, 30, dtype=torch.float64, seed=seed) for seed in range(3)]
    dsr.start(net, source.state_dict(), iter(batches), config)
    for x in batches[:2]:
        source(x)
    for name, site in net.sites().items():
        expected = torch.cat([values.flatten() for values in seen[name]]).quantile(0.95)
        dt = 1.0 if neuron == "if" else net.config.dt
        assert site.v_threshold.item() == pytest.approx(max(expected.item() * dt, site.bound), rel=5e-3)
    assert net.training
    for name, value in source.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


def test_start_names_every_weight_without_a_counterpart():
    config, task, net = network("convnet")
    weights = relu_network(task).state_dict()
    weights["module.extra"] = weights.pop("body.0.weight")
    weights["body.1.weight"] = torch.zeros(9)
    sentence = r"missing.*: body.0.weight; unknown.*: module.extra; of another shape: body.1.weight \(9,\) for \(4,\)"
    with pytest.raises(ValueError, match=sentence):
        dsr.start(net, weights, [still(8, dtype=torch.float64)], config)


def test_networks_whose_covariance_is_not_known_are_refused_unrolled_and_only_so():
    task = tiny.task("NF-ResNet-34")
    assert "cannot unroll NF-ResNet-34" in dsr.skip(dsr.Config(gradient="unrolled"), task)
    assert dsr.skip(dsr.Config(gradient="unrolled", readout="linear"), task) is None
    assert dsr.skip(dsr.Config(), task) is None
    for name, options in NETWORKS.items():
        assert dsr.skip(dsr.Config(gradient="unrolled", neuron="lif"), tiny.task(name, **options)) is None
