"""Digits: 1,797 handwritten digits of 8x8 pixels that come with scikit-learn; nothing to download.

There is no official split: sorted by class, every fifth image is test, so that each class is split 4 to 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.contract import DatasetInfo, Sample
from harness.formats import digits

INFO = DatasetInfo(
    title="Digits",
    shape=(1, digits.SIDE, digits.SIDE),
    classes=10,
    sizes=digits.SIZES,
    mean=(0.3058,),
    std=(0.3761,),
    source=digits.SOURCE,
    licence=digits.LICENCE,
    citation=digits.CITATION,
)


def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test'. `root` is not looked at."""
    return digits.read(split)
