"""Checks of `train_step`."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.conformance import step
from harness.conformance.case import BATCH_SIZE, CLASSES, Case, labels
from harness.conformance.expect import expect, expect_close, expect_equal
from harness.conformance.step import Gradients, steady

ENOUGH = 0.85
"""Share of the first loss that may be left on a problem that a linear network solves."""
PATIENCE = 100
"""Steps until then."""


def check_output(case: Case) -> None:
    """A step reports a loss and scores that are finite and without a graph, and numbers as extras."""
    _, _, net = case.build()
    loss, logits, extras = vars(step.take(case, net.train(), case.x(), labels()).output).values()
    for name, found, shape in (("loss", loss, ()), ("logits", logits, (BATCH_SIZE, CLASSES))):
        expect(found.shape == shape, f"{name} has shape {tuple(found.shape)}, not {shape}; see StepOutput")
        expect(found.isfinite().all(), f"{name} is not finite: {found}")
        expect(not found.requires_grad, f"{name} carries a graph; detach it")
    for key, value in extras.items():
        expect(isinstance(value, float), f"extras[{key!r}] is {value!r}, not a float")


def check_every_gradient(case: Case) -> None:
    """Every parameter has a finite gradient when `update` is called, and none afterwards."""
    _, _, net = case.build()
    updates = step.take(case, net.train(), case.x(), labels()).updates
    expect(bool(updates), "`update` was never called")
    for count, gradients in enumerate(updates, 1):
        for name, gradient in gradients.items():
            expect(gradient is not None, f"{name} has no gradient at call {count} of `update`")
            expect(_given(gradient).isfinite().all(), f"the gradient of {name} is not finite at call {count}")
    expect(any(_given(g).abs().sum() > 0 for g in updates[0].values()), "all gradients are zero")
    late = [name for name, p in net.named_parameters() if p.grad is not None]
    expect(not late, f"{', '.join(late)} got a gradient after the last call of `update`: it would leak into the next")


def _given(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient


def check_input_untouched(case: Case) -> None:
    """Neither `train_step` nor `predict` writes to its input."""
    method, config, net = case.build()
    for called in ("train_step", "predict"):
        x, y = case.x(), labels()
        if called == "train_step" and case.trained:
            step.take(case, net.train(), x, y)
        else:
            with torch.no_grad():
                method.predict(net.eval(), x, config)
        expect_equal(x, case.x(), f"{called} has written to x, which is the caller's")
        expect_equal(y, labels(), f"{called} has written to y, which is the caller's")


def check_scores_agree(case: Case) -> None:
    """Where training and evaluation compute the same, a step's logits are `predict`'s scores at T."""
    _, config, net = case.build(dropout=0.0)
    x = case.x(dtype=torch.float64)
    logits = step.take(case, steady(net.double()), x, labels()).output.logits
    with torch.no_grad():
        scores = case.module.predict(net.eval(), x, config)
    complaint = (
        "logits of a step (left) are not the scores of `predict` after T steps (right), with norms on running "
        "statistics and without dropout; a method that means this says why in `scores_differ`"
    )
    expect_close(logits, scores[-1], complaint)


def check_step_forgets(case: Case) -> None:
    """A step does not know the batch of the step before."""
    _, _, net = case.build(dropout=0.0)
    x = case.x(dtype=torch.float64)
    first = step.take(case, steady(net.double()), x, labels())
    step.take(case, net, case.x(dtype=torch.float64, seed=1), labels())
    again = step.take(case, net, x, labels())
    complaint = "another batch came between, and nothing was updated: state between time steps starts anew in a step"
    expect_close(again.output.logits, first.output.logits, complaint)
    _expect_same_gradients(again.updates, first.updates, complaint)


def check_still_view_trains(case: Case) -> None:
    """Training on an image repeated without copies is training on copies."""
    x = case.x(dtype=torch.float64)
    (_, _, net), (_, _, same) = case.build(exact=True), case.build(exact=True)
    found = step.take(case, net.double().train(), x, labels(), exact=True).updates
    copies = x.clone(memory_format=torch.contiguous_format)
    expected = step.take(case, same.double().train(), copies, labels(), exact=True).updates
    _expect_same_gradients(found, expected, "x is a view of stride 0 over time here, copies there", tolerance=1e-6)


def check_updates_once(case: Case) -> None:
    """`update` is called once a step, unless `updates_once` says otherwise."""
    once = getattr(case.module, "updates_once", lambda config: True)(case.config(case.task()))
    expect(isinstance(once, bool), f"updates_once returned {once!r}, not whether `update` is called once")
    _, _, net = case.build()
    calls = len(step.take(case, net.train(), case.x(), labels()).updates)
    said = "updates_once says that it is called once" if once else "updates_once says that it is called more often"
    expect((calls == 1) == once, f"`update` was called {calls} times; {said}")


def check_parts(case: Case) -> None:
    """A batch computed in parts has the gradients of the batch."""
    _, config, net = case.build(dropout=0.0, exact=True)
    if not getattr(case.module, "updates_once", lambda config: True)(config):
        return
    x, half = case.x(dtype=torch.float64), BATCH_SIZE // 2
    steady(net.double())
    whole = step.take(case, net, x, labels(), exact=True).updates[0]
    for p in net.parameters():
        p.grad = None
    exact = case.config(case.task(), exact=True)
    for some in (slice(half), slice(half, None)):
        torch.manual_seed(2)
        case.module.train_step(net, x[:, some], labels()[some], exact, lambda: None)
    found = {name: None if p.grad is None else p.grad / 2 for name, p in step.trained(net)}
    complaint = "the mean over two halves of a batch, computed one after the other (left), of the batch (right)"
    _expect_same_gradients([found], [whole], complaint, tolerance=1e-8)


def _expect_same_gradients(
    found: list[Gradients], expected: list[Gradients], complaint: str, *, tolerance: float = 1e-9
) -> None:
    expect(len(found) == len(expected), f"`update` was called {len(found)} times, then {len(expected)}")
    for some, others in zip(found, expected, strict=True):
        for name, gradient in some.items():
            expect_close(
                _given(gradient), _given(others[name]), f"gradient of {name}: {complaint}", tolerance=tolerance
            )


def _losses(case: Case, net: nn.Module, x: Tensor, *, lr: float = 0.01) -> Iterator[float]:
    """The loss before each step of Adam on one batch, endlessly."""
    optimizer = torch.optim.Adam(_groups(case.module, net, case.config(case.task())), lr=lr)

    def change(net: nn.Module) -> None:
        optimizer.step()

    for seed in itertools.count():
        yield step.take(case, net.train(), x, labels(x.shape[1]), seed=seed, change=change).output.loss.item()


def _trained(case: Case) -> tuple[nn.Module, list[float]]:
    """The network after two steps, and the loss before each of them."""
    _, _, net = case.build()
    return net, list(itertools.islice(_losses(case, net, case.x()), 2))


def _groups(method: Any, net: nn.Module, config: Any) -> list[Any]:
    by_default: Callable[..., list[Any]] = lambda net, config: [p for _, p in step.trained(net)]  # noqa: E731
    return getattr(method, "param_groups", by_default)(net, config)


def check_param_groups(case: Case) -> None:
    """`param_groups` holds every parameter once, in torch's format."""
    method, config, net = case.build()
    torch.optim.SGD(method.param_groups(net, config), lr=0.1)  # refuses what is no group, and parameters given twice
    grouped = {id(p) for group in method.param_groups(net, config) for p in group["params"]}
    missing = [name for name, p in step.trained(net) if id(p) not in grouped]
    expect(not missing, f"{', '.join(missing)} is in no group and would never be trained")


def check_seeds(case: Case) -> None:
    """Two steps from the same seed end in the same bits."""
    (one, losses), (other, same_losses) = _trained(case), _trained(case)
    expect(losses == same_losses, f"losses were {losses}, then {same_losses}")
    for key, value in one.state_dict().items():
        expect_equal(value, other.state_dict()[key], f"{key} ended elsewhere; draw from torch's global generator only")


def check_state_dict(case: Case) -> None:
    """Saved weights predict as the network that they were saved from."""
    net = _trained(case)[0] if case.trained else case.build()[2]
    method, config, other = case.build(seed=1)
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        expected = method.predict(net.eval(), case.x(), config)
        found = method.predict(other.eval(), case.x(), config)
    expect_equal(found, expected, "what a prediction depends on is not all in the state_dict")


def check_loss_falls(case: Case) -> None:
    """The loss falls on a problem that is easy to separate."""
    # Class k is bright in the k-th third of the image, and nothing but noise elsewhere.
    y = labels(12)
    image = torch.zeros(CLASSES, 8, 8)
    for k in range(CLASSES):
        image[k, :, 3 * k : 3 * k + 2] = 2
    x = 0.1 * case.x(batch_size=12) + image[y][:, None]  # T B C 8 8
    x = x if case.temporal else x[0].expand_as(x)
    _, _, net = case.build()
    losses = _losses(case, net, x, lr=0.03)
    first = last = next(losses)
    for before, last in itertools.pairwise(itertools.islice(losses, PATIENCE)):
        if max(before, last) < ENOUGH * first:
            return
    raise AssertionError(f"the loss was {first:.3g} before the first step of Adam, {last:.3g} before step {PATIENCE}")


def check_probabilities(case: Case) -> None:
    """Labels may be probabilities: one-hot ones give the loss of classes, even ones a finite loss."""
    (_, _, net), (_, _, same) = case.build(), case.build()
    hard = step.take(case, net.train(), case.x(), labels()).output.loss
    soft = step.take(case, same.train(), case.x(), F.one_hot(labels(), CLASSES).float()).output.loss
    expect_close(soft, hard, "loss of one-hot labels, and of the same classes", tolerance=1e-5)
    even = torch.full((BATCH_SIZE, CLASSES), 1 / CLASSES)
    expect(step.take(case, net.train(), case.x(), even).output.loss.isfinite(), "loss of even labels is not finite")


def check_half_precision(case: Case) -> None:
    """Under bfloat16 autocast, float32 weights get finite float32 gradients, and scores are finite."""
    method, config, net = case.build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if case.trained:
            output, updates = step.take(case, net.train(), case.x(), labels())
            expect(output.loss.isfinite(), "the loss is not finite")
            for name, gradient in updates[0].items():
                expect(_given(gradient).isfinite().all(), f"the gradient of {name} is not finite")
                expect(_given(gradient).dtype == torch.float32, f"the gradient of {name} is {_given(gradient).dtype}")
        with torch.no_grad():
            expect(method.predict(net.eval(), case.x(), config).isfinite().all(), "scores are not finite")
