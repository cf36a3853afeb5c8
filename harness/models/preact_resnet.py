"""Residual networks whose norm and neuron stand before each convolution (He et al., 2016, arXiv:1603.05027).

    stem    3x3 convolution; for large images 7x7/2 convolution -> norm -> neuron -> average pooling 3x3/2
    block   x <- neuron(norm(x));  [conv -> norm -> neuron -> dropout -> conv](x) + shortcut(x)
    head    norm -> neuron -> mean of the map -> neuron -> dropout -> linear

The shortcut starts behind the neuron, so it carries spikes; where the shape changes it is a 1x1 convolution. A
bottleneck has three convolutions, 1x1, 3x3 and 1x1 to four times as many channels; its stride is the 3x3's.

Layers, biases and initial values are those of Meng et al., CVPR 2022 (arXiv:2205.00459, released code), whose forms for
small images ('cifar') and large ones ('imagenet') differ: convolutions have biases in the former only, and the 1x1
shortcut is normalised in the latter only. SLTT (arXiv:2302.14311) has no neuron behind the mean: `head_neuron: false`.
The depths 20 to 110 were never released: here they are the same block in three stages of 16, 32 and 64 channels.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from harness.contract import Task
from harness.models.layers import Activity, Conv2d, Dropout, Flatten, Linear, Parts
from harness.models.pooling import AdaptiveAvgPool2d, AvgPool2d
from harness.models.stages import Stages, convolutions, doubling, projection, widths_and_strides
from harness.models.weights import draw_kaiming

FEEDBACK = False
SMALL_IMAGE = 64
"""Pixels of the shorter side up to which `form: auto` is the one for small images."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: Stages = doubling(2, 2, 2, 2)
    """Number of blocks and channels of each stage; every stage but the first halves the map."""
    bottleneck: bool = False
    """Blocks of three convolutions, which put out four times the channels of their stage."""
    form: Literal["auto", "cifar", "imagenet"] = "auto"
    """Stem, biases and shortcut as for small or large images; auto: cifar up to 64 pixels."""
    head_neuron: bool = True
    """Neurons behind the mean of the last map too."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share that is dropped before the last convolution of each block and before the readout."""


def _cifar(depth: int) -> Config:
    num_blocks = (depth - 2) // 6
    return Config(stages=doubling(num_blocks, num_blocks, num_blocks, width=16))


NETWORKS = {
    "PreAct-ResNet-18": Config(),
    "PreAct-ResNet-34": Config(stages=doubling(3, 4, 6, 3)),
    "PreAct-ResNet-50": Config(stages=doubling(3, 4, 6, 3), bottleneck=True),
    **{f"PreAct-ResNet-{depth}": _cifar(depth) for depth in (20, 32, 44, 56, 110)},
}
SMALL = {"stages": ((1, 4), (1, 6))}


def build(config: Config, task: Task, parts: Parts) -> nn.Module:
    """The network, with the method's `parts`."""
    form = config.form
    if form == "auto":
        form = "cifar" if min(task.shape[1:]) <= SMALL_IMAGE else "imagenet"
    large = form == "imagenet"
    channels = config.stages[0][1]
    layers = _stem(task.shape[0], channels, large, parts)
    for width, stride in widths_and_strides(config.stages):
        block = Block(channels, width, stride, config, large=large, parts=parts)
        layers.append(block)
        channels = block.outputs
    layers += [parts.norm(channels), parts.neuron(), AdaptiveAvgPool2d(1)]
    if config.head_neuron:
        layers.append(parts.neuron())
    net = nn.Sequential(*layers, Flatten(), Dropout(config.dropout), Linear(channels, task.classes))
    draw_kaiming(net, zero_bias=False)
    nn.init.zeros_(net[-1].bias)  # type: ignore[arg-type]
    return net


def _stem(inputs: int, channels: int, large: bool, parts: Parts) -> list[nn.Module]:
    if not large:
        return [Conv2d(inputs, channels, 3, padding=1, bias=False)]
    convolution = Conv2d(inputs, channels, 7, stride=2, padding=3, bias=False)
    return [convolution, parts.norm(channels), parts.neuron(), AvgPool2d(3, stride=2, padding=1)]


class Block(nn.Module):
    """One residual block, as the module's docstring says."""

    def __init__(self, inputs: int, width: int, stride: int, config: Config, *, large: bool, parts: Parts) -> None:
        super().__init__()
        self.norm, self.neuron = parts.norm(inputs), parts.neuron()
        first, *others = convolutions(inputs, width, stride, bottleneck=config.bottleneck, bias=not large)
        layers: list[nn.Module] = [first]
        for convolution in others:
            layers += [parts.norm(width), parts.neuron(), convolution]
        layers.insert(-1, Dropout(config.dropout))
        self.residual = nn.Sequential(*layers)
        self.outputs = others[-1].out_channels
        self.shortcut = nn.Sequential()
        change = projection(inputs, self.outputs, stride, bias=not large)
        if change is not None:
            self.shortcut.append(change)
            if large:
                self.shortcut.append(parts.norm(self.outputs, branches=2))

    def forward(self, x: Activity) -> Activity:
        x = self.neuron(self.norm(x))
        return self.residual(x) + self.shortcut(x)
