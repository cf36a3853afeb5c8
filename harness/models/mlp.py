"""Fully connected networks: flatten -> [linear -> batch norm -> neuron -> dropout] for each hidden layer -> linear."""

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from harness.contract import Task
from harness.models.layers import Dropout, Flatten, Linear, Parts

FEEDBACK = False


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: tuple[int, ...] = Field((800,), min_length=1)
    """Neurons of each hidden layer."""
    batch_norm: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of each hidden layer's output that is dropped."""


NETWORKS = {"mlp": Config()}
SMALL = {"hidden": (12,)}


def build(config: Config, task: Task, parts: Parts) -> nn.Module:
    """The network, with the method's `parts`."""
    channels, height, width = task.shape
    inputs = channels * height * width
    layers: list[nn.Module] = [Flatten()]
    for units in config.hidden:
        layers.append(Linear(inputs, units, bias=not config.batch_norm))
        if config.batch_norm:
            layers.append(parts.norm(units))
        layers += [parts.neuron(), Dropout(config.dropout)]
        inputs = units
    return nn.Sequential(*layers, Linear(inputs, task.classes))
