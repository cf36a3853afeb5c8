"""IDE against the recursion and the fixed-point equation written out, dense linear algebra, and DSR."""

import math
from typing import NamedTuple, get_args

import pytest
import torch
import torch.nn.functional as F
from harness.methods import ide
from pydantic import ValidationError
from torch import Tensor

from harness import listing
from harness.solvers import Solver
from tests import tiny
from tests.tiny import labels, moving, still

DENSE = "400 (F400)"
SOLVERS = get_args(Solver)
every_neuron = pytest.mark.parametrize("neuron", ["if", "lif"])
both_inputs = pytest.mark.parametrize("inputs", [still, moving], ids=["still", "moving"])


def network(width: int = 12, *, dropout: float = 0.0, seed: int = 0, **settings):
    """Config and a fully connected network in float64, with enough feedback to matter."""
    task = tiny.task(DENSE, widths=(width,), dropout=dropout)
    _, config, net = tiny.build("ide", {"v_threshold": 1.0} | settings, task, seed=seed)
    torch.nn.init.uniform_(net.body.stages[0].norm.bias, 0, 0.5)
    return config, net.double()


class Simulated(NamedTuple):
    rates: Tensor
    """After every time step, (T, B, N)."""
    traces: Tensor
    """A_t = leak * A_{t-1} + s_t, (T, B, N)."""
    potential: Tensor
    """V_T: after the last reset and before the leak, (B, N)."""


def simulated(currents: Tensor, weight: Tensor, theta: float, leak: float, mask: Tensor | float = 1.0) -> Simulated:
    """The paper's recursion, word for word: feedback is a step late, the leak comes after the reset."""
    u = s = trace = torch.zeros_like(currents[0])
    norm, rates, traces = 0.0, [], []
    for t, current in enumerate(currents):
        u = u + current + (s @ weight.T * mask if t > 0 else 0)
        s = (u >= theta).to(u.dtype)
        v = u - theta * s
        u = leak * v
        trace, norm = leak * trace + s, leak * norm + 1
        traces.append(trace)
        rates.append(trace / norm)
    return Simulated(torch.stack(rates), torch.stack(traces), v)


def feed_forward(net, frames: Tensor) -> Tensor:
    """F_x of frames (T, B, C, H, W) in evaluation."""
    body = net.body
    current = F.linear(frames.flatten(2), body.stages[0].affine.weight, body.stages[0].affine.bias)
    mean, variance = body.stages[0].norm.running_mean, body.stages[0].norm.running_var
    return (current - mean) / (variance + body.stages[0].norm.eps).sqrt() * body.stages[0].norm.weight + body.stages[
        0
    ].norm.bias


def restricted(net) -> Tensor:
    """The feedback weight in evaluation."""
    body = net.body.feedback
    sigma = body.left[0] @ body.weight @ body.right[0]
    return body.gain.clamp(-1, 1) * body.weight / sigma


def readout(net, rates: Tensor) -> Tensor:
    return F.linear(rates, net.body.readout.weight, net.body.readout.bias)


@every_neuron
@both_inputs
@torch.no_grad()
def test_prediction_is_the_readout_of_the_papers_recursion(neuron, inputs):
    config, net = network(neuron=neuron)
    x = inputs(20, dtype=torch.float64)
    rates = simulated(feed_forward(net, x), restricted(net), config.v_threshold, config.leak or 1.0).rates
    torch.testing.assert_close(ide.predict(net.eval(), x, config), readout(net, rates), rtol=1e-10, atol=1e-10)
    assert 0.05 < rates[-1].mean() < 0.95


@every_neuron
@pytest.mark.parametrize(("seed", "time_steps"), [(0, 1), (1, 2), (2, 30), (3, 30)])
@torch.no_grad()
def test_rates_obey_the_identity_of_finite_time(neuron, seed, time_steps):
    # theta A_T = W A_{T-1} + S_T x - V_T
    config, net = network(neuron=neuron, seed=seed)
    leak, x = config.leak or 1.0, still(time_steps, dtype=torch.float64)
    current, weight = feed_forward(net, x), restricted(net)
    found = simulated(current, weight, config.v_threshold, leak)
    norms = torch.tensor([sum(leak**k for k in range(t + 1)) for t in range(time_steps)], dtype=torch.float64)
    # The network's own rates, read through a readout that is the identity.
    net.body.readout = torch.nn.Linear(12, 12, bias=False).double()
    torch.nn.init.eye_(net.body.readout.weight)
    traces = ide.predict(net.eval(), x, config) * norms[:, None, None]
    before = traces[-2] if time_steps > 1 else torch.zeros_like(traces[0])
    expected = before @ weight.T + norms[-1] * current[0] - found.potential
    torch.testing.assert_close(config.v_threshold * traces[-1], expected, rtol=1e-9, atol=1e-9)


def residual(time_steps: int, **settings) -> float:
    _config, net = network(width=100, v_threshold=2.0, **settings)
    _, extras = net.eval()(still(time_steps, dtype=torch.float64))
    return extras["equilibrium_residual"]


def test_residual_of_the_if_neuron_falls_as_one_over_time():
    short, long, longest = (residual(time_steps, neuron="if") for time_steps in (30, 300, 3000))
    assert short / long == pytest.approx(10, rel=0.2)
    assert long / longest == pytest.approx(10, rel=0.2)
    assert short == pytest.approx(0.3 / 30, rel=0.3)  # measured on the authors' code, methods.md 2.4


@pytest.mark.parametrize("leak", [0.95, 0.99])
def test_residual_of_the_lif_neuron_has_a_floor_that_grows_with_the_leak(leak):
    floor = residual(1000, neuron="lif", leak=leak)
    assert floor == pytest.approx(residual(3000, neuron="lif", leak=leak), rel=0.25)
    assert floor == pytest.approx(0.29 * (1 - leak), rel=0.3)  # measured on the authors' code, methods.md 2.4


def test_rates_end_at_the_fixed_point():
    config, net = network(neuron="if")
    x = still(3000, dtype=torch.float64)
    with torch.no_grad():
        found = ide.predict(net.eval(), x, config)[-1]
        expected = readout(net, equilibrium(net, x, config.v_threshold))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def equilibrium(net, x: Tensor, theta: float) -> Tensor:
    """Where a = clamp((W a + F_x) / theta, 0, 1) ends, with autograd through every iteration."""
    current, weight = feed_forward(net, x[:1])[0], restricted(net)
    a = torch.zeros_like(current)
    for _ in range(150):
        a = ((a @ weight.T + current) / theta).clamp(0, 1)
    return a


def test_gradients_are_those_of_the_loss_at_the_fixed_point():
    # What is left between them is the distance of the simulation from equilibrium, 1 / T.
    config, net = network(neuron="if", v_threshold=2.0, tolerance=1e-10, max_iterations=100)
    x = still(5000, dtype=torch.float64)
    F.cross_entropy(readout(net.eval(), equilibrium(net, x, 2.0)), labels()).backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    _, found = tiny.gradients(ide, config, net, x, labels())
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 5e-3 * gradient.norm() + 1e-12, name


def test_gradients_are_finite_differences_of_the_loss_at_the_fixed_point():
    config, net = network(neuron="if", v_threshold=2.0, tolerance=1e-10, max_iterations=100)
    x = still(5000, dtype=torch.float64)
    _, found = tiny.gradients(ide, config, net.eval(), x, labels())

    @torch.no_grad()
    def loss() -> float:
        return F.cross_entropy(readout(net, equilibrium(net, x, 2.0)), labels()).item()

    for name in ("body.stages.0.affine.weight", "body.feedback.weight", "body.stages.0.norm.bias"):
        p = dict(net.named_parameters())[name]
        direction = found[name] / found[name].norm()
        p.data.add_(direction, alpha=1e-5)
        above = loss()
        p.data.sub_(direction, alpha=2e-5)
        below = loss()
        p.data.add_(direction, alpha=1e-5)
        assert (above - below) / 2e-5 == pytest.approx((found[name] * direction).sum().item(), rel=5e-3), name


class Drawn(NamedTuple):
    """What one training step drew at random and returned."""

    input_mask: Tensor
    feedback_mask: Tensor
    weights: list[Tensor]
    """The feedback weight, each time it was asked for."""
    loss: Tensor
    gradients: dict[str, Tensor]


def observed_step(config, net, x: Tensor) -> Drawn:
    asked, weights, currents = [], [], net.body.currents
    net.body.currents = lambda *given: asked.append(currents(*given)) or asked[-1]
    hook = net.body.feedback.register_forward_hook(lambda module, inputs, weight: weights.append(weight.detach()))
    output, found = tiny.gradients(ide, config, net, x, labels())
    hook.remove()
    del net.body.currents
    (drawn,) = asked
    with torch.no_grad():
        input_mask = drawn.mean / normalised(net, x, config)
        feedback_mask = drawn.feedback(torch.ones_like(drawn.mean)) / weights[0].sum(1)
    return Drawn(input_mask, feedback_mask, weights, output.loss, found)


def mean_current(net, x: Tensor, config) -> Tensor:
    """The hidden layer's input from the (weighted) mean frame, before batch norm."""
    leak, time_steps = config.leak or 1.0, len(x)
    weights = torch.tensor([leak ** (time_steps - 1 - t) for t in range(time_steps)], dtype=x.dtype)
    mean_frame = torch.tensordot(weights / weights.sum(), x.contiguous(), 1).flatten(1)
    return F.linear(mean_frame, net.body.stages[0].affine.weight, net.body.stages[0].affine.bias)


def normalised(net, x: Tensor, config, current: Tensor | None = None) -> Tensor:
    """A current after batch norm with the statistics of the mean current, which it is unless given."""
    norm, mean = net.body.stages[0].norm, mean_current(net, x, config)
    centre, variance = (mean.mean(0), mean.var(0, correction=0)) if net.training else norm.buffers()
    normal = ((mean if current is None else current) - centre) / (variance + norm.eps).sqrt()
    return normal * norm.weight + norm.bias


@pytest.mark.parametrize(
    ("neuron", "solver"), [("if", "neumann"), ("lif", "anderson"), ("if", "broyden"), ("lif", "gmres")]
)
@pytest.mark.parametrize(("inputs", "dropout"), [(still, 0.3), (moving, 0.3), (moving, 0.0)])
def test_gradients_are_those_of_dense_linear_algebra(neuron, solver, dropout, inputs):
    config, net = network(neuron=neuron, solver=solver, dropout=dropout, tolerance=1e-10, max_iterations=300)
    x, body, leak = inputs(15, dtype=torch.float64), net.body, config.leak or 1.0
    torch.manual_seed(3)
    drawn = observed_step(config, net.train(), x)
    weight = drawn.weights[0].requires_grad_()

    with torch.no_grad():
        frames = [F.linear(frame.flatten(1), body.stages[0].affine.weight, body.stages[0].affine.bias) for frame in x]
        currents = torch.stack([normalised(net, x, config, frame) * drawn.input_mask for frame in frames])
        rates = simulated(currents, weight, config.v_threshold, leak, drawn.feedback_mask).rates[-1]

    def f(a: Tensor, sample: int) -> Tensor:
        drive = (normalised(net, x, config) * drawn.input_mask)[sample]
        return (((weight @ a) * drawn.feedback_mask[sample] + drive) / config.v_threshold).clamp(0, 1)

    at = rates.clone().requires_grad_()
    loss = F.cross_entropy(readout(net, at), labels())
    (q,) = torch.autograd.grad(loss, at, retain_graph=True)
    jacobians = [torch.autograd.functional.jacobian(lambda a, b=b: f(a, b), rates[b]) for b in range(6)]
    v = torch.stack([torch.linalg.solve(torch.eye(12) - jacobians[b].T, q[b]) for b in range(6)])
    assert (v - q).norm() > 0.02 * q.norm(), "the feedback is too weak to matter"

    names = ["stages.0.affine.weight", "stages.0.norm.weight", "stages.0.norm.bias"]
    image = torch.stack([f(rates[b], b) for b in range(6)])
    *expected, d_weight = torch.autograd.grad(image, [*(body.get_parameter(name) for name in names), weight], v)
    expected += torch.autograd.grad(restricted(net), body.feedback.weight, d_weight)
    expected += torch.autograd.grad(loss, [body.readout.weight, body.readout.bias])
    torch.testing.assert_close(drawn.loss, loss.detach(), rtol=1e-10, atol=1e-10)
    for name, gradient in zip([*names, "feedback.weight", "readout.weight", "readout.bias"], expected, strict=True):
        torch.testing.assert_close(drawn.gradients[f"body.{name}"], gradient, rtol=1e-6, atol=1e-9)


def test_solvers_agree():
    found = []
    for solver in SOLVERS:
        config, net = network(solver=solver, tolerance=1e-9, max_iterations=200)
        output, gradients = tiny.gradients(ide, config, net.train(), still(20, dtype=torch.float64), labels())
        assert output.extras["solver_relative_residual"] <= 1e-9
        found.append(gradients)
    for name, gradient in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(other[name], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("time_steps", [10, 30, 100])
def test_automatic_tolerance_costs_less_than_the_simulation_does(time_steps):
    def gradient(**settings) -> Tensor:
        config, net = network(40, neuron="if", v_threshold=2.0, **settings)
        output, found = tiny.gradients(ide, config, net.eval(), x, labels())
        extras.append(output.extras)
        return torch.cat([g.flatten() for g in found.values()])

    x, extras = still(time_steps, dtype=torch.float64), []
    automatic, solved = gradient(), gradient(tolerance=1e-10, max_iterations=100)
    _, net = network(40, neuron="if", v_threshold=2.0)
    F.cross_entropy(readout(net.eval(), equilibrium(net, x, 2.0)), labels()).backward()
    exact = torch.cat([p.grad.flatten() for p in net.parameters()])
    by_simulation, by_solver = (solved - exact).norm(), (automatic - solved).norm()
    assert 0 < by_solver < 0.3 * by_simulation
    assert extras[0]["solver_iterations"] < 0.5 * extras[1]["solver_iterations"]
    assert extras[0]["solver_tolerance"] == pytest.approx(0.1 * extras[0]["equilibrium_relative_residual"])


@pytest.mark.parametrize("solver", SOLVERS)
def test_published_settings_solve_the_equation_to_their_tolerance(solver):
    task = tiny.task(DENSE, widths=(400,), shape=(1, 28, 28))
    method, config, net = tiny.build("ide", {"solver": solver, "tolerance": 1e-5}, task)
    x = torch.randn(16, 1, 28, 28).expand(5, -1, -1, -1, -1)
    output, _ = tiny.gradients(method, config, net.train(), x, torch.arange(16) % 3)
    assert output.extras["solver_relative_residual"] <= config.tolerance
    assert output.extras["solver_iterations"] <= 16  # the authors' Broyden needs 9 steps here


def saved_bytes(time_steps: int, inputs, network: str) -> int:
    """Bytes of the distinct memory that one forward pass keeps for backward."""
    _, _, net = tiny.build("ide", {}, tiny.task(network))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = net.train()(inputs(time_steps))
    assert graph
    return sum(kept.values())


@pytest.mark.parametrize("name", [DENSE, "64C5s (F64C5)", "AlexNet-F"])
@both_inputs
def test_memory_for_backward_does_not_grow_with_time(name, inputs):
    assert saved_bytes(4, inputs, name) == saved_bytes(32, inputs, name)


@pytest.mark.parametrize(("gain", "moves"), [(1.5, False), (-1.5, False), (0.5, True)])
def test_gain_of_the_feedback_has_a_gradient_below_one_only(gain, moves):
    config, net = network()
    net.body.feedback.gain.data.fill_(gain)
    _, found = tiny.gradients(ide, config, net.train(), still(dtype=torch.float64), labels())
    assert (found["body.feedback.gain"] != 0) == moves


def test_masks_and_feedback_weight_are_drawn_once_a_step():
    config, net = network(dropout=0.3)
    first, second = (observed_step(config, net.train(), still(20, dtype=torch.float64)) for _ in range(2))
    masks = [first.input_mask, first.feedback_mask, second.input_mask, second.feedback_mask]
    for number, mask in enumerate(masks):
        assert ((mask.abs() < 1e-9) | ((mask - 1 / 0.7).abs() < 1e-9)).all()
        assert not any(torch.allclose(mask, other) for other in masks[:number])
    assert (len(first.weights), len(second.weights)) == (1, 1)
    assert not torch.equal(first.weights[0], second.weights[0]), "the power iteration moves in training"


def test_masks_are_the_same_in_simulation_and_fixed_point():
    config, net = network(neuron="if", dropout=0.5)
    output, _ = tiny.gradients(ide, config, net.train(), still(2000, dtype=torch.float64), labels())
    assert output.extras["equilibrium_residual"] < 1e-3


def test_evaluation_neither_drops_nor_moves_the_power_iteration():
    config, net = network(dropout=0.5)
    first, second = (observed_step(config, net.eval(), still(dtype=torch.float64)) for _ in range(2))
    torch.testing.assert_close(first.input_mask, torch.ones_like(first.input_mask))
    torch.testing.assert_close(first.feedback_mask, torch.ones_like(first.feedback_mask))
    assert torch.equal(first.weights[0], second.weights[0])
    assert torch.equal(first.loss, second.loss)


@both_inputs
def test_running_statistics_move_once_a_batch(inputs):
    config, net = network(neuron="if")
    x = inputs(5, dtype=torch.float64)
    current = F.linear(x.mean(0).flatten(1), net.body.stages[0].affine.weight, net.body.stages[0].affine.bias).detach()
    tiny.gradients(ide, config, net.train(), x, labels())
    torch.testing.assert_close(net.body.stages[0].norm.running_mean, 0.1 * current.mean(0))
    torch.testing.assert_close(net.body.stages[0].norm.running_var, 0.9 + 0.1 * current.var(0))


def test_without_feedback_it_is_dsr_of_an_if_layer_that_fires_at_two():
    # A spike of DSR is worth theta = 2, so its readout has half the weights, whose gradients are twice as large.
    config, net = network(neuron="if", v_threshold=2.0)
    net.body.feedback.gain.data.zero_()
    settings = {"neuron": "if", "alpha": 1.0, "v_threshold": 2.0, "readout": "linear"}
    dsr, its_config, its_net = tiny.build("dsr", settings, tiny.task("mlp", hidden=(12,)))
    pairs = {
        "body.stages.0.affine.weight": "body.1.weight", "body.stages.0.norm.weight": "body.2.weight",
        "body.stages.0.norm.bias": "body.2.bias",
        "body.readout.weight": "body.5.weight", "body.readout.bias": "body.5.bias",
    }  # fmt: skip
    net.body.stages[0].norm.bias.data.add_(1)
    ours, other = net.state_dict(), its_net.double().state_dict()
    for mine, its in pairs.items():
        other[its].copy_(ours[mine] / (2 if mine == "body.readout.weight" else 1))
    x = still(10, dtype=torch.float64)
    output, found = tiny.gradients(ide, config, net.train(), x, labels())
    reference, expected = tiny.gradients(dsr, its_config, its_net.train(), x, labels())
    torch.testing.assert_close(output.logits, reference.logits, rtol=1e-10, atol=1e-10)
    for mine, its in pairs.items():
        scale = 2 if mine == "body.readout.weight" else 1
        torch.testing.assert_close(scale * found[mine], expected[its], rtol=1e-9, atol=1e-10, msg=mine)
    assert found["body.stages.0.affine.weight"].abs().max() > 1e-3


def test_defaults_are_those_of_the_released_code():
    given = ide.Config()
    assert (given.neuron, given.v_threshold, given.leak, given.max_iterations) == ("lif", 2.0, 0.95, 30)
    assert ide.Config(neuron="if").leak is None


def test_leak_of_an_if_neuron_is_refused():
    with pytest.raises(ValidationError, match="leak belongs to neuron: lif"):
        ide.Config(neuron="if", leak=0.9)
    with pytest.raises(ValidationError, match="solver"):
        ide.Config(solver="gmers")


def test_report_says_how_the_solver_fared():
    config, net = network()
    output, _ = tiny.gradients(ide, config, net.train(), still(20, dtype=torch.float64), labels())
    assert set(output.extras) == {
        "solver_iterations", "solver_relative_residual", "solver_tolerance",
        "equilibrium_residual", "equilibrium_relative_residual",
    }  # fmt: skip
    assert 1 <= output.extras["solver_iterations"] <= config.max_iterations
    assert all(math.isfinite(value) for value in output.extras.values())


def test_settings_are_listed_with_what_they_allow():
    allowed = {row["setting"]: row["allowed"] for row in listing.settings("ide")}
    assert allowed["tolerance"] == "> 0 | auto"
    assert allowed["solver"] == "gmres | anderson | broyden | neumann | released_iter"
