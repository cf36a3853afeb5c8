"""CIFAR-100: 60,000 colour photographs of 32x32 pixels in a hundred classes, read from the official batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import torchvision_cpu
from harness.contract import DatasetInfo, Sample
from harness.formats import cifar

INFO = DatasetInfo(
    title="CIFAR-100",
    shape=cifar.SHAPE,
    classes=100,
    sizes={"train": 50_000, "test": 10_000},
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="not stated",
    citation="Krizhevsky, Learning multiple layers of features from tiny images, technical report, "
    "University of Toronto, 2009",
    checksums={
        "train": "md5:16019d7e3df5f24257cddd939b257f8d",
        "test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
)


def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test', with their fine labels, from `root/cifar-100-python`."""
    return cifar.Images([root / "cifar-100-python" / split], "fine_labels", INFO.checksums)


def download(root: Path) -> None:
    """Fetch the official archive and unpack it into `root/cifar-100-python`; torchvision checks it."""
    torchvision_cpu.load("torchvision.datasets").CIFAR100(root, download=True)
