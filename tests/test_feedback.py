"""Feedback networks: published counts, how they start, and what holds the size of their feedback."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from harness.contract import Task
from harness.models import catalog, spectral
from harness.models.spectral import RestrictedWeight
from tests import tiny
from tests.tiny import moving, still

DENSE, CONVOLUTIONAL, DEEP = "400 (F400)", "64C5s (F64C5)", "AlexNet-F"
MNIST, EVENTS, CIFAR = (1, 28, 28), (2, 34, 34), (3, 32, 32)


def network(name: str, shape=MNIST, classes: int = 10, **options):
    torch.manual_seed(0)
    return catalog.build(Task(shape, classes, 5, False, name, options))


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options", "parameters", "neurons"),
    [
        (DENSE, MNIST, 10, {}, 478_811, 400),
        (CONVOLUTIONAL, MNIST, 10, {}, 229_643, 12_544),
        (CONVOLUTIONAL, EVENTS, 10, {"padding": 1}, 269_643, 16_384),  # the released script
        (CONVOLUTIONAL, EVENTS, 10, {}, 290_763, 18_496),  # the paper's '291K'
        (DEEP, CIFAR, 10, {}, 3_709_515, 155_648),
        (DEEP, CIFAR, 100, {}, 5_184_165, 155_648),
        ("CIFARNet-F", CIFAR, 10, {}, 11_840_011, 229_376),
        ("CIFARNet-F", CIFAR, 100, {}, 14_789_221, 229_376),
    ],
)
def test_networks_have_the_published_numbers_of_parameters_and_neurons(
    name, shape, classes, options, parameters, neurons
):
    net = network(name, shape, classes, **options)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert sum(hidden.numel() for hidden in net.hidden) == neurons


@pytest.mark.parametrize(("name", "gain"), [(DENSE, 1.89), (CONVOLUTIONAL, 1.15), (DEEP, 0.905), ("CIFARNet-F", 0.81)])
def test_gain_starts_where_the_authors_code_starts_it(name, gain):
    shape = MNIST if name in (DENSE, CONVOLUTIONAL) else CIFAR
    assert network(name, shape).feedback.gain.item() == pytest.approx(gain, rel=0.03)


@pytest.mark.parametrize("name", [DENSE, CONVOLUTIONAL, DEEP])
def test_weights_of_an_output_unit_start_with_length_one_and_biases_at_zero(name):
    net = network(name, CIFAR)
    for stage in net.stages:
        torch.testing.assert_close(stage.affine.weight.flatten(1).norm(dim=1), torch.ones(len(stage.affine.weight)))
        assert (stage.affine.bias == 0).all()
    feedback = net.feedback.weight.transpose(0, 1) if name == DEEP else net.feedback.weight
    torch.testing.assert_close(feedback.flatten(1).norm(dim=1), torch.ones(len(feedback)))


@pytest.mark.parametrize("shape", [(1, 7, 7), (3, 8, 5), (2, 1, 1)])
@pytest.mark.parametrize("name", [DENSE, CONVOLUTIONAL, DEEP])
def test_network_fits_any_image(name, shape):
    net = network(name, shape, 3, **tiny.task(name).network_options).eval()
    x = torch.randn(4, 5, *shape)
    currents = net.currents(x.mean(0), x)
    assert currents.mean.shape == (5, *net.hidden[0])
    assert [step.shape for step in currents.steps()] == [currents.mean.shape] * 4
    activity = currents.mean
    for link, hidden in zip(currents.links, net.hidden[1:], strict=True):
        activity = link(activity)
        assert activity.shape == (5, *hidden)
    assert currents.feedback(activity).shape == currents.mean.shape
    assert net.score(activity).shape == (5, 3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"widths": ()}, "widths"),
        ({"widths": (0,)}, "widths"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": 4}, "kernel_size 4 is even"),
        ({"kernel_size": 3, "strides": (2, 1)}, "2 strides for 1 layers"),
        ({"padding": 1}, "give a kernel_size"),
        ({"strides": (2,)}, "give a kernel_size"),
        ({"restriction": "none", "power_iteration": "always"}, "there is none"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, complaint):
    with pytest.raises(ValidationError, match=complaint):
        network(DENSE, **options)


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="nothing is left of images"):
        network(CONVOLUTIONAL, (1, 2, 2), padding=1, kernel_size=7)


def linear_maps() -> list:
    dense, conv, transposed = torch.randn(5, 7), torch.randn(5, 3, 3, 3), torch.randn(3, 5, 3, 3)
    size = torch.Size
    return [
        (dense, spectral.matrix(5, 7)),
        (conv, spectral.convolution(conv, size((3, 6, 5)))),
        (transposed, spectral.transposed_convolution(transposed, size((3, 4, 3)), size((5, 8, 5)), 2)),
        (transposed, spectral.transposed_convolution(transposed, size((3, 2, 2)), size((5, 8, 6)), 4)),
        (transposed, spectral.transposed_convolution(transposed, size((3, 4, 4)), size((5, 4, 4)), 1)),
    ]


@pytest.mark.parametrize("number", range(5))
def test_adjoint_is_the_adjoint(number):
    torch.manual_seed(0)
    weight, linear = linear_maps()[number]
    x, y = torch.randn(1, *linear.inputs), torch.randn(1, *linear.outputs)
    image = linear.apply(x, weight)
    assert image.shape == y.shape
    assert (image * y).sum().item() == pytest.approx((x * linear.adjoint(y, weight)).sum().item(), rel=1e-4)


def operator_norm(net) -> float:
    """Of the feedback as the network has it, column by column."""
    inputs = net.hidden[-1]
    net.eval()
    with torch.no_grad():
        columns = net.feedback_map.apply(torch.eye(inputs.numel()).unflatten(1, inputs), net.feedback())
    return torch.linalg.matrix_norm(columns.flatten(1), 2).item()


def trained(net, steps: int = 20):
    """The network after its feedback weight moved, with a gain that asks for all there is."""
    net.feedback.gain.data.fill_(5)
    for step in range(steps):
        net.train().feedback()
        noise = torch.randn(net.feedback.weight.shape, generator=torch.Generator().manual_seed(step))
        net.feedback.weight.data.add_(noise, alpha=0.02 * net.feedback.weight.data.std().item())
    net.feedback()
    return net


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 7, 11)])
@pytest.mark.parametrize("name", [DENSE, CONVOLUTIONAL, DEEP])
@pytest.mark.parametrize("steps", [0, 20])
def test_restriction_of_the_operator_bounds_the_true_norm(name, shape, steps):
    net = network(name, shape, 3, **tiny.task(name).network_options, restriction="operator")
    assert operator_norm(trained(net, steps)) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", [CONVOLUTIONAL, DEEP])
def test_restriction_of_the_matrix_does_not_bound_a_convolution(name):
    net = network(name, (1, 16, 16), 3, **tiny.task(name).network_options, restriction="matrix")
    weight = trained(net, 100).eval().feedback().detach().flatten(1)
    assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=0.05)
    assert operator_norm(net) > 1.1


def test_matrix_and_operator_are_the_same_of_a_dense_layer():
    weights = [trained(network(DENSE, widths=(20,), restriction=kind), 200) for kind in ("matrix", "operator")]
    one, other = (net.eval().feedback().detach() for net in weights)
    torch.testing.assert_close(one, other, rtol=0.02, atol=1e-3)


def test_without_restriction_the_weight_is_what_it_is():
    net = network(CONVOLUTIONAL, restriction="none")
    assert torch.equal(net.feedback(), net.feedback.weight)
    assert "feedback.gain" not in dict(net.named_parameters())


@pytest.mark.parametrize(("when", "repeats"), [("training", True), ("always", False)])
def test_power_iteration_that_always_moves_makes_evaluation_unrepeatable(when, repeats):
    net = network(CONVOLUTIONAL, power_iteration=when).eval()
    first, second = net.feedback().detach(), net.feedback().detach()
    assert torch.equal(first, second) == repeats
    torch.testing.assert_close(first, second, rtol=0.05, atol=1e-3)


def test_gradient_of_the_restricted_weight_is_that_of_its_formula():
    torch.manual_seed(0)
    restricted = RestrictedWeight(torch.randn(6, 5).double(), spectral.matrix(6, 5), converged=False).double()
    restricted.gain.data.fill_(0.7)
    for _ in range(300):
        restricted()
    weight, gain = (p.detach().clone().requires_grad_() for p in (restricted.weight, restricted.gain))
    cotangent = torch.randn(6, 5, dtype=torch.float64)
    (gain * weight / torch.linalg.matrix_norm(weight, 2) * cotangent).sum().backward()
    (restricted() * cotangent).sum().backward()
    torch.testing.assert_close(restricted.weight.grad, weight.grad)
    torch.testing.assert_close(restricted.gain.grad, gain.grad)


@pytest.mark.parametrize("inputs", [still, moving])
def test_frozen_link_is_the_link_with_its_batch_norm_in_evaluation(inputs):
    net = network(DEEP, (1, 8, 8), 3, **tiny.task(DEEP).network_options).double()
    for stage in net.stages:
        stage.norm.running_var.uniform_(0.5, 2)
        stage.norm.running_mean.normal_()
        stage.norm.weight.data.uniform_(0.5, 2)
    stage, x = net.stages[0].eval(), inputs(dtype=torch.float64)[0]
    rows = F.conv2d(x, stage.affine.weight, stage.affine.bias, stride=2, padding=1)
    norm = stage.norm
    expected = F.batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    found: Tensor = stage.frozen(stage.running)(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
