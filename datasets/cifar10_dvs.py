"""CIFAR10-DVS: 10,000 images of CIFAR-10, moved on a screen before a neuromorphic camera of 128x128 pixels.

As in DSR (arXiv:2205.00459): frames of equal event count, resized to 48x48; of each class the first 900 recordings are
for training and the last 100 for testing, as there is no official split. Departure: counts are stored in eighths of an
event, up to 31.9.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.contract import DatasetInfo, Sample
from harness.formats import events
from harness.formats.lazy import Lazy

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SENSOR, OF_CLASS, TRAIN_OF_CLASS = 128, 1000, 900
INFO = DatasetInfo(
    title="CIFAR10-DVS",
    shape=(2, SENSOR, SENSOR),
    classes=len(CLASSES),
    sizes={"train": TRAIN_OF_CLASS * len(CLASSES), "test": (OF_CLASS - TRAIN_OF_CLASS) * len(CLASSES)},
    mean=(),
    std=(),
    source="https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
    licence="CC BY 4.0",
    citation="Li, Liu, Ji, Li and Shi, CIFAR10-DVS: an event-stream dataset for object classification, "
    "Frontiers in Neuroscience 11, 2017",
    stored="events",
    checksums={"CIFAR10DVS.zip": "md5:ce3a4a0682dc0943703bd8f749a7701c"},  # checked when it is downloaded
)


def read(file: Path) -> Any:
    """The events of one recording."""
    events.need("aedat")  # which tonic needs for this format
    found = events.need("tonic").io.read_aedat4(str(file))
    found.dtype.names = ("t", "x", "y", "p")  # as tonic's own dataset names them, whatever aedat says
    return found


def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test' from `root/CIFAR10DVS/<class>/cifar10_<class>_<number>.aedat4`."""
    folder = root / "CIFAR10DVS"
    if not all((folder / name).is_dir() for name in CLASSES):
        raise FileNotFoundError(f"no {CLASSES[0]}/*.aedat4 … {CLASSES[-1]}/*.aedat4 in {folder}")
    chosen = slice(TRAIN_OF_CLASS) if split == "train" else slice(TRAIN_OF_CLASS, None)
    files = [sorted((folder / name).glob("*.aedat4"), key=_number)[chosen] for name in CLASSES]
    return Lazy([file for of_class in files for file in of_class], _sample)


def download(root: Path) -> None:
    """Fetch the official archive and unpack it into `root/CIFAR10DVS`; tonic checks it."""
    events.need("tonic").datasets.CIFAR10DVS(root)


def _sample(file: Path) -> Sample:
    return read(file), CLASSES.index(file.parent.name)


def _number(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])
