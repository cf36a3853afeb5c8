"""What the released code of IDE-FSNN does otherwise, under its names, beside what the method does without them."""

import pytest
import torch
import torch.nn.functional as F
from harness.methods import ide
from pydantic import ValidationError
from torch import Tensor

from harness.contract import Task
from harness.models.equilibrium import released_events
from tests import tiny
from tests.tiny import labels, moving, still

DENSE = "400 (F400)"


def network(options=None, **settings):
    task = tiny.task(DENSE, dropout=0.0, **(options or {}))
    _, config, net = tiny.build("ide", {"v_threshold": 1.0} | settings, task)
    torch.nn.init.uniform_(net.body.stages[0].norm.bias, 0, 0.5)
    return config, net.double()


def gradients(config, net, x: Tensor):
    return tiny.gradients(ide, config, net.train(), x, labels())


def test_released_iteration_halves_the_gradient_and_more():
    x = still(20, dtype=torch.float64)
    output, found = gradients(*network(solver="released_iter"), x)
    exact, expected = gradients(*network(tolerance=1e-9), x)
    name = "body.stages.0.norm.bias"
    halves = found[name].norm() / expected[name].norm()
    assert 0.4 < halves < 0.55
    assert F.cosine_similarity(found[name], expected[name], dim=0) < 0.9999
    assert torch.equal(found["body.readout.weight"], expected["body.readout.weight"])
    assert output.extras["solver_relative_residual"] > 0.3 > exact.extras["solver_relative_residual"]
    assert output.extras["solver_iterations"] == 30
    assert "solver_tolerance" not in output.extras


def accumulated(frames: Tensor, steps: int, leak: float) -> Tensor:
    """The weighted mean as the released code takes it: in the memory of the last frame."""
    total = frames[-1]
    for back in range(1, steps):
        total += leak**back * frames[len(frames) - 1 - back]
    total /= sum(leak**back for back in range(steps))
    return total


def test_released_events_are_what_accumulating_in_the_last_frame_makes():
    x, leak = moving(30, dtype=torch.float64), 0.95
    x[-1] = 0  # as in the released data
    weights = [leak ** (29 - t) for t in range(30)]
    mean = torch.tensordot(torch.tensor(weights, dtype=torch.float64) / sum(weights), x, 1)
    f_mean, frames, reference = released_events(x, mean, leak)
    copy = x.clone()
    first = accumulated(copy, 30, leak).clone()
    torch.testing.assert_close(reference, first)
    torch.testing.assert_close(torch.stack(frames), copy)
    torch.testing.assert_close(f_mean, accumulated(copy, 31, leak))
    torch.testing.assert_close(f_mean, 1.2745 * mean, rtol=1e-4, atol=1e-9)


def test_released_events_are_for_training_only_and_leave_the_input_alone():
    x = moving(9, dtype=torch.float64)
    exact, released = network(), network(event_input="released")
    assert gradients(*exact, x)[0].loss != gradients(*released, x)[0].loss
    assert torch.equal(x, moving(9, dtype=torch.float64))
    norms = [net.body.stages[0].norm for _, net in (exact, released)]
    assert not torch.allclose(norms[0].running_var, norms[1].running_var)
    released[1].load_state_dict(exact[1].state_dict())
    scores = [ide.predict(net.eval(), x, config) for config, net in (exact, released)]
    assert torch.equal(*scores)


@pytest.mark.parametrize(("when", "repeats"), [("training", True), ("always", False)])
def test_released_power_iteration_makes_evaluation_unrepeatable(when, repeats):
    task = tiny.task("64C5s (F64C5)", widths=(40,), power_iteration=when)
    _, config, net = tiny.build("ide", {"v_threshold": 1.0}, task)
    x = still(20)
    assert torch.equal(ide.predict(net.eval(), x, config), ide.predict(net, x, config)) == repeats


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"neuron": "if", "event_input": "released"}, "belongs to neuron: lif"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": "automatic"}, "tolerance"),
    ],
)
def test_settings_without_effect_are_refused(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        ide.Config(**settings)


def test_tolerance_of_the_released_iteration_is_warned_about():
    with pytest.warns(UserWarning, match="released_iter has no tolerance"):
        ide.Config(solver="released_iter", tolerance=1e-3)


def test_settings_without_effect_on_a_task_are_refused_in_a_sentence():
    config = ide.Config(event_input="released")
    events = Task((2, 34, 34), 10, 30, True, "64C5s (F64C5)")
    assert ide.skip(config, events) is None
    assert "event data" in ide.skip(config, Task((1, 28, 28), 10, 30, False, "64C5s (F64C5)"))
    assert "one layer" in ide.skip(ide.Config(norm_statistics="batch"), events)
    assert ide.skip(ide.Config(norm_statistics="batch"), Task((3, 32, 32), 10, 30, False, "AlexNet-F")) is None
