"""Residual networks without norms (Brock et al., ICLR 2021, arXiv:2101.08692) as OTTT and SLTT train them on ImageNet.

    stem   7x7/2 convolution -> average pooling 3x3/2
    block  z = 2.74 * neuron(x / beta);   x <- shortcut + alpha * g * [conv -> neuron -> * 2.74 -> conv](z)
    head   mean of the map -> dropout -> linear

The shortcut is x itself, currents and not spikes; where the shape changes it is a 1x1 convolution of z. A bottleneck
has 1x1, 3x3 and 1x1 convolutions, the last to four times as many channels; its stride is the 3x3's. All convolutions
have standardised weights and biases; g is a trained number of each block that starts at 0. beta is the deviation that
x is expected to have: its square is 1 at first, grows by alpha^2 with every block, and is 1 + alpha^2 behind a block
with a 1x1 shortcut.

Layers, constants and initial values were read in the released code of OTTT (arXiv:2210.04195) and SLTT
(arXiv:2302.14311), which agree; OTTT's stochastic depth, which both leave off, is not here.
"""

from math import sqrt

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from harness.contract import Task
from harness.models.layers import Activity, Conv2d, Dropout, Flatten, Linear, Parts, Scale
from harness.models.pooling import AdaptiveAvgPool2d, AvgPool2d
from harness.models.stages import Stages, convolutions, doubling, projection, widths_and_strides
from harness.models.weights import RELU_GAIN, draw_kaiming, skip_init, standardised

FEEDBACK = False


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: Stages = doubling(3, 4, 6, 3)
    """Number of blocks and channels of each stage; every stage but the first halves the map."""
    bottleneck: bool = False
    """Blocks of three convolutions, which put out four times the channels of their stage."""
    alpha: float = Field(0.2, gt=0)
    """Scale of what a block adds to its shortcut."""
    initial_gain: float = Field(1.0, gt=0)
    """What all gains start at; 1 keeps currents near variance 1, for thresholds near 1."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share that is dropped before the readout."""
    zero_readout: bool = True
    """The readout's weights start at 0, so that all classes score alike; false: as torch draws them."""


NETWORKS = {"NF-ResNet-34": Config(), "NF-ResNet-50": Config(bottleneck=True)}
SMALL = {"stages": ((1, 4), (1, 6)), "initial_gain": 8.0, "zero_readout": False}


def build(config: Config, task: Task, parts: Parts) -> nn.Module:
    """The network, with the method's `parts`, of which it uses the neuron alone."""
    channels, variance = config.stages[0][1], 1.0
    stem = standardised(Conv2d(task.shape[0], channels, 7, stride=2, padding=3), config.initial_gain)
    layers: list[nn.Module] = [stem, AvgPool2d(3, stride=2, padding=1)]
    for width, stride in widths_and_strides(config.stages):
        block = Block(channels, width, stride, config, beta=sqrt(variance), parts=parts)
        layers.append(block)
        channels = block.outputs
        variance = (variance if block.shortcut is None else 1.0) + config.alpha**2
    readout = Linear(channels, task.classes)
    net = nn.Sequential(*layers, AdaptiveAvgPool2d(1), Flatten(), Dropout(config.dropout), readout)
    draw_kaiming(net, zero_bias=True)
    if config.zero_readout:
        nn.init.zeros_(readout.weight)
    return net


class Block(nn.Module):
    """One residual block, as the module's docstring says."""

    def __init__(self, inputs: int, width: int, stride: int, config: Config, *, beta: float, parts: Parts) -> None:
        super().__init__()
        chain = convolutions(inputs, width, stride, bottleneck=config.bottleneck, bias=True)
        first, *others = (standardised(convolution, config.initial_gain) for convolution in chain)
        layers: list[nn.Module] = [first]
        for convolution in others:
            layers += [parts.neuron(), Scale(RELU_GAIN), convolution]
        skip_init(others[-1], config.alpha)
        self.spikes = nn.Sequential(Scale(1 / beta), parts.neuron(), Scale(RELU_GAIN))
        self.residual = nn.Sequential(*layers)
        self.outputs = chain[-1].out_channels
        change = projection(inputs, self.outputs, stride, bias=True)
        self.shortcut = None if change is None else standardised(change, config.initial_gain)

    def forward(self, x: Activity) -> Activity:
        z = self.spikes(x)
        return (x if self.shortcut is None else self.shortcut(z)) + self.residual(z)
