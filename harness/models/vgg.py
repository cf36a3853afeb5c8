"""Convolutional networks without shortcuts: 3x3 convolutions and 2x2 average pooling, in the order that is listed.

    [convolution -> norm -> neuron -> dropout] or pooling, ... -> flatten -> [linear -> norm -> neuron -> dropout] ...
    -> linear

'VGG-11'   for event data, as in DSR (arXiv:2205.00459) and SLTT (arXiv:2302.14311): its last map grows to 7x7 before
           the readout, which is 49 copies of one pixel for images of 48x48
'VGGSNN'   of TET (arXiv:2202.11946)
'VGG-sWS'  of OTTT (arXiv:2210.04195): no norm, weights standardised, and all spikes times 2.74
'CIFARNet' of STBP with NeuNorm (Wu et al., AAAI 2019, arXiv:1809.05793). Its layers were read in others' code, not in
           the paper; for its NeuNorm there is the method's norm, and for its voting neurons the linear readout

Pooling is left out where the map is smaller than its window.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import nn

from harness.contract import Task
from harness.models.layers import Conv2d, Dropout, Flatten, Linear, Parts, Scale
from harness.models.pooling import AdaptiveAvgPool2d, AvgPool2d
from harness.models.weights import RELU_GAIN, draw_kaiming, standardised

FEEDBACK = False
WINDOW = 2


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[PositiveInt | Literal["pool"], ...] = Field(min_length=1)
    """Channels of each convolution, and where pooling stands between them."""
    last_map: int | None = Field(None, ge=1)
    """Pixels a side that the last map is averaged, or copied, to before it is flattened; None: as it is."""
    hidden: tuple[PositiveInt, ...] = ()
    """Neurons of fully connected layers before the readout."""
    weight_standardisation: bool = False
    """Standardise weights and multiply spikes by 2.74 instead of normalising currents."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of each layer's output that is dropped."""
    readout_std: float | None = Field(None, gt=0)
    """The readout's weights are drawn from N(0, readout_std^2), its bias is 0; None: as torch does."""


NETWORKS = {
    "VGG-11": Config(
        layers=(64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"),
        last_map=7, dropout=0.1, readout_std=0.01,
    ),
    "VGGSNN": Config(layers=(64, 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")),
    "VGG-sWS": Config(
        layers=(64, 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512),
        last_map=1, weight_standardisation=True, readout_std=0.01,
    ),
    "CIFARNet": Config(layers=(128, 256, "pool", 512, "pool", 1024, 512), hidden=(1024, 512)),
}  # fmt: skip
SMALL = {"layers": (4, "pool", 6, "pool"), "hidden": ()}


def build(config: Config, task: Task, parts: Parts) -> nn.Module:
    """The network, with the method's `parts`."""
    inputs, height, width = task.shape
    layers: list[nn.Module] = []
    for entry in config.layers:
        if entry != "pool":
            layers += _spiking(Conv2d(inputs, entry, 3, padding=1), entry, config, parts)
            inputs = entry
        elif min(height, width) >= WINDOW:
            layers.append(AvgPool2d(WINDOW))
            height, width = height // WINDOW, width // WINDOW
    if config.last_map is not None:
        layers.append(AdaptiveAvgPool2d(config.last_map))
        height = width = config.last_map
    layers.append(Flatten())
    inputs *= height * width
    for units in config.hidden:
        layers += _spiking(Linear(inputs, units), units, config, parts)
        inputs = units
    readout = Linear(inputs, task.classes)
    net = nn.Sequential(*layers, readout)
    draw_kaiming(net, zero_bias=True)
    if config.readout_std is not None:
        nn.init.normal_(readout.weight, std=config.readout_std)
        nn.init.zeros_(readout.bias)
    return net


def _spiking(layer: Conv2d | Linear, channels: int, config: Config, parts: Parts) -> list[nn.Module]:
    """A layer with weights and the neurons that it drives."""
    dropout = Dropout(config.dropout)
    if config.weight_standardisation:
        return [standardised(layer), parts.neuron(), Scale(RELU_GAIN), dropout]
    return [layer, parts.norm(channels), parts.neuron(), dropout]
