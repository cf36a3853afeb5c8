"""How large published networks are, without the memory that they take."""

import torch
from torch import Tensor, nn

from harness.contract import Task
from harness.models import catalog

CIFAR, DVS, IMAGENET = (3, 32, 32), (2, 48, 48), (3, 224, 224)


def task(network: str, shape: tuple[int, int, int] = CIFAR, classes: int = 10, **options) -> Task:
    return Task(
        shape=shape, classes=classes, time_steps=1, temporal=False, network=network, network_options=options
    )  # fmt: skip


def num_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


class Counted(nn.Module):
    """Neurons that write down how many they are."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(x[0, 0].numel())
        return x


def counted(of: Task) -> tuple[nn.Module, list[int]]:
    """A network without memory, and the sizes of its layers of neurons in the order in which they fire."""
    sizes: list[int] = []
    with torch.device("meta"):
        net = catalog.build(of, lambda: Counted(sizes)).eval()
        assert net(torch.empty(1, 1, *of.shape)).shape == (1, 1, of.classes)
    return net, sizes
