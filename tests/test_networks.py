"""The published architectures: what they compute with ReLU, against the same in plain torch."""

from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import listing, plugins
from harness.models import catalog
from harness.models.layers import Scale
from harness.models.weights import RELU_GAIN
from tests import tiny
from tests.counting import DVS, counted, task


class Reference:
    """Convolutions and norms in training mode in plain torch, with the weights of a network by name."""

    def __init__(self, net: nn.Module) -> None:
        self.weights = dict(net.named_parameters())

    def conv(self, x: Tensor, name: str, *, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.batch_norm(x, None, None, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], training=True)

    def preact_block(self, x: Tensor, name: str, *, stride: int, bottleneck: bool, large: bool) -> Tensor:
        x = self.norm(x, f"{name}.norm").relu()
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        out = self.conv(x, f"{name}.residual.0", stride=strides[0])
        for index, step in enumerate(strides[1:]):
            out = self.norm(out, f"{name}.residual.{3 * index + 1}").relu()
            dropout = index == len(strides) - 2
            out = self.conv(out, f"{name}.residual.{3 * index + 3 + dropout}", stride=step)
        if f"{name}.shortcut.0.weight" in self.weights:
            x = self.conv(x, f"{name}.shortcut.0", stride=stride)
            x = self.norm(x, f"{name}.shortcut.1") if large else x
        return out + x


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("form", ["cifar", "imagenet"])
def test_preact_resnet_of_relus_is_the_same_in_plain_torch(form, bottleneck):
    torch.manual_seed(0)
    options = {"stages": ((2, 4), (1, 6)), "bottleneck": bottleneck, "form": form}
    net = catalog.build(tiny.task("PreAct-ResNet-18", **options), nn.ReLU).double()
    x = tiny.moving(dtype=torch.float64)
    reference, rows, large = Reference(net), x.flatten(0, 1), form == "imagenet"
    out = reference.conv(rows, "0", stride=2 if large else 1)
    if large:
        out = F.avg_pool2d(reference.norm(out, "1").relu(), 3, 2, 1)
    first = 4 if large else 1
    for index, stride in enumerate((1, 1, 2)):
        out = reference.preact_block(out, str(first + index), stride=stride, bottleneck=bottleneck, large=large)
    out = reference.norm(out, str(first + 3)).relu().mean((2, 3)).relu()
    readout = net[-1]
    expected = (out @ readout.weight.T + readout.bias).unflatten(0, x.shape[:2])

    found = net(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    parameters = list(net.parameters())
    gradients, others = (torch.autograd.grad(scores.pow(3).sum(), parameters) for scores in (found, expected))
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_preact_resnet_takes_the_form_for_large_images_above_64_pixels():
    small, large = (counted(task("PreAct-ResNet-18", (3, 80, side)))[0] for side in (64, 65))
    assert (small[0].kernel_size, large[0].kernel_size) == ((3, 3), (7, 7))
    assert counted(task("PreAct-ResNet-18", (3, 80, 65), form="cifar"))[0][0].kernel_size == (3, 3)


def test_initial_weights_are_those_of_the_papers():
    torch.manual_seed(0)
    preact = catalog.build(task("PreAct-ResNet-18"), nn.ReLU)
    for layer in preact.modules():
        if isinstance(layer, nn.Conv2d):
            expected = sqrt(2 / (layer.out_channels * layer.kernel_size[0] ** 2))
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert (preact[-1].bias == 0).all()
    assert preact[-1].weight.abs().max() <= 1 / sqrt(512)
    vgg = catalog.build(task("VGG-11", DVS), nn.ReLU)
    assert vgg[-1].weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert all((layer.bias == 0).all() for layer in vgg.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
    assert (catalog.build(tiny.task("NF-ResNet-34", zero_readout=True), nn.ReLU)[-1].weight == 0).all()


def test_vgg_copies_the_last_pixel_49_times_before_its_readout():
    torch.manual_seed(0)
    net = catalog.build(tiny.task("VGG-11", shape=(2, 4, 4), dropout=0.0), nn.ReLU).eval()
    x = torch.randn(1, 5, 2, 4, 4)
    pixel = net[:-3](x)  # behind the last 2x2 pooling
    assert pixel.shape == (1, 5, 6, 1, 1)
    weight = net[-1].weight.unflatten(1, (6, 49)).sum(2)
    torch.testing.assert_close(net(x)[0], pixel[0, :, :, 0, 0] @ weight.T, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", ["VGG-11", "VGGSNN", "VGG-sWS", "CIFARNet", "Wide-7B"])
def test_pooling_is_left_out_where_the_map_is_smaller_than_its_window(network):
    for shape in ((1, 8, 8), (2, 1, 5), (3, 7, 4)):
        counted(task(network, shape, classes=3))


def test_vgg_sws_scales_all_spikes_and_normalises_nothing():
    net = catalog.build(tiny.task("VGG-sWS"), nn.ReLU)
    kinds = [type(layer) for layer in net]
    assert [kinds[index + 1] for index, kind in enumerate(kinds) if kind is nn.ReLU] == [Scale, Scale]
    assert [layer.factor for layer in net if isinstance(layer, Scale)] == [2.74, 2.74]
    assert "BatchNorm" not in str(net)


@pytest.mark.parametrize("stride", [1, 2])
def test_nf_block_adds_its_scaled_residual_to_currents_or_to_projected_spikes(stride):
    torch.manual_seed(0)
    net = catalog.build(tiny.task("NF-ResNet-34", stages=((1, 4), (1, 4 if stride == 1 else 6))), nn.ReLU).double()
    block = net[2 if stride == 1 else 3]
    first, _, _, last = block.residual
    skip = last.parametrizations.weight[1].gain
    assert skip == 0
    x = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64)
    beta = 1.0 if stride == 1 else sqrt(1 + 0.2**2)
    z = RELU_GAIN * (x / beta).relu().flatten(0, 1)
    shortcut = x.flatten(0, 1) if stride == 1 else F.conv2d(z, block.shortcut.weight, block.shortcut.bias, 2)
    torch.testing.assert_close(block(x).flatten(0, 1), shortcut)

    weight, bias = last.parametrizations.weight, last.parametrizations.bias
    bias.original.data.normal_()
    skip.data.fill_(0.7)
    hidden = RELU_GAIN * F.conv2d(z, first.weight, first.bias, stride, 1).relu()
    residual = F.conv2d(hidden, weight[0](weight.original), bias.original, 1, 1)
    torch.testing.assert_close(block(x).flatten(0, 1), shortcut + residual * 0.7 * 0.2)


@pytest.mark.parametrize(
    ("connect", "join"),
    [("ADD", lambda a, b: a + b), ("AND", lambda a, b: a * b), ("IAND", lambda a, b: b - a * b)],
)
def test_sew_block_joins_its_spikes_with_the_shortcuts(connect, join):
    torch.manual_seed(0)
    net = catalog.build(tiny.task("SEW-ResNet-18", connect=connect), nn.ReLU).double()
    x = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64)
    for block, stride in ((net[4], 1), (net[5], 2)):
        reference, rows = Reference(block), x.flatten(0, 1)
        a = reference.norm(reference.conv(rows, "residual.0", stride=stride), "residual.1").relu()
        a = reference.norm(reference.conv(a, "residual.3"), "residual.4").relu()
        b = rows
        if stride == 2:
            b = reference.norm(reference.conv(rows, "shortcut.0", stride=2), "shortcut.1").relu()
        torch.testing.assert_close(block(x).flatten(0, 1), join(a, b))


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ({}, False),
        ({"pooling": "average"}, True),
        ({"pooling": "average", "connect": "AND"}, False),
        ({"pooling": "average", "connect": "IAND"}, False),
    ],
)
def test_dsr_refuses_max_pooling_and_products_of_spikes_in_a_sentence(options, accepted):
    method = plugins.load("methods", "dsr")
    reason = method.skip(method.Config(), tiny.task("SEW-ResNet-18", **options))
    assert (reason is None) == accepted
    if not accepted:
        assert "dsr" in reason
        assert "SEW-ResNet-18" in reason


def test_sew_resnet_that_is_linear_between_neurons_trains_alike_on_rates_and_unrolled():
    gradients = []
    for gradient in ("representation", "unrolled"):
        of = tiny.task("SEW-ResNet-18", pooling="average")
        method, config, net = tiny.build("dsr", {"gradient": gradient, "readout": "linear", "v_threshold": 0.5}, of)
        net = net.double().eval()  # where no variance depends on time, both gradients are the same
        net.train()
        for module in net.modules():
            if type(module).__name__ == "BatchNorm":
                module.eval()
        x = tiny.moving(dtype=torch.float64)
        gradients.append(tiny.gradients(method, config, net, x, tiny.labels())[1])
    assert any(value.abs().sum() > 0 for value in gradients[0].values())
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], msg=name)


def test_every_network_is_listed_with_a_sentence_and_its_options():
    rows = listing.names("networks")
    assert {row["name"] for row in rows} == set(plugins.names("networks"))
    for row in rows:
        assert row["about"]
        assert all(f"{key}=" in row["options"] for key in catalog.config(task(row["name"])).model_dump())
