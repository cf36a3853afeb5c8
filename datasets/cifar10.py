"""CIFAR-10: 60,000 colour photographs of 32x32 pixels in ten classes, read from the official batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.contract import DatasetInfo, Remote, Sample
from harness.formats import cifar

BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
INFO = DatasetInfo(
    title="CIFAR-10",
    shape=cifar.SHAPE,
    classes=10,
    sizes={"train": 50_000, "test": 10_000},
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="not stated",
    names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    citation="Krizhevsky, Learning multiple layers of features from tiny images, technical report, "
    "University of Toronto, 2009",
    checksums={
        "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
        "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
        "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "md5:40351d587109b95175f43aff81a1287e",
    },
)
ARCHIVE = "cifar-10-python.tar.gz"
FILES = (
    Remote(
        ARCHIVE,
        (f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",),
        "md5:c58f30108f718f92721af3b95e74349a",
        gives=("cifar-10-batches-py",),
    ),
)


def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test' from `root/cifar-10-batches-py`."""
    files = [root / "cifar-10-batches-py" / name for name in BATCHES[split]]
    return cifar.Images(files, "labels", INFO.checksums)
