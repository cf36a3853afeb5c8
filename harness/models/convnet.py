"""Small convolutional networks: stages of [3x3 convolution -> batch norm -> neuron], each followed by 2x2 pooling.

After the stages: flatten -> linear. The pooling of a stage is left out where the image is smaller than 2x2.
"""

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from harness.contract import Task
from harness.models.layers import Conv2d, Dropout, Flatten, Linear, Parts
from harness.models.pooling import AvgPool2d

FEEDBACK = False


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[tuple[int, ...], ...] = Field(((32,), (64,)), min_length=1)
    """Channels of each convolution, stage by stage."""
    batch_norm: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of each stage's output that is dropped."""


NETWORKS = {"convnet": Config()}
SMALL = {"stages": ((4,), (6,))}


def build(config: Config, task: Task, parts: Parts) -> nn.Module:
    """The network, with the method's `parts`."""
    inputs, height, width = task.shape
    layers: list[nn.Module] = []
    for stage in config.stages:
        for channels in stage:
            layers.append(Conv2d(inputs, channels, 3, padding=1, bias=not config.batch_norm))
            if config.batch_norm:
                layers.append(parts.norm(channels))
            layers.append(parts.neuron())
            inputs = channels
        if min(height, width) >= 2:
            layers.append(AvgPool2d(2))
            height, width = height // 2, width // 2
        layers.append(Dropout(config.dropout))
    return nn.Sequential(*layers, Flatten(), Linear(inputs * height * width, task.classes))
