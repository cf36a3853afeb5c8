"""MNIST: 70,000 handwritten digits of 28x28 pixels, read from the official IDX files."""

import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness import torchvision_cpu
from harness.contract import DatasetInfo, Sample

INFO = DatasetInfo(
    title="MNIST",
    shape=(1, 28, 28),
    classes=10,
    temporal=False,
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


class Images(Sequence[Sample]):
    """One split; the files are read when the first sample is asked for."""

    def __init__(self, images: Path, labels: Path):
        self._files = images, labels
        self._arrays: tuple[np.ndarray, np.ndarray] | None = None

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        if self._arrays is None:
            images, labels = self._files
            self._arrays = read_idx(images)[:, None], read_idx(labels)  # N C H W and N
        return self._arrays

    def __len__(self) -> int:
        return len(self._read()[1])

    def __getitem__(self, index: Any) -> Any:
        images, labels = self._read()
        return images[index], int(labels[index])


def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test' from `root/MNIST/raw`, where the files may be gzipped."""
    prefix = "train" if split == "train" else "t10k"
    return Images(_find(root, f"{prefix}-images-idx3-ubyte"), _find(root, f"{prefix}-labels-idx1-ubyte"))


def download(root: Path) -> None:
    """Fetch the official files into `root/MNIST/raw`; torchvision checks them."""
    torchvision_cpu.load("torchvision.datasets").MNIST(root, download=True)


def read_idx(file: Path) -> np.ndarray:
    """Return the array in an IDX file of bytes, gzipped or not, of shape (N,) or (N, H, W).

    Raises ValueError when it is not the official file.
    """
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    expected = INFO.checksums[file.name.removesuffix(".gz")]
    if f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}" != expected:
        raise ValueError(f"{file} is damaged: its content does not have the checksum {expected}")
    axes = content[3]
    shape = np.frombuffer(content, ">i4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _find(root: Path, name: str) -> Path:
    folder = root / "MNIST" / "raw"
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise FileNotFoundError(f"no {name} or {name}.gz in {folder}")
