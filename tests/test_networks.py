"""The published architectures: their sizes, and what they compute with ReLU against the same in plain torch."""

from collections import Counter
from itertools import pairwise
from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import listing, plugins
from harness.contract import Task
from harness.models import catalog
from harness.models.layers import Scale
from harness.models.rates import RateNeuron
from harness.models.weights import RELU_GAIN, standardised
from tests import tiny

CIFAR, DVS, IMAGENET = (3, 32, 32), (2, 48, 48), (3, 224, 224)


def task(network: str, shape: tuple[int, int, int] = CIFAR, classes: int = 10, **options) -> Task:
    return Task(
        shape=shape, classes=classes, time_steps=1, temporal=False, network=network, network_options=options
    )  # fmt: skip


def num_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


class Counted(nn.Module):
    """Neurons that write down how many they are."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(x[0, 0].numel())
        return x


def counted(of: Task) -> tuple[nn.Module, list[int]]:
    """A network without memory, and the sizes of its layers of neurons in the order in which they fire."""
    sizes: list[int] = []
    with torch.device("meta"):
        net = catalog.build(of, lambda: Counted(sizes)).eval()
        assert net(torch.empty(1, 1, *of.shape)).shape == (1, 1, of.classes)
    return net, sizes


@pytest.mark.parametrize(
    ("network", "shape", "classes", "parameters", "thresholds", "neurons"),
    [
        ("PreAct-ResNet-18", CIFAR, 10, 11_176_945, 19, 557_578),
        ("PreAct-ResNet-18", CIFAR, 100, 11_223_295, 19, 557_668),
        ("VGG-11", DVS, 10, 9_476_327, 9, 341_002),
    ],
)
def test_dsr_has_as_many_parameters_thresholds_and_neurons_as_published(
    network, shape, classes, parameters, thresholds, neurons
):
    method, config, net = tiny.build("dsr", {}, task(network, shape, classes))
    sizes = []
    layers = [module for module in net.modules() if isinstance(module, RateNeuron)]
    for layer in layers:
        layer.register_forward_hook(lambda layer, given, out: sizes.append(given[0].shape[1:].numel()))
    with torch.no_grad():
        method.predict(net.eval(), torch.zeros(1, 1, *shape), config)
    assert num_parameters(net) == parameters
    assert sum(layer.v_threshold.requires_grad for layer in layers) == thresholds
    assert (len(sizes), sum(sizes)) == (thresholds, neurons)


POST_ACTIVATION = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
"""Parameters of torchvision's residual networks at 1000 classes, as its documentation gives them."""


@pytest.mark.parametrize("depth", POST_ACTIVATION)
def test_sew_resnets_have_the_parameters_of_the_residual_networks_they_are_named_after(depth):
    net, _ = counted(task(f"SEW-ResNet-{depth}", IMAGENET, 1000))
    assert num_parameters(net) == POST_ACTIVATION[depth]


@pytest.mark.parametrize("depth", [34, 50])
def test_nf_resnets_have_gain_and_bias_where_others_have_a_norm_and_a_gain_for_each_block(depth):
    net, _ = counted(task(f"NF-ResNet-{depth}", IMAGENET, 1000))
    assert num_parameters(net) == POST_ACTIVATION[depth] + 16


@pytest.mark.parametrize("depth", [18, 34])
def test_preact_resnets_for_large_images_differ_from_post_activation_by_where_norms_stand(depth):
    # The first norm of a block sees its input, not its output, and there is one more behind the last block.
    net, sizes = counted(task(f"PreAct-ResNet-{depth}", IMAGENET, 1000))
    moved = (64 + 64 + 128 + 256) - (64 + 128 + 256 + 512)  # at the first block of each stage
    assert num_parameters(net) == POST_ACTIVATION[depth] + 2 * (moved + 512)
    assert len(sizes) == depth + 1


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_small_image_depths_count_layers_and_are_about_as_large_as_published(depth, millions):
    # He et al., 2016 (arXiv:1512.03385), table 6; theirs have no biases and no weights in shortcuts.
    net, sizes = counted(task(f"PreAct-ResNet-{depth}", head_neuron=False))
    shapes = Counter(module.kernel_size[0] for module in net.modules() if isinstance(module, nn.Conv2d))
    assert shapes[3] + 1 == depth
    assert len(sizes) == depth - 1
    assert num_parameters(net) / 1e6 == pytest.approx(millions, rel=0.03)


def test_vggs_have_the_parameters_of_their_layers():
    def convolutions(*channels: int, extra: int) -> int:
        return sum((9 * i + 1 + extra) * o for i, o in pairwise(channels))

    chain = (64, 128, 256, 256, 512, 512, 512, 512)
    tet, sizes = counted(task("VGGSNN", DVS))
    assert num_parameters(tet) == convolutions(2, *chain, extra=2) + (512 * 3 * 3 + 1) * 10
    assert sizes == [64 * 48**2, 128 * 48**2, *[256 * 24**2] * 2, *[512 * 12**2] * 2, *[512 * 6**2] * 2]
    ottt, _ = counted(task("VGG-sWS"))
    assert num_parameters(ottt) == convolutions(3, *chain, extra=1) + 513 * 10  # a gain each
    wu, sizes = counted(task("CIFARNet"))
    hidden = (512 * 8 * 8 + 3) * 1024 + (1024 + 3) * 512
    assert num_parameters(wu) == convolutions(3, 128, 256, 512, 1024, 512, extra=2) + hidden + 513 * 10
    assert sizes == [128 * 32**2, 256 * 32**2, 512 * 16**2, 1024 * 8**2, 512 * 8**2, 1024, 512]


def test_wide_7b_has_seven_blocks_and_pools_to_a_single_pixel():
    net, sizes = counted(task("Wide-7B", (2, 128, 128)))
    blocks = 4 * 2 * (9 * 64 + 2) * 64 + 3 * 2 * (9 * 128 + 2) * 128
    assert num_parameters(net) == (2 + 2) * 64 + (64 + 2) * 128 + blocks + (128 + 1) * 10
    assert len(sizes) == 2 + 2 * 7


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


def test_standardised_weights_are_the_formulas_and_so_are_their_gradients():
    torch.manual_seed(0)
    layer = standardised(nn.Conv2d(3, 4, 2).double())
    gain, weight = layer.parametrizations.weight[0].gain, layer.parametrizations.weight.original
    gain.data.uniform_(0.5, 2)
    for unit in range(4):
        values = weight[unit].flatten().tolist()
        mean = sum(values) / 12
        variance = sum((value - mean) ** 2 for value in values) / 11
        expected = [gain[unit].item() * (value - mean) / sqrt(variance * 12 + 1e-4) for value in values]
        assert layer.weight[unit].flatten().tolist() == pytest.approx(expected, rel=1e-12)

    def response(gain: Tensor, weight: Tensor) -> Tensor:
        swapped = {"parametrizations.weight.original": weight, "parametrizations.weight.0.gain": gain}
        return torch.func.functional_call(layer, swapped, (x,))

    x = torch.randn(1, 3, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(response, (gain, weight))


def test_a_unit_with_one_input_cannot_be_standardised():
    with pytest.raises(ValueError, match="one input"):
        standardised(nn.Linear(1, 3))


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


@pytest.mark.parametrize("depth", [34, 50])
def test_nf_resnets_expect_the_variance_that_blocks_add_up_to(depth):
    net, _ = counted(task(f"NF-ResNet-{depth}", IMAGENET, 1000))
    found = [1 / block.spikes[0].factor ** 2 for block in net if hasattr(block, "spikes")]
    stages = [1, 1.04, 1.08], [1.12, 1.04, 1.08, 1.12], [1.16, 1.04, 1.08, 1.12, 1.16, 1.2], [1.24, 1.04, 1.08]
    assert found == pytest.approx([value for stage in stages for value in stage])


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
