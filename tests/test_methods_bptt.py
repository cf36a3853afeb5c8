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
    "gaussian": lambda x, a: 0.5 * torch.erf(x / (a * math.sqrt(2))),
}
"""Functions whose derivatives are the surrogates."""

every_shape = pytest.mark.parametrize("surrogate", SMOOTH)
every_reset = pytest.mark.parametrize("reset", ["soft", "hard"])
both_inputs = pytest.mark.parametrize("inputs", [still, moving], ids=["still", "moving"])


def spike(x: Tensor, config: bptt.Config) -> Tensor:
    """The step of the value, the slope of the smooth one ("straight through")."""
    smooth = SMOOTH[config.surrogate](x, config.surrogate_width)
    return (x >= 0).to(x.dtype) + smooth - smooth.detach()


def neurons(current: Tensor, config: bptt.Config, w: Tensor | None = None) -> Tensor:
    v, emitted = torch.zeros_like(current[0]), []
    leak = 1.0 if config.leak is None else config.leak
    for step in current:
        u = leak * v + step if w is None else v + torch.sigmoid(w) * (step - v)
        s = spike(u - config.v_threshold, config)
        emitted.append(s)
        cut = s.detach() if config.detach_reset else s
        v = u - config.v_threshold * cut if config.reset == "soft" else u * (1 - cut)
    return torch.stack(emitted)


def loss_by_hand(p: dict[str, Tensor], x: Tensor, config: bptt.Config) -> Tensor:
    """Flatten -> linear -> batch norm -> neurons -> linear (-> neurons) -> loss."""
    x = x.clone(memory_format=torch.contiguous_format)
    body = "body.0" if config.readout == "spiking" else "body"
    current = F.linear(x.flatten(2), p[f"{body}.1.weight"])
    over = (1,) if config.norm == "per_step" else (0, 1)
    variance, mean = torch.var_mean(current, over, correction=0, keepdim=True)
    gamma = p[f"{body}.2.weight"] * (config.v_threshold if config.norm == "tdbn" else 1)
    current = gamma * (current - mean) / (variance + 1e-5).sqrt() + p[f"{body}.2.bias"]
    spikes = neurons(current, config, p.get(f"{body}.3.w"))
    scores = F.linear(spikes, p[f"{body}.5.weight"], p[f"{body}.5.bias"])
    if config.readout == "spiking":
        scores = neurons(scores, config, p.get("body.1.w"))
    if config.loss == "tet":
        each = torch.stack([F.cross_entropy(score, labels()) for score in scores]).mean()
        return (1 - config.tet_lambda) * each + config.tet_lambda * ((scores - config.tet_phi) ** 2).mean()
    if config.loss == "mse":
        return ((scores.mean(0) - torch.eye(3)[labels()]) ** 2).mean()
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
        assert found[name].abs().max() > 1e-5, name
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


@pytest.mark.parametrize(
    "settings",
    [
        {"neuron": "if", "surrogate": "gaussian"},
        {"neuron": "plif", "tau": 3.0},
        {"neuron": "plif", "detach_reset": True, "readout": "spiking"},
        {"loss": "mse"},
        {"loss": "mse", "readout": "spiking"},
        {"loss": "tet", "tet_lambda": 0.3, "tet_phi": 0.7},
        {"norm": "per_step"},
        {"norm": "tdbn", "v_threshold": 0.6},
    ],
    ids=str,
)
@every_reset
@both_inputs
def test_gradients_follow_neuron_loss_readout_and_norm(settings, reset, inputs):
    # Wide surrogates, since the spikes of the readout are rare
    width = {} if "surrogate" in settings else {"surrogate_width": 3.0}
    assert_gradients_are_autograds(inputs(6, dtype=torch.float64), reset=reset, **width, **settings)


def test_plif_starts_from_tau_and_learns_one_number_a_layer():
    _, _, net = tiny.build("bptt", {"neuron": "plif", "tau": 4.0}, tiny.task("mlp"))
    _, _, lif = tiny.build("bptt", {}, tiny.task("mlp"))
    learned = {name for name, _ in net.named_parameters()} - {name for name, _ in lif.named_parameters()}
    assert learned == {"body.3.w"}
    assert net.body[3].w.sigmoid().item() == pytest.approx(1 / 4)


def test_plif_with_its_leak_at_rest_is_lif_with_a_smaller_input():
    x = moving(dtype=torch.float64)
    _, config, plif = tiny.build("bptt", {"neuron": "plif", "tau": 2.0}, tiny.task("mlp", batch_norm=False))
    _, _, lif = tiny.build("bptt", {"leak": 0.5}, tiny.task("mlp", batch_norm=False))
    plif.double().eval(), lif.double().eval()
    for p in lif.body[1].parameters():
        p.data *= 0.5
    torch.testing.assert_close(bptt.predict(plif, 9 * x, config), bptt.predict(lif, 9 * x, config))


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
        scores, last = method.predict(net, x, config), net(x)
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
        "neuron": "lif", "v_threshold": 1.0, "leak": 0.5, "tau": None, "reset": "hard", "detach_reset": False,
        "surrogate": "triangle", "surrogate_width": 1.0, "norm": "merged", "readout": "linear",
        "loss": "cross_entropy", "tet_lambda": None, "tet_phi": None, "time_segments": 1,
    }  # fmt: skip


@every_shape
def test_width_is_the_published_one_unless_it_is_given(surrogate):
    assert bptt.Config(surrogate=surrogate).surrogate_width == WIDTHS[surrogate]
    assert bptt.Config(surrogate=surrogate, surrogate_width=None).surrogate_width == WIDTHS[surrogate]
    assert bptt.Config(surrogate=surrogate, surrogate_width=3).surrogate_width == 3


@pytest.mark.parametrize(
    "setting",
    [
        {"leak": 0}, {"leak": 1.1}, {"v_threshold": 0}, {"reset": "none"}, {"surrogate": "step"}, {"time_segments": 0},
        {"tau": 3.0}, {"leak": 0.5, "neuron": "if"}, {"leak": 0.5, "neuron": "plif"}, {"tau": 1.0, "neuron": "plif"},
        {"tet_lambda": 0.1}, {"tet_phi": 0.1, "loss": "mse"},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        bptt.Config(**setting)


def test_a_spiking_readout_is_refused_with_tet():
    with pytest.raises(ValidationError, match="readout: linear"):
        bptt.Config(loss="tet", readout="spiking")


def refusal(network: str = "mlp", *, time_steps: int = 4, batch_norm: bool = True, **settings) -> str | None:
    return bptt.skip(bptt.Config(**settings), tiny.task(network, time_steps=time_steps, batch_norm=batch_norm))


def test_segments_want_a_norm_that_sees_one_step_or_none():
    assert "per_step" in refusal(time_segments=2)
    assert "per_step" in refusal(time_segments=2, norm="tdbn")
    assert refusal(time_segments=2, norm="per_step") is None
    assert refusal(time_segments=2, batch_norm=False) is None
    assert "5" in refusal(time_segments=5, norm="per_step")


def test_a_norm_without_effect_is_refused():
    assert "no norm" in refusal(norm="tdbn", batch_norm=False)
    assert refusal(norm="tdbn") is None


def saved_bytes(run) -> int:
    """Bytes that autograd keeps of a forward pass, storages once."""
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(storages.values())


@pytest.mark.parametrize("segments", [2, 3, 7])
@pytest.mark.parametrize(
    "settings", [{"norm": "per_step"}, {"norm": "per_step", "neuron": "plif", "reset": "soft", "loss": "tet"}], ids=str
)
@both_inputs
def test_segments_change_neither_gradient_nor_running_statistics(segments, settings, inputs):
    task, x = tiny.task("convnet", time_steps=7, dropout=0.3), inputs(7, dtype=torch.float64)
    found = []
    for more in ({}, {"time_segments": segments}):
        method, config, net = tiny.build("bptt", settings | more, task)
        torch.manual_seed(3)
        output, gradients = tiny.gradients(method, config, net.double().train(), x, labels())
        found.append({"loss": output.loss, **gradients, **dict(net.named_buffers())})
    assert "body.1.running_var" in found[0]
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_segments_keep_less():
    task, x = tiny.task("convnet", time_steps=8), moving(8)
    kept = []
    for segments in (1, 2, 4):
        _, _, net = tiny.build("bptt", {"norm": "per_step", "time_segments": segments}, task)
        kept.append(saved_bytes(lambda net=net: net(x)))
    assert kept[0] > kept[1] > kept[2]
    assert kept[2] < 0.5 * kept[0], "and most of that is input and weights"
