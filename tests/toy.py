"""A tiny task, method and feed, so that the loop is tested without any plug-in."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.config import Train
from harness.contract import MethodConfig, StepOutput, Task
from harness.loop import Setup, Training


class Linear:
    """Softmax regression on the pixels, repeated over T."""

    Config = MethodConfig

    @staticmethod
    def build(config: MethodConfig, task: Task) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(4, task.classes))

    @staticmethod
    def train_step(net: nn.Module, x: Tensor, y: Tensor, config: MethodConfig, update) -> StepOutput:
        logits = net(x[0])
        loss = F.cross_entropy(logits, y)
        loss.backward()
        update()
        return StepOutput(loss.detach(), logits.detach(), {"seen": float(len(x[0]))})

    @staticmethod
    def predict(net: nn.Module, x: Tensor, config: MethodConfig) -> Tensor:
        return net(x[0]).expand(len(x), -1, -1)


class Explicit(Linear):
    """The same with gradients averaged in `update()`."""

    REDUCE = "explicit"


class Points:
    """Two separable clouds of 2x2 images; the training part is sharded over workers as `data.loader` does it."""

    sizes = {"train": 64, "validation": 30, "test": 30}

    def batches(
        self, part: str, batch_size: int, *, epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1,
        augmented: bool = True, start: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
        size = self.sizes[part]
        generator = torch.Generator().manual_seed(list(self.sizes).index(part))
        y = torch.arange(size) % 2
        x = torch.randn(size, 1, 2, 2, generator=generator) + 2 * y[:, None, None, None]
        order = torch.arange(size)
        if part == "train":
            order = torch.randperm(size, generator=torch.Generator().manual_seed(1000 * seed + epoch))
            order = order[: size // batch_size * batch_size]
            order, batch_size = order[start * batch_size :], batch_size // world
        for index in order[rank::world].split(batch_size):
            yield x[index], y[index]


TASK = Task(shape=(1, 2, 2), classes=2, time_steps=3, temporal=False, network="none")


def training(
    method: type = Linear, *, selection: str = "last", rank: int = 0, world: int = 1, weights=None, **recipe
) -> Training:
    """A training of the toy task with a recipe of a few epochs; fresh, or from `weights`."""
    return Training(
        Setup(
            method=method, config=MethodConfig(), task=TASK, recipe=Train(**{"epochs": 4, "batch_size": 16} | recipe),
            feed=Points(), seed=3, selection=selection, rank=rank, world=world, weights=weights,
        )
    )  # fmt: skip
