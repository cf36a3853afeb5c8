"""MNIST: 70,000 handwritten digits of 28x28 pixels, read from the official IDX files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import torchvision_cpu
from harness.contract import DatasetInfo, Sample
from harness.formats import idx

INFO = DatasetInfo(
    title="MNIST",
    shape=(1, 28, 28),
    classes=10,
    sizes={"train": 60_000, "test": 10_000},
    mean=(0.1307,),
    std=(0.3081,),
    source="https://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0",
    citation="LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, "
    "Proceedings of the IEEE 86(11), 1998",
    checksums={  # of the files as they are after unpacking
        "train-images-idx3-ubyte": "md5:6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "md5:a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "md5:2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "md5:27ae3e4e09519cfbb04c329615203637",
    },
)


def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test' from `root/MNIST/raw`, where the files may be gzipped."""
    return idx.Images(root / "MNIST" / "raw", "train" if split == "train" else "t10k", INFO.checksums)


def download(root: Path) -> None:
    """Fetch the official files into `root/MNIST/raw`; torchvision checks them."""
    torchvision_cpu.load("torchvision.datasets").MNIST(root, download=True)
