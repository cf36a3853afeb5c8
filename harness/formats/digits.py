"""The handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from harness.contract import Sample
from harness.formats.splits import held_out, part

SIDE, WHITE = 8, 16
TEST_EVERY = 5
"""There is no official split: sorted by class, every fifth image is test, so that each class is split 4 to 1."""
SIZES = {"train": 1437, "test": 360}
SOURCE = "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits"
LICENCE = "CC BY 4.0"
CITATION = "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998"


def read(split: str) -> list[Sample]:
    """The images (1, 8, 8) of 'train' or 'test', 255 where the file has its largest value, 16."""
    table = _table()
    labels = table[:, -1].astype(np.int64)
    images = np.rint(table[:, :-1] * 255 / WHITE).astype(np.uint8).reshape(-1, 1, SIDE, SIDE)  # N C H W
    entries = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    return part(entries, held_out(labels, TEST_EVERY), split)


def _table() -> np.ndarray:
    """The file behind `sklearn.datasets.load_digits`: 64 pixels of 0 to 16 and the class in each row.

    Read directly, because importing scikit-learn takes longer than everything else here.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise FileNotFoundError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        return np.loadtxt(file, delimiter=",")
