"""CONVERSION: a trained ordinary network becomes a spiking one without training. What training spikes is worth.

The weights are those of `ann`, taken over by `start`. IF neurons with soft reset stand in the places of its activations
and emit theta a spike, so that over T steps of constant input x a neuron emits on average

    theta clip(floor(x T / theta + v_0 / theta) / T, 0, 1)      v_0 = theta / 2, the potential at the start

which is QCFS with L = T (Bu et al., ICLR 2022) and tends to clip(x, 0, theta). theta is QCFS's trained one, or for a
ReLU a percentile of its values on training images ("threshold balancing", Rueckauer et al., 2017). Scores at t are the
mean of the last layer over steps 1..t. What is left of the error is that a deeper layer's input is not constant.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harness.contract import MethodConfig, StepOutput, Task, Update, setting
from harness.models import catalog, converted, transfer
from harness.models.analog import rectified
from harness.models.neurons import running_rates

TRAINED = False
CALIBRATION = {"calibration_percentile": 99.9, "calibration_batches": 5}


class Config(MethodConfig):
    initial_potential: float = setting(
        0.5, "potential at the start, in thresholds", ge=0, lt=1, source="Bu et al., ICLR 2022"
    )
    calibration_percentile: float | None = setting(
        None, "of a ReLU's values: the threshold in its place; None: 99.9 (relu)", gt=0, le=100,
        source="Rueckauer et al., 2017",
    )  # fmt: skip
    calibration_batches: int | None = setting(
        None, "training batches that it is taken from; None: 5 (relu)", ge=1, source="as in DSR's warm start"
    )


class Network(nn.Module):
    """An architecture of IF neurons: x (T, B, C, H, W) -> scores (T, B, K)."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        self.body = catalog.build(task, lambda: converted.ConvertedNeuron(config.initial_potential))
        self.readout = rectified(task.classes) if _of_origin(task, "readout") == "rectified" else nn.Identity()

    def forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B K"]:
        return self.readout(torch.stack(list(running_rates(self.body(x)))))


def _of_origin(task: Task, key: str) -> Any:
    return task.start.settings.get(key) if task.start else None


def skip(config: Config, task: Task) -> str | None:
    if catalog.has_feedback(task):
        return f"conversion takes over feed-forward networks; {task.network} has feedback"
    if not catalog.is_linear(task):
        return f"conversion needs linear layers between neurons; {task.network} has max pooling or multiplies spikes"
    if task.start and _of_origin(task, "activation") not in ("relu", "qcfs"):
        return f"conversion needs a network of relu or qcfs activations to start from; '{task.start.method}' has none"
    return None


def resolve(config: Config, task: Task) -> Config:
    given = {key: getattr(config, key) for key in CALIBRATION if getattr(config, key) is not None}
    match _of_origin(task, "activation"):
        case "relu":
            return config.model_copy(update=CALIBRATION | given)
        case "qcfs" if given:
            raise ValueError(f"without effect, since activation: qcfs brings its thresholds: {', '.join(given)}")
    return config


def start(net: nn.Module, trained: dict[str, Tensor], batches: Iterable[Tensor], config: Config) -> None:
    if config.calibration_percentile is None:
        transfer.load(net, trained)
    else:
        transfer.load(net, trained, own=converted.thresholds(net))
        converted.balance(net, islice(batches, config.calibration_batches), config.calibration_percentile)


def build(config: Config, task: Task) -> nn.Module:
    return Network(config, task)


def train_step(net: nn.Module, x: Tensor, y: Tensor, config: Config, update: Update) -> StepOutput:
    raise NotImplementedError("conversion trains nothing")


def predict(net: nn.Module, x: Tensor, config: Config) -> Tensor:
    return net(x)
