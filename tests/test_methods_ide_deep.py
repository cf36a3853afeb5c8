"""IDE on networks of several layers against the recursion and the fixed point written out in plain torch."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from harness.methods import ide
from torch import Tensor

from harness.models.equilibrium import simulate
from tests import tiny
from tests.tiny import labels, moving, still

DENSE, DEEP = "400 (F400)", "AlexNet-F"
every_neuron = pytest.mark.parametrize("neuron", ["if", "lif"])
both_inputs = pytest.mark.parametrize("inputs", [still, moving], ids=["still", "moving"])


def network(*, dropout: float = 0.0, dense: bool = False, **settings):
    """Config and a network of three layers in float64: 48 neurons in the last one, or 10 where dense."""
    task = tiny.task(DENSE, widths=(14, 12, 10), dropout=dropout) if dense else tiny.task(DEEP, dropout=dropout)
    _, config, net = tiny.build("ide", {"v_threshold": 1.0} | settings, task)
    for stage in net.body.stages:
        torch.nn.init.uniform_(stage.norm.bias, 0, 0.5)
        stage.norm.running_var.fill_(0.5)
    return config, net.double()


def plain_stage(net, number: int, activity: Tensor, *, batch: bool, mask: Tensor | float = 1.0) -> Tensor:
    """The current out of a stage, with the statistics of the batch or the running ones."""
    stage = net.body.stages[number]
    if isinstance(stage.affine, torch.nn.Conv2d):
        rows = F.conv2d(activity, stage.affine.weight, stage.affine.bias, stage.affine.stride, stage.affine.padding)
    else:
        rows = F.linear(activity.flatten(1), stage.affine.weight, stage.affine.bias)
    norm = stage.norm
    running = (None, None) if batch else (norm.running_mean, norm.running_var)
    return F.batch_norm(rows, *running, norm.weight, norm.bias, training=batch, eps=norm.eps) * mask


def plain_feedback(net, activity: Tensor, weight: Tensor) -> Tensor:
    if weight.dim() == 2:
        return activity @ weight.T
    return F.conv_transpose2d(activity, weight, stride=2, padding=1, output_padding=1)


class Simulated(NamedTuple):
    spikes: list[Tensor]
    """Of each layer, (T, B, ...)."""
    potentials: list[Tensor]
    """Of each layer after the last reset and before the leak, (B, ...)."""
    currents: list[Tensor]
    """Into each layer, (T, B, ...)."""


@torch.no_grad()
def simulated(net, x: Tensor, theta: float, leak: float) -> Simulated:
    """The paper's recursion in evaluation, word for word: only the feedback is a step late."""
    weight, depth = net.body.feedback(), len(net.body.stages)
    u, s, every = [0.0] * depth, [torch.zeros(())] * depth, [[] for _ in range(depth)]
    flows = [[] for _ in range(depth)]
    for t, frame in enumerate(x):
        for layer in range(depth):
            flow = plain_stage(net, layer, frame if layer == 0 else s[layer - 1], batch=False)
            if layer == 0 and t > 0:
                flow = flow + plain_feedback(net, s[-1], weight)
            u[layer] = leak * u[layer] + flow
            s[layer] = (u[layer] >= theta).double()
            u[layer] = u[layer] - theta * s[layer]
            every[layer].append(s[layer])
            flows[layer].append(flow)
    return Simulated([torch.stack(e) for e in every], u, [torch.stack(f) for f in flows])


@every_neuron
@both_inputs
@torch.no_grad()
def test_every_layer_obeys_the_recursion_and_the_identity_of_finite_time(neuron, inputs):
    # theta A_T = sum_t leak^(T - t) I_t - V_T, layer by layer, with A_T = sum_t leak^(T - t) s_t
    config, net = network(neuron=neuron)
    net.eval()
    leak, x = config.leak or 1.0, inputs(30, dtype=torch.float64)
    expected = simulated(net, x, config.v_threshold, leak)
    own = [[s.clone() for s in step] for step in simulate(net.currents(x), config.v_threshold, net.dynamics)]
    powers = torch.tensor([leak ** (29 - t) for t in range(30)], dtype=torch.float64)
    for layer, spikes in enumerate(map(torch.stack, zip(*own, strict=True))):
        assert torch.equal(spikes, expected.spikes[layer])
        assert 0.01 < spikes.mean() < 0.9
        left = config.v_threshold * torch.tensordot(powers, spikes, 1)
        right = torch.tensordot(powers, expected.currents[layer], 1) - expected.potentials[layer]
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
    rates = torch.tensordot(powers / powers.sum(), expected.spikes[-1], 1).flatten(1)
    scores = F.linear(rates, net.body.readout.weight, net.body.readout.bias)
    torch.testing.assert_close(ide.predict(net, x, config)[-1], scores, rtol=1e-9, atol=1e-9)


def observed_currents(net) -> list:
    asked, currents = [], net.body.currents
    net.body.currents = lambda *given, **more: asked.append(currents(*given, **more)) or asked[-1]
    return asked


@pytest.mark.parametrize(("neuron", "solver"), [("if", "gmres"), ("lif", "anderson")])
@both_inputs
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_those_of_dense_linear_algebra(neuron, solver, inputs, dropout):
    config, net = network(neuron=neuron, solver=solver, dropout=dropout, tolerance=1e-10, max_iterations=300)
    x, theta, leak = inputs(15, dtype=torch.float64), config.v_threshold, config.leak or 1.0
    asked = observed_currents(net)
    start = {key: value.clone() for key, value in net.state_dict().items()}
    output, found = tiny.gradients(ide, config, net.train(), x, labels())
    (drawn,) = asked
    with torch.no_grad():  # at the running statistics from before the step
        for stage in net.body.stages:
            stage.norm.momentum = 0.0
        moved = {key: net.state_dict()[key].clone() for key in start if "running" in key}
        net.load_state_dict({key: start[key] if "running" in key else net.state_dict()[key] for key in start})
        rates = list(net._simulated(drawn))[-1]
        ones = torch.ones_like(rates)
        net.body.feedback.eval()
        mask = drawn.feedback(ones) / plain_feedback(net, ones, net.body.feedback())
    weights = [leak ** (14 - t) for t in range(15)]
    frame = sum(w * step for w, step in zip(weights, x, strict=True)) / sum(weights)

    def f(a: Tensor) -> Tensor:
        first = plain_stage(net, 0, frame, batch=True)
        if dropout:
            first = first * (drawn.mean / first).detach()
        a = ((plain_feedback(net, a, net.body.feedback()) * mask + first) / theta).clamp(0, 1)
        for number, link in enumerate(drawn.links, 1):
            current = plain_stage(net, number, a, batch=True, mask=1.0 if link.mask is None else link.mask)
            a = (current / theta).clamp(0, 1)
        return a

    at = rates.clone().requires_grad_()
    loss = F.cross_entropy(net.body.score(at), labels())
    (q,) = torch.autograd.grad(loss, at, retain_graph=True)
    jacobian = torch.autograd.functional.jacobian(f, rates).reshape(rates.numel(), rates.numel())
    v = torch.linalg.solve(torch.eye(len(jacobian), dtype=torch.float64) - jacobian.T, q.flatten()).view_as(q)
    assert (v - q).norm() > 0.02 * q.norm(), "the feedback is too weak to matter"
    torch.testing.assert_close(output.loss, loss.detach(), rtol=1e-10, atol=1e-10)
    net.zero_grad()
    torch.autograd.backward([f(rates), loss], [v, None])
    for name, p in net.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-6, atol=1e-9, msg=name)
    assert all(not torch.equal(moved[key], start[key]) for key in moved), "running statistics did not move"


def equilibrium(net, x: Tensor, theta: float) -> Tensor:
    """Where f(f(f(...))) ends, in evaluation, with autograd through every iteration."""
    weight, a = net.body.feedback(), torch.zeros(x.shape[1], 10, dtype=torch.float64)
    for _ in range(100):
        b = ((a @ weight.T + plain_stage(net, 0, x[0], batch=False)) / theta).clamp(0, 1)
        for number in range(1, len(net.body.stages)):
            b = (plain_stage(net, number, b, batch=False) / theta).clamp(0, 1)
        a = b
    return a


def test_gradients_are_those_of_the_loss_at_the_fixed_point():
    config, net = network(dense=True, neuron="if", v_threshold=2.0, tolerance=1e-10)
    x = still(3000, dtype=torch.float64)
    F.cross_entropy(net.body.score(equilibrium(net.eval(), x, 2.0)), labels()).backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    output, found = tiny.gradients(ide, config, net, x, labels())
    assert output.extras["equilibrium_residual"] < 1e-3
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-2 * gradient.norm() + 1e-12, name


def test_statistics_of_the_batch_keep_deep_layers_from_silence_at_the_start():
    residual, rate = {}, {}
    for statistics in ("running", "batch"):
        task = tiny.task(DEEP, dropout=0.0)
        _, config, net = tiny.build("ide", {"norm_statistics": statistics, "neuron": "if"}, task)
        x = still(200)
        output, _ = tiny.gradients(ide, config, net.train(), x, labels())
        residual[statistics] = output.extras["equilibrium_relative_residual"]
        rate[statistics] = list(net._simulated(net.currents(x)))[-1].mean().item()
    assert residual["batch"] < 0.1 < residual["running"]
    assert rate["batch"] > 2 * rate["running"]


def test_evaluation_knows_running_statistics_only():
    for statistics in ("running", "batch"):
        config, net = network(norm_statistics=statistics)
        x = still(9, dtype=torch.float64)
        together = ide.predict(net.eval(), x, config)
        torch.testing.assert_close(ide.predict(net, x[:, 2:3], config), together[:, 2:3], rtol=1e-9, atol=1e-9)


@both_inputs
def test_running_statistics_of_every_layer_move_once_a_batch(inputs):
    config, net = network(neuron="if", dense=True)
    x, before = inputs(5, dtype=torch.float64), [stage.norm.running_mean.clone() for stage in net.body.stages]
    means = [[] for _ in before]
    for number, stage in enumerate(net.body.stages):
        stage.norm.register_forward_pre_hook(lambda _, given, n=number: means[n].append(given[0][0].mean(0).detach()))
    tiny.gradients(ide, config, net.train(), x, labels())
    for stage, mean, start in zip(net.body.stages, means, before, strict=True):
        assert len(mean) == 1
        torch.testing.assert_close(stage.norm.running_mean, 0.9 * start + 0.1 * mean[0])
