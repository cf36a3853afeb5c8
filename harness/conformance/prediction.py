"""Checks of a freshly built network and of `predict`."""

import torch
from torch import Tensor, nn

from harness.conformance.case import CLASSES, Case
from harness.conformance.expect import expect, expect_close, expect_equal

RUNNING_VARIANCES = (0.02, 0.1, 0.005, 0.5, 0.001)
"""Of norms: which one lets the last neurons of an untrained network fire at times depends on network and seed."""
PROMISE = "; see harness.contract.Method.predict"
CONVERGES = "; see `convergence` in harness.contract.Method"


def _exact(case: Case, time_steps: int) -> tuple[nn.Module, Tensor]:
    """A network in evaluation and its input, in float64, where rounding does not flip spikes."""
    _, _, net = case.build(time_steps)
    return net.double().eval(), case.x(time_steps, dtype=torch.float64)


def _predict(case: Case, net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return case.module.predict(net, x, case.config(case.task(len(x))))


def check_build(case: Case) -> None:
    """`build` draws float32 weights on the CPU from torch's global generator."""
    (_, _, one), (_, _, same), (_, _, other) = case.build(), case.build(), case.build(seed=1)
    weights, same_weights, other_weights = (dict(net.named_parameters()) for net in (one, same, other))
    expect(bool(weights), "the network has no parameters")
    for name, weight in weights.items():
        expect(weight.device.type == "cpu", f"{name} is on {weight.device}; the harness moves the network itself")
        expect(weight.dtype == torch.float32, f"{name} is {weight.dtype}; precision is the harness's")
        expect_equal(same_weights[name], weight, f"{name} starts elsewhere with the same seed")
    equal = all(torch.equal(weight, other_weights[name]) for name, weight in weights.items())
    expect(not equal, "two seeds give the same weights; draw them from torch's global generator")


def check_shape(case: Case) -> None:
    """Prediction is a finite score for every time step, sample and class."""
    for time_steps, batch_size in ((4, 6), (9, 2), (1, 1)):
        _, _, net = case.build(time_steps)
        scores = _predict(case, net.eval(), case.x(time_steps, batch_size))
        expected = (time_steps, batch_size, CLASSES)
        found = f"{tuple(scores.shape)} for x of shape ({time_steps}, {batch_size}, ...)"
        expect(scores.shape == expected, f"scores have shape {found}, not (T, B, K) = {expected}{PROMISE}")
        expect(scores.isfinite().all(), f"scores are not finite: {scores}")


def check_samples_differ(case: Case) -> None:
    """Prediction tells samples apart."""
    scores = torch.zeros(1, 1, 1)
    for seed, variance in enumerate(RUNNING_VARIANCES):
        _, _, net = case.build(running_variance=variance, seed=seed)
        scores = _predict(case, net.eval(), case.x())
        if (scores[-1].std(0) > 0).any():
            return
    raise AssertionError(f"all samples have the same scores, such as {scores[-1, 0].tolist()}")


def check_repeats(case: Case) -> None:
    """Prediction repeats bit for bit, whatever came between."""
    _, _, net = case.build()
    first = _predict(case, net.eval(), case.x())
    torch.rand(3)
    _predict(case, net, case.x(seed=1))
    complaint = "another batch came between: no state may survive one, and nothing may be drawn"
    expect_equal(_predict(case, net, case.x()), first, complaint)


def check_no_trace(case: Case) -> None:
    """Prediction leaves weights, buffers, gradients and modes as they were."""
    _, _, net = case.build()
    before = {key: value.clone() for key, value in net.eval().state_dict().items()}
    _predict(case, net, case.x())
    after = net.state_dict()
    expect(before.keys() == after.keys(), f"keys of the state changed: {sorted(before.keys() ^ after.keys())}")
    for key, value in after.items():
        expect_equal(value, before[key], f"{key} has changed")
    expect(not any(module.training for module in net.modules()), "a module is in training mode now")
    expect(all(p.grad is None for p in net.parameters()), "a parameter has a gradient now")


def check_samples_apart(case: Case) -> None:
    """Prediction for a sample ignores the others."""
    net, x = _exact(case, 4)
    together = _predict(case, net, x)
    for some in (slice(0, 1), slice(1, 3), slice(3, 6)):
        complaint = f"samples {some.start} to {some.stop - 1} score otherwise without the other samples{PROMISE}"
        expect_close(_predict(case, net, x[:, some]), together[:, some], complaint)


def check_order(case: Case) -> None:
    """Prediction follows the order of the samples."""
    net, x = _exact(case, 4)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    shuffled = x[:, order] if case.temporal else x[0, order].expand_as(x)
    expect_close(_predict(case, net, shuffled), _predict(case, net, x)[:, order], "shuffled samples score otherwise")


def check_causal(case: Case) -> None:
    """Prediction after t steps does not know what comes later."""
    net, x = _exact(case, 9)
    whole = _predict(case, net, x)
    for t in (1, 4, 8):
        complaint = f"scores after {t} of {len(x)} steps are not those of an input that ends there{PROMISE}"
        expect_close(whole[:t], _predict(case, net, x[:t]), complaint)


def check_still_view(case: Case) -> None:
    """An image repeated without copies scores as the image repeated in memory."""
    net, x = _exact(case, 4)
    copies = x.clone(memory_format=torch.contiguous_format)
    complaint = "x is a view of stride 0 over time here, copies there, of the same values"
    expect_close(_predict(case, net, x), _predict(case, net, copies), complaint)


def check_convergence(case: Case) -> None:
    """Convergence is a finite figure for every layer and step, which does not know later steps, and leaves no trace."""
    net, x = _exact(case, 9)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = _convergence(case, net, x)
    expect(bool(found), "nothing is measured; leave the name away where there is nothing")
    for key, value in net.state_dict().items():
        expect_equal(value, before[key], f"{key} has changed")
    start = _convergence(case, net, x[:4])
    for measure, layers in found.items():
        expect(bool(layers), f"{measure} has no layer")
        expect(layers.keys() == start[measure].keys(), f"{measure} has other layers for fewer time steps")
        for layer, values in layers.items():
            name = f"{measure} of {layer}"
            expect(isinstance(layer, str), f"{name}: a layer is a string")
            expect(values.shape == (9,), f"{name} has shape {tuple(values.shape)}, not (T,) = (9,){CONVERGES}")
            expect(not values.requires_grad, f"{name} is not detached")
            expect(bool((values.isfinite() & (values >= 0)).all()), f"{name} is not finite or negative: {values}")
            expect_close(values[:4], start[measure][layer], f"{name} after 4 of 9 steps knows what comes later")


def _convergence(case: Case, net: nn.Module, x: Tensor) -> dict[str, dict[str, Tensor]]:
    with torch.no_grad():
        return case.module.convergence(net, x, case.config(case.task(len(x))))
