"""ANN: the same architecture with ReLU where the others have neurons. What spikes cost in accuracy is told from it.

An input that changes over time is averaged over its steps.

`activation: qcfs` trains for a conversion to spikes: the activation takes only the values that a firing rate over L
steps can have, below a trained threshold (Bu et al., ICLR 2022; see `models/analog.py`). `readout: rectified` puts
batch norm and ReLU behind the last layer, as DSR's warm start wants it (arXiv:2205.00459, released code).
"""

from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from harness.contract import MethodConfig, Search, StepOutput, Task, Update, setting
from harness.models import catalog
from harness.models.analog import ClipFloorShift, averaged, rectified

SPIKING = False
QCFS = {"levels": 4, "initial_threshold": 8.0}
SOURCE = "Bu et al., ICLR 2022"


class Config(MethodConfig):
    activation: Literal["relu", "qcfs"] = setting(
        "relu", "in place of the neurons; qcfs: quantisation clip-floor-shift", source=SOURCE, later=True
    )
    levels: int | None = setting(
        None, "steps of the quantisation, L; None: 4 (qcfs)", ge=1, source=SOURCE, search=Search(choices=(2, 4, 8, 16)),
        later=True,
    )  # fmt: skip
    initial_threshold: float | None = setting(
        None, "theta before training; None: 8 (qcfs)", gt=0, source="released code", search=Search(1, 16, log=True),
        later=True,
    )  # fmt: skip
    readout: Literal["linear", "rectified"] = setting(
        "linear", "scores: the last layer, or batch norm and ReLU behind it", source="arXiv:2205.00459", later=True
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("activation") == "qcfs":
            return QCFS | {key: value for key, value in given.items() if value is not None}
        if useless := [key for key in QCFS if given.get(key) is not None]:
            raise ValueError(f"{' and '.join(useless)} belong to activation: qcfs; a ReLU has none")
        return given


class Network(nn.Module):
    """An architecture of ReLUs or their like: x (T, B, C, H, W) -> scores (B, K)."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        self.config = config
        self.body = catalog.build(task, self._activation)
        self.readout = rectified(task.classes) if config.readout == "rectified" else nn.Identity()

    def _activation(self) -> nn.Module:
        levels, theta = self.config.levels, self.config.initial_threshold
        return nn.ReLU() if levels is None or theta is None else ClipFloorShift(levels, theta)

    def forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "B K"]:
        return self.readout(self.body(averaged(x)))[0]


def skip(config: Config, task: Task) -> str | None:
    return f"ann trains feed-forward networks; {task.network} has feedback" if catalog.has_feedback(task) else None


def build(config: Config, task: Task) -> nn.Module:
    return Network(config, task)


def train_step(net: nn.Module, x: Tensor, y: Tensor, config: Config, update: Update) -> StepOutput:
    logits = net(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    update()
    return StepOutput(loss.detach(), logits.detach())


def predict(net: nn.Module, x: Tensor, config: Config) -> Tensor:
    logits = net(x)
    return logits.expand(len(x), *logits.shape)  # T B K
