"""Residual networks that sum currents in front of the last neuron of each block, as STBP-tdBN and TET train them.

    block       neuron([conv -> norm -> neuron -> conv -> norm](x) + shortcut(x)); where the shape changes, the shortcut
                is 1x1 convolution -> norm; a norm in front of a sum is told so (`branches`)
    ResNet-19   for small images: 3x3 convolution -> norm -> neuron -> 3, 3 and 2 blocks of 128, 256 and 512 channels ->
                mean of the map -> linear to 256 -> neuron -> linear
    Spiking-ResNet-34   for large ones: 7x7/2 convolution -> norm -> neuron -> average pooling 3x3/2 -> blocks -> mean
                -> linear

Source: Zheng et al., AAAI 2021 (arXiv:2011.05280), and the networks that Deng et al., ICLR 2022 (arXiv:2202.11946),
compare on. Certain are the stages and channels of ResNet-19 and that it has two linear layers; that neurons stand
between these, and the average pooling of the large stem, are what later re-implementations have.
"""

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from harness.contract import Task
from harness.models.layers import Activity, Conv2d, Flatten, Linear, Parts
from harness.models.pooling import AdaptiveAvgPool2d, AvgPool2d
from harness.models.stages import Stages, convolutions, doubling, projection, widths_and_strides
from harness.models.weights import draw_kaiming

FEEDBACK = False


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: Stages = ((3, 128), (3, 256), (2, 512))
    """Number of blocks and channels of each stage; every stage but the first halves the map."""
    large_images: bool = False
    """A stem that makes the map four times smaller."""
    hidden: int | None = Field(256, ge=1)
    """Neurons between two linear layers behind the mean; None for one linear layer."""


NETWORKS = {
    "ResNet-19": Config(),
    "Spiking-ResNet-34": Config(stages=doubling(3, 4, 6, 3), large_images=True, hidden=None),
}
SMALL = {"stages": ((1, 4), (1, 6)), "hidden": 32}


def build(config: Config, task: Task, parts: Parts) -> nn.Module:
    """The network, with the method's `parts`."""
    channels = config.stages[0][1]
    size, stride = (7, 2) if config.large_images else (3, 1)
    stem = Conv2d(task.shape[0], channels, size, stride=stride, padding=size // 2, bias=False)
    layers: list[nn.Module] = [stem, parts.norm(channels), parts.neuron()]
    if config.large_images:
        layers.append(AvgPool2d(3, stride=2, padding=1))
    for width, stride in widths_and_strides(config.stages):
        layers.append(Block(channels, width, stride, parts))
        channels = width
    layers += [AdaptiveAvgPool2d(1), Flatten()]
    if config.hidden:
        layers += [Linear(channels, config.hidden), parts.neuron()]
        channels = config.hidden
    net = nn.Sequential(*layers, Linear(channels, task.classes))
    draw_kaiming(net, zero_bias=False)
    return net


class Block(nn.Module):
    """One residual block, as the module's docstring says."""

    def __init__(self, inputs: int, width: int, stride: int, parts: Parts) -> None:
        super().__init__()
        first, second = convolutions(inputs, width, stride, bottleneck=False, bias=False)
        self.residual = nn.Sequential(
            first, parts.norm(width), parts.neuron(), second, parts.norm(width, branches=2)
        )  # fmt: skip
        change = projection(inputs, width, stride, bias=False)
        self.shortcut = nn.Sequential(*([] if change is None else [change, parts.norm(width, branches=2)]))
        self.neuron = parts.neuron()

    def forward(self, x: Activity) -> Activity:
        return self.neuron(self.residual(x) + self.shortcut(x))
