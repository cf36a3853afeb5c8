"""Fashion-MNIST: 70,000 pictures of clothes of 28x28 pixels, read from the official IDX files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.contract import DatasetInfo, Remote, Sample
from harness.formats import idx

INFO = DatasetInfo(
    title="Fashion-MNIST",
    shape=(1, 28, 28),
    classes=10,
    sizes={"train": 60_000, "test": 10_000},
    mean=(0.2860,),
    std=(0.3530,),
    source="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    names=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    citation="Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning "
    "algorithms, arXiv:1708.07747, 2017",
    checksums={
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
)
MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FILES = tuple(
    Remote(f"FashionMNIST/raw/{name}", (f"{MIRROR}/{name}",), checksum) for name, checksum in INFO.checksums.items()
)


def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test' from the gzipped files in `root/FashionMNIST/raw`."""
    return idx.Images(root / "FashionMNIST" / "raw", "train" if split == "train" else "t10k", INFO.checksums)
