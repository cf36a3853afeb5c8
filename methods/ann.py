"""ANN: the same architecture with ReLU where the others have neurons. What spikes cost in accuracy is told from it.

An input that changes over time is averaged over its steps.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harness.contract import MethodConfig, StepOutput, Task, Update
from harness.models import catalog

SPIKING = False


class Config(MethodConfig):
    """An ordinary network has no hyperparameters of its own."""


class Network(nn.Module):
    """An architecture of ReLUs: x (T, B, C, H, W) -> scores (B, K)."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.body = catalog.build(task, nn.ReLU)

    def forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "B K"]:
        still = x[:1] if x.stride(0) == 0 else x.mean(0, keepdim=True)
        return self.body(still)[0]


def skip(config: Config, task: Task) -> str | None:
    return f"ann trains feed-forward networks; {task.network} has feedback" if catalog.has_feedback(task) else None


def build(config: Config, task: Task) -> nn.Module:
    return Network(task)


def train_step(net: nn.Module, x: Tensor, y: Tensor, config: Config, update: Update) -> StepOutput:
    logits = net(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    update()
    return StepOutput(loss.detach(), logits.detach())


def predict(net: nn.Module, x: Tensor, config: Config) -> Tensor:
    logits = net(x)
    return logits.expand(len(x), *logits.shape)  # T B K
