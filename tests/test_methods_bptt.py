"""BPTT's hand-written backward against autograd through a loop, where a spike stands for a smooth step."""

import math

import pytest
import torch
import torch.nn.functional as F
from harness.methods import bptt
from pydantic import ValidationError
from torch import Tensor

from harness.models.surrogate import WIDTHS
from tests import tiny
from tests.tiny import labels, moving, still

SMOOTH = {
    "rectangle": lambda x, a: (x / a + 0.5).clamp(0, 1),
    "triangle": lambda x, gamma: (x / gamma).clamp(-1, 1) * (1 - (x / gamma).clamp(-1, 1).abs() / 2),
    "sigmoid": lambda x, k: torch.sigmoid(k * x),
    "arctan": lambda x, a: torch.atan(math.pi / 2 * a * x) / math.pi,
}
"""Functions whose derivatives are the surrogates."""

every_shape = pytest.mark.parametrize("surrogate", SMOOTH)
every_reset = pytest.mark.parametrize("reset", ["soft", "hard"])
both_inputs = pytest.mark.parametrize("inputs", [still, moving], ids=["still", "moving"])


def spike(x: Tensor, config: bptt.Config) -> Tensor:
    """The step of the value, the slope of the smooth one ("straight through")."""
    smooth = SMOOTH[config.surrogate](x, config.surrogate_width)
    return (x >= 0).to(x.dtype) + smooth - smooth.detach()


def neurons(current: Tensor, config: bptt.Config) -> Tensor:
    v, emitted = torch.zeros_like(current[0]), []
    for step in current:
        u = config.leak * v + step
        s = spike(u - config.v_threshold, config)
        emitted.append(s)
        cut = s.detach() if config.detach_reset else s
        v = u - config.v_threshold * cut if config.reset == "soft" else u * (1 - cut)
    return torch.stack(emitted)


def loss_by_hand(p: dict[str, Tensor], x: Tensor, config: bptt.Config) -> Tensor:
    """Cross-entropy of flatten -> linear -> batch norm over time -> neurons -> linear -> mean over time."""
    x = x.clone(memory_format=torch.contiguous_format)
    current = F.linear(x.flatten(2), p["body.1.weight"]).flatten(0, 1)
    current = F.batch_norm(current, None, None, p["body.2.weight"], p["body.2.bias"], training=True)
    spikes = neurons(current.unflatten(0, x.shape[:2]), config)
    scores = F.linear(spikes, p["body.5.weight"], p["body.5.bias"])
    return F.cross_entropy(scores.mean(0), labels())


def assert_gradients_are_autograds(x: Tensor, **settings) -> dict[str, Tensor]:
    _, config, net = tiny.build("bptt", settings, tiny.task("mlp"))
    net = net.double().train()
    parameters = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    loss = loss_by_hand(parameters, x, config)
    loss.backward()
    output, found = tiny.gradients(bptt, config, net, x, labels())
    torch.testing.assert_close(output.loss, loss.detach(), rtol=1e-12, atol=1e-12)
    for name, p in parameters.items():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-9, atol=1e-9, msg=name)
    assert found["body.1.weight"].abs().max() > 1e-4
    return found


@every_shape
@every_reset
@pytest.mark.parametrize("detach_reset", [False, True])
@both_inputs
def test_gradients_are_those_of_autograd_through_the_loop(surrogate, reset, detach_reset, inputs):
    x = inputs(6, dtype=torch.float64)
    assert_gradients_are_autograds(x, surrogate=surrogate, reset=reset, detach_reset=detach_reset)


@pytest.mark.parametrize("settings", [{"leak": 1.0}, {"v_threshold": 0.4, "leak": 0.8}, {"surrogate_width": 3.0}])
@every_reset
def test_gradients_follow_leak_threshold_and_width(settings, reset):
    assert_gradients_are_autograds(moving(6, dtype=torch.float64), reset=reset, **settings)


@every_shape
def test_one_time_step_has_neither_leak_nor_reset(surrogate):
    x = moving(1, dtype=torch.float64)
    found = [
        assert_gradients_are_autograds(x, surrogate=surrogate, reset=reset, leak=leak)
        for reset, leak in [("soft", 0.3), ("hard", 0.9)]
    ]
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name])


def test_detached_reset_changes_the_gradient_but_not_the_loss():
    results = []
    for detach_reset in (False, True):
        method, config, net = tiny.build("bptt", {"detach_reset": detach_reset}, tiny.task("mlp"))
        results.append(tiny.gradients(method, config, net, moving(), labels()))
    (output, found), (other_output, other) = results
    assert torch.equal(output.loss, other_output.loss)
    assert not torch.allclose(found["body.1.weight"], other["body.1.weight"])


def test_prediction_is_the_mean_of_the_last_layer_so_far():
    method, config, net = tiny.build("bptt", {}, tiny.task("mlp"))
    net.double().eval()
    x = moving(6, dtype=torch.float64)
    with torch.no_grad():
        scores, last = method.predict(net, x, config), net.body(x)
    for t in range(6):
        torch.testing.assert_close(scores[t], last[: t + 1].mean(0))


def test_training_and_prediction_agree_on_the_last_step():
    method, config, net = tiny.build("bptt", {}, tiny.task("mlp", batch_norm=False))
    output, _ = tiny.gradients(method, config, net.double(), moving(dtype=torch.float64), labels())
    with torch.no_grad():
        scores = method.predict(net.eval(), moving(dtype=torch.float64), config)
    torch.testing.assert_close(output.logits, scores[-1])


def test_defaults_are_those_of_standard_direct_training():
    # Deng et al., ICLR 2022 (arXiv:2202.11946): theta 1, tau 2 (leak 0.5), hard reset, triangle with gamma 1.
    assert bptt.Config().model_dump() == {
        "v_threshold": 1.0, "leak": 0.5, "reset": "hard", "detach_reset": False,
        "surrogate": "triangle", "surrogate_width": 1.0,
    }  # fmt: skip


@every_shape
def test_width_is_the_published_one_unless_it_is_given(surrogate):
    assert bptt.Config(surrogate=surrogate).surrogate_width == WIDTHS[surrogate]
    assert bptt.Config(surrogate=surrogate, surrogate_width=None).surrogate_width == WIDTHS[surrogate]
    assert bptt.Config(surrogate=surrogate, surrogate_width=3).surrogate_width == 3


@pytest.mark.parametrize(
    "setting", [{"leak": 0}, {"leak": 1.1}, {"v_threshold": 0}, {"reset": "none"}, {"surrogate": "step"}], ids=str
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        bptt.Config(**setting)
