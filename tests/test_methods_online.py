"""OTTT and SLTT: against each other, against BPTT, and against their equations written out."""

import pytest
import torch
import torch.nn.functional as F
from harness.methods import bptt, ottt, sltt
from pydantic import ValidationError
from torch import Tensor

from harness.contract import StepOutput
from harness.models import online
from tests import tiny
from tests.tiny import labels, moving, still

DEEP = {"hidden": (12, 10), "batch_norm": False}
both_inputs = pytest.mark.parametrize("inputs", [still, moving], ids=["still", "moving"])
every_network = pytest.mark.parametrize("network", ["mlp", "convnet"])


Learned = tuple[StepOutput, dict[str, Tensor]]


def learned(method, x: Tensor, *, network: str = "mlp", options=None, **settings) -> Learned:
    """What a step reports and its gradients, added up over its updates, in float64 on weights that fire."""
    _, config, net = tiny.build(method.__name__.split(".")[-1], settings, tiny.task(network, **(options or {})))
    return gradients(method, config, net.double().train(), x, labels(x.shape[1]))


def gradients(method, config, net, x: Tensor, y: Tensor) -> Learned:
    for name, p in net.named_parameters():
        if "weight" in name and p.dim() > 1:
            p.data *= 3
    found = {plain(name): torch.zeros_like(p) for name, p in net.named_parameters()}

    def update() -> None:
        for name, p in net.named_parameters():
            found[plain(name)] += p.grad
        net.zero_grad()

    torch.manual_seed(5)  # for dropout
    return method.train_step(net, x, y, config, update), found


def plain(name: str) -> str:
    """A parameter's name in the architecture."""
    return name.removeprefix("body.")


def assert_same(one: Learned, other: Learned) -> None:
    torch.testing.assert_close(one[0].loss, other[0].loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one[0].logits, other[0].logits, rtol=1e-9, atol=1e-12)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-9, atol=1e-12, msg=name)
        assert gradient.abs().max() > 0, name


@every_network
@both_inputs
def test_ottt_without_memory_in_its_traces_is_sltt(network, inputs):
    settings = {"leak": 0.6, "surrogate": "sigmoid"}
    x, options = inputs(dtype=torch.float64), {"dropout": 0.2}
    assert_same(
        learned(ottt, x, network=network, options=options, trace_decay=0, **settings),
        learned(sltt, x, network=network, options=options, mse_target="one_hot", **settings),
    )


@every_network
@both_inputs
def test_traces_change_the_gradient_but_not_the_loss(network, inputs):
    x = inputs(dtype=torch.float64)
    (output, found), (other, without) = (learned(ottt, x, network=network, **more) for more in ({}, {"trace_decay": 0}))
    assert torch.equal(output.loss, other.loss)
    last = [name for name in found if name.endswith("weight")][-1]
    assert not torch.allclose(found[last], without[last])


@every_network
def test_one_time_step_of_sltt_is_one_of_bptt(network):
    # The norm takes the statistics of the step, which is all there is.
    x = moving(1, dtype=torch.float64)
    settings = {"surrogate": "triangle", "reset": "soft", "leak": 0.3}
    assert_same(
        learned(sltt, x, network=network, **settings),
        learned(bptt, x, network=network, loss="tet", tet_lambda=0.05, tet_phi=1.0, **settings),
    )


def with_time_cut(
    weights: dict[str, Tensor], x: Tensor, config: sltt.Config | ottt.Config, decay: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and weight gradients of a network of two hidden layers, written out; with traces if there is a decay.

    delta of a layer's current is its part of dL_t at one time step; no autograd.
    """
    w = [weights[f"{layer}.weight"] for layer in (1, 4, 7)]
    b = [weights[f"{layer}.bias"] for layer in (1, 4, 7)]
    target = F.one_hot(labels(), 3).double()
    level = target if decay is not None or config.mse_target == "one_hot" else torch.ones_like(target)
    c, k = config.mse_share, config.surrogate_width
    potentials, traces = [0.0, 0.0], [0.0, 0.0]
    loss, found = torch.zeros((), dtype=torch.float64), {name: torch.zeros_like(p) for name, p in weights.items()}
    for step in x.flatten(2):
        inputs, slopes = [step], []
        for layer in (0, 1):
            u = config.leak * potentials[layer] + inputs[-1] @ w[layer].T + b[layer]
            s = (u >= config.v_threshold).double()
            potentials[layer] = u - config.v_threshold * s
            firing = 1 / (1 + (-k * (u - config.v_threshold)).exp())
            slopes.append(k * firing * (1 - firing))
            inputs.append(s)
            traces[layer] = (decay or 0) * traces[layer] + s
        scores = inputs[2] @ w[2].T + b[2]
        p = scores.softmax(1)
        loss += ((1 - c) * -(p.log() * target).sum(1).mean() + c * ((scores - level) ** 2).mean()) / len(x)
        delta = ((1 - c) * (p - target) / len(p) + c * 2 * (scores - level) / scores.numel()) / len(x)
        seen = inputs if decay is None else [step, *traces]
        for layer in (2, 1, 0):
            found[f"{(1, 4, 7)[layer]}.weight"] += torch.einsum("bi,bj->ij", delta, seen[layer])
            found[f"{(1, 4, 7)[layer]}.bias"] += delta.sum(0)
            if layer:
                delta = (delta @ w[layer]) * slopes[layer - 1]
    return loss, found


@pytest.mark.parametrize(("method", "traces"), [(ottt, True), (sltt, False)], ids=["ottt", "sltt"])
@both_inputs
def test_gradients_are_those_of_the_equations(method, traces, inputs):
    x = inputs(7, dtype=torch.float64)
    settings = {"surrogate": "sigmoid", "leak": 0.7, "mse_share": 0.2, "v_threshold": 0.8}
    _, config, net = tiny.build(method.__name__.split(".")[-1], settings, tiny.task("mlp", **DEEP))
    output, found = gradients(method, config, net.double().train(), x, labels())
    weights = {name: p.detach() for name, p in net.named_parameters()}
    loss, expected = with_time_cut(weights, x, config, 0.7 if traces else None)
    torch.testing.assert_close(output.loss, loss, rtol=1e-10, atol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
        assert gradient.abs().max() > 1e-4


def test_sltt_k_with_all_steps_is_sltt():
    x = moving(dtype=torch.float64)
    assert_same(learned(sltt, x, backward_steps=4), learned(sltt, x))


def test_sltt_k_learns_from_k_of_the_steps():
    x = moving(3, dtype=torch.float64)
    task = tiny.task("mlp", time_steps=3, **DEEP)
    seen = set()
    alone = []
    _, every, net = tiny.build("sltt", {"surrogate": "sigmoid"}, task)
    _, whole = gradients(sltt, every, net.double().train(), x, labels())
    for seed in range(12):
        _, config, net = tiny.build("sltt", {"surrogate": "sigmoid", "backward_steps": 1}, task)
        net.double()
        for name, p in net.named_parameters():
            p.data *= 3 if "weight" in name else 1
        found = []
        torch.manual_seed(seed)
        sltt.train_step(net, x, labels(), config, lambda net=net, found=found: found.append(net[7].weight.grad.clone()))
        if not any(torch.allclose(found[0], other) for other in alone):
            alone.append(found[0])
        seen.add(len(found))
    assert seen == {1}
    assert len(alone) == 3
    torch.testing.assert_close(sum(alone), whole["7.weight"])


def test_steps_without_a_gradient_count_in_the_loss():
    x = moving(dtype=torch.float64)
    assert torch.equal(learned(sltt, x, backward_steps=1)[0].loss, learned(sltt, x)[0].loss)


def test_ottt_updates_once_or_at_each_step_with_the_same_gradients():
    x, updates = moving(5, dtype=torch.float64), []
    for when in ("after_batch", "after_step"):
        _, config, net = tiny.build("ottt", {"updates": when}, tiny.task("mlp"))
        calls = []
        ottt.train_step(net.double(), x, labels(), config, lambda calls=calls: calls.append(1))
        updates.append(len(calls))
    assert updates == [1, 5]
    # Weights that stay where they are
    assert_same(learned(ottt, x, updates="after_step"), learned(ottt, x))


@pytest.mark.parametrize("method", [ottt, sltt])
def test_nothing_is_left_in_the_network_after_a_batch(method):
    name = method.__name__.split(".")[-1]
    _, config, net = tiny.build(name, {}, tiny.task("convnet", dropout=0.5))
    before = set(net.state_dict())
    tiny.gradients(method, config, net.train(), moving(), labels())
    with torch.no_grad():
        method.predict(net.eval(), moving(), config)
    assert set(net.state_dict()) == before
    assert all(layer.kept is None for layer in net.modules() if hasattr(layer, "kept"))


@pytest.mark.parametrize("method", [ottt, sltt])
@both_inputs
def test_prediction_in_pieces_is_that_of_bptt_at_once(method, inputs):
    x = inputs(2 * online.STEPS_AT_ONCE + 1, dtype=torch.float64)
    settings = {"leak": 0.6, "reset": "hard"}
    _, config, net = tiny.build(method.__name__.split(".")[-1], settings, tiny.task("convnet"))
    _, config_at_once, at_once = tiny.build("bptt", settings, tiny.task("convnet"))
    net.double().eval(), at_once.double().eval()
    for layer in [*net.modules(), *at_once.modules()]:
        if hasattr(layer, "running_var"):
            layer.running_var.fill_(0.05)
    with torch.no_grad():
        found, expected = method.predict(net, x, config), bptt.predict(at_once, x, config_at_once)
    torch.testing.assert_close(found, expected)
    assert found.std() > 0


def test_defaults_are_the_released_settings():
    assert ottt.Config().model_dump() == {
        "v_threshold": 1.0, "leak": 0.5, "reset": "soft", "surrogate": "sigmoid", "surrogate_width": 4.0,
        "trace_decay": 0.5, "mse_share": 0.05, "updates": "after_batch",
    }  # fmt: skip
    assert sltt.Config().model_dump() == {
        "v_threshold": 1.0, "leak": pytest.approx(0.0909, abs=1e-4), "reset": "soft", "surrogate": "triangle",
        "surrogate_width": 1.0, "mse_share": 0.05, "mse_target": "one", "backward_steps": None,
    }  # fmt: skip


def test_traces_decay_with_the_leak_unless_told_otherwise():
    assert ottt.Config(leak=0.8).trace_decay == 0.8
    assert ottt.Config(leak=0.8, trace_decay=0).trace_decay == 0
    with pytest.raises(ValidationError, match="trace_decay"):
        ottt.Config(trace_decay=1.5)


def test_more_backward_steps_than_steps_are_refused():
    assert "5" in sltt.skip(sltt.Config(backward_steps=5), tiny.task(time_steps=4))
    assert sltt.skip(sltt.Config(backward_steps=4), tiny.task(time_steps=4)) is None
