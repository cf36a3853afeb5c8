"""The published architectures have as many parameters and neurons as published."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import nn

from harness.models.rates import RateNeuron
from tests import tiny
from tests.counting import CIFAR, DVS, IMAGENET, counted, num_parameters, task


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


@pytest.mark.parametrize("depth", [34, 50])
def test_nf_resnets_expect_the_variance_that_blocks_add_up_to(depth):
    net, _ = counted(task(f"NF-ResNet-{depth}", IMAGENET, 1000))
    found = [1 / block.spikes[0].factor ** 2 for block in net if hasattr(block, "spikes")]
    stages = [1, 1.04, 1.08], [1.12, 1.04, 1.08, 1.12], [1.16, 1.04, 1.08, 1.12, 1.16, 1.2], [1.24, 1.04, 1.08]
    assert found == pytest.approx([value for stage in stages for value in stage])


def test_spiking_resnet_34_has_the_parameters_of_the_residual_network():
    net, sizes = counted(task("Spiking-ResNet-34", IMAGENET, 1000))
    assert num_parameters(net) == POST_ACTIVATION[34]
    assert len(sizes) == 33


def test_resnet_19_has_19_layers_with_weights_beside_its_shortcuts_and_its_size_by_hand():
    net, sizes = counted(task("ResNet-19", CIFAR, 10))
    stage = [(3, 128, 128), (3, 128, 256), (2, 256, 512)]
    weights = 3 * 9 * 128 + 2 * 128
    for blocks, before, width in stage:
        for block in range(blocks):
            inputs = before if block == 0 else width
            weights += 9 * inputs * width + 9 * width * width + 4 * width
            weights += inputs * width + 2 * width if inputs != width else 0
    assert num_parameters(net) == weights + 513 * 256 + 257 * 10
    # 1 in the stem, 2 in each of 8 blocks, 1 in front of the last linear layer
    assert [len(sizes), sum(sizes)] == [18, 7 * 128 * 32**2 + 6 * 256 * 16**2 + 4 * 512 * 8**2 + 256]
