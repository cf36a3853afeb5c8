"""Spike-element-wise residual networks: a block joins spikes, not currents.

    block     g([conv -> norm -> neuron] x 2 (x), shortcut(x))      g = a + b, a * b or (1 - a) * b on spikes a, b
    shortcut  identity; where the shape changes 1x1 convolution -> norm -> neuron
    SEW-ResNet-18 ... -152   7x7/2 convolution -> norm -> neuron -> max pooling 3x3/2 -> stages, all but the first of
                             which start with stride 2 -> mean of the map -> linear. A bottleneck has 1x1, 3x3 and 1x1
                             convolutions, the last to four times as many channels; its stride is the 3x3's
    Wide-7B                  for event data of 128x128: seven stages of [1x1 convolution -> norm -> neuron, where the
                             number of channels changes -> block -> max pooling 2x2] -> flatten -> linear

With ADD, the sum of spikes can be larger than 1. Source: Fang et al., NeurIPS 2021 (arXiv:2102.04159); layers and
initial values are those of the authors' released code.
"""

from math import prod
from typing import Literal, assert_never

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from harness.contract import Task
from harness.models.layers import Activity, Conv2d, Flatten, Linear, Parts
from harness.models.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from harness.models.stages import EXPANSION, Stages, convolutions, doubling, projection, widths_and_strides
from harness.models.weights import draw_kaiming

FEEDBACK = False
WINDOW = 2
Connect = Literal["ADD", "AND", "IAND"]
Pooling = Literal["max", "average"]


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: Stages = doubling(2, 2, 2, 2)
    """Number of blocks and channels of each stage."""
    bottleneck: bool = False
    """Blocks of three convolutions, which put out four times the channels of their stage."""
    connect: Connect = "ADD"
    """How a block joins its spikes a and the shortcut's b: a + b, a * b or (1 - a) * b."""
    pooling: Pooling = "max"
    form: Literal["images", "events"] = "images"
    """Shrink the map by a stem and by strides, or by pooling behind each stage."""


NETWORKS = {
    "SEW-ResNet-18": Config(),
    "SEW-ResNet-34": Config(stages=doubling(3, 4, 6, 3)),
    "SEW-ResNet-50": Config(stages=doubling(3, 4, 6, 3), bottleneck=True),
    "SEW-ResNet-101": Config(stages=doubling(3, 4, 23, 3), bottleneck=True),
    "SEW-ResNet-152": Config(stages=doubling(3, 8, 36, 3), bottleneck=True),
    "Wide-7B": Config(stages=((1, 64),) * 4 + ((1, 128),) * 3, form="events"),
}
SMALL = {"stages": ((1, 4), (1, 6))}


def linear(config: Config) -> bool:
    """Whether all that stands between neurons is linear: not so with max pooling or a product of spikes."""
    return config.connect == "ADD" and config.pooling == "average"


def build(config: Config, task: Task, parts: Parts) -> nn.Module:
    """The network, with the method's `parts`."""
    net = _for_images(config, task, parts) if config.form == "images" else _for_events(config, task, parts)
    draw_kaiming(net, zero_bias=False)
    return net


def _for_images(config: Config, task: Task, parts: Parts) -> nn.Sequential:
    channels = config.stages[0][1]
    layers = _spiking(Conv2d(task.shape[0], channels, 7, stride=2, padding=3, bias=False), parts)
    layers.append(_pool(config.pooling, 3, stride=2, padding=1))
    for width, stride in widths_and_strides(config.stages):
        block = Block(channels, width, stride, config, parts)
        layers.append(block)
        channels = block.outputs
    return nn.Sequential(*layers, AdaptiveAvgPool2d(1), Flatten(), Linear(channels, task.classes))


def _for_events(config: Config, task: Task, parts: Parts) -> nn.Sequential:
    channels, *pixels = task.shape
    layers: list[nn.Module] = []
    for num_blocks, width in config.stages:
        outputs = EXPANSION * width if config.bottleneck else width
        if channels != outputs:
            layers += _spiking(Conv2d(channels, outputs, 1, bias=False), parts)
            channels = outputs
        layers += [Block(channels, width, 1, config, parts) for _ in range(num_blocks)]
        if min(pixels) >= WINDOW:
            layers.append(_pool(config.pooling, WINDOW))
            pixels = [side // WINDOW for side in pixels]
    return nn.Sequential(*layers, Flatten(), Linear(channels * prod(pixels), task.classes))


class Block(nn.Module):
    """One residual block, as the module's docstring says."""

    def __init__(self, inputs: int, width: int, stride: int, config: Config, parts: Parts) -> None:
        super().__init__()
        self.connect = config.connect
        chain = convolutions(inputs, width, stride, bottleneck=config.bottleneck, bias=False)
        self.residual = nn.Sequential(*(layer for convolution in chain for layer in _spiking(convolution, parts)))
        self.outputs = chain[-1].out_channels
        change = projection(inputs, self.outputs, stride, bias=False)
        self.shortcut = nn.Sequential(*([] if change is None else _spiking(change, parts)))

    def forward(self, x: Activity) -> Activity:
        a, b = self.residual(x), self.shortcut(x)
        if self.connect == "ADD":
            return a + b
        assert isinstance(a, Tensor), "products of spikes take plain tensors only"
        match self.connect:
            case "AND":
                return a * b
            case "IAND":
                return (1 - a) * b
            case unknown:
                assert_never(unknown)


def _spiking(convolution: Conv2d, parts: Parts) -> list[nn.Module]:
    return [convolution, parts.norm(convolution.out_channels), parts.neuron()]


def _pool(pooling: Pooling, size: int, *, stride: int | None = None, padding: int = 0) -> nn.Module:
    kind = MaxPool2d if pooling == "max" else AvgPool2d
    return kind(size, stride=stride, padding=padding)
