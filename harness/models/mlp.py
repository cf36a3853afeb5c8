"""Fully connected networks: flatten -> [linear -> batch norm -> neuron -> dropout] for each hidden layer -> linear."""

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from harness.contract import Task
from harness.models.layers import BatchNorm, Dropout, Flatten, Linear, Neuron

FEEDBACK = False


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: tuple[int, ...] = Field((800,), min_length=1)
    """Neurons of each hidden layer."""
    batch_norm: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of each hidden layer's output that is dropped."""


NETWORKS = {"mlp": Config()}


def build(config: Config, task: Task, neuron: Neuron) -> nn.Module:
    """The network, with a neuron made by `neuron()` at each site."""
    channels, height, width = task.shape
    inputs = channels * height * width
    layers: list[nn.Module] = [Flatten()]
    for units in config.hidden:
        layers.append(Linear(inputs, units, bias=not config.batch_norm))
        if config.batch_norm:
            layers.append(BatchNorm(units))
        layers += [neuron(), Dropout(config.dropout)]
        inputs = units
    return nn.Sequential(*layers, Linear(inputs, task.classes))
