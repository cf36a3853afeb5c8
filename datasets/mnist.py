"""MNIST: 70,000 handwritten digits of 28x28 pixels, read from the official IDX files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.contract import DatasetInfo, Remote, Sample
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
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "http://yann.lecun.com/exdb/mnist")
FILES = tuple(
    Remote(f"MNIST/raw/{name}.gz", tuple(f"{mirror}/{name}.gz" for mirror in MIRRORS), f"md5:{md5}")
    for name, md5 in {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }.items()
)


def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test' from `root/MNIST/raw`, where the files may be gzipped."""
    return idx.Images(root / "MNIST" / "raw", "train" if split == "train" else "t10k", INFO.checksums)
