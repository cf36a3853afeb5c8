"""Digits: 1,797 handwritten digits of 8x8 pixels that come with scikit-learn; nothing to download.

There is no official split: sorted by class, every fifth image is test, so that each class is split 4 to 1.
"""

import gzip
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.contract import DatasetInfo, Sample

INFO = DatasetInfo(
    title="Digits",
    shape=(1, 8, 8),
    classes=10,
    sizes={"train": 1437, "test": 360},
    mean=(0.3058,),
    std=(0.3761,),
    source="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    licence="CC BY 4.0",
    citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998",
)


def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test'. `root` is not looked at."""
    table = _table()
    labels = table[:, -1].astype(np.int64)
    images = np.rint(table[:, :-1] * 255 / 16).astype(np.uint8).reshape(-1, *INFO.shape)  # N C H W
    test = np.zeros(len(labels), dtype=bool)
    test[np.argsort(labels, kind="stable")[::5]] = True
    chosen = np.flatnonzero(test if split == "test" else ~test)
    return [(images[index], int(labels[index])) for index in chosen]


def _table() -> np.ndarray:
    """The file behind `sklearn.datasets.load_digits`: 64 pixels of 0 to 16 and the class in each row.

    Read directly, because importing scikit-learn takes longer than everything else here.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise FileNotFoundError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        return np.loadtxt(file, delimiter=",")
